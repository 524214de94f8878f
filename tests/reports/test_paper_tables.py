"""The paper's published scores as results: its Tables 1 to 5, with what does not follow in them."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from reports import PAPER_TABLES, Report, ResultStore, Table, build_report, build_study_table, read_table_spec
from reports.published import errata, find_errata, paper_averages, published_results, record_paper
from reports.tables import show_cell

Row = tuple[str, str, str]
GENERAL = ["WinoG", "PIQA", "ARC-C", "ARC-E"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ResultStore:
    store = ResultStore(tmp_path_factory.mktemp("paper"))
    record_paper(store)
    return store


@pytest.fixture(scope="module")
def report(store: ResultStore) -> Report:
    return build_report(store, study="paper", tables=PAPER_TABLES)


def _number(table: Table) -> int:
    return int(table.name.removeprefix("paper-"))


def _rows(table: Table) -> dict[Row, dict[str, Any]]:
    """Each row's cells by the kind of their column (an average, a drop), or the task."""
    return {
        (row.names["model"], row.names["method"], row.names["scheme"]): {
            column.tasks[0] if column.kind == "task" else column.kind: cell
            for column, cell in zip(table.columns, row.cells, strict=True)
        }
        for row in table.rows
    }


def test_rows_and_columns_are_those_of_the_papers_tables(report: Report) -> None:
    columns = [[column.title for column in table.columns] for table in report.tables]
    end = ["avg", "drop %"]
    assert columns == [
        [*GENERAL, "HellaSwag", "MMLU", *end],
        [*GENERAL, "MMLU", *end],
        ["GSM8K", "Math", *end],
        ["HumanEval", "MBPP", *end],
        [*GENERAL, *end],
    ]
    assert [len(table.rows) for table in report.tables] == [10, 14, 22, 22, 5]
    assert [row.labels for row in report.tables[1].rows[:5]] == [
        ("LLaDA-8B", "FP", "-"),
        ("LLaDA-8B", "W8A8", "SmoothQuant"),
        ("LLaDA-8B", "W8A8", "QuaRot"),
        ("LLaDA-8B", "W8A8", "DuQuant"),
        ("LLaDA-8B", "W4A4", "SmoothQuant"),
    ]
    assert [row.labels for row in report.tables[4].rows] == [
        ("Dream-7B", "FP", "-"),
        *(("Dream-7B", f"{bits} g128", method) for bits in ("W4A16", "W3A16") for method in ("GPTQ", "AWQ")),
    ]


def test_every_published_score_stands_in_the_tables_as_printed_without_errors_or_counts(report: Report) -> None:
    paper = [result for result in published_results() if result.source.name == "paper"]
    shown = Counter(
        (*row, task, f"{cell.value:.1f}")
        for table in report.tables
        for row, cells in _rows(table).items()
        for task, cell in cells.items()
        if task not in ("average", "drop")
    )
    assert set(shown) == {
        (result.model, result.method, result.scheme, result.task, f"{result.value:.1f}") for result in paper
    }
    # Full precision of LLaDA on the five tasks of Table 2 stands in Table 1 too.
    assert sum(shown.values()) == 228 + 2 * 5
    cells = [cell for table in report.tables for row in table.rows for cell in row.cells]
    assert {(cell.stderr, cell.interval, cell.num_items, cell.is_best) for cell in cells} == {(None, None, None, None)}
    assert not any("±" in line or "standard error" in line for table in report.tables for line in table.legend)


def test_exactly_the_four_errata_are_footnoted_each_in_its_table(report: Report) -> None:
    notes = {_number(table): [note.text for note in table.footnotes] for table in report.tables}
    assert {number: len(texts) for number, texts in notes.items()} == {1: 2, 2: 1, 3: 0, 4: 1, 5: 0}
    assert notes[1][0].startswith("Erratum: No average is the mean of its row's six columns.")
    assert notes[1][1] == (
        "Erratum: LLaDA-8B-Instruct, AWQ, w4a16g128 is printed as -0.1 %; the printed averages give -1.2 %."
    )
    assert notes[2][0].startswith("Erratum: LLaDA-8B, QuaRot, w4a4 is printed as 59.2; the columns give 61.24")
    assert notes[4] == ["Erratum: LLaDA-8B-Instruct, SmoothQuant, w8a8 is printed as 38.6; the columns give 37.15."]
    marked = {
        number: {(row, kind) for row, cells in rows.items() for kind, cell in cells.items() if cell.notes}
        for number, rows in ((_number(table), _rows(table)) for table in report.tables)
    }
    assert len({row for row, kind in marked[1] if kind == "average"}) == 10
    assert (("llada-8b-instruct", "awq", "w4a16g128"), "drop") in marked[1]
    assert marked[2] == {(("llada-8b-base", "quarot", "w4a4"), "average")}
    assert marked[4] == {(("llada-8b-instruct", "smoothquant", "w8a8"), "average")}
    (printed,) = [line for line in report.tables[0].remarks if "as printed" in line]
    assert printed.endswith(
        ": 65.5; 65.3, -0.3 %; 63.2, -3.5 %; 63.7, -2.7 %; 61.8, -5.6 %; "
        "65.7; 66.0, +0.3 %; 64.9, -0.1 %; 64.1, -2.4 %; 63.1, -4.0 %."
    )


def test_the_numbers_in_the_notes_on_single_rows_are_the_recomputed_ones(report: Report) -> None:
    texts = {(_number(table), note.text) for table in report.tables for note in table.footnotes}
    for erratum in find_errata():
        if len(erratum.rows) == 1:
            (row,) = erratum.rows
            digits = 2 if erratum.quantity == "average" else 1
            wanted = (f"printed as {row.printed:.1f}", f"give {row.recomputed:.{digits}f}")
            assert [number for number, text in texts if all(each in text for each in wanted)] == [erratum.table]


def test_all_other_averages_and_drops_are_the_printed_ones_to_rounding(report: Report) -> None:
    num_averages = num_drops = 0
    for table in report.tables:
        rows = _rows(table)
        for printed in paper_averages():
            if printed.table != _number(table):
                continue
            cells = rows[printed.model, printed.method, printed.scheme]
            if not cells["average"].notes:
                assert cells["average"].value == pytest.approx(printed.average, abs=0.1 + 1e-9)
                num_averages += 1
            if printed.change is not None and not cells["drop"].notes:
                # The paper's changes are of its unrounded averages.
                reference = rows[printed.model, "none", "fp16"]["average"].value
                assert cells["drop"].value == pytest.approx(printed.change, abs=0.05 + 100 * 0.1 / reference)
                num_drops += 1
    assert (num_averages, num_drops) == (73 - 12, 64 - 8)


def test_drops_are_marked_by_the_papers_three_levels(report: Report) -> None:
    table = report.tables[1]
    rows, drop = _rows(table), table.columns[-1]
    shown = {row[1:]: show_cell(cells["drop"], drop).mark for row, cells in rows.items() if row[0] == "llada-8b-base"}
    assert shown["duquant", "w8a8"] == "†"
    assert shown["duquant", "w4a4"] == "‡"
    assert rows["llada-8b-instruct", "duquant", "w8a8"]["drop"].severity == "negligible"


def test_a_misprint_planted_in_the_averages_is_found_and_footnoted(
    store: ResultStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = tuple(
        replace(row, average=60.0) if (row.table, row.method, row.scheme) == (5, "awq", "w4a16g128") else row
        for row in paper_averages()
    )
    monkeypatch.setattr(errata, "paper_averages", lambda: planted)
    (table,) = build_report(store, study="paper", tables=["paper-5"]).tables
    assert [note.text for note in table.footnotes] == ["Erratum: printed as 60.0, 68.15 follows"]


def test_the_report_says_that_nothing_was_run(report: Report) -> None:
    assert report.summary[-1] == "Cells: 228 done"
    assert report.provenance.sentences() == [
        "As published, not run: Quantization Meets dLLMs (arXiv 2508.14896), v3, 2026-03-13, "
        "https://arxiv.org/abs/2508.14896"
    ]


def test_a_study_of_the_papers_grid_fills_the_same_tables_with_its_own_errors_and_no_errata(cell_row: Any) -> None:
    texts = {"awq": "pileval", "none": ""}
    cells = []
    for result in published_results():
        if result.source.name == "paper":
            text = texts.get(result.method, "wikitext2")
            cells.append(
                cell_row(
                    model=result.model,
                    method=result.method,
                    method_label=f"{result.method}, {text}" if text else "none",
                    scheme=result.scheme,
                    task=result.task,
                    value=result.value / 100,
                    stderr=0.01,
                )
            )
    for name, num_rows in zip(PAPER_TABLES, (10, 14, 22, 22, 5), strict=True):
        table = build_study_table(cells, spec=read_table_spec(name))
        assert len(table.rows) == num_rows
        assert all(re.fullmatch(r"-|GPTQ|AWQ|SmoothQuant|QuaRot|DuQuant", row.labels[2]) for row in table.rows)
        assert {cell.status for row in table.rows for cell in row.cells} <= {"done", "reference"}
        assert table.footnotes == ()
        assert any("± one standard error" in line for line in table.legend)
