"""Random draws that depend on what is asked, and on nothing else.

A draw is keyed by (seed, key, index): no stream is shared, so order, batches, shards and restarts change nothing. Draws
are made on the CPU, so that every device sees the same numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def generator(seed: int, key: str, draw: int) -> torch.Generator:
    """A CPU generator for one draw: seeded with SHA-256 of seed, key and draw index.

    torch's CPU generator keeps 32 bits of its seed, so two given draws start alike once in four billion.
    """
    digest = hashlib.sha256(f"{seed}\0{key}\0{draw}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))


def uniforms(seed: int, key: str, purpose: str, draw: int, shape: tuple[int, ...]) -> Tensor:
    """Uniform numbers in [0, 1), float64; `purpose` keeps a request's draws for different ends apart."""
    return torch.rand(shape, dtype=torch.float64, generator=generator(seed, f"{key}/{purpose}", draw))


def gumbel(uniform: Tensor) -> Tensor:
    """Standard Gumbel noise from uniform numbers."""
    return -torch.log(-torch.log(uniform))


def gumbel_rows(seed: int, keys: Sequence[str], purpose: str, draw: int, shape: tuple[int, ...]) -> Tensor:
    """Standard Gumbel noise, float64 [len(keys), *shape]: row i depends on `keys[i]` and not on the other keys."""
    return gumbel(torch.stack([uniforms(seed, key, purpose, draw, shape) for key in keys]))
