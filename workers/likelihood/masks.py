"""Which tokens of a target are masked, and what each choice of them weighs in the estimate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from grids.protocol import LikelihoodSettings
from workers.randomness import generator


@dataclass(frozen=True, slots=True)
class Patterns:
    """The different masks that a target of L tokens is asked with.

    `masks` is bool [P, L]. A pattern's loss is (L / l) * sum of the cross entropies at its l masked tokens, and -log p
    is the sum of losses times `weights` (float64 [P], they sum to 1). `of_draw` is the pattern of each draw, int
    [mc_num]; None where the patterns are enumerated.
    """

    masks: NDArray[np.bool_]
    weights: NDArray[np.float64]
    of_draw: NDArray[Any] | None


def patterns(length: int, settings: LikelihoodSettings, key: str, seed: int) -> Patterns:
    """All patterns with their exact weights where `settings.exact` can afford them, else those that are drawn."""
    if settings.exact and 2**length - 1 <= settings.mc_num:
        return enumerate_patterns(length)
    if length == 1:
        # There is one pattern to draw.
        return Patterns(np.ones((1, 1), dtype=bool), np.ones(1), np.zeros(settings.mc_num, dtype=int))
    draws = draw_masks(length, settings, key, seed)
    masks, of_draw, counts = np.unique(draws, axis=0, return_inverse=True, return_counts=True)
    return Patterns(masks, counts / len(draws), of_draw)


def enumerate_patterns(length: int) -> Patterns:
    """All 2^L - 1 patterns. P(pattern) = 1 / (L * C(L, l)): l is uniform, and so is the pattern given l."""
    numbers = np.arange(1, 2**length)
    masks = (numbers[:, None] >> np.arange(length) & 1).astype(bool)
    weights = [1 / (length * math.comb(length, count)) for count in masks.sum(1).tolist()]
    return Patterns(masks, np.array(weights), None)


def mask_counts(length: int, settings: LikelihoodSettings, key: str, seed: int) -> list[int]:
    """How many of `length` target tokens each draw masks.

    A group of b = `settings.strata` draws spreads its counts evenly: k ~ U{1..L} and
    x_j = ((k + floor(j L / b) - 1) mod L) + 1. The floor keeps each x_j uniform on {1..L}; rounding half to even, as
    published code does, would not.
    """
    counts: list[int] = []
    for group in range(settings.mc_num // settings.strata):
        first = int(torch.randint(1, length + 1, (), generator=generator(seed, f"{key}/count", group)))
        counts += [(first + j * length // settings.strata - 1) % length + 1 for j in range(settings.strata)]
    return counts


def draw_masks(length: int, settings: LikelihoodSettings, key: str, seed: int) -> NDArray[np.bool_]:
    """Which target tokens each draw masks: bool [mc_num, length]; a function of the arguments alone."""
    masks = np.zeros((settings.mc_num, length), dtype=bool)
    for draw, count in enumerate(mask_counts(length, settings, key, seed)):
        masks[draw, torch.randperm(length, generator=generator(seed, key, draw)).numpy()[:count]] = True
    return masks
