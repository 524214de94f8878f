"""Standard errors and 95 % intervals of means, of paired differences, and what difference could have been seen.

Items that share a passage or a subject are not independent: with `clusters` the unit is the cluster. Every function
takes item scores in the metric's own unit and answers in it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Interval = tuple[float, float]

LEVEL = 0.95
SIGNIFICANCE = 1.0 - LEVEL
POWER = 0.8
_TAIL = 1.0 - SIGNIFICANCE / 2
_Z = float(special.ndtri(_TAIL))
DETECTION_FACTOR = _Z + float(special.ndtri(POWER))


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean. Raises ValueError for no values."""
    if not values:
        raise ValueError("the mean of no values")
    return math.fsum(values) / len(values)


def standard_error(scores: Sequence[float] | FloatArray, clusters: IntArray | None = None) -> float | None:
    """The standard error of the mean; None for fewer than two scores, or clusters.

    Independent scores: s / sqrt(n) with s^2 over n - 1; for 0/1 scores with mean p that is sqrt(p (1 - p) / (n - 1)),
    which lm-eval reports too. Clustered scores: sqrt(G / (G - 1) sum_g (sum_{i in g} (x_i - mean))^2) / n over the G
    clusters (Liang and Zeger 1986, as Miller 2024, arXiv 2411.00640, has it, with the usual factor for few clusters).
    `clusters`: the number of each score's cluster, from 0; one cluster per score gives the independent formula.
    """
    values = np.asarray(scores, dtype=np.float64)
    num_units = len(values) if clusters is None else int(clusters.max(initial=-1)) + 1
    if num_units < 2:
        return None
    deviations = values - values.mean()
    sums = deviations if clusters is None else np.bincount(clusters, weights=deviations)
    return math.sqrt(num_units / (num_units - 1) * float(np.square(sums).sum())) / len(values)


def standard_error_of_average(stderrs: Sequence[float | None]) -> float | None:
    """The standard error of the plain average of independent numbers; None where one's own is unknown."""
    known = [stderr for stderr in stderrs if stderr is not None and math.isfinite(stderr)]
    if not known or len(known) < len(stderrs):
        return None
    return math.sqrt(math.fsum(stderr**2 for stderr in known)) / len(known)


def wilson_interval(proportion: float, num_items: float, *, quantile: float = _Z) -> Interval:
    """The score interval of a proportion (Wilson 1927); never empty, also at 0 and 1. `num_items` may be effective."""
    spread = quantile**2 / num_items
    centre = (proportion + spread / 2) / (1 + spread)
    half = quantile / (1 + spread) * math.sqrt(proportion * (1 - proportion) / num_items + spread / (4 * num_items))
    # At 0 and 1 the border is exactly that, up to rounding.
    return (0.0 if proportion == 0 else centre - half, 1.0 if proportion == 1 else centre + half)


def mean_interval(scores: FloatArray, clusters: IntArray | None = None) -> Interval | None:
    """The 95 % interval of a mean: Wilson's for 0/1 scores, Student's t for graded ones; None where there is no spread.

    Clustered 0/1 scores: Wilson's with n divided by the design effect (squared ratio of clustered to independent
    standard error, at least 1) and the t quantile of G - 1 degrees of freedom; at 0 and 1, where the effect cannot be
    seen, with the number of clusters as n.
    """
    num_items = len(scores)
    stderr = standard_error(scores, clusters)
    if stderr is None:
        return None
    centre = float(scores.mean())
    if not is_binary(scores):
        return _around(centre, stderr, _t_quantile(num_items, clusters))
    if clusters is None:
        return wilson_interval(centre, num_items)
    independent = standard_error(scores)
    num_effective = num_items / max(1.0, (stderr / independent) ** 2) if independent else float(int(clusters.max()) + 1)
    return wilson_interval(centre, num_effective, quantile=_t_quantile(num_items, clusters))


@dataclass(frozen=True)
class PairedProportions:
    """The difference of two proportions of the same items; errors as `standard_error` and `detection_error` say."""

    difference: float
    stderr: float | None
    interval: Interval
    detection_error: float


def paired_proportions(num_gained: int, num_lost: int, num_items: int) -> PairedProportions:
    """Independent 0/1 scores compared item by item: all that is known from the numbers of discordant pairs.

    The interval is as `difference_interval` says.
    """
    difference = (num_gained - num_lost) / num_items
    variance = (num_gained + num_lost) / num_items - difference**2
    stderr = math.sqrt(max(variance, 0.0) / (num_items - 1)) if num_items > 1 else None
    centre, smoothed = _bonett_price(num_gained, num_lost, num_items)
    low, high = normal_interval(centre, smoothed)
    return PairedProportions(difference, stderr, (max(-1.0, low), min(1.0, high)), max(stderr or 0.0, smoothed))


def difference_interval(differences: FloatArray, clusters: IntArray | None = None) -> Interval | None:
    """The 95 % interval of a mean of paired differences; None where there is no spread to judge by.

    Independent 0/1 scores (differences -1, 0, 1): the adjusted Wald interval of Bonett and Price (2012), which adds one
    item to either kind of discordant pair and so has a width also where no pair is discordant. Otherwise Student's t
    with the (clustered) standard error of the differences.
    """
    if clusters is None and _is_ternary(differences):
        return paired_proportions(*_discordant(differences)).interval
    raw = standard_error(differences, clusters)
    if raw is None:
        return None
    return _around(float(differences.mean()), raw, _t_quantile(len(differences), clusters))


def detection_error(differences: FloatArray, clusters: IntArray | None = None) -> float | None:
    """The standard error of a paired difference that `minimum_detectable` is made of.

    The plain one is zero where no pair is discordant; for 0/1 scores it is never less than Bonett and Price's, so that
    a few items never look able to detect anything. None where there is no spread.
    """
    raw = standard_error(differences, clusters)
    smoothed = _bonett_price(*_discordant(differences))[1] if _is_ternary(differences) else 0.0
    largest = max(raw or 0.0, smoothed)
    return largest or None


def minimum_detectable(stderr: float) -> float:
    """The smallest true difference that a two-sided test at 5 % finds with 80 % power: (1.960 + 0.842) stderr."""
    return DETECTION_FACTOR * stderr


def normal_interval(centre: float, stderr: float) -> Interval:
    """The 95 % interval of a normal estimate."""
    return centre - _Z * stderr, centre + _Z * stderr


def is_binary(scores: FloatArray) -> bool:
    """Whether all scores are 0 or 1."""
    return bool(np.all((scores == 0) | (scores == 1)))


def _is_ternary(differences: FloatArray) -> bool:
    return bool(np.all((differences == 0) | (np.abs(differences) == 1)))


def _discordant(differences: FloatArray) -> tuple[int, int, int]:
    gained, lost = (int(np.count_nonzero(differences == sign)) for sign in (1, -1))
    return gained, lost, len(differences)


def _bonett_price(num_gained: int, num_lost: int, num_items: int) -> Interval:
    """Centre and standard error of the difference of two paired proportions, smoothed."""
    total = num_items + 2
    gained, lost = (num_gained + 1) / total, (num_lost + 1) / total
    return gained - lost, math.sqrt((gained + lost - (gained - lost) ** 2) / total)


def _t_quantile(num_items: int, clusters: IntArray | None) -> float:
    num_units = num_items if clusters is None else int(clusters.max()) + 1
    return float(special.stdtrit(num_units - 1, _TAIL))


def _around(centre: float, stderr: float, quantile: float) -> Interval | None:
    return (centre - quantile * stderr, centre + quantile * stderr) if stderr else None
