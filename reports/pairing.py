"""Two variants against each other: their scores on each task they share, paired item by item."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from reports.items import ItemLibrary
from reports.schemas import Row
from reports.statistics import AverageScores, Comparison, ScoreMatrix, holm
from reports.store import ResultStore

AVERAGE = "average"


@dataclass(frozen=True, kw_only=True)
class Side:
    """A variant and its cells by task, as the study's description has them."""

    label: str
    variant_id: str
    cells: Mapping[str, Row]


@dataclass(frozen=True, kw_only=True)
class PairedScore:
    """One task of a pair, or the average of its tasks. Values and `comparison` (B less A) are in percent or points,
    or in the metric's own unit unless `is_percentage`; `problem` says why there is no comparison.
    """

    task: str
    cell_ids: tuple[str, str] | None
    metric: tuple[str, str]
    values: tuple[float | None, float | None]
    comparison: Comparison | None = None
    is_percentage: bool = True
    higher_is_better: bool = True
    problem: str | None = None

    @property
    def drop(self) -> float | None:
        """By how much B is worse than A; negative where it is better."""
        if self.comparison is None:
            return None
        return -self.comparison.difference if self.higher_is_better else self.comparison.difference


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A and B. `scores` has a line per task that both have, and their average where they are several; `unshared` are
    tasks that only one of them has.
    """

    a: Side
    b: Side
    scores: tuple[PairedScore, ...]
    unshared: tuple[str, ...] = ()


def compare_pairs(store: ResultStore, sides: Iterable[tuple[Side, Side]]) -> list[Pair]:
    """All pairs, each task tested on its items; the p-values are corrected (Holm) for all tests of all pairs."""
    recorded: dict[str, list[Row]] = {}
    for row in store.cells():
        recorded.setdefault(row["cell_id"], []).append(row)
    library = ItemLibrary(store)
    return _corrected([_pair(a, b, recorded, library) for a, b in sides])


def _pair(a: Side, b: Side, recorded: Mapping[str, Sequence[Row]], library: ItemLibrary) -> Pair:
    scores, matrices = [], []
    for task in (task for task in a.cells if task in b.cells):
        score, matrix = _task_score(task, a, b, recorded, library)
        scores.append(score)
        matrices.append(matrix)
    if len(scores) > 1:
        scores.append(_average(scores, matrices, a, b))
    unshared = tuple(task for task in (*a.cells, *b.cells) if task not in a.cells or task not in b.cells)
    return Pair(a=a, b=b, scores=tuple(scores), unshared=unshared)


def _task_score(
    task: str, a: Side, b: Side, recorded: Mapping[str, Sequence[Row]], library: ItemLibrary
) -> tuple[PairedScore, ScoreMatrix | None]:
    cells = (a.cells[task], b.cells[task])
    found = [_shown(cell, recorded.get(cell["cell_id"], ())) for cell in cells]
    rows = [row for row in found if not isinstance(row, str)]
    is_percentage = all(_is_share(row) for row in rows)
    scale = 100.0 if is_percentage else 1.0
    value_a, value_b = (None if isinstance(row, str) else scale * row["value"] for row in found)
    score = PairedScore(
        task=task,
        cell_ids=(cells[0]["cell_id"], cells[1]["cell_id"]),
        metric=(cells[0]["metric"], cells[0]["filter"]),
        values=(value_a, value_b),
        is_percentage=is_percentage,
        higher_is_better=all(row["higher_is_better"] is not False for row in rows),
    )
    if len(rows) < 2:
        problems = [f"{name} {row}" for name, row in zip("AB", found, strict=True) if isinstance(row, str)]
        return replace(score, problem="; ".join(problems)), None
    matrices = library.matrices(task, {a.variant_id: rows[0], b.variant_id: rows[1]})
    keys = ((a.variant_id,), (b.variant_id,))
    shared = next((matrix for matrix in matrices if all(key in matrix for key in keys)), None)
    if shared is None:
        return replace(score, problem=_why_not_paired(matrices, keys, rows)), None
    return replace(score, comparison=shared.compare(keys[1], keys[0]).scaled(scale)), shared


def _shown(cell: Row, rows: Sequence[Row]) -> Row | str:
    """The done row of the metric that tables show, or what became of it."""
    if cell["not_applicable"]:
        return f"does not apply: {cell['not_applicable']}"
    if not rows:
        return "is missing: not computed"
    if rows[0]["status"] == "failed":
        return f"failed ({rows[0]['failure_kind']})"
    wanted = (cell["metric"], cell["filter"])
    row = next((row for row in rows if (row["metric"], row["filter"]) == wanted), None)
    if row is None:
        return f"has no metric {','.join(wanted)}"
    return row if math.isfinite(row["value"]) else "has a score that is not finite"


def _is_share(row: Row) -> bool:
    return row["higher_is_better"] is not False and 0.0 <= row["value"] <= 1.0


def _why_not_paired(matrices: Sequence[ScoreMatrix], keys: Sequence[tuple[str, ...]], rows: Sequence[Row]) -> str:
    unknown = [name for name, key in zip("AB", keys, strict=True) if not any(key in matrix for matrix in matrices)]
    if unknown:
        return f"no item scores of {' and '.join(unknown)} that average to the score"
    return f"not the same items ({rows[0]['num_items']} and {rows[1]['num_items']})"


def _average(scores: Sequence[PairedScore], matrices: Sequence[ScoreMatrix | None], a: Side, b: Side) -> PairedScore:
    """The plain mean of the tasks in percent, each with the same weight; of an incomplete one there is none."""
    parts = [(score, matrix) for score, matrix in zip(scores, matrices, strict=True) if score.is_percentage]
    known = [matrix for _, matrix in parts if matrix is not None]
    empty = PairedScore(task=AVERAGE, cell_ids=None, metric=("", ""), values=(None, None))
    if len(known) < len(parts) or not known:
        return replace(empty, problem=f"only {len(known)} of {len(parts)} tasks are compared")
    values = tuple(math.fsum(score.values[place] or 0.0 for score, _ in parts) / len(parts) for place in range(2))
    comparison = AverageScores(known).compare((b.variant_id,), (a.variant_id,)).scaled(100.0)
    return replace(empty, values=(values[0], values[1]), comparison=comparison)


def _corrected(pairs: list[Pair]) -> list[Pair]:
    p_values = [score.comparison.p_value for pair in pairs for score in pair.scores if score.comparison]
    adjusted = iter(holm(p_values))
    return [
        replace(
            pair,
            scores=tuple(
                replace(score, comparison=replace(score.comparison, adjusted_p=next(adjusted)))
                if score.comparison
                else score
                for score in pair.scores
            ),
        )
        for pair in pairs
    ]
