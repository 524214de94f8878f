"""Table specs: what they choose, and how they say what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from grids import GridError
from reports import Table, TableSpec, build_study_table, read_table_spec, table_names
from reports.tables import DEFAULT_TABLES, PAPER_TABLES

SCHEMES = ("w4a16g128", "w8a8")
TASKS = {"facts": "general", "places": "general", "sums": "math"}


@pytest.fixture
def cells(cell_row: Any) -> list[dict[str, Any]]:
    """Two models, full precision and two methods at two schemes, three tasks; sums has a second metric."""
    rows = []
    for model in ("org/base", "org/chat"):
        for scheme, method in (("fp16", "none"), *((scheme, name) for scheme in SCHEMES for name in ("rtn", "gptq"))):
            for task, group in TASKS.items():
                names = {"model": model, "scheme": scheme, "method": method, "task": task, "task_group": group}
                rows.append(cell_row(**names, value=0.9 if scheme == "fp16" else 0.6))
                if task == "sums":
                    rows += [
                        cell_row(**names, metric="match", filter=filter_, value=value, is_primary=False)
                        for filter_, value in (("strict", 0.3), ("loose", 0.4))
                    ]
    return rows


def _spec(tmp_path: Path, **content: Any) -> TableSpec:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"title": "Mine", **content}), encoding="utf-8")
    return read_table_spec(str(file))


def _table(cells: list[dict[str, Any]], tmp_path: Path, **content: Any) -> Table:
    return build_study_table(cells, spec=_spec(tmp_path, **content))


def _titles(table: Table) -> list[tuple[str, str, str]]:
    return [(column.group, column.title, column.kind) for column in table.columns]


def test_every_table_that_ships_can_be_read_and_built(cells: list[dict[str, Any]]) -> None:
    assert set(DEFAULT_TABLES) < set(table_names())
    # Those of published numbers have tests of their own.
    for name in set(table_names()) - {"published", *PAPER_TABLES}:
        table = build_study_table(cells, spec=read_table_spec(name))
        assert table.name == name
        assert table.rows
        assert all(len(row.cells) == len(table.columns) for row in table.rows)


def test_a_file_that_says_nothing_is_the_main_table(cells: list[dict[str, Any]], tmp_path: Path) -> None:
    mine, main = _table(cells, tmp_path), build_study_table(cells)
    assert (mine.columns, mine.rows, mine.legend) == (main.columns, main.rows, main.legend)
    assert (mine.name, mine.title) == ("mine", "Mine")


def test_rows_are_labelled_and_sorted_as_the_spec_says(cells: list[dict[str, Any]], tmp_path: Path) -> None:
    table = _table(cells, tmp_path, rows=["method", "model", "scheme"], order={"models": ["org/chat"]})
    assert table.label_titles == ("Method", "Model", "Scheme")
    assert [row.labels for row in table.rows[:6]] == [
        ("-", "chat", "fp16"),
        ("-", "base", "fp16"),
        ("gptq", "chat", "w4a16g128"),
        ("gptq", "chat", "w8a8"),
        ("gptq", "base", "w4a16g128"),
        ("gptq", "base", "w8a8"),
    ]


def test_a_label_column_is_left_out_only_where_the_others_tell_rows_apart(
    cells: list[dict[str, Any]], tmp_path: Path
) -> None:
    table = _table(cells, tmp_path, rows=["scheme", "method"], only={"models": ["base"]})
    assert [row.labels for row in table.rows][:2] == [("fp16", "-"), ("w4a16g128", "gptq")]
    with pytest.raises(GridError, match=r"rows: 'model' is left out, and the table has several: org/base, org/chat"):
        _table(cells, tmp_path, rows=["scheme", "method"])


def test_a_selection_takes_names_patterns_and_short_names_and_keeps_full_precision(
    cells: list[dict[str, Any]], tmp_path: Path
) -> None:
    only = {"models": ["chat"], "schemes": ["w*a16*"], "methods": ["gptq"], "tasks": ["facts", "sums"]}
    table = _table(cells, tmp_path, only=only)
    assert [row.labels for row in table.rows] == [("chat", "fp16", "-"), ("chat", "w4a16g128", "gptq")]
    assert [column.title for column in table.columns if column.kind == "task"] == ["facts", "sums"]
    assert table.rows[1].cells[1].drop == pytest.approx(-100 / 3)


def test_groups_can_be_made_by_the_spec(cells: list[dict[str, Any]], tmp_path: Path) -> None:
    groups = [{"name": "reasoning", "title": "Reasoning", "tasks": ["sums", "facts"]}]
    table = _table(cells, tmp_path, groups=groups)
    assert _titles(table) == [
        ("Reasoning", "sums", "task"),
        ("Reasoning", "facts", "task"),
        ("Reasoning", "avg", "average"),
        ("Reasoning", "drop %", "drop"),
    ]
    assert table.columns[2].tasks == ("sums", "facts")


def test_groups_of_the_study_stand_in_the_specs_order(cells: list[dict[str, Any]], tmp_path: Path) -> None:
    table = _table(cells, tmp_path, groups=[{"name": "math"}, {"name": "general", "title": "G"}], overall=False)
    assert list(dict.fromkeys(column.group for column in table.columns)) == ["math", "G"]


def test_columns_show_what_the_spec_asks_for(cells: list[dict[str, Any]], tmp_path: Path) -> None:
    table = _table(
        cells, tmp_path, task_columns=["score", "difference"], summaries=["average", "difference", "recovery"]
    )
    assert _titles(table)[:7] == [
        ("general", "facts", "task"),
        ("general", "facts difference", "difference"),
        ("general", "places", "task"),
        ("general", "places difference", "difference"),
        ("general", "avg", "average"),
        ("general", "difference", "difference"),
        ("general", "recovery %", "recovery"),
    ]
    # A single task's average and difference would only repeat its own columns.
    assert _titles(table)[7:10] == [
        ("math", "sums", "task"),
        ("math", "sums difference", "difference"),
        ("math", "recovery %", "recovery"),
    ]
    values = [cell.value for cell in table.rows[1].cells[:7]]
    assert values == pytest.approx([60, -30, 60, -30, 60, -30, 200 / 3])


def test_labels_replace_names(cells: list[dict[str, Any]], tmp_path: Path) -> None:
    labels = {
        "models": {"org/base": "Base"},
        "schemes": {"w8a8": "W8A8"},
        "methods": {"none": "FP", "rtn": "RTN"},
        "tasks": {"facts": "Facts"},
        "groups": {"general": "General"},
    }
    table = _table(cells, tmp_path, labels=labels)
    assert [row.labels for row in table.rows if row.labels[0] == "Base"] == [
        ("Base", "fp16", "FP"),
        ("Base", "w4a16g128", "gptq"),
        ("Base", "w4a16g128", "RTN"),
        ("Base", "W8A8", "gptq"),
        ("Base", "W8A8", "RTN"),
    ]
    assert _titles(table)[0] == ("General", "Facts", "task")
    assert table.rows[0].names == {"model": "org/base", "scheme": "fp16", "method": "none"}


def test_another_metric_of_a_task_can_be_shown(cells: list[dict[str, Any]], tmp_path: Path) -> None:
    table = _table(cells, tmp_path, metrics={"sums": "match,loose"}, only={"tasks": ["sums"]})
    assert {row.cells[0].value for row in table.rows} == {40.0}
    assert "sums (match, filter loose, 0-shot, 100 items)" in " ".join(table.legend)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"colums": []}, r"mine\.yaml: unknown key 'colums'.*known: best, content, groups"),
        ({"only": {"scheme": ["w8a8"]}}, r"mine\.yaml: only: unknown key 'scheme'; did you mean 'schemes'"),
        ({"groups": [{"name": "g", "task": ["facts"]}]}, r"groups\[0\]: unknown key 'task'; did you mean 'tasks'"),
        ({"summaries": ["mean"]}, r"mine\.yaml: summaries\[0\]: .*'average', .*given: 'mean'"),
        ({"rows": ["model", "model", "method"]}, r"rows: a name is given twice"),
        ({"rows": ["model"]}, r"rows: full precision and variants look the same: the list needs 'scheme' or 'method'"),
        ({"best": ["scheme"]}, r"best: the best is looked for within a model"),
        ({"groups": [{"name": "a", "tasks": ["x"]}, {"name": "b", "tasks": ["x"]}]}, r"groups: 'x' stands in two"),
        ({"only": {"tasks": []}}, r"only\.tasks: .*at least 1 item"),
        ({"name": "../up"}, r"name: a table's name is the name of its file"),
        ({"title": None}, r"title: Input should be a valid string"),
    ],
)
def test_a_wrong_spec_is_refused_with_its_file_and_key(content: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(GridError, match=message):
        _spec(tmp_path, **content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"metrics": {"sums": "f1"}}, r"metrics\.sums: unknown metric of task sums 'f1' .*acc,none, match,loose"),
        ({"metrics": {"sums": "match"}}, r"metric 'match' has several filters; name one of match,loose, match,strict"),
        ({"metrics": {"sum": "acc"}}, r"metrics\.sum: unknown task 'sum'; did you mean 'sums'"),
        (
            {"only": {"schemes": ["w2*"]}},
            r"table mine: only\.schemes: unknown scheme 'w2\*' \(known: w4a16g128, w8a8\)",
        ),
        ({"only": {"methods": ["gtpq"]}}, r"only\.methods: unknown method 'gtpq'; did you mean 'gptq'"),
        ({"groups": [{"name": "code"}]}, r"groups\[0\]: unknown group 'code' \(known: general, math\)"),
        ({"groups": [{"name": "g", "tasks": ["fact"]}]}, r"groups\[0\]: unknown task 'fact'; did you mean 'facts'"),
    ],
)
def test_a_spec_that_does_not_fit_the_study_is_refused_with_what_there_is(
    content: dict[str, Any], message: str, cells: list[dict[str, Any]], tmp_path: Path
) -> None:
    with pytest.raises(GridError, match=message):
        _table(cells, tmp_path, **content)


def test_an_unknown_table_is_refused_with_the_names_of_those_that_ship(tmp_path: Path) -> None:
    with pytest.raises(GridError, match=r"unknown table 'mian'; did you mean 'main'.*a file of your own ends in .yaml"):
        read_table_spec("mian")
    with pytest.raises(GridError, match=r"nowhere\.yaml: cannot read the table spec"):
        read_table_spec(str(tmp_path / "nowhere.yaml"))
    for text, message in ((":\n- x: [", "not valid YAML"), ("", "a table spec is a mapping"), ("rows: []", "title")):
        (tmp_path / "bad.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(GridError, match=message):
            read_table_spec(str(tmp_path / "bad.yaml"))
