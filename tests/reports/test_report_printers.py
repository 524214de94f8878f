"""Printers: text from outside is shown as it is and breaks nothing, marks and notes are where they belong."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from reports import Table, TableCell, TableRow, build_study_table
from reports.latex import MAX_ROWS, latex_document, latex_table
from reports.latex_text import breakable_latex, escape_latex
from reports.markdown import escape_markdown, markdown_notes, markdown_table
from reports.plain_text import one_line
from reports.statistics import Comparison
from reports.tables import Column
from reports.terminal import terminal_notes, terminal_table
from reports.tidy import csv_tables, json_tables

NASTY = "_a_ a_b % & # $x$ { } ~ ^ \\ < > | ``` [l](u) *b* -- \x1b[31m \x00 \u202egnp.exe é 表 😀\nnew\tline"


@pytest.fixture
def table(cell_row: Any, failed_row: Any) -> Table:
    """Two models, a moderate and a significant drop, a failure with nasty words."""
    cells = [
        cell_row(model="a_model", scheme="fp16", method="none", value=0.8),
        cell_row(model="a_model", scheme="w8a8", value=0.78),
        cell_row(model="a_model", scheme="w4a4", value=0.3, method_label="rtn|x"),
        cell_row(model="a_model", scheme="w4a4", value=0.4, method="gptq", method_label="gptq_5%", variant_id="v5"),
        cell_row(model="b&c", scheme="fp16", method="none", value=0.8),
        failed_row(model="b&c", variant_id="v6", failure_message=NASTY),
    ]
    return build_study_table(cells)


def test_one_line_keeps_letters_and_drops_what_moves_or_colours_text() -> None:
    shown = one_line(NASTY)
    assert not re.search(r"[\x00-\x1f\x7f\u202e]", shown)
    assert "é 表 😀 new line" in shown
    assert one_line("x" * 100_000, 300) == "x" * 300 + " ... (cut, 100000 characters)"


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a_b", "a_b"),
        ("_a_", r"\_a\_"),
        ("a|b", r"a\|b"),
        ("a\\|b", r"a\\\|b"),
        ("<b>&amp;", "&lt;b&gt;&amp;amp;"),
        ("*x* `y` [l](u) $z$", r"\*x\* \`y\` \[l\](u) \$z\$"),
        ("two\nlines", "two lines"),
    ],
)
def test_markdown_text_is_escaped(text: str, escaped: str) -> None:
    assert escape_markdown(text) == escaped


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a_b % & # {}", r"a\_b \% \& \# \{\}"),
        ("$x^2~y$", r"$\$$x\textasciicircum{}2\textasciitilde{}y$\$$"),
        ("\\input{x}", r"\textbackslash{}input\{x\}"),
        ("a<b>c|d", r"a\textless{}b\textgreater{}c\textbar{}d"),
        ("---", r"-{}-{}-"),
        ("``q''", r"\`{}\`{}q''"),
        ("é表😀", "é[U+8868][U+1F600]"),
        ("a\x1b\x00b\nc", "a??b c"),
    ],
)
def test_latex_text_is_escaped(text: str, escaped: str) -> None:
    assert escape_latex(text) == escaped


def _columns(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_markdown_table_has_a_column_for_every_cell_and_marks_severity_and_failure(table: Table) -> None:
    header, rule, *rows = map(_columns, markdown_table(table).splitlines())
    assert header == ["Model", "Scheme", "Method", "facts", "general drop %"]
    assert [text.endswith(":") for text in rule] == [False, False, False, True, True]
    assert rows == [
        ["a_model", "fp16", "-", "80.0 ± 5.0", ""],
        ["", "w4a4", "gptq_5%", "40.0 ± 5.0", "-50.0‡"],
        ["", "", r"rtn\|x", "30.0 ± 5.0", "-62.5‡"],
        ["", "w8a8", "rtn", "78.0 ± 5.0", "-2.5†"],
        ["b&amp;c", "fp16", "-", "80.0 ± 5.0", ""],
        ["", "w4a4", "rtn", r"failed \[1\]", "-"],
    ]


def test_markdown_notes_explain_severity_and_name_the_failed_cell(table: Table) -> None:
    notes = markdown_notes(table)
    assert "moderate from 1 % to 4 % with both borders" in notes
    footnote = notes.splitlines()[-1]
    assert footnote.startswith(r"- \[1\] failed (oom_gpu): \_a\_ a_b")
    assert footnote.endswith("(cell `v6-facts`)")


def test_latex_table_spans_blocks_with_multirow_and_escapes_labels(table: Table) -> None:
    text = latex_table(table)
    for needed in (
        r"\toprule",
        r"\bottomrule",
        r"\multirow{4}{*}{a\_model} & fp16 & --",
        r"\multirow{2}{*}{w4a4} & gptq\_5\%",
        r" &  & rtn\textbar{}x & \qstudynumber{2.1}{30.0}{\scriptsize\,$\pm$\,5.0}",
        r"\qstudyshade{significant}\qstudynumber{-2.1}{-62.5}\qstudymark{$\ddagger$}",
        r"\qstudyshade{moderate}\qstudynumber{-2.1}{-2.5}\qstudymark{$\dagger$}",
        r"b\&c",
        r"\multicolumn{1}{c}{failed\textsuperscript{1}}",
    ):
        assert needed in text
    rows = [line for line in text.splitlines() if line.endswith(r" \\")]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in rows[1:]} == {4}
    assert text.count("\\midrule") == 2
    assert text.count("\\cmidrule(l){2-5}") == 3


def test_a_long_table_is_set_as_several_floats_cut_between_blocks(cell_row: Any) -> None:
    cells = [
        cell_row(scheme=scheme, method=f"m{number:02d}")
        for scheme in ("w2a16", "w3a16", "w4a16")
        for number in range(MAX_ROWS // 2 - 2)
    ]
    text = latex_table(build_study_table(cells))
    assert text.count(r"\begin{table*}") == text.count(r"\end{table*}") == 2
    first, second = text.split(r"\end{table*}")[:2]
    assert "w3a16" in first
    assert "w4a16" not in first
    assert "w4a16" in second
    assert "(continued)" in second
    assert text.count("Severity:") == 1
    assert sum(text.count(f"& m{number:02d} &") for number in range(MAX_ROWS)) == len(cells)


def test_a_wide_table_is_set_as_several_floats_cut_between_groups_of_columns(cell_row: Any) -> None:
    cells = [
        cell_row(task=f"task_{group}_{number}", task_group=f"group{group}", scheme=scheme, method=method)
        for group in range(3)
        for number in range(7)
        for scheme, method in (("fp16", "none"), ("w4a4", "rtn"))
    ]
    text = latex_table(build_study_table(cells))
    floats = text.split(r"\end{table*}")[:-1]
    assert [sorted(set(re.findall(r"\{(group\d|all)\}", part))) for part in floats] == [
        ["group0"],
        ["group1"],
        ["all", "group2"],
    ]
    assert all(r"\multirow{2}{*}{tiny} & fp16 & --" in part for part in floats)
    assert [part.count(r"\addtocounter{table}{-1}") for part in floats] == [0, 1, 1]
    assert [part.count("Severity:") for part in floats] == [0, 0, 1]


def test_a_group_too_wide_by_itself_is_cut_between_its_columns(cell_row: Any) -> None:
    table = build_study_table([cell_row(task=f"task_{number:02d}") for number in range(40)])
    floats = latex_table(table).split(r"\end{table*}")[:-1]
    found = [re.findall(r"task\\_(\d\d)", part.partition(r"\end{lrbox}")[0]) for part in floats]
    assert len(found) > 2
    assert [number for numbers in found for number in numbers] == [f"{number:02d}" for number in range(40)]


def test_notes_of_numbers_keep_their_room_in_a_latex_column(cell_row: Any) -> None:
    table = build_study_table([cell_row(scheme="fp16", method="none"), cell_row()])
    noted = replace(table.rows[0], cells=(replace(table.rows[0].cells[0], notes=(1, 2)), *table.rows[0].cells[1:]))
    text = latex_table(replace(table, rows=(noted, *table.rows[1:])))
    room = r"\phantom{\textsuperscript{1,2}}"
    assert rf"\,$\pm$\,5.0}}\rlap{{\textsuperscript{{1,2}}}}{room}" in text
    assert rf"\,$\pm$\,5.0}}\rlap{{}}{room}" in text


def test_long_names_are_cut_in_latex_cells_and_long_words_break_in_its_notes(cell_row: Any, failed_row: Any) -> None:
    text = latex_table(build_study_table([cell_row(method="m" * 500), failed_row(failure_message="w" * 200)]))
    assert "m" * 60 + " ... (cut, 500 characters)" in text
    assert "m" * 61 not in text
    assert r"wwww\allowbreak{}wwww" in text
    assert "w" * 25 not in text
    assert breakable_latex("a short--word é\u8868\u8868") == r"a short-{}-word é[U+8868]\allowbreak{}[U+8868]"


def test_a_block_longer_than_a_page_is_cut(cell_row: Any) -> None:
    cells = [cell_row(method=f"m{number:03d}") for number in range(2 * MAX_ROWS + 1)]
    text = latex_table(build_study_table(cells))
    assert text.count(r"\begin{tabular}") == 3
    assert len(re.findall(r"& m\d{3} &|& w4a4\} & m\d{3} &", text)) == len(cells)


def test_latex_document_is_complete_and_holds_the_bare_table(table: Table) -> None:
    text = latex_document([table], paragraphs=[("Study a_b.", "50 % done & more")])
    assert text.startswith("\\documentclass")
    assert text.rstrip().endswith("\\end{document}")
    assert latex_table(table) in text
    assert r"\paragraph{Study a\_b.} 50 \% done \& more" in text


def test_a_table_of_the_best_is_bold_and_shows_intervals_and_stars_in_every_printer() -> None:
    comparison = Comparison(
        difference=-12.0,
        stderr=3.0,
        interval=(-18.5, -5.5),
        test="mcnemar",
        p_value=0.001,
        adjusted_p=0.01,
        minimum_detectable=8.4,
        num_items=100,
        num_units=100,
        num_higher=1,
        num_lower=13,
    )
    columns = (
        Column(kind="task", title="facts", group="general", tasks=("facts",), is_task=True, uncertainty="interval"),
        Column(kind="difference", title="diff", group="general", tasks=("facts",), uncertainty="interval"),
        Column(kind="drop", title="drop %", group="general", tasks=("facts",), uncertainty="none", is_shaded=True),
    )
    cells = (
        TableCell(value=76.0, interval=(66.7, 83.3), is_best=True, spread=0.5, cell_ids=("c1",)),
        TableCell(value=-12.0, interval=(-18.5, -5.5), comparison=comparison, cell_ids=("c1",)),
        TableCell(value=-13.6, severity="significant", cell_ids=("c1",)),
    )
    names = {"model": "tiny", "scheme": "w4a4", "method": "rtn"}
    row = TableRow(labels=("tiny", "w4a4", "rtn"), cells=cells, names=names)
    table = Table(name="t", title="T", label_titles=("Model", "Scheme", "Method"), columns=columns, rows=(row,))
    assert _columns(markdown_table(table).splitlines()[2])[3:] == [
        r"**76.0** \[66.7, 83.3\] (sd 0.5)",
        r"-12.0 \[-18.5, -5.5\]\*",
        "-13.6‡",
    ]
    latex = latex_table(table)
    assert (
        r"\qstudybest{\qstudynumber{2.1}{76.0}}{\scriptsize\ [66.7, 83.3]\rlap{\ (sd 0.5)}\phantom{\ (sd 0.5)}}"
        in latex
    )
    assert r"\qstudynumber{-2.1}{-12.0}{\scriptsize\ [$-$18.5, $-$5.5]}\qstudymark{$\ast$}" in latex
    assert r"\qstudyshade{significant}\qstudynumber{-2.1}{-13.6}\qstudymark{$\ddagger$}" in latex
    printed = _printed(table, 120)
    for text in ("76.0 [66.7, 83.3] (sd 0.5)", "-12.0 [-18.5, -5.5]*", "-13.6‡"):
        assert text in printed
    styled = Console(width=120, file=io.StringIO(), color_system="standard", force_terminal=True)
    styled.print(terminal_table(table))
    assert isinstance(styled.file, io.StringIO)
    assert "\x1b[1m76.0" in styled.file.getvalue()
    assert "\x1b[31m -13.6" in styled.file.getvalue()
    line = list(csv.DictReader(io.StringIO(csv_tables([table]))))[1]
    assert (line["test"], line["adjusted_p"], line["difference_low"], line["num_lower"]) == (
        "mcnemar",
        "0.01",
        "-18.5",
        "13",
    )
    assert json.loads(json_tables([table], {}))["tables"][0]["rows"][0]["cells"][1]["comparison"]["num_lower"] == 13


def test_a_long_complaint_is_cut_in_what_people_read_and_whole_in_the_data(cell_row: Any, failed_row: Any) -> None:
    words = "no & more % of _this_ " * 5000
    table = build_study_table([cell_row(scheme="fp16", method="none"), failed_row(failure_message=words)])
    assert len(words) > 100_000
    for text in (markdown_notes(table), latex_table(table), terminal_notes(table)):
        assert f"(cut, {len(words) + len('failed (oom_gpu): ')} characters)" in text
        assert len(text) < 5000
    assert words in csv_tables([table])


def test_numbers_of_a_latex_column_take_the_same_room(cell_row: Any) -> None:
    cells = [
        cell_row(scheme="fp16", method="none", value=1.0, stderr=0.12),
        cell_row(value=0.052, stderr=0.004),
    ]
    latex = latex_table(build_study_table(cells))
    assert r"\qstudynumber{3.1}{100.0}{\scriptsize\,$\pm$\,12.0}" in latex
    assert r"\qstudynumber{3.1}{5.2}{\scriptsize\,$\pm$\,0.4\phantom{0}}" in latex


def _printed(table: Table, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(terminal_table(table, max_width=width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_terminal_table_shows_numbers_marks_and_notes_as_plain_text(table: Table) -> None:
    text = _printed(table, 120)
    for shown in ("a_model", "rtn|x", "30.0 ± 5.0", "-62.5‡", "-2.5†", "failed [1]"):
        assert shown in text
    notes = terminal_notes(table)
    assert notes.startswith("[1] failed (oom_gpu): _a_ a_b % &")
    assert "\x1b" not in text + notes


def test_terminal_table_gives_up_errors_then_tasks_before_it_cuts_a_number(cell_row: Any) -> None:
    cells = [
        cell_row(task=f"task_{number}", scheme=scheme, method=method, value=0.5)
        for number in range(6)
        for scheme, method in (("fp16", "none"), ("w4a4", "rtn"))
    ]
    wide = build_study_table(cells)
    assert "50.0 ± 5.0" in _printed(wide, 200)
    without_errors = _printed(wide, 120)
    assert "±" not in without_errors
    assert "without errors" in without_errors
    assert "task_5" in without_errors
    narrow = _printed(wide, 50)
    assert "drop %" in narrow
    assert "columns, for want of width" in narrow
    assert "…" not in narrow


def test_csv_has_every_number_in_full(table: Table) -> None:
    lines = list(csv.DictReader(io.StringIO(csv_tables([table]))))
    assert len(lines) == len(table.rows) * len(table.columns)
    line = next(line for line in lines if line["method"] == "rtn|x" and line["kind"] == "task")
    assert float(line["value"]) == 30.0
    assert float(line["drop_percent"]) == pytest.approx(-62.5)
    assert (line["severity"], line["cell_ids"], line["unit"]) == ("significant", "a_model-rtn|x-w4a4-facts", "percent")
    failed = next(line for line in lines if line["status"] == "failed")
    assert failed["value"] == ""
    assert NASTY in failed["notes"]


def test_json_has_the_whole_table(table: Table) -> None:
    read = json.loads(json_tables([table], {"study": "s"}))
    assert read["study"] == "s"
    assert read["tables"][0]["rows"][2]["cells"][0]["value"] == 30.0
    assert read["tables"][0]["footnotes"][0]["text"].endswith(NASTY)
