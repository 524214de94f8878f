"""The table of a study's scores beside published ones: what has a row, what is noise, and why the rest has none."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from grids import GridError
from grids.resolution import HUB_TEXTS
from reports import ResultStore, Table, TableOrder, build_report, read_table_spec, write_report
from reports.latex import latex_table
from reports.markdown import markdown_notes, markdown_table
from reports.published import build_published_table, compares, published_results
from reports.tables import show_cell
from reports.terminal import terminal_notes, terminal_table
from reports.tidy import csv_tables, json_tables

GENERATION = {
    "gen_length": 256,
    "steps": 256,
    "block_length": 32,
    "temperature": 0.0,
    "remasking": "low_confidence",
}
CALIBRATION = {"digest": HUB_TEXTS["wikitext2"].digest, "num_samples": 128, "length": 2048}


@pytest.fixture
def paper_cell(cell_row: Any) -> Any:
    """A cell of the paper's Tables 3 and 4 on LLaDA-8B-Base: GPTQ at w4a16g128 unless told otherwise."""

    def cell(task: str = "gsm8k", *, limit: int | None = None, protocol: Any = None, **changes: Any) -> dict[str, Any]:
        num_fewshot, group, settings = {
            "gsm8k": (4, "math", {}),
            "minerva_math": (0, "math", {"block_length": 64}),
            "humaneval": (0, "code", {"gen_length": 512, "steps": 512}),
        }.get(task, (0, "general", {}))
        method = {"name": "gptq", "version": 1, "parameters": {"symmetric": False}}
        config = {
            "task": {"limit": limit, "protocol": {**GENERATION, **settings, **(protocol or {})}},
            "variant": {"model": {}, "method": method, "calibration": CALIBRATION},
        }
        row: dict[str, Any] = cell_row(
            **{
                "model": "llada-8b-base",
                "method": "gptq",
                "scheme": "w4a16g128",
                "task": task,
                "task_group": group,
                "num_fewshot": num_fewshot,
                "metric": "exact_match",
                "value": 0.70,
                "stderr": 0.0126,
                "config": json.dumps(config),
                **changes,
            }
        )
        return row

    return cell


def _shown(table: Table) -> list[list[str]]:
    """The rows as they are printed: labels, then cells with their notes."""
    rows = []
    for row in table.rows:
        cells = [show_cell(cell, column) for cell, column in zip(row.cells, table.columns, strict=True)]
        rows.append([*row.labels, *(cell.text + (f" [{cell.notes}]" if cell.notes else "") for cell in cells)])
    return rows


def test_a_score_measured_alike_stands_beside_the_published_one_with_the_difference_and_its_verdict(
    paper_cell: Any,
) -> None:
    table = build_published_table([paper_cell(), paper_cell("minerva_math", value=0.30, stderr=0.006)])
    assert table.label_titles == ("Model", "Scheme", "Method", "Task")
    assert [column.title for column in table.columns] == ["ours", "published", "difference", "within noise?", "source"]
    assert _shown(table) == [
        ["llada-8b-base", "w4a16g128", "gptq", "gsm8k", "70.0 ± 1.3", "68.5", "+1.5 ± 1.8", "yes", "paper, Table 3"],
        ["llada-8b-base", "w4a16g128", "gptq", "minerva_math", "30.0 ± 0.6", "21.3", "+8.7 ± 0.8", "no",
         "paper, Table 3"],
    ]  # fmt: skip
    assert compares(table)
    assert "1 of 2 differences are within noise" in table.remarks
    assert "paper: Quantization Meets dLLMs (arXiv 2508.14896), v3, 2026-03-13, https://arxiv.org/abs/2508.14896" in (
        table.legend
    )
    assert table.footnotes == ()
    assert [row.names["task"] for row in table.rows] == ["gsm8k", "minerva_math"]
    assert table.cell_ids == {"llada-8b-base-gptq-w4a16g128-gsm8k", "llada-8b-base-gptq-w4a16g128-minerva_math"}


def test_a_score_stands_beside_every_source_that_it_compares_with_and_beside_no_other(paper_cell: Any) -> None:
    (paper,) = [
        result
        for result in published_results()
        if (result.source.name, result.model, result.scheme, result.method, result.task)
        == ("paper", "llada-8b-base", "w4a16g128", "gptq", "gsm8k")
    ]
    again = replace(paper, source=replace(paper.source, name="again"), value=60.0)
    longer = replace(again, protocol={**paper.protocol, "gen_length": 512})
    table = build_published_table([paper_cell()], results=[longer, paper, again])
    assert [row[5:] for row in _shown(table)] == [
        ["68.5", "+1.5 ± 1.8", "yes", "paper, Table 3"],
        ["60.0", "+10.0 ± 1.8", "no", "again, Table 3"],
    ]
    # Where none compares, the one that differs least.
    limited = build_published_table([paper_cell(limit=10)], results=[longer, again])
    assert [row[5:] for row in _shown(limited)] == [["60.0", "- [1]", "-", "again, Table 3"]]


def test_without_an_error_of_ours_the_verdict_is_left_open(paper_cell: Any) -> None:
    ((*_, ours, published, difference, verdict, _),) = _shown(build_published_table([paper_cell(stderr=None)]))
    assert (ours, published, difference, verdict) == ("70.0", "68.5", "+1.5", "cannot tell")


def test_what_differs_is_one_footnote_with_all_cells_that_it_covers(paper_cell: Any) -> None:
    cells = [
        paper_cell(scheme=scheme, limit=100, protocol={"block_length": 16}) for scheme in ("w4a16g128", "w3a16g128")
    ]
    table = build_published_table([*cells, paper_cell("humaneval", protocol={"block_length": 16})])
    differences = [(row[3], *row[4:]) for row in _shown(table)]
    assert differences == [
        ("gsm8k", "70.0 ± 1.3", "63.3", "- [1,2]", "-", "paper, Table 3"),
        ("gsm8k", "70.0 ± 1.3", "68.5", "- [1,2]", "-", "paper, Table 3"),
        ("humaneval", "70.0 ± 1.3", "28.7", "- [2]", "-", "paper, Table 4"),
    ]
    assert [(note.text, len(note.cell_ids)) for note in table.footnotes] == [
        ("limit differs: ours is the first 100 items, published all 1319", 2),
        ("protocol differs: block_length is 16, published 32", 3),
    ]
    assert not compares(table)
    assert not any("within noise" in remark for remark in table.remarks)


def test_scores_that_nobody_published_the_like_of_are_counted_under_their_reason(paper_cell: Any) -> None:
    cells = [
        paper_cell(),
        *(paper_cell(task, model=model) for model in ("tiny-a", "tiny-b") for task in ("facts", "sums")),
        paper_cell(method="rtn"),
    ]
    table = build_published_table(cells)
    assert len(table.rows) == 1
    assert [remark for remark in table.remarks if remark.startswith("not compared")] == [
        "not compared, no public result of rtn here, only of awq, duquant, gptq, none, quarot, smoothquant "
        "(1 cell: llada-8b-base on gsm8k)",
        "not compared, no public result of model tiny-a (2 cells: tiny-a on facts, sums)",
        "not compared, no public result of model tiny-b (2 cells: tiny-b on facts, sums)",
    ]


def test_what_the_source_leaves_open_and_what_was_made_otherwise_is_said_once(paper_cell: Any) -> None:
    other = json.loads(paper_cell()["config"])
    other["variant"]["calibration"]["num_samples"] = 64
    cells = [paper_cell(), paper_cell(scheme="w3a16g128", config=json.dumps(other))]
    table = build_published_table(cells)
    assert (
        "what the source does not state, and for how many of the 2 published scores: filter 2; metric 2"
        in table.remarks
    )
    made = "made otherwise: calibration.num_samples is 64, published 128 (1 cell: llada-8b-base on gsm8k)"
    assert made in table.remarks


def test_errata_of_the_tables_compared_with_are_told_and_of_no_others(paper_cell: Any) -> None:
    def told(*tasks: str) -> list[str]:
        remarks = build_published_table([paper_cell(task) for task in tasks]).remarks
        return [remark for remark in remarks if remark.startswith("erratum")]

    assert told("gsm8k") == []
    (erratum,) = told("gsm8k", "humaneval")
    assert erratum.startswith("erratum of the paper, Table 4, average (not compared): LLaDA-8B-Instruct, SmoothQuant")


def test_rows_follow_the_grids_order_and_the_specs_choice_and_labels(paper_cell: Any, tmp_path: Path) -> None:
    cells = [
        paper_cell(task, scheme=scheme) for task in ("gsm8k", "humaneval") for scheme in ("w3a16g128", "w4a16g128")
    ]
    file = tmp_path / "mine.yaml"
    content = {
        "title": "T",
        "content": "published",
        "only": {"schemes": ["w4*"]},
        "labels": {"tasks": {"gsm8k": "GSM"}},
    }
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    order = TableOrder(tasks=("humaneval", "gsm8k"), schemes=("w4a16g128",), groups=("code", "math"))
    assert [row.labels[1::2] for row in build_published_table(cells, order).rows] == [
        ("w4a16g128", "humaneval"),
        ("w4a16g128", "gsm8k"),
        ("w3a16g128", "humaneval"),
        ("w3a16g128", "gsm8k"),
    ]
    chosen = build_published_table(cells, order, spec=read_table_spec(str(file)))
    assert [row.labels[1::2] for row in chosen.rows] == [("w4a16g128", "humaneval"), ("w4a16g128", "GSM")]


def test_a_spec_of_published_numbers_takes_no_keys_of_score_tables(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("title: T\ncontent: published\nshade: [drop]\nbest: null\n", encoding="utf-8")
    with pytest.raises(GridError, match=r"mine\.yaml: a table with content: published has no use for best, shade"):
        read_table_spec(str(file))


def test_every_printer_shows_the_table(paper_cell: Any) -> None:
    table = build_published_table([paper_cell(), paper_cell("humaneval", limit=10)])
    markdown = markdown_table(table)
    assert "| 70.0 ± 1.3 |      68.5 | +1.5 ± 1.8 |           yes | paper, Table 3 |" in markdown
    assert r"- \[1\]" in markdown
    assert r"- \[1\] limit differs: ours is the first 10 items, published all 164 (cell `" in markdown_notes(table)
    latex = latex_table(table)
    assert r"\multirow{2}{*}{llada-8b-base} & \multirow{2}{*}{w4a16g128} & \multirow{2}{*}{gptq} & gsm8k & " in latex
    assert r"\multicolumn{1}{c}{yes} & \multicolumn{1}{c}{paper, Table 3} \\" in latex
    assert r"\multicolumn{1}{c}{--\textsuperscript{1}} & \multicolumn{1}{c}{--}" in latex
    # Without groups of columns there is one line of titles.
    assert latex.count(r"\cmidrule") == 0
    lines = list(csv.DictReader(io.StringIO(csv_tables([table]))))
    assert [line["word"] for line in lines if line["kind"] == "verdict"][:2] == ["yes", "paper, Table 3"]
    assert [line["value"] for line in lines if line["kind"] == "published"] == ["68.5", "28.7"]
    assert json.loads(json_tables([table], {}))["tables"][0]["rows"][0]["names"]["task"] == "gsm8k"
    console = Console(width=140, file=io.StringIO(), color_system=None)
    console.print(terminal_table(table, max_width=140))
    assert isinstance(console.file, io.StringIO)
    assert "+1.5 ± 1.8" in console.file.getvalue()
    assert "[1] limit differs" in terminal_notes(table)


def test_a_report_has_the_table_by_itself_where_any_score_compares(paper_cell: Any, tmp_path: Path) -> None:
    for name, cell in {
        "alike": paper_cell(),
        "limited": paper_cell(limit=10),
        "tiny": paper_cell(model="tiny"),
    }.items():
        store = ResultStore(tmp_path / name)
        store.record_cell([cell])
        names = [table.name for table in build_report(store, study=name).tables]
        assert names == ["main", "differences", *(["published"] if name == "alike" else [])]
        assert ("ublished" in write_report(tmp_path / name, formats=["markdown"])[0].read_text()) == (name == "alike")
    limited = build_report(ResultStore(tmp_path / "limited"), study="limited", tables=["published"])
    assert [note.text[:13] for note in limited.tables[0].footnotes] == ["limit differs"]


def test_asked_of_a_study_with_nothing_published_beside_it_the_table_is_refused(
    paper_cell: Any, tmp_path: Path
) -> None:
    store = ResultStore(tmp_path / "tiny")
    store.record_cell([paper_cell(model="tiny")])
    with pytest.raises(GridError, match=r"table published: nothing to put beside .* no public result of model tiny"):
        write_report(tmp_path / "tiny", store, tables=["main", "published"])
    assert not (tmp_path / "tiny" / "report").exists()
