"""How many answers run together."""

from __future__ import annotations

import torch

from workers.models.padding import padded_length

# On a CPU core, the products of a batch should stay in its cache; on a GPU, larger ones than the last are no faster.
_CPU_TOKENS = 512
_FIRST_GPU_TOKENS = 2**13
_MOST_GPU_TOKENS = 2**16


class RowBudget:
    """Rows of one forward, from its tokens, padding among them: on a GPU more after success, half after memory ran out.

    max_rows: a bound on the rows, None for none.
    """

    def __init__(self, device: torch.device, max_rows: int | None) -> None:
        is_cpu = device.type == "cpu"
        self._num_tokens = _CPU_TOKENS if is_cpu else _FIRST_GPU_TOKENS
        self._most = _CPU_TOKENS if is_cpu else _MOST_GPU_TOKENS
        self._max_rows = max_rows

    def num_rows(self, length: int) -> int:
        """How many rows of `length` tokens may run together, at least one."""
        rows = max(1, self._num_tokens // padded_length(length))
        return rows if self._max_rows is None else min(rows, self._max_rows)

    def succeeded(self) -> None:
        self._num_tokens = min(2 * self._num_tokens, self._most)

    def ran_out(self, num_rows: int, length: int) -> None:
        """Memory did not hold so many rows: half of them is the most from now on."""
        self._num_tokens = self._most = num_rows // 2 * padded_length(length)
