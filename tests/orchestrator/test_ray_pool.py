"""What Ray reports when workers, nodes, memory or Ray itself fail, and what a pool makes of it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray._private.utils import get_system_memory, get_used_memory

import workers.engine
from grids import GridError
from orchestrator.failures import Failure, RunInterruptedError
from orchestrator.pools import Finished, Message, Slot
from orchestrator.ray_pool import RayPool
from tests.orchestrator.conftest import make_cell
from tests.orchestrator.ray_machine import cluster, marked, wait_until
from tests.orchestrator.ray_workers import ObedientWorker
from workers.units import EvaluateUnit, Progress, WorkerSettings

ROOT = str(Path(__file__).parents[2])
SECONDS = 90.0


@pytest.fixture(autouse=True)
def _obedient_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers.engine, "Worker", ObedientWorker)
    monkeypatch.setenv("PYTHONPATH", ROOT)


def order(task: str) -> EvaluateUnit:
    return EvaluateUnit(make_cell(scheme="fp16", task=task))


def wait_for_workers(pool: RayPool) -> None:
    deadline = time.monotonic() + SECONDS
    while not all(slot.is_ready for slot in pool.slots):
        assert time.monotonic() < deadline
        assert list(pool.poll(0.2)) == []


def until_the_end(pool: RayPool, slot: Slot) -> list[Message]:
    """Everything that is said of a slot's unit."""
    said: list[Message] = []
    deadline = time.monotonic() + SECONDS
    while not (said and isinstance(said[-1], Finished | Failure)):
        assert time.monotonic() < deadline
        said += [message for place, message in pool.poll(0.2) if place is slot]
    return said


def failure_of(pool: RayPool, slot: Slot) -> Failure:
    last = until_the_end(pool, slot)[-1]
    assert isinstance(last, Failure)
    return last


@pytest.fixture
def local_pool(tmp_path: Path) -> Iterator[RayPool]:
    with marked():
        pool = RayPool(WorkerSettings(str(tmp_path)), address=None, num_workers=1)
        try:
            yield pool
        finally:
            pool.close()


def test_a_local_pool_replaces_what_dies_and_ends_what_its_workers_started(local_pool: RayPool, tmp_path: Path) -> None:
    (slot,) = local_pool.slots
    wait_for_workers(local_pool)
    local_pool.start(slot, order("report"))
    said = until_the_end(local_pool, slot)[1]
    assert isinstance(said, Progress)
    shown, pid = said.phase, said.done
    # A worker without a GPU of its own sees none.
    assert shown == "CUDA_VISIBLE_DEVICES=''"

    local_pool.start(slot, order("die"))
    assert failure_of(local_pool, slot).kind == "worker_lost"
    assert not slot.is_ready
    wait_for_workers(local_pool)
    local_pool.start(slot, order("report"))
    assert (
        next(said.done for said in until_the_end(local_pool, slot) if isinstance(said, Progress) and said.done) != pid
    )

    local_pool.start(slot, order("spawn"))
    assert wait_until(lambda: (tmp_path / "spawned").exists() and (tmp_path / "spawned").read_text() != "")
    child, grandchild = map(int, (tmp_path / "spawned").read_text().split())
    os.kill(grandchild, 0)
    local_pool.kill(slot)
    assert slot.unit is None
    assert wait_until(lambda: not (is_running(child) or is_running(grandchild)))


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_worker_that_fills_the_hosts_memory_is_told_from_one_that_crashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A gigabyte above what Ray itself will take; a worker takes three unless it is stopped.
    threshold = (get_used_memory() + 2.2 * 2**30) / get_system_memory()
    with marked(RAY_memory_usage_threshold=f"{threshold:.6f}", RAY_memory_monitor_refresh_ms="100"):
        pool = RayPool(WorkerSettings(str(tmp_path)), address=None, num_workers=1)
        try:
            (slot,) = pool.slots
            wait_for_workers(pool)
            pool.start(slot, order("hog"))
            failure = failure_of(pool, slot)
        finally:
            pool.close()
    assert failure.kind == "oom_host", failure.trace
    assert "running low on memory" in failure.message


def test_a_lost_node_is_told_from_a_lost_worker_and_its_units_go_elsewhere(tmp_path: Path) -> None:
    with cluster(2) as machines:
        pool = RayPool(WorkerSettings(str(tmp_path)), address=machines.address, num_workers=3)
        try:
            wait_for_workers(pool)
            node = machines.nodes[0]
            slot = next(slot for slot in pool.slots if slot.node == node.node_id)
            pool.start(slot, order("sleep"))
            assert isinstance(poll_once(pool), Progress)
            machines.remove_node(node)
            lost = failure_of(pool, slot)
            assert lost.kind == "node_lost", lost.trace
            # Two GPUs are left for three workers; a node that comes gives the third a place.
            machines.add_node()
            wait_for_workers(pool)
            # Nothing of ours goes to a node that is avoided, while there is another.
            avoided, other = (machine.node_id for machine in machines.nodes)
            assert pool.avoid(avoided)
            assert not pool.avoid(avoided)
            assert not pool.avoid(other)
            assert wait_until(lambda: poll_quietly(pool) and sum(slot.is_ready for slot in pool.slots) == 2)
            assert {slot.node for slot in pool.slots if slot.is_ready} == {other}
        finally:
            pool.close()


def poll_once(pool: RayPool) -> Message:
    """The first thing that anyone says."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        for _, message in pool.poll(0.2):
            return message
    raise AssertionError("nobody says anything")


def poll_quietly(pool: RayPool) -> bool:
    return list(pool.poll(0.2)) == []


def interruption_of(pool: RayPool) -> str:
    """Why the run cannot go on."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        try:
            list(pool.poll(0.5))
        except RunInterruptedError as interruption:
            return str(interruption)
    raise AssertionError("the run goes on")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:9", "no Ray cluster answers at 127.0.0.1:9; `ray start --head` starts one, and prints its address"),
        ("nowhere", "'nowhere' is not the address of a Ray cluster; write auto or HOST:PORT"),
    ],
)
def test_a_cluster_that_is_not_there_is_refused_at_once(tmp_path: Path, address: str, message: str) -> None:
    with pytest.raises(GridError) as caught:
        RayPool(WorkerSettings(str(tmp_path)), address=address, num_workers=1)
    assert (caught.value.key, caught.value.message) == ("--address", message)


def test_what_a_cluster_cannot_give_is_refused_and_workers_that_never_start_end_the_run(tmp_path: Path) -> None:
    with cluster(1) as machines:
        with pytest.raises(GridError) as caught:
            RayPool(WorkerSettings(str(tmp_path)), address=machines.address, num_workers=3)
        assert caught.value.message == ("3 workers were asked for, but the cluster has 2 GPUs for them, on 1 nodes")
        assert not ray.is_initialized()
        settings = WorkerSettings(str(tmp_path), device="none")
        pool = RayPool(settings, address=machines.address, num_workers=1, start_seconds=8.0)
        try:
            text = interruption_of(pool)
        finally:
            pool.close()
        assert "no worker became ready in" in text
        assert "there is no such device" in text
        assert "each takes a GPU; 1 nodes have 2 of them" in text


# Last: after its head has died, Ray's next start in this process takes half a minute longer.
@pytest.mark.parametrize(
    ("process", "message"),
    [
        ("raylet", "Ray on this machine has died (its raylet does not answer)"),
        ("gcs_server", "the head of the Ray cluster has died (nothing answers at "),
    ],
)
def test_the_death_of_ray_itself_ends_the_run_in_bounded_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, process: str, message: str
) -> None:
    monkeypatch.setattr("orchestrator.ray_cluster.MAX_HEAD_ABSENCE", 3.0)
    with cluster(1) as machines:
        pool = RayPool(WorkerSettings(str(tmp_path)), address=machines.address, num_workers=1)
        try:
            wait_for_workers(pool)
            pool.start(pool.slots[0], order("sleep"))
            machines.kill_head(process)
            begun = time.monotonic()
            assert interruption_of(pool).startswith(message)
            assert time.monotonic() - begun < 30
        finally:
            pool.close()
