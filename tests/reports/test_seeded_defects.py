"""Defects put into the statistics on purpose: each is caught by what a table must say of constructed data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from reports import ItemLibrary, ResultStore, Table, TableCell, build_study_table
from reports.statistics import Comparison, Key, ScoreMatrix
from reports.tables import cells, grid, rows
from reports.tables.cells import Cells
from reports.tables.evidence import Parts

NUM_ITEMS = 60
# Scores of items by model, scheme and task: None is a cell that failed.
Scores = dict[tuple[str, str, str], Sequence[int] | None]


def _wrong(*places: int) -> Sequence[int]:
    return places


# The variant is wrong where full precision is, and on eight items more: paired, that is plain; unpaired, it is not.
PAIRED: Scores = {
    ("a", "fp16", "facts"): _wrong(*range(20)),
    ("a", "w4a4", "facts"): _wrong(*range(28)),
    ("b", "fp16", "facts"): _wrong(*range(40)),
    ("b", "w4a4", "facts"): _wrong(*range(41)),
}
INCOMPLETE: Scores = {
    ("a", "fp16", "facts"): _wrong(0),
    ("a", "fp16", "places"): _wrong(0, 1, 2),
    ("a", "w4a4", "facts"): _wrong(0, 1),
    ("a", "w4a4", "places"): None,
}


@pytest.fixture
def build(tmp_path: Path, cell_row: Any, failed_row: Any) -> Callable[[Scores], Table]:
    def build(scores: Scores) -> Table:
        store = ResultStore(tmp_path)
        for (model, scheme, task), wrong in scores.items():
            names = {"model": model, "scheme": scheme, "task": task, "method": "none" if scheme == "fp16" else "rtn"}
            if wrong is None:
                store.record_cell([failed_row(**names)])
                continue
            values = [0.0 if index in wrong else 1.0 for index in range(NUM_ITEMS)]
            row = cell_row(**names, value=float(np.mean(values)), stderr=None, num_items=NUM_ITEMS)
            store.record_cell([row])
            items = [
                {"doc_id": index, "filter": "none", "metric": "acc", "value": value}
                for index, value in enumerate(values)
            ]
            store.record_scores(row["cell_id"], items)
        return build_study_table(store.cells(), matrices=ItemLibrary(store).matrices)

    return build


def _cell(table: Table, model: str, scheme: str, title: str) -> TableCell:
    row = next(row for row in table.rows if row.labels[:2] == (model, scheme))
    return row.cells[[column.title for column in table.columns].index(title)]


def check_pairing(table: Table) -> None:
    """The test is that of eight discordant items of which all were lost; no other answer is near it."""
    found = _cell(table, "a", "w4a4", "facts").comparison
    assert found is not None
    assert found.p_value == pytest.approx(stats.binomtest(0, 8).pvalue)
    assert found.stderr == pytest.approx(100 * stats.sem([-1.0] * 8 + [0.0] * 52))


def check_average(table: Table) -> None:
    """An average that misses a cell says so, has no drop, and is neither that of the others nor made with a zero."""
    cell = _cell(table, "a", "w4a4", "avg")
    assert (cell.status, cell.coverage) == ("partial", (1, 2))
    assert cell.value == pytest.approx(100 * 58 / 60)
    assert cell.comparison is None
    assert cell.drop is None
    assert _cell(table, "a", "w4a4", "drop %").value is None


def check_baseline(table: Table) -> None:
    """Each model is held against its own full precision, and the drop has the sign of a drop."""
    for model, lost in (("a", 8), ("b", 1)):
        cell = _cell(table, model, "w4a4", "facts")
        assert cell.reference_cell_ids == (f"{model}-none-fp16-facts",)
        assert cell.comparison is not None
        assert cell.comparison.difference == pytest.approx(-100 * lost / NUM_ITEMS)
        assert cell.drop is not None
        assert cell.drop < 0


@pytest.mark.parametrize(
    ("scores", "check"), [(PAIRED, check_pairing), (PAIRED, check_baseline), (INCOMPLETE, check_average)]
)
def test_the_checks_pass_as_things_are(
    scores: Scores, check: Callable[[Table], None], build: Callable[[Scores], Table]
) -> None:
    check(build(scores))


def _unpaired(self: ScoreMatrix, key: Key, reference: Key) -> Comparison:
    one, other = self.scores(key), self.scores(reference)
    stderr = math.hypot(float(stats.sem(one)), float(stats.sem(other)))
    p_value = float(stats.ttest_ind(one, other, equal_var=False).pvalue)
    return replace(_PAIRED_COMPARE(self, key, reference), stderr=stderr, p_value=p_value)


_PAIRED_COMPARE = ScoreMatrix.compare


def test_mutant_an_unpaired_test_is_found(build: Callable[[Scores], Table], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ScoreMatrix, "compare", _unpaired)
    with pytest.raises(AssertionError):
        check_pairing(build(PAIRED))


def test_mutant_items_that_are_paired_in_another_order_are_found(
    build: Callable[[Scores], Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = ScoreMatrix.__init__

    def rolled(self: ScoreMatrix, task: str, scores: Any, clusters: Any = None) -> None:
        moved = {name: np.roll(column, place) for place, (name, column) in enumerate(scores.items())}
        original(self, task, moved, clusters)

    monkeypatch.setattr(ScoreMatrix, "__init__", rolled)
    with pytest.raises(AssertionError):
        check_pairing(build(PAIRED))


_OVER_TASKS = Cells._over_tasks


def _average_over_what_is_there(self: Cells, key: tuple[str], parts: Parts) -> TableCell:
    cell = _OVER_TASKS(self, key, parts)
    return replace(cell, status="done") if cell.status == "partial" else cell


def _average_with_zeros(self: Cells, key: tuple[str], parts: Parts) -> TableCell:
    cell = _OVER_TASKS(self, key, parts)
    if cell.status != "partial" or cell.value is None or cell.coverage is None:
        return cell
    return replace(cell, value=cell.value * cell.coverage[0] / cell.coverage[1])


@pytest.mark.parametrize("mutant", [_average_over_what_is_there, _average_with_zeros])
def test_mutant_an_average_over_missing_cells_is_found(
    mutant: Callable[..., TableCell], build: Callable[[Scores], Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Cells, "_over_tasks", mutant)
    with pytest.raises(AssertionError):
        check_average(build(INCOMPLETE))


def _of_another_model(variant: Any, variants: Sequence[Any]) -> Key:
    if variant.names["scheme"] == grid.REFERENCE_SCHEME:
        return ()
    others = [other for other in variants if other.names["scheme"] == grid.REFERENCE_SCHEME]
    return (next(other.variant_id for other in others if other.names["model"] != variant.names["model"]),)


def test_mutant_the_full_precision_of_another_model_is_found(
    build: Callable[[Scores], Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "_reference", _of_another_model)
    with pytest.raises(AssertionError):
        check_baseline(build(PAIRED))


def test_mutant_a_baseline_that_changed_places_with_its_variant_is_found(
    build: Callable[[Scores], Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = ScoreMatrix.compare
    monkeypatch.setattr(ScoreMatrix, "compare", lambda self, key, reference: original(self, reference, key))
    with pytest.raises(AssertionError):
        check_baseline(build(PAIRED))


def test_mutant_a_drop_in_percent_of_the_variant_is_found(
    build: Callable[[Scores], Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = cells.relative_change

    def swapped(value: float, reference: float, *, higher_is_better: bool = True) -> float | None:
        return original(reference, value, higher_is_better=higher_is_better)

    monkeypatch.setattr(cells, "relative_change", swapped)
    with pytest.raises(AssertionError):
        check_baseline(build(PAIRED))


def test_mutant_a_correction_that_is_left_out_is_found(
    build: Callable[[Scores], Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(table: Table) -> None:
        found = _cell(table, "a", "w4a4", "facts").comparison
        assert found is not None
        assert found.adjusted_p == pytest.approx(2 * found.p_value)

    check(build(PAIRED))
    monkeypatch.setattr("reports.tables.evidence.holm", lambda p_values: list(p_values))
    with pytest.raises(AssertionError):
        check(build(PAIRED))
