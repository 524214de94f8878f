"""Reports of several studies, and what may not stand in one table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from grids import Cell, GridError
from grids.protocol import GenerationSettings, LikelihoodSettings, Protocol
from orchestrator.failures import Failure
from orchestrator.study_directory import StudyDirectory
from reports import build_report
from tests.orchestrator.conftest import Command, make_cell
from tests.orchestrator.stored_study import Outcome, store_study, wrong


def _model(folder: Path, model: str, *, lost: int = 3, **settings: Any) -> Path:
    """A study of one model: full precision and rtn on two tasks."""
    outcomes: list[tuple[Cell, Outcome]] = [
        (make_cell(model, scheme=scheme, task=task, **settings), wrong(*range(1 + lost * (scheme != "fp16"))))
        for scheme in ("fp16", "w4a4")
        for task in ("facts", "sums")
    ]
    return store_study(folder, outcomes).root


def _rows(folder: Path) -> dict[tuple[str, str], list[float]]:
    (table, *_) = json.loads((folder / "report.json").read_text())["tables"]
    return {
        (row["names"]["model"], row["names"]["scheme"]): [cell["value"] for cell in row["cells"][:2]]
        for row in table["rows"]
    }


def test_studies_of_one_model_each_make_the_table_of_the_study_of_both(tmp_path: Path, qstudy: Command) -> None:
    one, two = _model(tmp_path / "one", "a"), _model(tmp_path / "two", "b", lost=5)
    code, out, _ = qstudy("report", one, two, "-f", "json,markdown", "-o", tmp_path / "both")
    assert code == 0
    assert "report.json" in out
    qstudy("report", one, "-f", "json")
    qstudy("report", two, "-f", "json")
    assert _rows(tmp_path / "both") == _rows(one / "report") | _rows(two / "report")
    assert len(_rows(tmp_path / "both")) == 4
    assert "# Study one and two" in (tmp_path / "both/report.md").read_text()


def test_a_cell_that_two_studies_have_stands_once_and_a_done_one_goes_before_a_failed_one(
    tmp_path: Path, qstudy: Command
) -> None:
    one = _model(tmp_path / "one", "a")
    failed: list[tuple[Cell, Outcome]] = [
        (make_cell("a", scheme="fp16", task="facts"), wrong(0)),
        (make_cell("a", task="facts"), Failure("oom_gpu", "no room", "")),
    ]
    two = store_study(tmp_path / "two", failed).root
    for order in ([one, two], [two, one]):
        assert qstudy("report", *order, "-f", "json", "-o", tmp_path / "both")[0] == 0
        assert _rows(tmp_path / "both") == {("a", "fp16"): [100 * 59 / 60] * 2, ("a", "w4a4"): [100 * 56 / 60] * 2}


def test_two_numbers_for_one_cell_are_refused_with_both(tmp_path: Path, qstudy: Command) -> None:
    one, two = _model(tmp_path / "one", "a"), _model(tmp_path / "two", "a", lost=4)
    code, _, err = qstudy("report", one, two, "-o", tmp_path / "both")
    assert code == 2
    assert f"{one} has {56 / 60!r} over 60 items and {two} has {55 / 60!r} over 60 items" in err
    assert make_cell("a", task="facts").cell_id in err or make_cell("a", task="sums").cell_id in err
    assert not (tmp_path / "both").exists()


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"protocol": Protocol(likelihood=LikelihoodSettings(mc_num=32))}, "protocol.mc_num 128 and 32"),
        ({"protocol": Protocol(likelihood=LikelihoodSettings(race=0.01))}, "protocol.race (not set) and 0.01"),
        ({"num_fewshot": 5}, "num_fewshot 0 and 5"),
        ({"limit": 60}, "limit None and 60"),
    ],
)
def test_studies_that_score_a_task_differently_are_refused_with_the_field_and_both_values(
    settings: dict[str, Any], complaint: str, tmp_path: Path, qstudy: Command
) -> None:
    one, two = _model(tmp_path / "one", "a"), _model(tmp_path / "two", "b", **settings)
    code, out, err = qstudy("report", one, two, "-o", tmp_path / "both")
    assert (code, out) == (2, "")
    assert f"task facts is not the same in {one} and {two}: {complaint}" in err
    assert not (tmp_path / "both").exists()


def test_families_may_generate_in_their_own_way_and_share_everything_else(tmp_path: Path, qstudy: Command) -> None:
    short = Protocol(generation=GenerationSettings(gen_length=128))
    one = _model(tmp_path / "one", "a", generates=True)
    two = _model(tmp_path / "two", "b", generates=True, family="dream", protocol=short)
    assert qstudy("report", one, two, "-o", tmp_path / "both")[0] == 0
    same_family = _model(tmp_path / "three", "c", generates=True, protocol=short)
    assert "protocol.gen_length 256 and 128" in qstudy("report", one, same_family, "-o", tmp_path / "both")[2]
    other = _model(tmp_path / "four", "d", family="dream", protocol=Protocol(likelihood=LikelihoodSettings(mc_num=1)))
    likelihoods = _model(tmp_path / "five", "e")
    assert "protocol.mc_num 1 and 128" in qstudy("report", other, likelihoods, "-o", tmp_path / "both")[2]


def test_a_metric_that_is_shown_in_two_ways_and_a_name_for_two_models_are_refused(
    tmp_path: Path, qstudy: Command
) -> None:
    one = _model(tmp_path / "one", "a")
    for name, where, key, value in (("two", "cells", "metric", "acc_norm"), ("three", "variants", "dtype", "bfloat16")):
        other = _model(tmp_path / name, "b" if name == "two" else "a")
        description = json.loads((other / "study.json").read_text())
        for entry in description[where] if where == "cells" else description[where].values():
            (entry if where == "cells" else entry["model"])[key] = value
        (other / "study.json").write_text(json.dumps(description))
        code, _, err = qstudy("report", one, other, "-o", tmp_path / "both")
        assert code == 2
        assert f"{key} {'acc' if where == 'cells' else 'float32'} and {value}" in err


@pytest.mark.parametrize(
    ("second", "options", "complaint"),
    [
        ("nowhere", ["-o", "both"], "not a study"),
        ("one", ["-o", "both"], "a study is given twice"),
        ("empty", ["-o", "both"], "no results: run the study first"),
        ("two", [], "--output: a report of several studies needs a folder of its own"),
        ("two", ["-o", "both", "--table", "nonsense"], "unknown table 'nonsense'"),
        ("two", ["-o", "both", "-f", "docx"], "unknown format 'docx'"),
    ],
)
def test_what_makes_no_joined_report_is_bad_input_and_writes_nothing(
    second: str, options: list[str], complaint: str, tmp_path: Path, qstudy: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _model(tmp_path / "one", "a")
    _model(tmp_path / "two", "b")
    store_study(tmp_path / "empty", [(make_cell("c"), None)])
    before = set(tmp_path.rglob("*"))
    code, out, err = qstudy("report", "one", second, *options)
    assert (code, out) == (2, "")
    assert complaint in err
    assert set(tmp_path.rglob("*")) == before


def test_a_study_without_results_and_a_metric_that_a_task_lacks_are_bad_input_of_a_single_study(
    tmp_path: Path, qstudy: Command
) -> None:
    empty = store_study(tmp_path / "empty", [(make_cell("c"), None)]).root
    code, _, err = qstudy("report", empty)
    assert code == 2
    assert "no results in" in err
    (tmp_path / "mine.yaml").write_text("title: Mine\nmetrics: {facts: f1}\n")
    code, _, err = qstudy("report", _model(tmp_path / "one", "a"), "--table", tmp_path / "mine.yaml")
    assert code == 2
    assert "unknown metric of task facts 'f1'" in err
    assert "acc,none" in err


def test_a_store_that_holds_cells_of_two_protocols_makes_no_table_by_itself(tmp_path: Path) -> None:
    """Only the grid says which of them count; with it the older ones are left out."""
    old = Protocol(likelihood=LikelihoodSettings(mc_num=4))
    cells: list[tuple[Cell, Outcome]] = [
        (make_cell("a", scheme="fp16", protocol=old), wrong(0)),
        (make_cell("a", scheme="w4a4"), wrong(0, 1)),
    ]
    study = store_study(tmp_path / "study", cells)
    with pytest.raises(GridError) as caught:
        build_report(study.store, study="study")
    assert "protocol.mc_num" in str(caught.value)
    assert "4" in str(caught.value)
    assert all(cell.cell_id in str(caught.value) for cell, _ in cells)
    table = build_report(study.store, study="study", expected=study.description()["cells"][1:]).tables[0]
    assert [row.names["scheme"] for row in table.rows] == ["w4a4"]


def test_a_grid_that_is_amended_in_its_metric_shows_that_one_also_of_older_cells(tmp_path: Path) -> None:
    cell = make_cell("a", scheme="fp16")
    directory = store_study(tmp_path / "study", [(cell, wrong(0))])
    stored = directory.store.cell(cell.cell_id)
    other = stored[0] | {"metric": "acc_norm", "value": 0.25, "is_primary": False}
    directory.store.record_cell([_without_version(row) for row in (stored[0], other)])
    expected = directory.description()["cells"]

    def shown(metric: str) -> float | None:
        table = build_report(
            StudyDirectory(directory.root).store,
            study="study",
            expected=[{**each, "metric": metric} for each in expected],
        ).tables[0]
        return table.rows[0].cells[0].value

    assert shown("acc") == pytest.approx(100 * 59 / 60)
    assert shown("acc_norm") == pytest.approx(25.0)


def _without_version(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "schema_version"}
