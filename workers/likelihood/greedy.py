"""Whether greedy decoding gives a target: many questions at once, each until its first other token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from workers.likelihood.batches import Ids, Row, RowPool, TokenBudget, wanted_logits
from workers.likelihood.estimate import Question
from workers.models.loading import LoadedModel

_BATCHES_IN_POOL = 4


def greedy_flags(
    loaded: LoadedModel, questions: Sequence[Question], *, budget: TokenBudget | None = None
) -> Iterator[tuple[int, bool]]:
    """(index of the question, whether greedy decoding gives its target), as answers become final.

    Decoding starts from a fully masked target and commits the most confident token, one per forward.
    """
    budget = budget or TokenBudget(loaded)
    waiting = sorted(range(len(questions)), key=lambda i: len(questions[i].context) + len(questions[i].target))
    pool: RowPool[_Decoding] = RowPool()
    while True:
        while waiting and pool.num_tokens < _BATCHES_IN_POOL * budget.max_tokens:
            index = waiting.pop()
            _Decoding(index, questions[index], loaded).ask(pool)
        if not pool:
            return
        rows, choices = pool.answer(budget, lambda rows: _choices(loaded, rows))
        decodings = [decoding for row in rows for decoding in row.askers]
        for decoding, (confidence, best) in zip(decodings, choices, strict=True):
            flag = decoding.commit(confidence, best)
            if flag is None:
                decoding.ask(pool)
            else:
                yield decoding.index, flag


class _Decoding:
    """A target on its way: which of its tokens are still open."""

    def __init__(self, index: int, question: Question, loaded: LoadedModel) -> None:
        self.index = index
        assert loaded.mask_token_id is not None
        self._mask_token_id = loaded.mask_token_id
        self._tokens = np.array([*question.context, *question.target], dtype=np.int64)
        self._open = np.arange(len(question.context), len(self._tokens))

    @property
    def columns(self) -> Ids:
        return self._open

    def ask(self, pool: RowPool[_Decoding]) -> None:
        tokens = self._tokens.copy()
        tokens[self._open] = self._mask_token_id
        pool.ask(tokens, self)

    def commit(self, confidence: NDArray[np.float32], best: Ids) -> bool | None:
        """Take the model's choice, given confidence and best token of the open columns; None while it goes on."""
        is_right = best == self._tokens[self._open]
        chosen = int(confidence.argmax())
        if not is_right[chosen]:
            return False
        self._open = np.delete(self._open, chosen)
        return None if len(self._open) else True


def _choices(loaded: LoadedModel, rows: Sequence[Row[_Decoding]]) -> list[tuple[NDArray[np.float32], Ids]]:
    """Confidence and best token of each open column, for each asker of each row."""
    logits, places = wanted_logits(loaded, rows)
    confidence, best = (values.cpu().numpy() for values in logits.softmax(-1).max(-1))
    return [(confidence[place], best[place]) for of_row in places for place in of_row]
