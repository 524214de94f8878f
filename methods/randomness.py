"""Random draws of a method: decided by the seed and what is drawn, never by a stream that others draw from."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def keyed_generator(seed: int, purpose: str, index: int = 0) -> torch.Generator:
    """A CPU generator for one draw, so that every device and order of work sees the same numbers."""
    digest = hashlib.sha256(f"{purpose}:{seed}:{index}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def random_signs(size: int, seed: int, purpose: str) -> Tensor:
    """Random +1 and -1, float64 [size] on the CPU."""
    bits = torch.randint(0, 2, (size,), generator=keyed_generator(seed, purpose))
    return bits.to(torch.float64) * 2 - 1


def random_orthogonal(size: int, seed: int, purpose: str, index: int) -> Tensor:
    """A Haar-distributed orthogonal matrix, float64 [size, size] on the CPU."""
    gaussian = torch.randn(size, size, dtype=torch.float64, generator=keyed_generator(seed, purpose, index))
    Q, R = torch.linalg.qr(gaussian)
    # QR alone fixes the signs of R's diagonal as LAPACK likes; dividing them out makes the distribution uniform.
    signs = torch.where(R.diagonal() < 0, -torch.ones_like(R.diagonal()), torch.ones_like(R.diagonal()))
    unbiased: Tensor = Q * signs
    return unbiased
