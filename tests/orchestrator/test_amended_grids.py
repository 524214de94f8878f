"""A grid that is changed and run again: only what is new is computed, and nothing that is there is lost."""

from __future__ import annotations

from pathlib import Path

from orchestrator.commands import RunOptions, plan_grid, run_grid
from orchestrator.study_state import study_status
from reports import ResultStore
from tests.orchestrator.fake_pool import GRID, NUM_REQUESTS, FakePool, write_grid

WIDER = GRID.replace("schemes: [w4a4]", "schemes: [w4a4, w8a8]").replace("demo_math]", "demo_math, demo_relations]")
NARROWER = GRID.replace("demo_facts, demo_math", "demo_math")


def run(folder: Path, grid: str) -> FakePool:
    pool = FakePool()
    assert run_grid(write_grid(folder, grid), RunOptions(study=folder / "study"), pool).is_complete
    return pool


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in (folder / "study/results").rglob("*") if path.is_file()}


def test_a_wider_grid_runs_its_new_cells_only(tmp_path: Path) -> None:
    first = run(tmp_path, GRID)
    before = files_of(tmp_path)
    assert len(first.computed) == 4
    plan = plan_grid(write_grid(tmp_path, WIDER), RunOptions(study=tmp_path / "study"))
    assert plan.plan.counts() == {"reuse": 4, "run": 5}
    second = run(tmp_path, WIDER)
    assert len(second.computed) == 5
    assert not set(second.computed) & set(first.computed)
    assert set(second.computed.values()) == {NUM_REQUESTS}
    assert files_of(tmp_path).items() >= before.items()
    assert study_status(tmp_path / "study").total == {"done": 9}


def test_a_narrower_grid_deletes_nothing_and_reports_and_status_follow_it(tmp_path: Path) -> None:
    run(tmp_path, WIDER)
    before = files_of(tmp_path)
    report = tmp_path / "study/report/report.md"
    assert "demo_relations" in report.read_text()
    assert "w8a8" in report.read_text()

    narrow = run(tmp_path, NARROWER)
    assert narrow.computed == {}
    assert files_of(tmp_path) == before
    assert study_status(tmp_path / "study").total == {"done": 2}
    # The findings before the tables name schemes that a claim of the paper is about.
    text = report.read_text().partition("## Scores")[2]
    assert "demo_math" in text
    for gone in ("demo_facts", "demo_relations", "w8a8"):
        assert gone not in text

    # Widened again, everything is still there.
    assert run(tmp_path, WIDER).computed == {}
    assert study_status(tmp_path / "study").total == {"done": 9}
    assert len({row["cell_id"] for row in ResultStore(tmp_path / "study").cells()}) == 9
