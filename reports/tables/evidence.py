"""What the items say about a table's numbers: intervals, paired comparisons, corrections, and which is best."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from reports.schemas import Row
from reports.statistics import (
    SIGNIFICANCE,
    AverageScores,
    Comparison,
    Interval,
    Key,
    ScoreMatrix,
    change_interval,
    holm,
)
from reports.tables.grid import Layout, TaskColumn

Parts = tuple[TaskColumn, ...]
Place = TypeVar("Place", bound=Hashable)
# The score matrices of a task, by its name and its done rows of `cells` by variant.
MatrixSource = Callable[[str, Mapping[str, Row]], Sequence[ScoreMatrix]]


class Evidence:
    """Score matrices of a layout's task columns. `source` is None where only the cells' own numbers are at hand."""

    def __init__(self, layout: Layout, source: MatrixSource | None) -> None:
        self._matrices = {
            column: tuple(source(column.title, layout.column_rows(column))) if source else ()
            for column in layout.columns
        }

    @property
    def is_there(self) -> bool:
        """Whether any column has item scores."""
        return any(self._matrices.values())

    def knows(self, column: TaskColumn, key: Key) -> bool:
        """Whether the item scores of a row are at hand."""
        return self._of_task(column, key) is not None

    def clustered_columns(self) -> list[TaskColumn]:
        """The columns whose items share something."""
        return [
            column
            for column, matrices in self._matrices.items()
            if any(matrix.clusters is not None for matrix in matrices)
        ]

    def standard_error(self, column: TaskColumn, key: Key) -> float | None:
        """The (clustered) standard error of a task's score."""
        matrix = self._of_task(column, key)
        return matrix.standard_error(key) if matrix else None

    def interval(self, parts: Parts, key: Key) -> Interval | None:
        """The 95 % interval of a task's score, or of an average."""
        scores = self._of(parts, key)
        return scores.interval(key) if scores else None

    def compare(self, parts: Parts, key: Key, reference: Key) -> Comparison | None:
        """The paired comparison of two rows; None unless both have the same items in every part."""
        scores = self._of(parts, key, reference)
        return scores.compare(key, reference) if scores else None

    def change_interval(
        self, parts: Parts, key: Key, reference: Key, *, higher_is_better: bool = True
    ) -> Interval | None:
        """The 95 % interval of the relative change in percent, by paired bootstrap."""
        scores = self._of(parts, key, reference)
        if scores is None:
            return None
        return change_interval(scores.bootstrap(key), scores.bootstrap(reference), higher_is_better=higher_is_better)

    def _of(self, parts: Parts, *keys: Key) -> ScoreMatrix | AverageScores | None:
        matrices = [matrix for part in parts if (matrix := self._of_task(part, *keys)) is not None]
        if len(matrices) < len(parts):
            return None
        return matrices[0] if len(matrices) == 1 else matrices[0].average_with(matrices[1:])

    def _of_task(self, column: TaskColumn, *keys: Key) -> ScoreMatrix | None:
        return next((matrix for matrix in self._matrices[column] if all(key in matrix for key in keys)), None)


def corrected(comparisons: Mapping[Place, Comparison]) -> dict[Place, Comparison]:
    """The comparisons with their p-values corrected (Holm) for being as many as they are."""
    adjusted = holm([comparison.p_value for comparison in comparisons.values()])
    return {
        place: replace(comparison, adjusted_p=p_value)
        for (place, comparison), p_value in zip(comparisons.items(), adjusted, strict=True)
    }


def best_rows(
    scores: Mapping[Key, float],
    blocks: Mapping[Key, Hashable],
    compare: Callable[[Key, Key], Comparison | None],
    *,
    higher_is_better: bool,
) -> dict[Key, bool]:
    """Which rows of a column are the best of their block, or not significantly worse than it.

    Each row of a block is tested against the block's best, paired on items; the p-values are corrected (Holm) over all
    blocks of the column, and a row stays among the best unless its own is below 5 %. A row that answered other items
    cannot be tested, and is among them only if it scores the same. A block of one row has no best.
    """
    members: dict[Hashable, list[Key]] = defaultdict(list)
    for key in scores:
        members[blocks[key]].append(key)
    is_best: dict[Key, bool] = {}
    tests: dict[Key, Comparison] = {}
    for keys in members.values():
        if len(keys) < 2:
            continue
        best = max(keys, key=lambda key: scores[key] if higher_is_better else -scores[key])
        for key in keys:
            is_best[key] = scores[key] == scores[best]
            comparison = None if is_best[key] else compare(key, best)
            if comparison is not None:
                tests[key] = comparison
    for key, comparison in corrected(tests).items():
        assert comparison.adjusted_p is not None
        is_best[key] = comparison.adjusted_p >= SIGNIFICANCE
    return is_best
