"""A run's figures: reckoned from what happens in it, and read back from where Ray serves them."""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.commands import RunOptions, run_grid
from orchestrator.failures import Failure
from orchestrator.metrics import METRICS, TELL_SECONDS, Metric, RunMetrics, ray_export
from orchestrator.pools import Message, Slot
from tests.orchestrator.conftest import make_cell
from tests.orchestrator.fake_pool import NUM_REQUESTS, FakePool, write_grid
from tests.orchestrator.ray_machine import STORE_BYTES, marked
from workers.units import EvaluateUnit, Progress, QuantizeUnit, Unit

Values = dict[tuple[str, ...], float]


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Told:
    """What was exported: metric and tags (without the study) to the last value."""

    def __init__(self) -> None:
        self.values: Values = {}
        self.num_times = 0

    def __call__(self, metric: Metric, tags: Mapping[str, str], value: float) -> None:
        assert tuple(tags) == metric.tags
        assert tags["study"] == "s"
        self.num_times += 1
        self.values[metric.name, *list(tags.values())[1:]] = value


def run_metrics(num_cells: int, slots: list[Slot], told: Any, clock: Clock) -> tuple[RunMetrics, list[str]]:
    complaints: list[str] = []
    return RunMetrics("s", num_cells, slots, told, complaints.append, clock=clock), complaints


def test_figures_follow_what_happens() -> None:
    clock, told = Clock(), Told()
    slots = [Slot("one"), Slot("two"), Slot("three", is_ready=False)]
    cell = make_cell()
    metrics, _ = run_metrics(5, slots, told, clock)
    metrics.started(slots[0], EvaluateUnit(cell))
    metrics.started(slots[1], QuantizeUnit(make_cell(scheme="w8a8").variant))
    # Three were answered before this attempt.
    for done in (3, 4, 9):
        metrics.progressed(slots[0], Progress("evaluate", done, 10))
    metrics.progressed(slots[1], Progress("quantize", 2, 4))
    clock.now += 10
    metrics.tell()
    assert told.values["qstudy_samples", "tiny", "rtn", "w4a4", "facts"] == 6
    assert {state: told.values["qstudy_cells", state] for state in ("done", "failed", "running", "queued")} == {
        "done": 0,
        "failed": 0,
        "running": 1,
        "queued": 4,
    }
    assert told.values["qstudy_units_running", "quantize"] == told.values["qstudy_units_running", "evaluate"] == 1
    assert {state: told.values["qstudy_workers", state] for state in ("busy", "idle", "starting")} == {
        "busy": 2,
        "idle": 0,
        "starting": 1,
    }
    assert told.values["qstudy_busy_share", "one"] == 1
    assert told.values["qstudy_busy_share", "three"] == 0

    metrics.finished(slots[0], EvaluateUnit(cell), "", num_cells=1)
    metrics.failed(slots[1], QuantizeUnit(cell.variant), Failure("oom_gpu", "", ""), num_cells=2)
    clock.now += 30
    metrics.tell()
    assert told.values["qstudy_busy_seconds", "one", "", ""] == 10
    assert told.values["qstudy_busy_share", "one"] == 0.25
    assert told.values["qstudy_cells", "done"] == 1
    assert told.values["qstudy_cells", "failed"] == told.values["qstudy_cells", "queued"] == 2
    assert told.values["qstudy_failures", "oom_gpu"] == 1
    assert told.values["qstudy_samples", "tiny", "rtn", "w4a4", "facts"] == 6


def test_shards_of_one_cell_are_one_cell() -> None:
    clock, told, slots = Clock(), Told(), [Slot("one"), Slot("two")]
    metrics, _ = run_metrics(3, slots, told, clock)
    for number, slot in enumerate(slots):
        metrics.started(slot, EvaluateUnit(make_cell(), shard=(number, 2)))
    metrics.tell()
    assert (told.values["qstudy_cells", "running"], told.values["qstudy_cells", "queued"]) == (1, 2)


def test_nothing_is_told_before_its_time() -> None:
    clock, told = Clock(), Told()
    metrics, _ = run_metrics(1, [Slot("one")], told, clock)
    metrics.tell_if_due()
    assert told.num_times == 0
    clock.now += TELL_SECONDS
    metrics.tell_if_due()
    num_times = told.num_times
    assert num_times > 0
    metrics.tell_if_due()
    assert told.num_times == num_times


def test_an_exporter_that_fails_is_told_of_once_and_ends_no_run() -> None:
    def broken(metric: Metric, tags: Mapping[str, str], value: float) -> None:
        raise OSError("no agent")

    metrics, complaints = run_metrics(1, [Slot("one")], broken, Clock())
    with metrics:
        metrics.tell()
    assert complaints == ["the run's metrics are not exported any more (OSError: no agent)"]


def read_metrics(port: int, expected: str, *, seconds: float = 60.0) -> dict[str, float]:
    """Our figures at a node's metrics port, when one with `expected` in it is among them."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                lines = [line for line in answer.read().decode().splitlines() if line.startswith("ray_qstudy_")]
        except OSError:
            lines = []
        if any(expected in line for line in lines):
            return {_short(line): float(line.rpartition(" ")[2]) for line in lines}
        time.sleep(0.25)
    raise AssertionError(f"no {expected} at port {port}")


def _short(line: str) -> str:
    """`samples_total rtn w4a4`: the name and the tags that are ours."""
    name, _, rest = line.removeprefix("ray_qstudy_").partition("{")
    tags = dict(re.findall(r'(\w+)="([^"]*)"', rest))
    keys = ("method", "scheme", "task", "state", "unit", "worker", "kind")
    return " ".join([name, *(tags[key] for key in keys if key in tags)])


def test_a_runs_figures_are_read_back_from_rays_metrics_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    failures = iter([RuntimeError("no")])

    def fail_once(unit: Unit, message: Message) -> BaseException | None:
        is_math = isinstance(unit, EvaluateUnit) and unit.cell.task.info.name == "demo_math"
        return next(failures, None) if is_math else None

    monkeypatch.setenv("RAY_metrics_report_interval_ms", "1000")
    with marked():
        quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error"}
        ray.init(address="local", num_cpus=1, object_store_memory=STORE_BYTES, **quiet)
        try:
            port = ray.nodes()[0]["MetricsExportPort"]
            assert not run_grid(
                write_grid(tmp_path), RunOptions(study=tmp_path / "study"), FakePool(disturb=fail_once)
            ).is_complete
            found = read_metrics(port, "failures_total{")
        finally:
            ray.shutdown()
    assert found["samples_total none fp16 demo_facts"] == NUM_REQUESTS
    assert found["samples_total rtn w4a4 demo_facts"] == NUM_REQUESTS
    assert {state: found[f"cells {state}"] for state in ("done", "failed", "running", "queued")} == {
        "done": 3,
        "failed": 1,
        "running": 0,
        "queued": 0,
    }
    assert found["failures_total error"] == 1
    assert found["workers idle"] == 1
    assert 0 < found["busy_share worker-0"] <= 1
    assert found["busy_seconds_total worker-0"] > 0


def test_without_ray_nothing_is_exported() -> None:
    assert ray_export() is None
    assert len({metric.name for metric in METRICS}) == len(METRICS)
