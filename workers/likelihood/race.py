"""A race of a document's choices: one that cannot win any more is drawn for no longer.

A choice k is compared with choices that have made all their draws. Its own N losses come in an order in which all
permutations are equally likely, so they are a sample without replacement from the N that all draws would give. Against
"their mean is at most m", m being the rival's loss, a bettor with wealth 1 stakes on each next loss; under that
hypothesis the wealth is a non-negative supermartingale, and exceeds 1 / a with probability at most a (Ville). Losses
need no upper bound, only to be no less than 0. (arXiv 2006.04347, section 4, for sampling without replacement.)

Guarantee: with K choices and a = error / (K - 1), the choice that would win with all draws is dropped with probability
at most `error`, for each document and each metric: given the values of all draws, only the K - 1 comparisons of that
winner could go wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Losses = NDArray[np.float64]

# A round is an eighth of the draws.
_NUM_ROUNDS = 8
# The largest stake, as a share of what would be lost with a loss of 0.
_MAX_STAKE = 0.75


@dataclass(frozen=True, slots=True)
class Contender:
    """A choice of a document. `divisors`: what each metric divides its log-likelihood by before it compares choices."""

    document: int
    divisors: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.divisors or min(self.divisors) <= 0:
            raise ValueError(f"divisors of a log-likelihood are above 0, not {self.divisors}")


def race(
    losses: Callable[[int], Losses], num_draws: Sequence[int], contenders: Sequence[Contender], error: float
) -> Iterator[Mapping[int, int]]:
    """Rounds: how many draws each choice that is named shall have made before the next round.

    `losses` gives the losses of a choice, in the order of its draws, as far as they are known. The race is over when
    each choice has made its `num_draws` or cannot win under any metric.
    """
    alive = list(range(len(contenders)))
    steps = [-(-number // _NUM_ROUNDS) for number in num_draws]
    metrics = range(len(contenders[0].divisors))
    threshold = math.log(max(1, len(contenders) - 1) / error)

    def loses(choice: int, rivals: Sequence[int]) -> bool:
        known = losses(choice)

        def loses_to(rival: int, metric: int) -> bool:
            scale = contenders[choice].divisors[metric] / contenders[rival].divisors[metric]
            mean = float(losses(rival).mean()) * scale
            # What it has so far is its answer, and must not win either.
            return float(known.mean()) > mean and log_wealth(known, num_draws[choice], mean) >= threshold

        return all(any(loses_to(rival, metric) for rival in rivals) for metric in metrics)

    yield dict(enumerate(steps))
    while True:
        finished = [choice for choice in alive if len(losses(choice)) == num_draws[choice]]
        alive = [choice for choice in alive if choice in finished or not loses(choice, finished)]
        racing = [choice for choice in alive if choice not in finished]
        if not racing:
            return
        means = [losses(choice).mean() / np.array(contenders[choice].divisors) for choice in alive]
        unfinished = {alive[place] for place in np.argmin(means, axis=0)}.intersection(racing)
        yield (
            {choice: num_draws[choice] for choice in unfinished}
            if unfinished
            else {choice: min(num_draws[choice], len(losses(choice)) + steps[choice]) for choice in racing}
        )


def log_wealth(losses: Losses, num_draws: int, mean: float) -> float:
    """The largest log wealth that betting has reached against "the mean of all `num_draws` losses is at most `mean`".

    `losses` are those seen, non-empty; infinite where their sum alone is too large already.
    """
    total = float(losses.sum())
    if total >= num_draws * mean:
        return math.inf if total > num_draws * mean else 0.0
    seen = np.arange(len(losses))
    before = np.cumsum(losses) - losses
    # What the next loss is on average, under the hypothesis and given those before it.
    expected = (num_draws * mean - before) / (num_draws - seen)
    # Mean and variance of the losses before it, with one more at `mean` that has a deviation of half of it.
    average = (before + mean) / (seen + 1)
    variance = (np.cumsum(losses**2) - losses**2 + 1.25 * mean**2) / (seen + 1) - average**2
    advantage = average - expected
    stakes = np.clip(advantage / (variance + advantage**2), 0, _MAX_STAKE / expected)
    return float(np.log1p(stakes * (losses - expected)).cumsum().max())
