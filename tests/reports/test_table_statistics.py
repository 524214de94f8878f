"""What a table says beyond its numbers: comparisons, corrections, best rows, seeds, noise floor; from stored items."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from reports import ItemLibrary, ResultStore, Table, TableCell, TableSpec, build_study_table, read_table_spec
from reports.statistics import holm, mcnemar, wilson_interval

Scores = Mapping[tuple[str, str, str], Mapping[str, Sequence[float]]]
GROUPS = {"facts": "general", "places": "general", "sums": "math"}


def _wrong(*places: int, num_items: int = 60) -> list[float]:
    """All right but at these places."""
    return [0.0 if index in places else 1.0 for index in range(num_items)]


class Study:
    """A store with item scores, and tables made from it."""

    def __init__(self, folder: Path, cell_row: Any) -> None:
        self.store = ResultStore(folder)
        self._cell_row = cell_row

    def add(self, model: str, scheme: str, method: str, task: str, scores: Sequence[float], **changes: Any) -> str:
        """Record a cell with its items (0, 1, ... unless `doc_ids` says); returns its id."""
        doc_ids, clusters = changes.pop("doc_ids", None), changes.pop("clusters", None)
        row = self._cell_row(
            model=model,
            scheme=scheme,
            method=method,
            task=task,
            task_group=GROUPS[task],
            **{"value": float(np.mean(scores)), "stderr": None, "num_items": len(scores), **changes},
        )
        items = [
            {"doc_id": doc_id, "filter": "none", "metric": "acc", "value": float(value)}
            for doc_id, value in zip(doc_ids or range(len(scores)), scores, strict=True)
        ]
        for item, cluster in zip(items, clusters or (), strict=clusters is not None):
            item["cluster"] = cluster
        self.store.record_cell([row])
        self.store.record_scores(row["cell_id"], items)
        return str(row["cell_id"])

    def add_all(self, scores: Scores) -> None:
        for (model, scheme, method), tasks in scores.items():
            for task, values in tasks.items():
                self.add(model, scheme, method, task, values)

    def table(self, spec: str | TableSpec = "main") -> Table:
        chosen = read_table_spec(spec) if isinstance(spec, str) else spec
        return build_study_table(self.store.cells(), spec=chosen, matrices=ItemLibrary(self.store).matrices)


@pytest.fixture
def study(tmp_path: Path, cell_row: Any) -> Study:
    return Study(tmp_path, cell_row)


def _cell(table: Table, labels: tuple[str, ...], title: str) -> TableCell:
    row = next(row for row in table.rows if row.labels == labels)
    index = next(
        i for i, column in enumerate(table.columns) if title in (column.title, f"{column.group} {column.title}")
    )
    return row.cells[index]


FP, RTN, GPTQ, AWQ = (("tiny", *rest) for rest in (("fp16", "-"), ("w4a4", "rtn"), ("w4a4", "gptq"), ("w4a4", "awq")))


@pytest.fixture
def three_methods(study: Study) -> Study:
    """rtn loses fifteen facts, gptq two, awq three; places are alike but for one item of rtn."""
    study.add_all(
        {
            ("tiny", "fp16", "none"): {"facts": _wrong(0, 1), "places": _wrong(5)},
            ("tiny", "w4a4", "rtn"): {"facts": _wrong(*range(1, 17)), "places": _wrong(5, 6)},
            ("tiny", "w4a4", "gptq"): {"facts": _wrong(0, 1, 2, 3), "places": _wrong(5)},
            ("tiny", "w4a4", "awq"): {"facts": _wrong(0, 1, 2, 3, 4), "places": _wrong(5)},
        }
    )
    return study


def test_a_cell_has_its_error_its_interval_and_its_paired_comparison(three_methods: Study) -> None:
    cell = _cell(three_methods.table(), RTN, "facts")
    assert cell.value == pytest.approx(100 * 44 / 60)
    assert cell.stderr == pytest.approx(100 * np.std(_wrong(*range(16)), ddof=1) / np.sqrt(60))
    low, high = wilson_interval(44 / 60, 60)
    assert cell.interval == pytest.approx((100 * low, 100 * high))
    found = cell.comparison
    assert found is not None
    # Item 0 is gained; items 2 to 16 are lost.
    assert (found.num_higher, found.num_lower, found.test) == (1, 15, "mcnemar")
    assert found.difference == pytest.approx(-100 * 14 / 60)
    assert found.p_value == pytest.approx(stats.binomtest(1, 16).pvalue)
    assert cell.reference_cell_ids == ("tiny-none-fp16-facts",)
    assert cell.recovery == pytest.approx(100 * 44 / 58)


def test_the_correction_is_holms_over_every_test_of_the_table(three_methods: Study) -> None:
    table = three_methods.table()
    # Tests: three rows times two tasks, the average of general; drops are about the same averages.
    found = {
        (row.labels, column.title): cell.comparison
        for row in table.rows
        for column, cell in zip(table.columns, row.cells, strict=True)
        if column.kind in ("task", "average") and cell.comparison
    }
    assert table.num_tests == len(found) == 9
    expected = holm([comparison.p_value for comparison in found.values()])
    assert [comparison.adjusted_p for comparison in found.values()] == pytest.approx(expected)
    drop = _cell(table, RTN, "general drop %")
    average = _cell(table, RTN, "general avg")
    assert drop.comparison == average.comparison
    assert average.comparison is not None
    assert average.comparison.adjusted_p is not None
    assert average.comparison.adjusted_p < 0.05


def test_every_model_is_compared_with_its_own_full_precision_item_by_item(study: Study) -> None:
    study.add_all(
        {
            ("a", "fp16", "none"): {"facts": _wrong(0, 1, 2)},
            ("a", "w4a4", "rtn"): {"facts": _wrong(0, 1, 2, 3)},
            ("b", "fp16", "none"): {"facts": _wrong(3)},
            ("b", "w4a4", "rtn"): {"facts": _wrong(3, 9, 10)},
        }
    )
    table = study.table()
    for model, lost in (("a", 1), ("b", 2)):
        comparison = _cell(table, (model, "w4a4", "rtn"), "facts").comparison
        assert comparison is not None
        assert (comparison.num_higher, comparison.num_lower) == (0, lost)


def test_the_best_of_a_block_stands_with_all_that_are_not_significantly_worse(three_methods: Study) -> None:
    table = three_methods.table()
    assert {labels: _cell(table, labels, "facts").is_best for labels in (FP, RTN, GPTQ, AWQ)} == {
        FP: None,
        RTN: False,
        GPTQ: True,
        AWQ: True,
    }
    # In places one lost item of sixty is no evidence.
    assert [_cell(table, labels, "places").is_best for labels in (RTN, GPTQ, AWQ)] == [True, True, True]
    assert _cell(table, RTN, "general avg").is_best is False
    assert "Bold: the best of each model and scheme in a column" in " ".join(table.legend)


def test_the_best_is_corrected_within_its_column(study: Study) -> None:
    # Six lost items have p = 0.031: alone significantly worse, as one of two tests of the column not.
    scores = {("tiny", "fp16", "none"): {"facts": _wrong()}, ("tiny", "w4a4", "gptq"): {"facts": _wrong()}}
    alone = {**scores, ("tiny", "w4a4", "rtn"): {"facts": _wrong(*range(6))}}
    study.add_all(alone)
    assert mcnemar(0, 6) < 0.05 < 2 * mcnemar(0, 6)
    assert _cell(study.table(), RTN, "facts").is_best is False
    study.add_all({("tiny", "w4a4", "awq"): {"facts": _wrong(7)}})
    assert _cell(study.table(), RTN, "facts").is_best is True


def test_the_best_may_be_looked_for_in_a_whole_model(three_methods: Study) -> None:
    three_methods.add_all({("tiny", "w8a8", "rtn"): {"facts": _wrong()}})
    spec = read_table_spec("main").model_copy(update={"best": ("model",)})
    table = three_methods.table(spec)
    assert _cell(table, ("tiny", "w8a8", "rtn"), "facts").is_best is True
    assert _cell(three_methods.table(), ("tiny", "w8a8", "rtn"), "facts").is_best is None
    assert "the best of each model in a column" in " ".join(table.legend)


def test_where_lower_is_better_the_lowest_is_best_and_a_rise_is_a_drop(study: Study) -> None:
    errors = {"higher_is_better": False}
    study.add("tiny", "fp16", "none", "facts", [1.0, 2.0, 3.0, 2.0], **errors)
    study.add("tiny", "w4a4", "rtn", "facts", [9.0, 9.5, 9.0, 8.0], **errors)
    study.add("tiny", "w4a4", "gptq", "facts", [2.0, 2.0, 3.0, 2.0], **errors)
    table = study.table()
    assert _cell(table, GPTQ, "facts").is_best is True
    rtn = _cell(table, RTN, "facts")
    assert rtn.drop is not None
    assert rtn.drop < -300
    assert rtn.comparison is not None
    assert rtn.comparison.difference == pytest.approx(8.875 - 2.0)


def test_the_differences_table_shows_differences_their_intervals_and_what_is_significant(
    three_methods: Study,
) -> None:
    table = three_methods.table("differences")
    assert [row.labels for row in table.rows] == [AWQ, GPTQ, RTN]
    cell = _cell(table, RTN, "facts")
    assert cell.comparison is not None
    assert cell.value == pytest.approx(cell.comparison.difference)
    assert cell.interval == cell.comparison.interval
    legend = " ".join(table.legend)
    assert "correction for the 9 tests" in legend
    assert "Minimum detectable difference" in legend
    assert "facts " in legend


def test_recovery_is_the_share_of_the_full_precision_average_with_its_interval(three_methods: Study) -> None:
    cell = _cell(three_methods.table("recovery"), RTN, "general recovery %")
    assert cell.value == pytest.approx(100 * (44 / 60 + 58 / 60) / (58 / 60 + 59 / 60))
    assert cell.interval is not None
    assert cell.interval[0] < cell.value < cell.interval[1] < 100


def test_an_incomplete_average_is_compared_with_nothing_and_has_no_interval(
    three_methods: Study, failed_row: Any
) -> None:
    three_methods.store.record_cell([failed_row(method="rtn", scheme="w4a4", task="places")])
    table = three_methods.table()
    average = _cell(table, RTN, "general avg")
    assert (average.status, average.coverage, average.interval, average.comparison) == ("partial", (1, 2), None, None)
    assert average.value == pytest.approx(100 * 44 / 60)
    assert average.is_best is None
    assert table.num_tests == 7


def test_cells_on_other_items_are_not_compared_and_say_so(study: Study) -> None:
    study.add("tiny", "fp16", "none", "facts", _wrong(1))
    study.add("tiny", "w4a4", "rtn", "facts", _wrong(1, num_items=30))
    study.add("tiny", "w4a4", "gptq", "facts", _wrong(1), doc_ids=range(5, 65))
    table = study.table()
    texts = {footnote.number: footnote.text for footnote in table.footnotes}
    for labels, counts in ((RTN, "30 and 60"), (GPTQ, "60 and 60")):
        cell = _cell(table, labels, "facts")
        assert cell.comparison is None
        assert cell.interval is not None
        assert texts[cell.notes[0]] == f"not compared with full precision: not the same items ({counts})"
    assert table.num_tests == 0


def test_items_may_be_stored_in_any_order(study: Study) -> None:
    study.add("tiny", "fp16", "none", "facts", _wrong(1, 2))
    study.add("tiny", "w4a4", "rtn", "facts", _wrong(58, 57, 3), doc_ids=range(59, -1, -1))
    comparison = _cell(study.table(), RTN, "facts").comparison
    assert comparison is not None
    assert (comparison.num_higher, comparison.num_lower) == (0, 1)


def test_scores_that_do_not_average_to_the_cells_value_are_not_used(study: Study) -> None:
    study.add("tiny", "fp16", "none", "facts", _wrong(1))
    study.add("tiny", "w4a4", "rtn", "facts", _wrong(1, 2), value=0.5, stderr=0.04)
    study.add("tiny", "w4a4", "gptq", "facts", _wrong(1, 2), num_items=200, stderr=0.03)
    table = study.table()
    for labels, stderr in ((RTN, 4.0), (GPTQ, 3.0)):
        cell = _cell(table, labels, "facts")
        assert (cell.stderr, cell.interval, cell.comparison) == (pytest.approx(stderr), None, None)
    assert table.remarks == (
        "facts: 2 of 3 cells have no item scores that average to their score; these have no interval and no test",
    )


def test_items_that_share_a_passage_count_together(study: Study) -> None:
    clusters = [f"passage {index // 6}" for index in range(60)]
    base, worse = _wrong(), _wrong(*range(12))
    for scheme, method, scores in (("fp16", "none", base), ("w4a4", "rtn", worse)):
        study.add("tiny", scheme, method, "facts", scores, clusters=clusters)
        study.add("tiny", scheme, method, "places", scores)
    table = study.table()
    clustered, plain = _cell(table, RTN, "facts"), _cell(table, RTN, "places")
    assert clustered.stderr is not None
    assert plain.stderr is not None
    assert clustered.stderr > 2 * plain.stderr
    assert clustered.comparison is not None
    assert plain.comparison is not None
    # Two passages lost, of ten: 2 / 4 sign patterns; twelve items lost would be significant.
    assert clustered.comparison.p_value == pytest.approx(0.5)
    assert plain.comparison.p_value == pytest.approx(mcnemar(0, 12))
    assert "count together in every error and test: facts." in " ".join(table.legend)


def _seeded(study: Study) -> None:
    for seed, base, variant in ((0, _wrong(1), _wrong(1, 2, 3)), (1, _wrong(4, 5, 6), _wrong(4, 5, 6, 7))):
        seeds = json.dumps([seed])
        study.add("tiny", "fp16", "none", "facts", base, variant_id=f"fp{seed}", seeds=seeds)
        study.add("tiny", "w4a4", "rtn", "facts", variant, variant_id=f"rtn{seed}", seeds=seeds)


def test_several_seeds_have_a_row_for_their_mean_and_its_spread(study: Study) -> None:
    _seeded(study)
    table = study.table()
    assert [row.labels[2] for row in table.rows] == [
        "- (seed 0)",
        "- (seed 1)",
        "- (mean of 2 seeds)",
        "- (noise floor, seeds 0, 1)",
        "rtn (seed 0)",
        "rtn (seed 1)",
        "rtn (mean of 2 seeds)",
    ]
    mean = _cell(table, ("tiny", "w4a4", "rtn (mean of 2 seeds)"), "facts")
    assert mean.value == pytest.approx(100 * (57 + 56) / 120)
    assert mean.spread == pytest.approx(100 * np.std([57 / 60, 56 / 60], ddof=1))
    assert (mean.num_seeds, mean.num_items) == (2, 60)
    assert set(mean.cell_ids) == {"rtn0-facts", "rtn1-facts"}
    assert set(mean.reference_cell_ids) == {"fp0-facts", "fp1-facts"}
    # Each seed with its own full precision: items 2 and 3 lost once, item 7 once.
    assert mean.comparison is not None
    assert mean.comparison.difference == pytest.approx(-100 * 1.5 / 60)
    assert (mean.comparison.num_lower, mean.comparison.num_higher, mean.comparison.test) == (3, 0, "permutation")
    assert mean.comparison.p_value == pytest.approx(2 / 8)


def test_the_noise_floor_is_how_far_seeds_of_full_precision_are_apart(study: Study) -> None:
    _seeded(study)
    table = study.table()
    row = next(row for row in table.rows if row.kind == "noise_floor")
    cells = {column.title: cell for column, cell in zip(table.columns, row.cells, strict=True)}
    assert cells["facts"].value == pytest.approx(100 * 2 / 60)
    assert cells["facts"].comparison is not None
    assert (cells["facts"].comparison.num_higher, cells["facts"].comparison.num_lower) == (3, 1)
    assert cells["drop %"].value == pytest.approx(100 * (2 / 60) / (57 / 60))
    assert "noise floor: how far apart" in " ".join(table.legend)
    # Its test is no test of a variant.
    assert table.num_tests == 3


@pytest.mark.parametrize(("seeds", "kinds"), [("each", ["variant"] * 4), ("mean", ["mean", "mean"])])
def test_seeds_are_shown_as_the_spec_says(study: Study, seeds: str, kinds: list[str]) -> None:
    _seeded(study)
    spec = read_table_spec("main").model_copy(update={"seeds": seeds, "noise_floor": False})
    assert [row.kind for row in study.table(spec).rows] == kinds


def test_a_mean_without_one_of_its_seeds_says_so_and_is_compared_with_nothing(study: Study, failed_row: Any) -> None:
    _seeded(study)
    study.store.record_cell([failed_row(variant_id="rtn1", method="rtn", seeds="[1]")])
    mean = _cell(study.table(), ("tiny", "w4a4", "rtn (mean of 2 seeds)"), "facts")
    assert (mean.status, mean.coverage, mean.comparison, mean.drop) == ("partial", (1, 2), None, None)
    differences = study.table("differences")
    difference = _cell(differences, ("tiny", "w4a4", "rtn (mean of 2 seeds)"), "facts")
    assert (difference.value, difference.status) == (None, "missing")
    texts = {footnote.number: footnote.text for footnote in differences.footnotes}
    assert texts[difference.notes[0]] == "no difference: a seed has no score"


def test_a_study_without_item_scores_has_no_intervals_no_tests_and_nothing_bold(cell_row: Any) -> None:
    cells = [
        cell_row(scheme=scheme, method=method, value=value)
        for scheme, method, value in (("fp16", "none", 0.9), ("w4a4", "rtn", 0.5), ("w4a4", "gptq", 0.8))
    ]
    table = build_study_table(cells)
    assert table.num_tests == 0
    assert not [cell for row in table.rows for cell in row.cells if cell.is_best or cell.interval or cell.comparison]
    assert "Bold" not in " ".join(table.legend)
    differences = build_study_table(cells, spec=read_table_spec("differences"))
    assert _cell(differences, RTN, "facts").value == pytest.approx(-40.0)


def test_the_same_store_gives_the_same_table_again(three_methods: Study) -> None:
    assert three_methods.table() == three_methods.table()
