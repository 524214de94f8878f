"""What the orchestrator itself costs: cells of no work through the real run, Ray's workers and the results store.

    OMP_NUM_THREADS=1 python tests/benchmarks/scheduler_overhead.py
    OMP_NUM_THREADS=1 python tests/benchmarks/scheduler_overhead.py --profile overhead.prof

First 2,000 cells of 0 s (of 500 variants, every other one quantized before), once with one worker in this process and
once with 4 Ray actors: cells a second from the first unit's start to the last cell's rows in the store. Then 192 cells
of 1 s and 24 quantizations as long on 4 Ray actors: the share of their time in which they wait for the next unit.
Targets: 200 cells a second with Ray, 3 % idle.
"""

from __future__ import annotations

import argparse
import cProfile
import io
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import yaml
from rich.console import Console

import workers.engine
from grids import read_grid, resolve
from orchestrator.catalog import make_catalog
from orchestrator.planning import Plan, make_plan
from orchestrator.pools import InProcessPool, Pool
from orchestrator.progress import Displays, PlainDisplay
from orchestrator.progress_file import ProgressFile
from orchestrator.ray_pool import RayPool
from orchestrator.running import Run
from orchestrator.study_directory import StudyDirectory
from orchestrator.study_lock import StudyLock
from orchestrator.time_left import TimeLeft
from reports import ResultStore
from workers.units import (
    Evaluated,
    EvaluateUnit,
    Event,
    Progress,
    Quantized,
    QuantizeUnit,
    Samples,
    Unit,
    WorkerSettings,
)

NUM_WORKERS = 4
NUM_ITEMS = 16
TASKS = ["demo_facts", "demo_relations", "demo_math", "demo_code"]


class SleepingWorker:
    """Says what a worker says of a cell of NUM_ITEMS items; a unit takes the seconds that `device` holds."""

    device_name = "cpu"
    device_memory = 2**30

    def __init__(self, settings: WorkerSettings) -> None:
        self._seconds = float(settings.device)

    def run(self, unit: Unit) -> Iterator[Event]:
        if isinstance(unit, QuantizeUnit):
            yield Progress("quantize", 0, 1)
            self._work()
            yield Progress("audit", 0, 1)
            yield Quantized(
                {"num_linears": 7, "effective_bits": 4.0, "quantize_seconds": self._seconds, "device": "cpu"}
            )
        else:
            yield from self._evaluate(unit)

    def _work(self) -> None:
        if self._seconds:
            time.sleep(self._seconds)

    def _evaluate(self, unit: EvaluateUnit) -> Iterator[Event]:
        task = unit.cell.task
        yield Progress("evaluate", 0, NUM_ITEMS)
        self._work()
        sample = {"request_type": "loglikelihood", "arguments": '["a question", "an answer"]', "logprob": -1.0}
        items = range(NUM_ITEMS)
        yield Samples(
            [sample | {"request_key": f"{item:064x}", "request_index": item, "doc_id": item} for item in items]
        )
        metric = {"metric": task.metric, "filter": task.filter, "value": 0.5}
        rows = [metric | {"stderr": 0.1, "num_items": NUM_ITEMS, "higher_is_better": True}]
        yield Evaluated(rows, [metric | {"doc_id": item} for item in items], NUM_ITEMS, self._seconds, "cpu")


def little_work(folder: Path, num_cells: int) -> Plan:
    """A plan of so many cells: full precision and one method, of as many seeds as it takes."""
    seeds = list(range(-(-num_cells // (2 * len(TASKS)))))
    grid = folder / "grid.yaml"
    content = {
        "name": "overhead",
        "models": ["tiny-llada-base"],
        "methods": ["rtn"],
        "schemes": ["w4a4"],
        "tasks": TASKS,
        "protocol": {"generation": {"gen_length": 64}},
    }
    grid.write_text(yaml.safe_dump(content | {"seeds": seeds}))
    return make_plan(resolve(read_grid(grid), grid, make_catalog()), None)


@dataclass(frozen=True)
class Measured:
    """From the first unit's start to the end: seconds, those of them that this process computed, units and cells."""

    seconds: float
    processor_seconds: float
    num_cells: int
    num_units: int


class FirstStart(PlainDisplay):
    """Notes when the first unit began: what Ray needs to start is no scheduling."""

    def __init__(self) -> None:
        super().__init__(Console(file=io.StringIO()), 0)
        self.began = self.began_own = 0.0
        self.num_units = 0

    def started(self, slot: object, unit: Unit) -> None:  # type: ignore[override]
        if not self.num_units:
            self.began, self.began_own = time.perf_counter(), time.process_time()
        self.num_units += 1


def measure(
    folder: Path,
    num_cells: int,
    seconds: float,
    make_pool: Callable[[WorkerSettings], Pool],
    profile: cProfile.Profile | None,
) -> Measured:
    folder.mkdir()
    plan, directory = little_work(folder, num_cells), StudyDirectory(folder / "study")
    with StudyLock(directory.root) as lock:
        pool = make_pool(WorkerSettings(str(directory.artifact_dir), device=str(seconds)))
        wait_for_workers(pool)
        left = TimeLeft(
            plan.to_run(), pool.slots, seconds_of=lambda unit: max(seconds, 0.01), has_artifact=lambda variant_id: False
        )
        progress = ProgressFile(directory.root, lock.owner.token, num_cells, pool.slots, left)

        def between() -> None:
            lock.check()
            progress.write_if_due()

        first = FirstStart()
        with Displays(left, first, progress) as display, profile or nullcontext():
            outcome = Run(plan, directory, pool, display, between=between).execute()
            ended, ended_own = time.perf_counter(), time.process_time()
        pool.close()
    assert outcome.num_done == len(plan.cells)
    assert len({row["cell_id"] for row in ResultStore(directory.root).cells()}) == len(plan.cells)
    return Measured(ended - first.began, ended_own - first.began_own, outcome.num_done, first.num_units)


def wait_for_workers(pool: Pool) -> None:
    while not all(slot.is_ready for slot in pool.slots):
        assert list(pool.poll(0.2)) == []


def on_ray(settings: WorkerSettings) -> Pool:
    return RayPool(settings, address=None, num_workers=NUM_WORKERS)


def report(
    folder: Path,
    arguments: argparse.Namespace,
    pools: Mapping[str, Callable[[WorkerSettings], Pool]],
    profile: cProfile.Profile | None,
) -> None:
    for name, make_pool in pools.items():
        made = measure(folder / name, arguments.cells, 0.0, make_pool, profile)
        own = 1000 * made.processor_seconds / made.num_cells
        print(
            f"{name}: {made.num_cells} cells in {made.seconds:.1f} s: {made.num_cells / made.seconds:.0f} a second; "
            f"{own:.1f} ms of this process a cell"
        )
    if arguments.units and not arguments.without_ray:
        made = measure(folder / "idle", arguments.units, 1.0, on_ray, None)
        idle = 1 - made.num_units / (NUM_WORKERS * made.seconds)
        print(f"{NUM_WORKERS} Ray actors: {made.num_units} units of 1 s in {made.seconds:.1f} s: {idle:.1%} idle")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=2000)
    parser.add_argument("--units", type=int, default=192, help="cells of 1 s")
    parser.add_argument("--without-ray", action="store_true", help="only the worker in this process")
    parser.add_argument("--profile", type=Path, help="where a profile of the driver is written")
    arguments = parser.parse_args()
    workers.engine.Worker = SleepingWorker  # type: ignore[assignment,misc]
    profile = cProfile.Profile(time.process_time) if arguments.profile else None
    pools: dict[str, Callable[[WorkerSettings], Pool]] = {"in this process": InProcessPool}
    if not arguments.without_ray:
        pools[f"{NUM_WORKERS} Ray actors"] = on_ray
    # Removed at the end: for minutes after thousands of files were removed, ext4 takes ten times as long to make one.
    with tempfile.TemporaryDirectory() as name:
        report(Path(name), arguments, pools, profile)
    if profile:
        profile.dump_stats(arguments.profile)


if __name__ == "__main__":
    main()
