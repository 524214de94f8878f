"""Paired tests, and what many of them together allow to be said."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import special

from reports.statistics.intervals import FloatArray

# 2^16 sign patterns are enumerated in a few milliseconds.
MAX_ENUMERATED = 16
# Sums that are equal on paper differ in the last bits.
_TIE = 1e-9


def mcnemar(num_gained: int, num_lost: int) -> float:
    """The exact two-sided McNemar test: p of the discordant pairs under a fair coin, min(1, 2 P(X <= smaller))."""
    total = num_gained + num_lost
    return min(1.0, 2.0 * float(special.bdtr(min(num_gained, num_lost), total, 0.5))) if total else 1.0


def sign_flip_p_value(contributions: FloatArray, flipped: Callable[[], FloatArray], num_flips: int) -> float:
    """The two-sided paired permutation test of a sum: how often random signs give one as far from zero.

    `contributions`: what each unit (item or cluster) adds to the difference. Up to `MAX_ENUMERATED` that are not zero,
    all sign patterns are enumerated, and the p-value is exact. Beyond, `flipped` gives `num_flips` sums under random
    signs, and p = (1 + number as far) / (1 + num_flips). That cannot fall below 1 / (1 + num_flips), which a correction
    for many tests would take for weak evidence; so the smaller of it and Hoeffding's bound on the exact p-value,
    2 exp(-sum^2 / (2 sum of squares)) (1963, theorem 2), is returned.
    """
    acting = contributions[contributions != 0]
    observed = abs(float(acting.sum())) * (1 - _TIE)
    if not len(acting):
        return 1.0
    if len(acting) <= MAX_ENUMERATED:
        return float(np.mean(np.abs(_all_signed_sums(acting)) >= observed))
    bound = 2.0 * math.exp(-(observed**2) / (2.0 * float(np.square(acting).sum())))
    if bound * (1 + num_flips) <= 1.0:
        return bound
    num_as_far = int(np.count_nonzero(np.abs(flipped()) >= observed))
    return min(bound, (1 + num_as_far) / (1 + num_flips))


def _all_signed_sums(values: FloatArray) -> FloatArray:
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return sums


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p-values, in the order given: family-wise error over all of the tests."""
    order = np.argsort(p_values, kind="stable")
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
