"""Shapes at which a token's numbers do not depend on the company it is computed in.

A sum of floats depends on its order. On CPUs an attention kernel sums the keys that are left over after the last full
vector in another order than the rest, and a matrix product of few rows runs another kernel. Rows that are padded on the
right to full vectors, in products that are not too small, give the same bits in any batch (seen in float32 on x86 CPUs;
on GPUs results agree up to rounding).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# 16 float32 are the widest vector register of today's CPUs; GPU kernels like multiples of 16 too.
LENGTH_MULTIPLE = 16
MIN_ROWS = 8


def padded_length(length: int) -> int:
    """The length that `pad_right` gives sequences of which the longest has `length` tokens."""
    return -(-length // LENGTH_MULTIPLE) * LENGTH_MULTIPLE


def pad_right(sequences: Sequence[Sequence[int]], fill: int) -> tuple[Tensor, Tensor | None]:
    """Token ids [B, T], and a mask of that shape that is 0 at padding, None where there is none; on the CPU."""
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    width = padded_length(int(lengths.max()))
    tokens = torch.tensor([[*sequence, *[fill] * (width - len(sequence))] for sequence in sequences], dtype=torch.long)
    if int(lengths.min()) == width:
        return tokens, None
    return tokens, (torch.arange(width) < lengths[:, None]).long()


def at_least(values: Tensor, num_rows: int) -> Tensor:
    """Values [n, ...], n > 0, with the last one repeated to at least `num_rows`."""
    missing = num_rows - len(values)
    return values if missing <= 0 else torch.cat([values, values[-1:].repeat(missing, *[1] * (values.dim() - 1))])
