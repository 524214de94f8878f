"""Runs on two kinds of device: who may go on where, what is refused, and what tables say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import workers.engine
from grids import GridError
from orchestrator.commands import RunOptions, plan_grid, run_grid
from orchestrator.failures import RunInterruptedError
from orchestrator.machines import KIND_LABEL, Machine
from orchestrator.placement import Load, Placement, place_models
from orchestrator.pools import Message
from orchestrator.ray_pool import RayPool
from reports import ResultStore
from tests.orchestrator.fake_pool import GRID, FakePool, write_grid
from tests.orchestrator.ray_machine import cluster
from tests.orchestrator.ray_workers import ObedientWorker
from tests.orchestrator.test_ray_pool import ROOT, wait_for_workers
from workers.units import Unit, WorkerSettings


def pool_on(*kinds: str, **options: Any) -> FakePool:
    pool = FakePool(len(kinds), **options)
    for slot, kind in zip(pool.slots, kinds, strict=True):
        slot.machine = Machine(labels={KIND_LABEL: kind})
    return pool


def devices(study: Path) -> dict[str, set[str]]:
    """By model, of cells that are done."""
    found: dict[str, set[str]] = {}
    for row in ResultStore(study).cells():
        found.setdefault(row["model"], set()).add(row["device"])
    return found


def test_each_of_two_models_keeps_to_one_of_two_kinds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid = write_grid(tmp_path, GRID.replace("[tiny-llada-base]", "[tiny-llada-base, tiny-dream-base]"))
    study = tmp_path / "study"
    told = Console(stderr=True, width=200)
    assert run_grid(grid, RunOptions(study=study), pool_on("alpha", "beta"), console=told).is_complete
    found = devices(study)
    assert sorted(map(len, found.values())) == [1, 1]
    assert set.union(*found.values()) == {"alpha", "beta"}
    captured = capsys.readouterr()
    assert "each model keeps to one kind of device: tiny-" in captured.err
    assert "mixed" not in (study / "report" / "report.md").read_text()


def interrupted_run(grid: Path, study: Path, kind: str) -> None:
    """One cell is done, then the run ends."""

    def stop_after_the_first(unit: Unit, message: Message) -> None:
        if study.exists() and ResultStore(study).cells():
            raise RunInterruptedError("enough")

    with pytest.raises(RunInterruptedError):
        run_grid(grid, RunOptions(study=study), pool_on(kind, disturb=stop_after_the_first))


def test_a_run_that_goes_on_elsewhere_is_refused_until_it_is_allowed_and_then_footnoted(tmp_path: Path) -> None:
    grid, study = write_grid(tmp_path), tmp_path / "study"
    interrupted_run(grid, study, "alpha")
    with pytest.raises(GridError) as caught:
        run_grid(grid, RunOptions(study=study), pool_on("beta"))
    assert "tiny-llada-base ran on alpha so far, and there is only beta" in caught.value.message
    assert devices(study) == {"tiny-llada-base": {"alpha"}}

    assert run_grid(grid, RunOptions(study=study, overrides=("allow_mixed_devices=true",)), pool_on("beta")).is_complete
    assert devices(study) == {"tiny-llada-base": {"alpha", "beta"}}
    report = (study / "report" / "report.md").read_text()
    assert "ran on alpha, most cells of its model on beta: mixed kinds of device" in report


def test_answers_of_an_unfinished_cell_count_too(tmp_path: Path) -> None:
    grid, study = write_grid(tmp_path), tmp_path / "study"

    def stop_in_a_cell(unit: Unit, message: Message) -> None:
        if len(list(study.glob("results/samples/*/*.parquet"))) == 2:
            raise RunInterruptedError("enough")

    with pytest.raises(RunInterruptedError):
        run_grid(grid, RunOptions(study=study), pool_on("alpha", disturb=stop_in_a_cell))
    assert devices(study) == {}
    with pytest.raises(GridError, match="ran on alpha so far, and there is only beta"):
        run_grid(grid, RunOptions(study=study), pool_on("beta"))


def test_a_run_goes_on_where_it_began_whatever_else_is_there(tmp_path: Path) -> None:
    grid, study = write_grid(tmp_path), tmp_path / "study"
    interrupted_run(grid, study, "alpha")
    assert run_grid(grid, RunOptions(study=study), pool_on("beta", "beta", "alpha")).is_complete
    assert devices(study) == {"tiny-llada-base": {"alpha"}}


def test_workers_that_turn_out_to_be_of_another_kind_end_the_run(tmp_path: Path) -> None:
    grid, study = write_grid(tmp_path), tmp_path / "study"
    interrupted_run(grid, study, "NVIDIA H200")
    pool = FakePool(1)
    (slot,) = pool.slots
    poll = pool.poll

    def told_late(timeout: float) -> Any:
        slot.machine = Machine(device="NVIDIA A100")
        return poll(timeout)

    pool.poll = told_late  # type: ignore[method-assign]
    slot.is_ready = True
    slot.machine = Machine()
    with pytest.raises(RunInterruptedError) as caught:
        run_grid(grid, RunOptions(study=study), NotReadyAtFirst(pool))
    assert str(caught.value) == (
        "no worker may run tiny-llada-base (NVIDIA H200); there are 1 x NVIDIA A100, 80 GB of GPU memory"
    )


class NotReadyAtFirst:
    """A pool whose worker comes up with the first poll."""

    def __init__(self, pool: FakePool) -> None:
        self._pool, self.slots = pool, pool.slots
        pool.slots[0].is_ready = False

    def poll(self, timeout: float) -> Any:
        self.slots[0].is_ready = True
        return self._pool.poll(timeout)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)


NEEDY = GRID.replace(
    "[tiny-llada-base]", "[{path: tiny-llada-base, needs: {label_selector: {pool: a}, gpu_memory: 24GB}}]"
)


def test_needs_that_nothing_meets_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    grid, study = write_grid(tmp_path, NEEDY), tmp_path / "study"
    with pytest.raises(GridError) as caught:
        run_grid(grid, RunOptions(study=study), pool_on("L4"))
    assert caught.value.key == "models[0].needs"
    assert caught.value.message == (
        "tiny-llada-base needs pool=a and 24 GB of GPU memory, and no machine has that; there are "
        "1 x L4, 24 GB of GPU memory"
    )
    assert not (study / "study.json").exists()


def test_a_plan_shows_needs(tmp_path: Path) -> None:
    made = plan_grid(write_grid(tmp_path, NEEDY), RunOptions(study=tmp_path / "study"))
    assert made.to_json()["needs"] == {
        "tiny-llada-base": {"label_selector": {"pool": "a"}, "gpu_memory": 24_000_000_000}
    }


def test_workers_on_a_cluster_of_several_kinds_run_what_is_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers.engine, "Worker", ObedientWorker)
    monkeypatch.setenv("PYTHONPATH", ROOT)

    def placing(machines: Any) -> Placement:
        """As if nothing could run on beta."""
        loads = [Load("one", seconds=10), Load("other", seconds=5)]
        return place_models(loads, [machine for machine in machines if machine.kind != "beta"])

    with cluster(0) as machines:
        machines.add_node(labels={KIND_LABEL: "alpha"})
        machines.add_node(labels={KIND_LABEL: "beta"})
        machines.add_node()
        pool = RayPool(WorkerSettings(str(tmp_path)), address=machines.address, num_workers=3, placing=placing)
        try:
            wait_for_workers(pool)
            alpha, _, bare = (node.node_id for node in machines.nodes)
            assert {slot.node for slot in pool.slots} == {alpha, bare}
            for slot in pool.slots:
                assert slot.machine.device == {alpha: "alpha", bare: "cpu"}[slot.node]
                assert slot.machine.host_memory is not None
                (model,) = [model for model in ("one", "other") if pool.placement.serves(model, slot.machine)]
                pool.placement.settle(model, slot.machine.device)
            # A worker that is replaced comes back to its own kind, whose only node is not given up.
            slot = next(slot for slot in pool.slots if slot.node == alpha)
            pool.kill(slot)
            wait_for_workers(pool)
            assert slot.node == alpha
            assert not pool.avoid(alpha)
        finally:
            pool.close()
