"""Model inputs that wait for a forward: equal ones once, packed by length into full batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.models.loading import LoadedModel

Ids = NDArray[np.int64]

# Tokens of one forward. On one CPU core, models 128 and 512 wide take the least time per token around 1,024. A GPU is
# busy for a quarter of a second or more with 16,384 tokens of an 8B model, and its logits stay at a few gigabytes.
_MAX_TOKENS_ON_CPU = 1024
_MAX_TOKENS_ON_GPU = 16_384


class Asker(Protocol):
    """Who wants to know something about an input."""

    @property
    def columns(self) -> NDArray[Any]:
        """Which of the input's tokens it wants logits for: int [N]."""


A = TypeVar("A", bound=Asker)
Result = TypeVar("Result")


@dataclass(slots=True)
class Row(Generic[A]):
    """One input: its tokens, int64 [T], and all who ask about it."""

    tokens: Ids
    askers: list[A]


class TokenBudget:
    """How many tokens, padding included, go through the model at once: half as many after a batch that did not fit."""

    def __init__(self, loaded: LoadedModel, max_tokens: int | None = None) -> None:
        if max_tokens is not None and max_tokens < 1:
            raise ValueError(f"a batch needs at least one token, not {max_tokens}")
        self.max_tokens = max_tokens or (_MAX_TOKENS_ON_CPU if loaded.device.type == "cpu" else _MAX_TOKENS_ON_GPU)

    def halve(self, num_tokens: int) -> None:
        """A batch of `num_tokens` was too large."""
        self.max_tokens = max(1, min(self.max_tokens, num_tokens) // 2)


class RowPool(Generic[A]):
    """Inputs that wait. Those with equal tokens are one row; the longest go first."""

    def __init__(self) -> None:
        self._by_length: dict[int, dict[bytes, Row[A]]] = {}
        self.num_tokens = 0

    def __bool__(self) -> bool:
        return self.num_tokens > 0

    def ask(self, tokens: Ids, asker: A) -> None:
        rows = self._by_length.setdefault(len(tokens), {})
        key = tokens.tobytes()
        if key in rows:
            rows[key].askers.append(asker)
        else:
            rows[key] = Row(tokens, [asker])
            self.num_tokens += len(tokens)

    def answer(self, budget: TokenBudget, read: Callable[[list[Row[A]]], Result]) -> tuple[list[Row[A]], Result]:
        """Take a batch out of the pool, with what `read` makes of it.

        A batch that is too large for the GPU is put back and the budget halved; a single row that is too large raises.
        """
        while True:
            rows = self._take(budget.max_tokens)
            try:
                return rows, read(rows)
            except torch.OutOfMemoryError:
                if len(rows) == 1:
                    raise
            # Not in the handler, where the traceback keeps the tensors of the failed batch alive.
            self._put_back(rows)
            budget.halve(len(rows) * len(rows[0].tokens))
            torch.cuda.empty_cache()

    def _take(self, max_tokens: int) -> list[Row[A]]:
        """The longest rows, first come first served among equal lengths: as many as fit, and at least one."""
        taken: list[Row[A]] = []
        width = max(self._by_length)
        capacity = max(1, max_tokens // width)
        while self._by_length and len(taken) < capacity:
            length = max(self._by_length)
            rows = self._by_length[length]
            while rows and len(taken) < capacity:
                taken.append(rows.pop(next(iter(rows))))
            if not rows:
                del self._by_length[length]
        self.num_tokens -= sum(len(row.tokens) for row in taken)
        return taken

    def _put_back(self, rows: Sequence[Row[A]]) -> None:
        for row in rows:
            for asker in row.askers:
                self.ask(row.tokens, asker)


def wanted_logits(loaded: LoadedModel, rows: Sequence[Row[A]]) -> tuple[Tensor, list[list[Ids]]]:
    """Logits at the columns that somebody wants, float32 [N, V], and which of the N each asker of each row wants."""
    width = max(len(row.tokens) for row in rows)
    tokens = np.full((len(rows), width), loaded.pad_token_id, dtype=np.int64)
    present = np.zeros(tokens.shape, dtype=np.int64)
    wanted = np.zeros(tokens.shape, dtype=bool)
    padding = [width - len(row.tokens) for row in rows]
    for index, row in enumerate(rows):
        tokens[index, padding[index] :] = row.tokens
        present[index, padding[index] :] = 1
        for asker in row.askers:
            wanted[index, padding[index] + asker.columns] = True
    attention_mask = None if present.all() else torch.from_numpy(present)
    logits = loaded.logits_at(torch.from_numpy(tokens), torch.from_numpy(wanted), attention_mask)
    place = wanted.cumsum().reshape(wanted.shape) - 1
    return logits, [
        [place[index, padding[index] + asker.columns] for asker in row.askers] for index, row in enumerate(rows)
    ]
