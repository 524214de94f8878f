"""Weighted sums of many means at once: what a whole group of variants does against another, with error and test.

All contrasts of a study are made from the same draws as its tables (`ScoreMatrix`), in a few matrix products per task.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import special

from reports.statistics.intervals import (
    FloatArray,
    Interval,
    minimum_detectable,
    normal_interval,
    standard_error,
)
from reports.statistics.resampling import NUM_SIGN_FLIPS
from reports.statistics.score_matrix import Key, ScoreMatrix
from reports.statistics.significance import sign_flip_p_value

_ROUNDING = 1e-12
# A variant's weight in each task's mean.
Weights = Mapping[ScoreMatrix, Mapping[str, float]]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """An effect over items, in the unit of its contrast: standard error, 95 % interval (normal), two-sided p.

    `minimum_detectable` is what a 5 % test of it alone would find with 80 % power. It and the interval are made from
    the standard error, or from one smoothed as Bonett and Price do where that is larger: a few items that happen not
    to differ prove nothing. `num_items` counts the items of all tasks, each once.
    """

    effect: float
    stderr: float
    interval: Interval
    test: Literal["permutation", "normal"]
    p_value: float
    minimum_detectable: float
    num_items: int


@dataclass(frozen=True)
class Change:
    """The relative change of an average over tasks against another: of `key` against `reference`, in percent."""

    tasks: tuple[ScoreMatrix, ...]
    key: Key
    reference: Key


def estimate_differences(contrasts: Sequence[Weights]) -> list[Estimate]:
    """Each contrast's weighted sum of means, tested by flipping signs: for weights that pair scores on items.

    A contrast's weights sum to zero in every task: an item adds nothing unless what is compared differs on it. Items of
    one task are drawn, and their signs flipped, for all variants together, so that what models share is allowed for;
    different tasks are independent.
    """
    return [
        Estimate(
            effect=spread.effect,
            stderr=spread.stderr,
            interval=normal_interval(spread.effect, spread.error),
            test="permutation",
            p_value=sign_flip_p_value(spread.contributions, spread.flipped, NUM_SIGN_FLIPS),
            minimum_detectable=minimum_detectable(spread.error),
            num_items=spread.num_items,
        )
        for spread in _spreads(contrasts)
    ]


def estimate_changes(contrasts: Sequence[Sequence[tuple[Change, Change]]]) -> list[Estimate]:
    """Each contrast's mean difference of two relative changes (first - second), in percentage points.

    The two may be of different tasks, models, or both: the standard error is that of the bootstrap over items within
    each task, in which all scores of an item are drawn together, the baseline's included. The test is the normal one:
    signs say nothing where the null hypothesis is two equal losses. Raises ValueError for a reference of zero.
    """
    linear = [_linearised(pairs) for pairs in contrasts]
    estimates = []
    for pairs, spread in zip(contrasts, _spreads(linear), strict=True):
        effect = math.fsum(change_of(first) - change_of(second) for first, second in pairs) / len(pairs)
        replicates = np.mean([_replicates(first) - _replicates(second) for first, second in pairs], axis=0)
        stderr = float(replicates.std(ddof=1))
        error = max(stderr, spread.error)
        estimates.append(
            Estimate(
                effect=effect,
                stderr=stderr,
                interval=normal_interval(effect, error),
                test="normal",
                p_value=2.0 * float(special.ndtr(-abs(effect) / error)),
                minimum_detectable=minimum_detectable(error),
                num_items=spread.num_items,
            )
        )
    return estimates


def change_of(change: Change) -> float:
    """The relative change in percent. Raises ValueError for a reference of zero."""
    value, base = _averages(change)
    if base == 0:
        raise ValueError("a relative change against zero")
    return 100.0 * (value / base - 1.0)


def _averages(change: Change) -> tuple[float, float]:
    value, base = (
        math.fsum(task.mean(key) for task in change.tasks) / len(change.tasks) for key in (change.key, change.reference)
    )
    return value, base


def _replicates(change: Change) -> FloatArray:
    value, base = (
        np.mean([task.bootstrap(key) for task in change.tasks], axis=0) for key in (change.key, change.reference)
    )
    # A resample without a single right answer has lost nothing that can be measured.
    replicates: FloatArray = 100.0 * (np.divide(value, base, out=np.ones_like(value), where=base > 0) - 1.0)
    return replicates


def _linearised(pairs: Sequence[tuple[Change, Change]]) -> Weights:
    """The weights of the means in the mean difference of changes, to first order: d(V/F) = dV/F - (V/F) dF/F."""
    weights: dict[ScoreMatrix, dict[str, float]] = {}
    for sides in pairs:
        for side, sign in zip(sides, (1.0, -1.0), strict=True):
            value, base = _averages(side)
            slope = sign * 100.0 / (base * len(side.tasks) * len(pairs))
            for key, weight in ((side.key, slope), (side.reference, -slope * value / base)):
                for task in side.tasks:
                    add_weight(weights.setdefault(task, {}), key, weight)
    return weights


def add_weight(weights: dict[str, float], key: Key, weight: float) -> None:
    """Add a weight to the mean of a key's variants, in equal parts."""
    for name in key:
        weights[name] = weights.get(name, 0.0) + weight / len(key)


@dataclass
class _Spread:
    """How a contrast's value varies with the items; `error` is its standard error, never less than `_smoothed` says."""

    weights: Mapping[ScoreMatrix, FloatArray]
    effect: float
    stderr: float
    error: float
    contributions: FloatArray
    num_items: int

    def flipped(self) -> FloatArray:
        """Its values under random signs of the items' parts."""
        flipped: FloatArray = np.sum([task.combine_flipped(w) for task, w in self.weights.items()], axis=0)
        return flipped


def _spreads(contrasts: Sequence[Weights]) -> list[_Spread]:
    """One product per task for all contrasts."""
    columns: list[dict[ScoreMatrix, tuple[FloatArray, FloatArray]]] = [{} for _ in contrasts]
    for task in dict.fromkeys(task for weights in contrasts for task in weights):
        members = [index for index, weights in enumerate(contrasts) if task in weights]
        places = {name: place for place, name in enumerate(task.names)}
        matrix = np.zeros((len(places), len(members)))
        for column, index in enumerate(members):
            for name, weight in contrasts[index][task].items():
                matrix[places[name], column] = weight
        combined = task.combine(matrix)
        for column, index in enumerate(members):
            columns[index][task] = (matrix[:, column], combined[:, column])
    return [_spread(found) for found in columns]


def _spread(columns: Mapping[ScoreMatrix, tuple[FloatArray, FloatArray]]) -> _Spread:
    errors, smoothed = [], []
    for task, (weights, values) in columns.items():
        raw = standard_error(values, task.clusters) or 0.0
        errors.append(raw)
        smoothed.append(max(raw, _smoothed(values, _least(weights))))
    return _Spread(
        weights={task: weights for task, (weights, _) in columns.items()},
        effect=math.fsum(float(values.mean()) for _, values in columns.values()),
        stderr=math.hypot(*errors),
        error=math.hypot(*smoothed),
        contributions=np.concatenate([task.by_unit(values) / len(values) for task, (_, values) in columns.items()]),
        num_items=sum(len(values) for _, values in columns.values()),
    )


def _least(weights: FloatArray) -> float:
    """The least that one score can add: the smallest weight that is not zero up to rounding."""
    sizes = np.abs(weights)
    return float(sizes[sizes > _ROUNDING].min(initial=np.inf))


def _smoothed(values: FloatArray, step: float) -> float:
    """The standard error with one more item that adds the least an item can, and one that takes it.

    For a single pair of 0/1 scores it is that of Bonett and Price (2012); a few items without a difference never look
    able to detect anything.
    """
    if not math.isfinite(step):
        return 0.0
    total = len(values) + 2
    mean = float(values.sum()) / total
    return math.sqrt(max((float(np.square(values).sum()) + 2 * step**2) / total - mean**2, 0.0) / total)
