"""Runs a plan: hands units to workers, saves what they say, marks what fails, until nothing is left."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import assert_never

from grids import Cell
from orchestrator.failures import Failure, RunInterruptedError
from orchestrator.planning import Plan
from orchestrator.pools import Finished, Message, Pool, Slot
from orchestrator.progress import Display
from orchestrator.recording import Recorder
from orchestrator.scheduling import Scheduler
from orchestrator.study_directory import StudyDirectory
from workers.artifacts import ArtifactStore
from workers.units import Evaluated, EvaluateUnit, Progress, Quantized, QuantizeUnit, Samples, ShardDone, Unit, Warned

POLL_SECONDS = 1.0


@dataclass
class Outcome:
    """How many cells ended in this run."""

    num_done: int = 0
    num_failed: int = 0


class Run:
    """One run of a plan over a pool of workers."""

    def __init__(
        self,
        plan: Plan,
        directory: StudyDirectory,
        pool: Pool,
        display: Display,
        *,
        seconds_of: Callable[[Unit], float] = lambda unit: 1.0,
        shards_of: Callable[[Cell], int] = lambda cell: 1,
        fail_fast: bool = False,
        between: Callable[[], None] = lambda: None,
    ) -> None:
        artifacts = ArtifactStore(directory.artifact_dir)
        self._scheduler = Scheduler(
            plan.to_run(),
            has_artifact=artifacts.has,
            seconds_of=seconds_of,
            shards_of=shards_of,
            num_workers=len(pool.slots),
        )
        self._recorder = Recorder(directory)
        self._pool, self._display, self._fail_fast = pool, display, fail_fast
        self._between = between
        self._units: dict[str, Unit] = {}
        self._shards: defaultdict[str, list[ShardDone]] = defaultdict(list)
        self._results: dict[str, str | Failure] = {}
        self.outcome = Outcome()

    def execute(self) -> Outcome:
        """Drive the workers until every cell is done or failed; with `fail_fast`, until the first failure.

        `between` is called at least every POLL_SECONDS. Raises RunInterruptedError and StorageError: what was saved
        until then is kept.
        """
        while not self._scheduler.is_done and not (self._fail_fast and self.outcome.num_failed):
            self._hand_out()
            self._between()
            for slot, message in self._pool.poll(POLL_SECONDS):
                self._handle(slot, message)
        return self.outcome

    def _hand_out(self) -> None:
        for slot in self._pool.slots:
            if slot.unit is None and (unit := self._scheduler.next_unit(slot.resident)) is not None:
                if isinstance(unit, EvaluateUnit):
                    unit = replace(unit, done=self._recorder.saved_responses(unit.cell))
                self._units[slot.name] = unit
                self._pool.start(slot, unit)
                self._recorder.unit_started(unit, slot.name, attempts=self._scheduler.attempts(unit))
                self._display.started(slot, unit)

    def _handle(self, slot: Slot, message: Message) -> None:
        unit = self._units[slot.name]
        match message:
            case Progress():
                self._display.progressed(slot, message)
            case Warned():
                self._recorder.warned(unit, message.text)
            case Samples():
                assert isinstance(unit, EvaluateUnit)
                self._recorder.samples(unit, message.rows)
            case Quantized():
                assert isinstance(unit, QuantizeUnit)
                self._recorder.quantized(unit, message)
                self._results[unit.unit_id] = f"{message.row['effective_bits']:.2f} bits per weight"
            case ShardDone():
                assert isinstance(unit, EvaluateUnit)
                self._shards[unit.cell.cell_id].append(message)
                self._results[unit.unit_id] = f"{message.num_requests} requests in {message.seconds:.1f} s"
            case Evaluated():
                assert isinstance(unit, EvaluateUnit)
                message = _with_shards(message, self._shards.pop(unit.cell.cell_id, []))
                refusal = self._recorder.evaluated(unit, message, attempts=self._scheduler.attempts(unit))
                self._results[unit.unit_id] = refusal or _shown_value(unit, message)
            case Finished():
                self._finish(slot, unit)
            case Failure():
                self._fail(slot, unit, message)
            case _:
                assert_never(message)

    def _finish(self, slot: Slot, unit: Unit) -> None:
        num_cells = int(self._scheduler.finished(unit) is not None)
        result = self._results.pop(unit.unit_id)
        if isinstance(result, Failure):
            self.outcome.num_failed += num_cells
            self._recorder.unit_failed(unit, result, [], attempts=self._scheduler.attempts(unit))
            self._display.failed(slot, unit, result, num_cells=num_cells)
        else:
            self.outcome.num_done += num_cells
            self._recorder.unit_finished(unit, result)
            self._display.finished(slot, unit, result, num_cells=num_cells)

    def _fail(self, slot: Slot, unit: Unit, failure: Failure) -> None:
        if failure.is_storage:
            raise RunInterruptedError(f"{slot.name} cannot write or read: {failure.message}")
        if (folder := _vanished_model(unit)) is not None:
            raise RunInterruptedError(f"the model folder {folder} is gone; {slot.name} says {failure.message}")
        attempts = self._scheduler.attempts(unit)
        lost = self._scheduler.failed(unit, failure)
        self._recorder.unit_failed(unit, failure, lost, attempts=attempts)
        self.outcome.num_failed += len(lost)
        self._display.failed(slot, unit, failure, num_cells=len(lost))


def _with_shards(event: Evaluated, shards: list[ShardDone]) -> Evaluated:
    """The event with what the cell's shards cost."""
    return replace(
        event,
        num_forwards=event.num_forwards + sum(shard.num_forwards for shard in shards),
        seconds=event.seconds + sum(shard.seconds for shard in shards),
    )


def _vanished_model(unit: Unit) -> Path | None:
    """The model's folder if it was there when the grid was read, and no longer is: no cell of it could run."""
    model = (unit.variant if isinstance(unit, QuantizeUnit) else unit.cell.variant).model
    # A model of the hub has a revision, and no folder of its own.
    return Path(model.path) if model.revision is None and not Path(model.path).is_dir() else None


def _shown_value(unit: EvaluateUnit, event: Evaluated) -> str:
    shown = (unit.cell.task.metric, unit.cell.task.filter)
    value = next(row["value"] for row in event.metrics if (row["metric"], row["filter"]) == shown)
    return f"{shown[0]} {value:.4f} in {event.seconds:.1f} s"
