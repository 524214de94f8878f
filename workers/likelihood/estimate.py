"""Questions to their answers: masked inputs are pooled over questions, and answers leave as they become final."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from grids.protocol import LikelihoodSettings
from workers.likelihood.batches import Ids, Row, RowPool, TokenBudget, wanted_logits
from workers.likelihood.masks import patterns
from workers.likelihood.race import Contender, race
from workers.models.loading import LoadedModel

# What waits for a forward: full batches, and enough questions that equal inputs meet, but never a whole task.
_BATCHES_IN_POOL = 4
_QUESTIONS_IN_POOL = 32


@dataclass(frozen=True, slots=True)
class Question:
    """log p(target | context) is asked, in token ids; `key` is what its draws hang on."""

    context: Sequence[int]
    target: Sequence[int]
    key: str

    def __post_init__(self) -> None:
        if not self.target:
            raise ValueError("the target has no tokens of its own: log p(target | context) is not defined")


def log_likelihoods(
    loaded: LoadedModel,
    questions: Sequence[Question],
    settings: LikelihoodSettings,
    seed: int,
    *,
    budget: TokenBudget | None = None,
    contenders: Sequence[Contender] | None = None,
) -> Iterator[tuple[int, float]]:
    """(index of the question, log p in nats) of each question, as answers become final.

    Order, company and `budget` change no answer by more than rounding. `contenders`, one per question, lets those of a
    document race where `settings.race` asks for it; the answer of a choice that dropped out is the mean of its draws.
    """
    budget = budget or TokenBudget(loaded)
    waiting = _in_order(questions, contenders if settings.race is not None else None)
    pool: RowPool[_Ask] = RowPool()
    num_active = 0
    while True:
        while waiting and (pool.num_tokens < _BATCHES_IN_POOL * budget.max_tokens or num_active < _QUESTIONS_IN_POOL):
            indices = waiting.pop()
            estimates = [_Estimate(index, questions[index], loaded, settings, seed) for index in indices]
            rivals = [contenders[index] for index in indices] if contenders and len(indices) > 1 else []
            _Document(estimates, rivals, settings).advance(pool)
            num_active += len(indices)
        if not pool:
            return
        rows, losses = pool.answer(budget, lambda rows: _cross_entropies(loaded, rows))
        for document in _tell(rows, losses):
            if not document.advance(pool):
                num_active -= len(document.estimates)
                yield from ((estimate.index, estimate.answer) for estimate in document.estimates)


def _in_order(questions: Sequence[Question], contenders: Sequence[Contender] | None) -> list[list[int]]:
    """Indices of the questions that belong together, the longest last; equal inputs are between neighbours."""
    documents: dict[int, list[int]] = defaultdict(list)
    for index in range(len(questions)):
        documents[contenders[index].document if contenders else index].append(index)

    def order(index: int) -> tuple[int, Sequence[int], Sequence[int]]:
        question = questions[index]
        return len(question.context) + len(question.target), question.context, question.target

    return sorted(documents.values(), key=lambda indices: max(order(index) for index in indices))


class _Estimate:
    """What is known of one question: the loss of each pattern of masks, nan until it is answered."""

    def __init__(
        self, index: int, question: Question, loaded: LoadedModel, settings: LikelihoodSettings, seed: int
    ) -> None:
        self.index = index
        self._start, length = len(question.context), len(question.target)
        self._targets = np.array(question.target, dtype=np.int64)
        assert loaded.mask_token_id is not None
        self._patterns = patterns(length, settings, question.key, seed)
        self._rows = np.tile([*question.context, *question.target], (len(self._patterns.masks), 1))
        self._rows[:, self._start :][self._patterns.masks] = loaded.mask_token_id
        self._strata = settings.strata
        self._losses = np.full(len(self._rows), np.nan)
        self._is_asked = np.zeros(len(self._rows), dtype=bool)

    @property
    def num_draws(self) -> int:
        """Draws, or groups of them that share their strata; enumerated patterns are one."""
        draws = self._patterns.of_draw
        return 1 if draws is None else len(draws) // self._strata

    @property
    def known_draws(self) -> NDArray[np.float64]:
        """Losses of the draws, in order, as far as they are answered."""
        draws = self._patterns.of_draw
        losses = np.array([self.loss]) if draws is None else self._losses[draws].reshape(-1, self._strata).mean(1)
        return losses[: int(np.argmax(np.append(np.isnan(losses), True)))]

    @property
    def loss(self) -> float:
        """-log p by all draws; nan where some are not answered."""
        return float(self._patterns.weights @ self._losses)

    @property
    def answer(self) -> float:
        """log p in nats, by the draws that were made."""
        return -self.loss if self._is_asked.all() else -float(self.known_draws.mean())

    def ask(self, pool: RowPool[_Ask], document: _Document, num_draws: int) -> int:
        """Put the patterns of the first `num_draws` draws into the pool; how many were not there before."""
        draws = self._patterns.of_draw
        wanted = np.zeros_like(self._is_asked)
        wanted[slice(None) if draws is None else draws[: num_draws * self._strata]] = True
        new = np.flatnonzero(wanted & ~self._is_asked)
        for pattern in new:
            masked = np.flatnonzero(self._patterns.masks[pattern])
            pool.ask(
                self._rows[pattern], _Ask(document, self, int(pattern), self._start + masked, self._targets[masked])
            )
        self._is_asked[new] = True
        return len(new)

    def tell(self, pattern: int, cross_entropy: float) -> None:
        """The sum of the cross entropies at the masked tokens of a pattern."""
        masks = self._patterns.masks
        self._losses[pattern] = masks.shape[1] / masks[pattern].sum() * cross_entropy


@dataclass(frozen=True, slots=True)
class _Ask:
    """A pattern of masks that waits for its loss: `targets` are the tokens under the masks at `columns`."""

    document: _Document
    estimate: _Estimate
    pattern: int
    columns: Ids
    targets: Ids


class _Document:
    """Questions that are done together: one alone, or those that race."""

    def __init__(
        self, estimates: Sequence[_Estimate], contenders: Sequence[Contender], settings: LikelihoodSettings
    ) -> None:
        self.estimates = estimates
        self.num_open = 0
        num_draws = [estimate.num_draws for estimate in estimates]
        self._rounds: Iterator[Mapping[int, int]]
        if contenders and settings.race is not None:
            self._rounds = race(lambda choice: estimates[choice].known_draws, num_draws, contenders, settings.race)
        else:
            self._rounds = iter([dict(enumerate(num_draws))])

    def advance(self, pool: RowPool[_Ask]) -> bool:
        """Ask for the next round, once all before is answered. False where there is none: the answers are final."""
        for wanted in self._rounds:
            self.num_open = sum(self.estimates[choice].ask(pool, self, number) for choice, number in wanted.items())
            if self.num_open:
                return True
        return False


def _cross_entropies(loaded: LoadedModel, rows: Sequence[Row[_Ask]]) -> NDArray[np.float64]:
    """The sum of the cross entropies that each asker of each row waits for, in nats: row by row, asker by asker."""
    logits, places = wanted_logits(loaded, rows)
    place = np.concatenate([place for of_row in places for place in of_row])
    targets = np.concatenate([ask.targets for row in rows for ask in row.askers])
    log_probs = logits.log_softmax(-1)[
        torch.from_numpy(place).to(logits.device), torch.from_numpy(targets).to(logits.device)
    ]
    counts = [len(ask.targets) for row in rows for ask in row.askers]
    starts = np.cumsum([0, *counts[:-1]])
    return -np.add.reduceat(log_probs.double().cpu().numpy(), starts)


def _tell(rows: Sequence[Row[_Ask]], cross_entropies: NDArray[np.float64]) -> list[_Document]:
    """Hand out what a batch has answered; the documents for which nothing is left open."""
    asks = [ask for row in rows for ask in row.askers]
    ready = []
    for ask, cross_entropy in zip(asks, cross_entropies, strict=True):
        ask.estimate.tell(ask.pattern, float(cross_entropy))
        ask.document.num_open -= 1
        if not ask.document.num_open:
            ready.append(ask.document)
    return ready
