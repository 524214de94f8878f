"""The verbs `plan` and `run`, also for use from Python."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from grids import Cell, Study, read_grid, resolve
from orchestrator.catalog import make_catalog
from orchestrator.failures import RunInterruptedError
from orchestrator.lanes import Lane, find_lanes
from orchestrator.machines import Machine
from orchestrator.metrics import RunMetrics, ray_export
from orchestrator.model_devices import ModelDevices
from orchestrator.placement import Placement, find_loads, place_models
from orchestrator.plan_view import summary
from orchestrator.planning import Plan, make_plan
from orchestrator.pools import Pool
from orchestrator.preflight import Preflight, artifact_location
from orchestrator.priced_plan import PricedPlan, price_plan
from orchestrator.pricing import Pricer
from orchestrator.progress import Displays, make_display
from orchestrator.progress_file import ProgressFile
from orchestrator.ray_pool import RayPool
from orchestrator.reporting import write_run_report
from orchestrator.run_result import RunResult
from orchestrator.running import Outcome, Run
from orchestrator.scheduling import even_shards
from orchestrator.stopping import Stop
from orchestrator.study_directory import StudyDirectory
from orchestrator.study_lock import StudyLock
from orchestrator.study_state import study_status
from orchestrator.time_left import TimeLeft
from reports import StorageError
from workers.artifacts import Artifacts
from workers.remote_artifacts import open_artifacts
from workers.units import WorkerSettings


@dataclass(frozen=True)
class RunOptions:
    """How to run a grid. None of it changes a number, but for `limit`, `overrides` and `only`.

    time_limit: seconds within which the run ends, whatever is left to do.
    artifacts: a folder that all nodes see, an fsspec URL, or `node`; None for the study's own folder.
    """

    study: Path | None = None
    address: str | None = None
    num_workers: int | None = None
    batch_size: int | None = None
    shards: int | None = None
    limit: int | None = None
    overrides: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    retry_failed: bool = False
    fail_fast: bool = False
    time_limit: float | None = None
    artifacts: str | None = None


def load_grid(grid_file: Path, *, limit: int | None = None, overrides: Sequence[str] = ()) -> Study:
    """The study that a grid file means, with `KEY=VALUE` changes. Raises GridError."""
    changes = [*overrides, *([f"limit={limit}"] if limit is not None else [])]
    return resolve(read_grid(grid_file, changes), grid_file, make_catalog())


def plan_grid(grid_file: Path, options: RunOptions, *, device: str | None = None) -> PricedPlan:
    """What `run_grid` would do and what it would cost (on `device`, see `price_plan`). Writes nothing."""
    study = load_grid(grid_file, limit=options.limit, overrides=options.overrides)
    directory = StudyDirectory(options.study or default_folder(study))
    directory.check_description()
    plan = make_plan(study, directory.store, retry_failed=options.retry_failed, only=options.only)
    location = artifact_location(options.artifacts, directory.root)
    return _priced(plan, directory, open_artifacts(location), device=device)


def _priced(plan: Plan, directory: StudyDirectory, artifacts: Artifacts, *, device: str | None = None) -> PricedPlan:
    return price_plan(plan, directory.store, device=device, has_artifact=artifacts.has)


def default_folder(study: Study) -> Path:
    return Path("studies") / study.name


def run_grid(
    grid_file: Path, options: RunOptions, pool: Pool | None = None, *, console: Console | None = None
) -> RunResult:
    """Compute what is missing and write the report; tell of it on `console`, if there is one.

    Without `pool`, workers are Ray actors. Raises GridError before anything is written, also where another driver runs
    the study; StorageError where nothing can be written; RunInterruptedError where a run that has begun cannot go on.
    """
    stop, began = Stop(options.time_limit), time.monotonic()
    console = console or Console(quiet=True)
    outcome = Outcome()
    study = load_grid(grid_file, limit=options.limit, overrides=options.overrides)
    directory = StudyDirectory(options.study or default_folder(study))
    with StudyLock(directory.root) as lock:
        directory.open_for_writing()
        plan = make_plan(study, directory.store, retry_failed=options.retry_failed, only=options.only)
        console.print(f"study {study.name} in {directory.root}: {summary(plan)}", highlight=False, soft_wrap=True)
        grid_text = grid_file.read_text(encoding="utf-8")
        if plan.to_run():
            preflight = Preflight(plan.to_run(), directory.root, artifacts=options.artifacts, say=_teller(console))
            priced = _priced(plan, directory, open_artifacts(preflight.location))
            devices = ModelDevices(directory.root, directory.store)
            loads = find_loads(priced, devices.of(plan))
            place = partial(place_models, loads, allow_mixed=study.allow_mixed_devices)
            pool, placement = _workers(pool, place, preflight, options)
            artifacts = open_artifacts(preflight.location)
            try:
                directory.describe(study, grid_text)
                with _begun():
                    outcome = _execute(priced, directory, artifacts, pool, placement, lock, console, options, stop)
            finally:
                pool.close()
        else:
            directory.describe(study, grid_text)
        with _begun():
            paths = write_run_report(directory)
    with _begun():
        status = study_status(directory.root)
    return RunResult(status, outcome.num_done, outcome.num_failed, tuple(paths), time.monotonic() - began)


@contextmanager
def _begun() -> Iterator[None]:
    """From here on, a disk that refuses interrupts a run; before, the run could not begin."""
    try:
        yield
    except StorageError as error:
        raise RunInterruptedError(str(error)) from error


def _workers(
    given: Pool | None, place: Callable[[Sequence[Machine]], Placement], preflight: Preflight, options: RunOptions
) -> tuple[Pool, Placement]:
    """The workers of a run, and which models each may run."""
    if given is not None:
        return given, place([slot.machine for slot in given.slots])
    pool = RayPool(
        worker_settings(preflight.location, options),
        address=options.address,
        num_workers=options.num_workers,
        placing=place,
        # What starts with the run is this machine, which sees what the driver sees.
        prepare=preflight if options.address else None,
    )
    return pool, pool.placement


def _teller(console: Console) -> Callable[[str], None]:
    return lambda text: console.print(text, highlight=False, soft_wrap=True, markup=False)


def _execute(
    priced: PricedPlan,
    directory: StudyDirectory,
    artifacts: Artifacts,
    pool: Pool,
    placement: Placement,
    lock: StudyLock,
    console: Console,
    options: RunOptions,
    stop: Stop,
) -> Outcome:
    """Drive the workers; tell of it here, and to other shells by a file."""
    plan, pricer = priced.plan, priced.pricer
    to_run = plan.to_run()
    num_cells = len(to_run)
    left = TimeLeft(to_run, pool.slots, seconds_of=pricer.unit_seconds, has_artifact=artifacts.has)
    shown = make_display(console, num_cells, pool.slots, left)
    progress = ProgressFile(directory.root, lock.owner.token, num_cells, pool.slots, left)
    metrics = RunMetrics(plan.study.name, num_cells, pool.slots, ray_export(), shown.noted)

    def between() -> None:
        lock.check()
        progress.write_if_due()
        metrics.tell_if_due()

    with stop.listening(), Displays(left, shown, progress, metrics) as display:
        if told := placement.summary():
            display.noted(f"each model keeps to one kind of device: {told}")
        return Run(
            plan,
            directory,
            pool,
            display,
            has_artifact=artifacts.has,
            seconds_of=pricer.unit_seconds,
            shards_of=_shards_of(find_lanes(to_run, pool.slots, placement), pricer, options.shards),
            fail_fast=options.fail_fast,
            between=between,
            retries=plan.study.retries,
            timeout=plan.study.timeout,
            stop=stop,
            placement=placement,
        ).execute()


def _shards_of(lanes: Sequence[Lane], pricer: Pricer, given: int | None) -> Callable[[Cell], int]:
    if given is not None:
        return lambda cell: given
    by_model: dict[str, Callable[[Cell], int]] = {}
    for lane in lanes:
        total_seconds = sum(pricer.cell(cell).seconds for cell in lane.cells)
        shards_of = even_shards(lambda cell: pricer.cell(cell).seconds, total_seconds, lane.num_workers)
        by_model |= dict.fromkeys((cell.variant.model.label for cell in lane.cells), shards_of)
    return lambda cell: by_model[cell.variant.model.label](cell)


def worker_settings(artifacts: str, options: RunOptions) -> WorkerSettings:
    """One thread a worker on CPUs: more would add in another order, and scores must not depend on workers."""
    return WorkerSettings(artifact_dir=artifacts, batch_size=options.batch_size)


__all__ = ["RunOptions", "load_grid", "plan_grid", "run_grid"]
