from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest

from grids import Cell, GridError, Study
from grids.identity import canonical_json
from orchestrator.planning import make_plan
from reports import ResultStore
from tests.orchestrator.conftest import make_cell


def row(cell: Cell, **fields: Any) -> dict[str, Any]:
    """A row of the `cells` table, as the driver records it."""
    names = cell.names()
    return {
        "cell_id": cell.cell_id,
        "variant_id": cell.variant.variant_id,
        "model": names["model"],
        "method": cell.variant.method,
        "method_label": names["method"],
        "scheme": names["scheme"],
        "task": names["task"],
        "task_group": "general",
        "metric": "acc",
        "filter": "none",
        "value": 0.5,
        "is_primary": True,
        "status": "done",
        "finished_at": datetime.datetime.now(datetime.UTC),
        "qstudy_version": "0",
        "package_versions": "{}",
        "seeds": "[0]",
        "config": canonical_json(cell.identity()),
    } | fields


FAILED = {
    "metric": "",
    "filter": "",
    "value": None,
    "status": "failed",
    "failure_kind": "audit",
    "failure_message": "x",
}


def test_without_results_everything_applicable_runs(grid_cells: list[Cell], tmp_path: Path) -> None:
    refused = make_cell(scheme="w4a4kv4", not_applicable="no keys here")
    plan = make_plan(Study("s", (*grid_cells, refused)), ResultStore(tmp_path))
    assert plan.counts() == {"run": 6, "not_applicable": 1}
    assert plan.cells[-1].reason == "no keys here"
    assert plan.to_run() == grid_cells


def test_done_is_reused_and_failed_waits_for_its_flag(grid_cells: list[Cell], tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    store.record_cell([row(grid_cells[0])])
    store.record_cell([row(grid_cells[1], **FAILED)])
    study = Study("s", tuple(grid_cells))
    assert [planned.action for planned in make_plan(study, store).cells[:3]] == ["reuse", "failed", "run"]
    again = make_plan(study, store, retry_failed=True)
    assert [planned.action for planned in again.cells[:3]] == ["reuse", "run", "run"]
    assert "audit: x" in again.cells[1].reason


def test_a_cell_whose_settings_changed_is_stale_and_says_what_changed(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    store.record_cell([row(make_cell(limit=10))])
    planned = make_plan(Study("s", (make_cell(limit=20),)), store).cells[0]
    assert planned.action == "stale"
    assert planned.runs
    assert planned.reason == "task.limit 10 -> 20"


def test_only_selects_cells_by_name(grid_cells: list[Cell]) -> None:
    study = Study("s", tuple(grid_cells))
    plan = make_plan(study, None, only=["scheme=w4a4", "task=facts"])
    assert [cell.names()["scheme"] for cell in plan.to_run()] == ["w4a4"]


@pytest.mark.parametrize(
    ("only", "complaint"),
    [
        ("scheme", "write KEY=VALUE"),
        ("colour=red", "with a key of model, method, calibration, scheme, task, seed"),
        ("task=fact", "did you mean 'facts'?"),
    ],
)
def test_an_only_that_matches_nothing_is_refused(grid_cells: list[Cell], only: str, complaint: str) -> None:
    with pytest.raises(GridError) as error:
        make_plan(Study("s", tuple(grid_cells)), None, only=[only])
    assert complaint in str(error.value)
