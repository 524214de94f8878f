"""The race: its guarantee by enumeration and by simulation, and its answers on a model."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from grids.protocol import LikelihoodSettings
from workers.likelihood import Contender, Question, log_likelihoods
from workers.likelihood.race import Losses, log_wealth, race
from workers.models import LoadedModel

MakeLoaded = Callable[..., LoadedModel]


def run(all_losses: Sequence[Losses], contenders: Sequence[Contender], error: float) -> list[int]:
    """How many draws each choice made."""
    made = [0] * len(all_losses)
    for wanted in race(lambda choice: all_losses[choice][: made[choice]], [*map(len, all_losses)], contenders, error):
        for choice, number in wanted.items():
            assert made[choice] < number <= len(all_losses[choice])
            made[choice] = number
    return made


def winner(losses: Sequence[float], contenders: Sequence[Contender], metric: int) -> int:
    return int(np.argmin([loss / each.divisors[metric] for loss, each in zip(losses, contenders, strict=True)]))


@pytest.mark.parametrize(
    "population", [[0, 0, 0, 0, 0, 6], [1, 1, 1, 1, 4, 5], [0.2, 0.5, 1, 2, 3, 9], [0, 0, 0, 5, 5, 5]]
)
@pytest.mark.parametrize("mean_over", [1.0, 1.2])
def test_betting_against_the_truth_rarely_makes_rich(population: list[float], mean_over: float) -> None:
    """Ville's inequality over all orders of a small population: P(wealth ever reaches w) <= 1 / w."""
    mean = mean_over * sum(population) / 6
    wealths = np.exp([log_wealth(np.array(order[:5]), 6, mean) for order in itertools.permutations(population)])
    for wealth in np.unique(wealths):
        assert (wealths >= wealth - 1e-12).mean() <= 1 / wealth + 1e-12


@pytest.mark.parametrize("shape", [0.2, 1, 20])
def test_betting_against_the_truth_rarely_makes_rich_in_longer_races(shape: float) -> None:
    rng = np.random.default_rng(0)
    population = rng.gamma(shape, 1 / shape, 64)
    mean = float(population.mean())
    wealths = np.array([math.exp(log_wealth(rng.permutation(population)[:56], 64, mean)) for _ in range(2000)])
    for chance in (0.5, 0.2, 0.05, 0.01):
        # Four standard deviations of a binomial.
        slack = 4 * math.sqrt(chance * (1 - chance) / 2000)
        assert (wealths >= 1 / chance).mean() <= chance + slack
    assert wealths.max() > 3


def test_betting_against_what_is_wrong_makes_rich() -> None:
    losses = np.random.default_rng(0).gamma(20, 1 / 20, 64)
    assert log_wealth(losses, 128, 0.8) > math.log(100)
    assert log_wealth(losses, 128, 0.4) == math.inf
    assert log_wealth(losses, 128, 1.2) < math.log(10)


def equal_means(rng: np.random.Generator, num_choices: int) -> list[Losses]:
    """The hardest case: all choices have the same distribution, with a heavy tail."""
    return [rng.lognormal(0, 1, 64) for _ in range(num_choices)]


def rare_large_losses(rng: np.random.Generator, num_choices: int) -> list[Losses]:
    return [rng.choice([0.0, 0.5, 20.0], 64, p=[0.3, 0.65, 0.05]) for _ in range(num_choices)]


def slightly_different(rng: np.random.Generator, num_choices: int) -> list[Losses]:
    return [rng.gamma(4, (1 + 0.1 * choice) / 4, 64) for choice in range(num_choices)]


@pytest.mark.parametrize("draw", [equal_means, rare_large_losses, slightly_different])
@pytest.mark.parametrize(("num_choices", "error"), [(2, 0.05), (2, 0.4), (4, 0.2)])
def test_the_winner_of_all_draws_is_dropped_less_often_than_stated(
    draw: Callable[[np.random.Generator, int], list[Losses]], num_choices: int, error: float
) -> None:
    rng, num_documents = np.random.default_rng(0), 400
    # The second metric divides by a length.
    contenders = [Contender(0, (1.0, 3.0 + choice)) for choice in range(num_choices)]
    num_wrong, num_made = [0, 0], 0
    for _ in range(num_documents):
        losses = draw(rng, num_choices)
        made = run(losses, contenders, error)
        num_made += sum(made)
        by_all = [float(of_choice.mean()) for of_choice in losses]
        by_race = [float(of_choice[:number].mean()) for of_choice, number in zip(losses, made, strict=True)]
        for metric in (0, 1):
            num_wrong[metric] += winner(by_all, contenders, metric) != winner(by_race, contenders, metric)
    assert max(num_wrong) <= error * num_documents
    assert num_made < 64 * num_choices * num_documents


def test_a_choice_that_is_far_behind_costs_little() -> None:
    rng = np.random.default_rng(0)
    losses = [rng.gamma(9, mean / 9, 128) for mean in (1.0, 1.5, 2.0, 3.0)]
    made = run(losses, [Contender(0, (1.0,))] * 4, 0.01)
    assert made[0] == 128
    assert sum(made[1:]) <= 128


def test_a_choice_that_may_win_under_one_metric_is_not_dropped() -> None:
    losses = [np.full(32, 10.0), np.full(32, 20.0)]
    assert run(losses, [Contender(0, (1.0,)), Contender(0, (1.0,))], 0.01) == [32, 8]
    # The second is four times as long: per character it leads.
    assert run(losses, [Contender(0, (1.0, 10.0)), Contender(0, (1.0, 40.0))], 0.01) == [32, 32]


def test_a_choice_without_a_rival_makes_all_its_draws() -> None:
    assert run([np.full(20, 1.0)], [Contender(0, (1.0,))], 0.01) == [20]


@pytest.mark.parametrize("divisors", [(), (1.0, 0.0)])
def test_divisors_that_cannot_divide_are_refused(divisors: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="above 0"):
        Contender(0, divisors)


def documents(num: int) -> tuple[list[Question], list[Contender]]:
    """Three choices each, of different lengths."""
    rng = np.random.default_rng(0)
    questions, contenders = [], []
    for document in range(num):
        context = rng.integers(0, 200, 4 + document % 3).tolist()
        for choice, length in enumerate((5, 8, 12)):
            target = rng.integers(0, 200, length).tolist()
            questions.append(Question(context, target, f"{document}/{choice}"))
            contenders.append(Contender(document, (1.0,)))
    return questions, contenders


def answers(loaded: LoadedModel, which: Sequence[int], **settings: Any) -> dict[int, float]:
    questions, contenders = documents(6)
    found = log_likelihoods(
        loaded,
        [questions[index] for index in which],
        LikelihoodSettings.model_validate({"mc_num": 32, **settings}),
        0,
        contenders=[contenders[index] for index in which],
    )
    return {which[index]: logprob for index, logprob in found}


def test_a_race_on_a_model_gives_the_same_winners_for_fewer_rows(make_loaded: MakeLoaded) -> None:
    loaded = make_loaded("llada")
    whole = answers(loaded, range(18))
    cost = loaded.counter.num_sequences
    raced = answers(loaded, range(18), race=0.05)
    assert loaded.counter.num_sequences - cost < 0.8 * cost
    assert raced.keys() == whole.keys()
    assert raced != whole
    for first in range(0, 18, 3):
        best = max(range(first, first + 3), key=whole.__getitem__)
        assert max(range(first, first + 3), key=raced.__getitem__) == best
        # Who made all draws has the answer of all draws.
        assert raced[best] == pytest.approx(whole[best], rel=1e-5)


def test_a_race_is_the_same_for_any_split_of_the_documents(make_loaded: MakeLoaded) -> None:
    loaded = make_loaded("dream")
    whole = answers(loaded, range(18), race=0.1)
    split = answers(loaded, range(6, 18), race=0.1) | answers(loaded, range(6), race=0.1)
    assert [split[i] for i in range(18)] == pytest.approx([whole[i] for i in range(18)], rel=1e-5)


def test_contenders_do_not_race_unless_the_settings_say_so(make_loaded: MakeLoaded) -> None:
    loaded = make_loaded("llada")
    questions, _ = documents(6)
    alone = dict(log_likelihoods(loaded, questions, LikelihoodSettings(mc_num=32), 0))
    assert answers(loaded, range(18)) == alone


def test_strata_race_by_whole_groups_of_draws(make_loaded: MakeLoaded) -> None:
    loaded = make_loaded("llada")
    # One group holds all draws, so there is nothing to stop early.
    assert answers(loaded, range(18), strata=32, race=0.3) == answers(loaded, range(18), strata=32)
    assert answers(loaded, range(18), strata=4, race=0.3) != answers(loaded, range(18), strata=4)
