"""The study's table: what stands where, what is averaged, and how holes are marked."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

import pytest

from reports import Table, TableCell, TableOrder, build_study_table
from reports.tables import show_cell

GROUPS = {"facts": "general", "places": "general", "sums": "math", "lines": "code"}


def _find(table: Table, labels: tuple[str, str, str], group: str, title: str) -> TableCell:
    row = next(row for row in table.rows if row.labels == labels)
    names = [(column.group, column.title) for column in table.columns]
    return row.cells[names.index((group, title))]


def _study(cell_row: Any, scores: dict[tuple[str, str, str], dict[str, float]]) -> list[dict[str, Any]]:
    """Cells of {(model, scheme, method): {task: value}}."""
    return [
        cell_row(model=model, scheme=scheme, method=method, task=task, task_group=GROUPS[task], value=value)
        for (model, scheme, method), row in scores.items()
        for task, value in row.items()
    ]


@pytest.fixture
def study(cell_row: Any) -> list[dict[str, Any]]:
    return _study(
        cell_row,
        {
            ("tiny", "w4a4", "rtn"): {"facts": 0.45, "places": 0.40, "sums": 0.10, "lines": 0.30},
            ("tiny", "w8a8", "rtn"): {"facts": 0.80, "places": 0.90, "sums": 0.49, "lines": 0.60},
            ("tiny", "fp16", "none"): {"facts": 0.90, "places": 0.80, "sums": 0.50, "lines": 0.60},
        },
    )


def test_rows_are_models_schemes_methods_with_full_precision_first_and_columns_are_grouped_tasks(
    study: list[dict[str, Any]],
) -> None:
    table = build_study_table(study, TableOrder(schemes=("w8a8", "w4a4"), tasks=("places", "facts")))
    assert [row.labels for row in table.rows] == [
        ("tiny", "fp16", "-"),
        ("tiny", "w8a8", "rtn"),
        ("tiny", "w4a4", "rtn"),
    ]
    assert [row.is_reference for row in table.rows] == [True, False, False]
    assert [(column.group, column.title) for column in table.columns] == [
        ("general", "places"),
        ("general", "facts"),
        ("general", "avg"),
        ("general", "drop %"),
        ("math", "sums"),
        ("math", "drop %"),
        ("code", "lines"),
        ("code", "drop %"),
        ("all", "avg"),
        ("all", "drop %"),
    ]
    assert table.footnotes == ()


def test_averages_and_drops_are_those_computed_by_hand(study: list[dict[str, Any]]) -> None:
    table = build_study_table(study)
    w4a4 = ("tiny", "w4a4", "rtn")
    # (45 + 40) / 2 = 42.5 against (90 + 80) / 2 = 85: half. (45 + 40 + 10 + 30) / 4 = 31.25 against 70.
    average = _find(table, w4a4, "general", "avg")
    assert average.value == pytest.approx(42.5)
    assert average.stderr == pytest.approx(5.0 / math.sqrt(2))
    assert average.num_items == 200
    assert average.coverage == (2, 2)
    assert _find(table, w4a4, "general", "drop %").value == pytest.approx(-50.0)
    assert _find(table, w4a4, "all", "avg").value == pytest.approx(31.25)
    assert _find(table, w4a4, "all", "drop %").value == pytest.approx(100 * (31.25 - 70) / 70)
    # The mean of both general tasks is unchanged at W8A8 though each task moved.
    w8a8 = ("tiny", "w8a8", "rtn")
    assert _find(table, w8a8, "general", "drop %").value == pytest.approx(0.0)
    assert _find(table, w8a8, "general", "drop %").severity == "negligible"
    assert _find(table, w8a8, "math", "drop %").value == pytest.approx(-2.0)
    assert _find(table, w8a8, "math", "drop %").severity == "moderate"
    assert _find(table, w8a8, "general", "facts").drop == pytest.approx(100 * (80 - 90) / 90)
    assert _find(table, w8a8, "general", "facts").severity == "significant"


def test_full_precision_rows_have_no_drop(study: list[dict[str, Any]]) -> None:
    table = build_study_table(study)
    cell = _find(table, ("tiny", "fp16", "-"), "all", "drop %")
    assert (cell.status, cell.value, cell.drop, cell.severity) == ("reference", None, None, None)
    assert _find(table, ("tiny", "fp16", "-"), "all", "avg").drop is None


def test_every_model_is_compared_with_its_own_full_precision(cell_row: Any) -> None:
    table = build_study_table(
        _study(
            cell_row,
            {
                ("org/a", "fp16", "none"): {"facts": 0.80},
                ("org/a", "w4a4", "rtn"): {"facts": 0.40},
                ("org/b", "fp16", "none"): {"facts": 0.40},
                ("org/b", "w4a4", "rtn"): {"facts": 0.40},
            },
        )
    )
    assert _find(table, ("a", "w4a4", "rtn"), "general", "drop %").value == pytest.approx(-50.0)
    assert _find(table, ("b", "w4a4", "rtn"), "general", "drop %").value == pytest.approx(0.0)


def test_the_published_table_of_llada_base_comes_out_again(cell_row: Any) -> None:
    tasks = ("winogrande", "piqa", "arc_challenge", "arc_easy", "mmlu")
    published = {
        ("w4a4", "smoothquant"): ((49.4, 58.8, 29.2, 40.9, 27.1), "41.1", "-37.3‡"),
        ("w4a4", "duquant"): ((64.9, 69.3, 42.8, 70.0, 64.0), "62.2", "-5.1‡"),
        ("w8a8", "quarot"): ((68.6, 71.1, 45.2, 70.8, 66.1), "64.4", "-1.8†"),
        ("fp16", "none"): ((69.9, 74.6, 46.4, 71.1, 65.7), "65.5", ""),
    }
    cells = [
        cell_row(model="llada", scheme=scheme, method=method, task=task, value=value / 100)
        for (scheme, method), (values, _, _) in published.items()
        for task, value in zip(tasks, values, strict=True)
    ]
    table = build_study_table(cells)
    average, drop = table.columns[-2:]
    for (scheme, method), (_, printed_average, printed_drop) in published.items():
        labels = ("llada", scheme, "-" if scheme == "fp16" else method)
        assert show_cell(_find(table, labels, "general", "avg"), average).number == printed_average
        shown = show_cell(_find(table, labels, "general", "drop %"), drop)
        assert shown.number + shown.mark == printed_drop


def test_failed_and_missing_cells_are_marked_footnoted_and_in_no_average(
    cell_row: Any, failed_row: Any, expected_cell: Any
) -> None:
    full = {"facts": 0.9, "places": 0.8, "sums": 0.5, "lines": 0.6}
    cells = _study(cell_row, {("tiny", "fp16", "none"): full, ("tiny", "w4a4", "rtn"): {"facts": 0.4, "lines": 0.3}})
    cells.append(failed_row(scheme="w4a4", task="places"))
    expected = [
        expected_cell(scheme=scheme, method=method, task=task, task_group=group)
        for scheme, method in (("fp16", "none"), ("w4a4", "rtn"))
        for task, group in GROUPS.items()
    ]
    table = build_study_table(cells, None, expected)
    rtn = ("tiny", "w4a4", "rtn")
    failed, missing = _find(table, rtn, "general", "places"), _find(table, rtn, "math", "sums")
    assert (failed.status, failed.value, missing.status, missing.value) == ("failed", None, "missing", None)
    texts = {footnote.number: footnote for footnote in table.footnotes}
    assert texts[failed.notes[0]].text == "failed (oom_gpu): out of memory"
    assert texts[failed.notes[0]].cell_ids == ("tiny-rtn-w4a4-places",)
    assert texts[missing.notes[0]].text == "missing: not computed"
    assert sorted(texts) == list(range(1, len(texts) + 1))
    general, everything = _find(table, rtn, "general", "avg"), _find(table, rtn, "all", "avg")
    assert (general.status, general.coverage, general.value) == ("partial", (1, 2), pytest.approx(40.0))
    assert (everything.status, everything.coverage, everything.value) == ("partial", (2, 4), pytest.approx(35.0))
    for group in ("general", "math", "all"):
        drop = _find(table, rtn, group, "drop %")
        assert (drop.value, drop.drop, drop.severity) == (None, None, None)
    assert general.drop is None
    assert _find(table, rtn, "code", "drop %").value == pytest.approx(-50.0)


def test_an_incomplete_full_precision_row_leaves_every_drop_open_and_says_so(cell_row: Any, failed_row: Any) -> None:
    cells = _study(
        cell_row, {("tiny", "fp16", "none"): {"facts": 0.9}, ("tiny", "w4a4", "rtn"): {"facts": 0.4, "places": 0.4}}
    )
    cells.append(failed_row(method="none", scheme="fp16", task="places"))
    table = build_study_table(cells)
    drop = _find(table, ("tiny", "w4a4", "rtn"), "general", "drop %")
    assert (drop.value, drop.severity) == (None, None)
    texts = {footnote.number: footnote.text for footnote in table.footnotes}
    assert texts[drop.notes[0]] == "no drop: the full-precision row of tiny is incomplete"


def test_a_missing_or_zero_full_precision_row_is_no_baseline(cell_row: Any) -> None:
    for cells, text in [
        ({("tiny", "w4a4", "rtn"): {"facts": 0.4}}, "no full-precision row of tiny"),
        (
            {("tiny", "fp16", "none"): {"facts": 0.0}, ("tiny", "w4a4", "rtn"): {"facts": 0.4}},
            "the full-precision row of tiny scores 0",
        ),
    ]:
        table = build_study_table(_study(cell_row, cells))
        assert _find(table, ("tiny", "w4a4", "rtn"), "general", "drop %").value is None
        assert any(text in footnote.text for footnote in table.footnotes)


def test_a_score_that_is_not_finite_is_a_failed_cell(cell_row: Any) -> None:
    table = build_study_table([cell_row(value=math.nan), cell_row(task="places", value=0.5)])
    cell = _find(table, ("tiny", "w4a4", "rtn"), "general", "facts")
    assert (cell.status, cell.value) == ("failed", None)
    assert table.footnotes[0].text == "failed: the score is not finite"
    assert _find(table, ("tiny", "w4a4", "rtn"), "general", "avg").value == 50.0


def test_a_cell_is_failed_where_its_variant_failed(expected_cell: Any, variant_row: Any, cell_row: Any) -> None:
    expected = [expected_cell(variant_id="v1", cell_id="c1"), expected_cell(scheme="fp16", method="none")]
    variants = [variant_row(variant_id="v1", status="failed", failure_kind="audit", failure_message="left out q_proj")]
    table = build_study_table([cell_row(scheme="fp16", method="none")], None, expected, variants=variants)
    assert _find(table, ("tiny", "w4a4", "rtn"), "general", "facts").status == "failed"
    assert table.footnotes[0].text == "failed while quantizing (audit): left out q_proj"


def test_what_does_not_apply_is_said_and_no_row_of_dashes_is_shown(cell_row: Any, expected_cell: Any) -> None:
    cells = _study(cell_row, {("tiny", "fp16", "none"): {"facts": 0.9, "places": 0.9}})
    refusal = "awq quantizes weights only"
    expected = [
        expected_cell(scheme="fp16", method="none", task="facts"),
        expected_cell(scheme="fp16", method="none", task="places", not_applicable="causal models have no such task"),
        expected_cell(scheme="w4a4", method="awq", task="facts", not_applicable=refusal),
        expected_cell(scheme="w4a4", method="awq", task="places", not_applicable=refusal),
    ]
    table = build_study_table(cells[:1], None, expected)
    assert [row.labels for row in table.rows] == [("tiny", "fp16", "-")]
    assert any("awq at w4a4 on tiny" in remark and refusal in remark for remark in table.remarks)
    cell = _find(table, ("tiny", "fp16", "-"), "general", "places")
    assert (cell.status, table.footnotes[cell.notes[0] - 1].text) == (
        "not_applicable",
        "not applicable: causal models have no such task",
    )


def test_stored_cells_of_another_grid_are_left_out_with_a_remark(cell_row: Any, expected_cell: Any) -> None:
    old = cell_row(cell_id="old", value=0.1)
    table = build_study_table([cell_row(), old], None, [expected_cell()])
    assert _find(table, ("tiny", "w4a4", "rtn"), "general", "facts").value == 50.0
    assert "old" not in table.cell_ids
    assert table.remarks == ("1 cells of the store are not part of this grid and are not shown",)


def test_of_two_stored_cells_for_one_place_the_newer_is_shown_and_the_other_named(cell_row: Any) -> None:
    newer = cell_row(cell_id="new", value=0.7, finished_at=datetime(2026, 5, 1, tzinfo=UTC))
    table = build_study_table([newer, cell_row(cell_id="old", value=0.1)])
    assert _find(table, ("tiny", "w4a4", "rtn"), "general", "facts").value == 70.0
    assert "cell old is not shown" in table.remarks[0]


def test_one_task_with_several_shots_has_a_column_for_each(cell_row: Any) -> None:
    table = build_study_table([cell_row(cell_id=f"c{shots}", num_fewshot=shots, value=shots / 10) for shots in (5, 0)])
    assert [column.title for column in table.columns if column.kind == "task"] == ["facts (0-shot)", "facts (5-shot)"]
    assert [table.rows[0].cells[index].value for index in (0, 1)] == [0.0, 50.0]


def test_variants_that_differ_only_by_seed_have_rows_of_their_own_and_the_baseline_of_their_seed(cell_row: Any) -> None:
    cells = []
    for seed, base, value in ((0, 0.8, 0.4), (1, 0.5, 0.4)):
        seeds = json.dumps([seed])
        cells.append(cell_row(scheme="fp16", method="none", variant_id=f"base{seed}", value=base, seeds=seeds))
        cells.append(cell_row(variant_id=f"rtn{seed}", value=value, seeds=seeds))
    table = build_study_table(cells)
    assert _find(table, ("tiny", "w4a4", "rtn (seed 0)"), "general", "drop %").value == pytest.approx(-50.0)
    assert _find(table, ("tiny", "w4a4", "rtn (seed 1)"), "general", "drop %").value == pytest.approx(-20.0)


def test_a_metric_that_is_no_share_is_shown_in_its_own_unit_and_stays_out_of_averages(cell_row: Any) -> None:
    perplexity = {"task": "text", "metric": "word_perplexity", "higher_is_better": False, "stderr": None}
    cells = [
        cell_row(scheme=scheme, method=method, **changes)
        for scheme, method, value in (("fp16", "none", 8.0), ("w4a4", "rtn", 10.0))
        for changes in ({}, {**perplexity, "value": value})
    ]
    table = build_study_table(cells)
    cell = _find(table, ("tiny", "w4a4", "rtn"), "general", "text")
    column = next(column for column in table.columns if column.title == "text")
    assert show_cell(cell, column).number == "10"
    assert cell.drop == pytest.approx(-25.0)
    assert next(column for column in table.columns if column.kind == "drop").tasks == ("facts",)
    assert "Not in percent, and in no average: text." in table.legend


def test_only_the_primary_metric_is_shown(cell_row: Any) -> None:
    rows = [cell_row(metric="acc_norm", value=0.9, is_primary=False), cell_row(metric="acc", value=0.4)]
    table = build_study_table(rows)
    assert _find(table, ("tiny", "w4a4", "rtn"), "general", "facts").value == 40.0
    assert "facts (acc, 0-shot, 100 items)" in " ".join(table.legend)


def test_models_of_the_same_last_name_keep_their_full_names(cell_row: Any) -> None:
    table = build_study_table([cell_row(model=model) for model in ("a/same", "b/same", "c/other")])
    assert [row.labels[0] for row in table.rows] == ["a/same", "b/same", "other"]


def test_models_and_methods_stand_in_the_given_order_and_others_follow_by_name(cell_row: Any) -> None:
    cells = [cell_row(model=model, method=method) for model in "cab" for method in ("z", "x", "y")]
    table = build_study_table(cells, TableOrder(models=("b",), methods=("y",)))
    names = [row.labels[0] + row.labels[2] for row in table.rows]
    assert names == ["by", "bx", "bz", "ay", "ax", "az", "cy", "cx", "cz"]


def test_without_an_order_the_grids_own_is_kept(cell_row: Any, expected_cell: Any) -> None:
    listed = [("z", "w4a4", "rtn"), ("a", "w8a8", "rtn"), ("a", "w4a4", "gptq"), ("a", "w4a4", "awq")]
    names = [{"model": model, "scheme": scheme, "method": method} for model, scheme, method in listed]
    table = build_study_table(
        [cell_row(**name) for name in reversed(names)], None, [expected_cell(**name) for name in names]
    )
    # The scheme that the grid names first comes first for every model.
    assert [row.labels for row in table.rows] == [
        ("z", "w4a4", "rtn"),
        ("a", "w4a4", "gptq"),
        ("a", "w4a4", "awq"),
        ("a", "w8a8", "rtn"),
    ]


def test_an_expected_cell_without_a_key_is_refused(cell_row: Any) -> None:
    with pytest.raises(ValueError, match="expected cell 0 has no 'variant_id'"):
        build_study_table([cell_row()], None, [{"cell_id": "c1"}])


def test_a_number_is_printed_without_a_negative_zero(cell_row: Any) -> None:
    cells = _study(cell_row, {("tiny", "fp16", "none"): {"facts": 0.8}, ("tiny", "w4a4", "rtn"): {"facts": 0.7999}})
    table = build_study_table(cells)
    drop = _find(table, ("tiny", "w4a4", "rtn"), "general", "drop %")
    assert drop.value is not None
    assert drop.value < 0
    assert show_cell(drop, table.columns[-1]).number == "0.0"


def test_cells_on_another_device_than_most_of_their_model_are_footnoted(study: list[dict[str, Any]]) -> None:
    for row in study:
        row["device"] = "NVIDIA A100" if (row["scheme"], row["task"]) == ("w8a8", "facts") else "NVIDIA H200"
    table = build_study_table(study)
    (footnote,) = table.footnotes
    assert footnote.text == "ran on NVIDIA A100, most cells of its model on NVIDIA H200: mixed kinds of device"
    assert footnote.cell_ids == ("tiny-rtn-w8a8-facts",)
    assert _find(table, ("tiny", "w8a8", "rtn"), "general", "facts").notes == (footnote.number,)
    assert _find(table, ("tiny", "w4a4", "rtn"), "general", "facts").notes == ()


def test_two_models_on_two_devices_mix_nothing(cell_row: Any) -> None:
    rows = [cell_row(model="one", device="NVIDIA A100"), cell_row(model="other", device="NVIDIA H200")]
    assert not any("device" in footnote.text for footnote in build_study_table(rows).footnotes)
