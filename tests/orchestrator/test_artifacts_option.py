"""`--artifacts` through the command: models at a URL, and what is refused before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.commands import RunOptions, plan_grid, run_grid
from orchestrator.pools import InProcessPool
from orchestrator.preflight import artifact_location
from tests.orchestrator.fake_pool import FakePool, write_grid
from tests.orchestrator.test_runs import finish, qstudy
from workers.units import WorkerSettings

GRID = """
name: little
models: [tiny-llada-base]
methods: [rtn]
schemes: [w4a16g128]
tasks: [{name: demo_facts, likelihood: {mc_num: 2}}]
limit: 4
dtype: float32
"""


def test_a_second_study_finds_the_models_of_the_first_at_their_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QSTUDY_CACHE", str(tmp_path / "cache"))
    grid, url = write_grid(tmp_path, GRID), f"file://{tmp_path / 'bucket'}"

    def quantizations(study: str) -> tuple[float, float]:
        """Bytes of artifacts that a plan means to write, and how many artifacts there are after the run."""
        folder = tmp_path / study
        planned = plan_grid(grid, RunOptions(study=folder, artifacts=url)).total.disk_bytes
        pool = InProcessPool(WorkerSettings(url, device="cpu"))
        assert run_grid(grid, RunOptions(study=folder, artifacts=url), pool).is_complete
        assert not list(folder.rglob("*.safetensors"))
        return planned, len(list((tmp_path / "bucket").rglob("*.safetensors")))

    first, second = quantizations("first"), quantizations("second")
    assert first[0] > 0
    assert first[1] == 1
    assert second == (0, 1)


def test_a_url_that_nothing_reads_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    write_grid(tmp_path, GRID)
    code, _, err = finish(qstudy(tmp_path, "run", "grid.yaml", "--artifacts", "nope://bucket"))
    assert code == 2
    assert "--artifacts: 'nope://bucket' is not a folder, or a URL such as s3://bucket/folder" in err
    assert [path.name for path in tmp_path.iterdir()] == ["grid.yaml"]


def test_a_folder_is_used_in_place_and_is_no_part_of_any_id(tmp_path: Path) -> None:
    grid = write_grid(tmp_path, GRID)
    plain, elsewhere = (
        plan_grid(grid, RunOptions(study=tmp_path / "study", artifacts=artifacts))
        for artifacts in (None, str(tmp_path / "elsewhere"))
    )
    ids = [[planned.cell.cell_id for planned in made.plan.cells] for made in (plain, elsewhere)]
    assert ids[0] == ids[1]
    assert artifact_location("~/models", tmp_path) == str(Path.home().resolve() / "models")
    assert run_grid(
        grid, RunOptions(study=tmp_path / "study", artifacts=str(tmp_path / "elsewhere")), FakePool()
    ).is_complete
    assert list((tmp_path / "elsewhere").iterdir()) == []
