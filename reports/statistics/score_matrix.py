"""Item scores of many variants on the same items: what can be said about their means and differences.

A *key* names one or more columns of a matrix; several (the seeds of one variant) are averaged item by item.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, wraps
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from reports.statistics.intervals import (
    DETECTION_FACTOR,
    FloatArray,
    IntArray,
    Interval,
    detection_error,
    difference_interval,
    is_binary,
    mean_interval,
    minimum_detectable,
    normal_interval,
    paired_proportions,
    standard_error,
    standard_error_of_average,
)
from reports.statistics.resampling import NUM_SIGN_FLIPS, bootstrap_means, percentile_interval, sign_flipped_means
from reports.statistics.significance import mcnemar, sign_flip_p_value

# What weights that cancel leave of a score.
_CANCELLED = 1e-12

Key = tuple[str, ...]
Test = Literal["mcnemar", "permutation"]
Given = TypeVar("Given")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A mean against another on the same items, in the unit of the scores: `difference` = the one - the other.

    `num_higher` and `num_lower` count the items on which the one scores more, and less; `num_units` is the number of
    items, or of clusters. `p_value` is two-sided; `adjusted_p` is corrected for all tests of a table, where it is of
    one. `minimum_detectable` is what a 5 % test of this pair would find with 80 % power.
    """

    difference: float
    stderr: float | None
    interval: Interval | None
    test: Test
    p_value: float
    minimum_detectable: float | None
    num_items: int
    num_units: int
    num_higher: int
    num_lower: int
    adjusted_p: float | None = None

    def scaled(self, factor: float) -> Comparison:
        """The same in another unit."""
        return replace(
            self,
            difference=factor * self.difference,
            stderr=scaled(self.stderr, factor),
            interval=scaled_interval(self.interval, factor),
            minimum_detectable=scaled(self.minimum_detectable, factor),
        )


def scaled(value: float | None, factor: float) -> float | None:
    """A number that may be unknown, in another unit."""
    return None if value is None else factor * value


def scaled_interval(interval: Interval | None, factor: float) -> Interval | None:
    """An interval that may be unknown, in another unit."""
    return None if interval is None else (factor * interval[0], factor * interval[1])


def _kept(method: Callable[..., Given]) -> Callable[..., Given]:
    """A method that computes its answer to some keys once, for as long as its object lives: several tables ask."""
    answers = f"_kept_{method.__name__}"

    @wraps(method)
    def asked(self: object, *keys: Key) -> Given:
        known: dict[tuple[Key, ...], Given] = vars(self).setdefault(answers, {})
        if keys not in known:
            known[keys] = method(self, *keys)
        return known[keys]

    return asked


class ScoreMatrix:
    """The scores of one task's items, a column per variant.

    `task` names the draws of bootstrap and permutation, so that they are the same in every table. `scores`: for each
    variant (num_items,), items in the same order. `clusters`: (num_items,), the number of each item's cluster from 0.
    """

    def __init__(self, task: str, scores: Mapping[str, FloatArray], clusters: IntArray | None = None) -> None:
        self.task = task
        self.clusters = clusters
        self._averages: dict[tuple[ScoreMatrix, ...], AverageScores] = {}
        self._places = {name: index for index, name in enumerate(scores)}
        self._is_binary = all(is_binary(column) for column in scores.values())
        # A byte per score: the zeros and ones of a large study fit in memory.
        kept = np.uint8 if self._is_binary else np.float64
        self._scores: npt.NDArray[np.uint8] | FloatArray = np.array(
            [column.astype(kept) for column in scores.values()]
        ).T
        self.num_items = len(self._scores)

    def average_with(self, others: Sequence[ScoreMatrix]) -> AverageScores:
        """The average of this task and others; the same object whenever it is asked for."""
        if tuple(others) not in self._averages:
            self._averages[tuple(others)] = AverageScores([self, *others])
        return self._averages[tuple(others)]

    def __contains__(self, key: Key) -> bool:
        return all(name in self._places for name in key)

    def scores(self, key: Key) -> FloatArray:
        """(num_items,): the scores of one variant, or the mean of several."""
        columns = [self._scores[:, self._places[name]].astype(np.float64) for name in key]
        return columns[0] if len(columns) == 1 else np.mean(columns, axis=0)

    def mean(self, key: Key) -> float:
        """The mean of the scores."""
        return math.fsum(self._means[self._places[name]] for name in key) / len(key)

    @_kept
    def standard_error(self, key: Key) -> float | None:
        """The (clustered) standard error of the mean."""
        return standard_error(self.scores(key), self.clusters)

    @_kept
    def interval(self, key: Key) -> Interval | None:
        """The 95 % interval of the mean."""
        return mean_interval(self.scores(key), self.clusters)

    @_kept
    def compare(self, key: Key, reference: Key) -> Comparison:
        """The paired comparison of two means.

        McNemar's exact test for independent 0/1 scores, else the paired permutation test that flips whole clusters.
        """
        discordant = self._discordant(key, reference)
        if discordant is not None:
            return _compare_proportions(*discordant, self.num_items)
        differences = self.scores(key) - self.scores(reference)
        error = detection_error(differences, self.clusters)
        return Comparison(
            difference=float(differences.mean()),
            stderr=standard_error(differences, self.clusters),
            interval=difference_interval(differences, self.clusters),
            test="permutation",
            p_value=_permutation([self], key, reference),
            minimum_detectable=None if error is None else minimum_detectable(error),
            num_items=self.num_items,
            num_units=len(self.by_unit(differences)),
            num_higher=int(np.count_nonzero(differences > 0)),
            num_lower=int(np.count_nonzero(differences < 0)),
        )

    def contributions(self, key: Key, reference: Key) -> FloatArray:
        """What items, or clusters, add to the difference of the means; those that add nothing may be left out."""
        discordant = self._discordant(key, reference)
        if discordant is not None:
            return np.repeat([1.0 / self.num_items, -1.0 / self.num_items], discordant)
        return self.by_unit(self.scores(key) - self.scores(reference)) / self.num_items

    def bootstrap(self, key: Key) -> FloatArray:
        """Bootstrap replicates of the mean; paired with those of the other variants."""
        replicates = self._mean_of(self._bootstrap, key)
        return np.clip(replicates, 0.0, 1.0) if self._is_binary else replicates

    # ---- weighted sums of the means of variants, with weights in the order of `names`

    @property
    def names(self) -> tuple[str, ...]:
        """The variants, in the order of the columns."""
        return tuple(self._places)

    def combine(self, weights: FloatArray) -> FloatArray:
        """(num_items, num_contrasts): the items' scores summed up with `weights`, (num_variants, num_contrasts)."""
        used = np.flatnonzero(np.any(weights != 0, axis=1))
        combined: FloatArray = self._scores[:, used].astype(np.float64) @ weights[used]
        # Weights of a third do not cancel to the last bit.
        combined[np.abs(combined) < _CANCELLED] = 0.0
        return combined

    def combine_flipped(self, weights: FloatArray) -> FloatArray:
        """(NUM_SIGN_FLIPS,): one weighted sum of means, `weights` (num_variants,), under random signs of the items."""
        used = np.flatnonzero(weights)
        flipped: FloatArray = weights[used] @ self._flipped[used]
        return flipped

    def flipped_difference(self, key: Key, reference: Key) -> FloatArray:
        """Mean paired differences under random signs."""
        return self._mean_of(self._flipped, key) - self._mean_of(self._flipped, reference)

    def _mean_of(self, replicates: FloatArray, key: Key) -> FloatArray:
        rows = [replicates[self._places[name]] for name in key]
        mean: FloatArray = rows[0] if len(rows) == 1 else np.mean(rows, axis=0)
        return mean

    def _discordant(self, key: Key, reference: Key) -> tuple[int, int] | None:
        """On how many items the one is right and the other wrong, and the reverse; None unless that says everything."""
        if not self._is_binary or self.clusters is not None or len(key) != 1 or len(reference) != 1:
            return None
        one, other = self._places[key[0]], self._places[reference[0]]
        both = self._both_right[one, other]
        return int(self._both_right[one, one] - both), int(self._both_right[other, other] - both)

    @cached_property
    def _means(self) -> list[float]:
        means: list[float] = self._scores.mean(axis=0, dtype=np.float64).tolist()
        return means

    @cached_property
    def _both_right(self) -> npt.NDArray[np.float32]:
        # Counts below 2^24 are exact in float32.
        scores = self._scores.astype(np.float32)
        counts: npt.NDArray[np.float32] = scores.T @ scores
        return counts

    @cached_property
    def _bootstrap(self) -> FloatArray:
        sizes = self.by_unit(np.ones(self.num_items))
        return bootstrap_means(self._unit_sums(), sizes, key=self.task)

    @cached_property
    def _flipped(self) -> FloatArray:
        return sign_flipped_means(self._unit_sums(), self.num_items, key=self.task)

    def _unit_sums(self) -> FloatArray:
        return np.column_stack([self.by_unit(self.scores((name,))) for name in self._places])

    def by_unit(self, values: FloatArray) -> FloatArray:
        """(num_units,): the sum of a value per item over each cluster, or the value itself."""
        if self.clusters is None:
            return values
        sums: FloatArray = np.bincount(self.clusters, weights=values).astype(np.float64)
        return sums


class AverageScores:
    """The plain mean of several tasks' means, each task with the same weight; items are drawn within their task."""

    def __init__(self, tasks: Sequence[ScoreMatrix]) -> None:
        self._tasks = tasks

    @_kept
    def interval(self, key: Key) -> Interval | None:
        """The 95 % percentile interval of the bootstrap over items within each task."""
        return percentile_interval(self.bootstrap(key))

    @_kept
    def bootstrap(self, key: Key) -> FloatArray:
        """Bootstrap replicates of the average."""
        replicates: FloatArray = np.mean([task.bootstrap(key) for task in self._tasks], axis=0)
        return replicates

    @_kept
    def compare(self, key: Key, reference: Key) -> Comparison:
        """The paired comparison of two averages: the permutation test over the items of all tasks together."""
        each = [task.compare(key, reference) for task in self._tasks]
        difference = math.fsum(comparison.difference for comparison in each) / len(each)
        detectable = standard_error_of_average([comparison.minimum_detectable for comparison in each])
        interval = percentile_interval(self.bootstrap(key) - self.bootstrap(reference))
        if interval is None and detectable is not None:
            # No pair is discordant: no resample differs, which does not make the two the same.
            interval = normal_interval(difference, detectable / DETECTION_FACTOR)
        return Comparison(
            difference=difference,
            stderr=standard_error_of_average([comparison.stderr for comparison in each]),
            interval=interval,
            test="permutation",
            p_value=_permutation(self._tasks, key, reference),
            minimum_detectable=detectable,
            num_items=sum(comparison.num_items for comparison in each),
            num_units=sum(comparison.num_units for comparison in each),
            num_higher=sum(comparison.num_higher for comparison in each),
            num_lower=sum(comparison.num_lower for comparison in each),
        )


def change_interval(replicates: FloatArray, reference: FloatArray, *, higher_is_better: bool = True) -> Interval | None:
    """The 95 % interval of the relative change in percent, from paired replicates; None with a reference near zero."""
    if not np.all(reference > 0):
        return None
    change = 100.0 * (replicates - reference) / reference
    return percentile_interval(change if higher_is_better else -change)


def _compare_proportions(num_gained: int, num_lost: int, num_items: int) -> Comparison:
    found = paired_proportions(num_gained, num_lost, num_items)
    return Comparison(
        difference=found.difference,
        stderr=found.stderr,
        interval=found.interval,
        test="mcnemar",
        p_value=mcnemar(num_gained, num_lost),
        minimum_detectable=minimum_detectable(found.detection_error),
        num_items=num_items,
        num_units=num_items,
        num_higher=num_gained,
        num_lower=num_lost,
    )


def _permutation(tasks: Sequence[ScoreMatrix], key: Key, reference: Key) -> float:
    def flipped() -> FloatArray:
        differences: FloatArray = np.mean([task.flipped_difference(key, reference) for task in tasks], axis=0)
        return differences

    contributions = np.concatenate([task.contributions(key, reference) for task in tasks]) / len(tasks)
    return sign_flip_p_value(contributions, flipped, NUM_SIGN_FLIPS)
