"""Runs a plan: hands units to workers, saves what they say, marks what fails, until nothing is left."""

from __future__ import annotations

import socket
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import assert_never

from grids import Cell, Retries, show_duration
from orchestrator.failures import Failure, RunInterruptedError
from orchestrator.lanes import Lanes, model_of
from orchestrator.machines import describe
from orchestrator.model_devices import ModelDevices
from orchestrator.placement import Placement
from orchestrator.planning import Plan
from orchestrator.pools import Finished, Message, Pool, Slot
from orchestrator.progress import Display
from orchestrator.recording import Recorder
from orchestrator.retrying import Retrier
from orchestrator.scheduling import Scheduler
from orchestrator.stopping import Stop
from orchestrator.study_directory import StudyDirectory
from reports import StorageError
from workers.units import Evaluated, EvaluateUnit, Progress, Quantized, QuantizeUnit, Samples, ShardDone, Unit, Warned

POLL_SECONDS = 1.0
# A node of the kind that is missing may come back.
MAX_STRANDED_SECONDS = 600.0


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
        has_artifact: Callable[[str], bool] = lambda variant_id: False,
        seconds_of: Callable[[Unit], float] = lambda unit: 1.0,
        shards_of: Callable[[Cell], int] = lambda cell: 1,
        fail_fast: bool = False,
        between: Callable[[], None] = lambda: None,
        retries: Retries | None = None,
        timeout: float | None = None,
        stop: Stop | None = None,
        placement: Placement | None = None,
    ) -> None:
        self._lanes = Lanes(
            plan.to_run(),
            pool.slots,
            lambda lane: Scheduler(
                lane.cells,
                has_artifact=has_artifact,
                seconds_of=seconds_of,
                shards_of=shards_of,
                num_workers=lane.num_workers,
            ),
            placement,
        )
        self._retrier = Retrier(self._lanes, retries or Retries())
        self._stop, self._timeout = stop or Stop(), timeout
        self._started: dict[str, float] = {}
        # No cell of a model could run whose folder was there and is gone. A model of the hub has no folder of its own.
        folders = {Path(cell.variant.model.path) for cell in plan.to_run()}
        self._model_folders = {folder for folder in folders if folder.is_dir()}
        self._recorder = Recorder(directory)
        self._pool, self._display, self._fail_fast = pool, display, fail_fast
        self._between = between
        self._units: dict[str, Unit] = {}
        self._steps: dict[str, Progress] = {}
        self._shards: defaultdict[str, list[ShardDone]] = defaultdict(list)
        self._results: dict[str, str | Failure] = {}
        self._model_devices = ModelDevices(directory.root, directory.store)
        self._devices = self._model_devices.of(plan)
        self._served = time.monotonic()
        self.outcome = Outcome()

    def execute(self) -> Outcome:
        """Drive the workers until every cell is done or failed; with `fail_fast`, until the first failure.

        When `stop` asks for it, nothing more is started, and what runs may bring its next batch home.
        `between` is called at least every POLL_SECONDS. Raises RunInterruptedError and StorageError: what was saved
        until then is kept.
        """
        self._recorder.noted(f"=== run on {socket.gethostname()}, workers: {len(self._pool.slots)}")
        try:
            self._drive()
        except RunInterruptedError as error:
            # Where the disk is what broke, the error itself has to be heard.
            with suppress(StorageError):
                self._recorder.noted(f"--- interrupted: {error}")
            raise
        finally:
            self._recorder.save()
        self._recorder.noted(f"--- run ended, cells done: {self.outcome.num_done}, failed: {self.outcome.num_failed}")
        return self.outcome

    def _note(self, text: str) -> None:
        self._recorder.noted(text)
        self._display.noted(text)

    def _drive(self) -> None:
        while not self._lanes.is_done and self._goes_on:
            if (reason := self._stop.reason) is not None:
                self._note(reason)
                self._save_batches_in_flight()
                break
            self._hand_out()
            self._between()
            self._listen()
            self._end_overdue()
            self._check_served()

    def _listen(self) -> None:
        """Hear what workers say, and save it when that is due."""
        for slot, message in self._pool.poll(min(POLL_SECONDS, self._recorder.seconds_to_save)):
            self._handle(slot, message)
            if slot.unit is None and self._goes_on and self._stop.reason is None:
                # Before the others are heard, for this one would idle meanwhile.
                self._hand_out()
        if not self._recorder.seconds_to_save:
            self._recorder.save()

    @property
    def _goes_on(self) -> bool:
        return not (self._fail_fast and self.outcome.num_failed)

    def _save_batches_in_flight(self) -> None:
        busy = {slot for slot in self._pool.slots if slot.unit is not None}
        while busy and not self._stop.is_overdue:
            for slot, message in self._pool.poll(POLL_SECONDS):
                self._handle(slot, message)
                if isinstance(message, Samples | Finished | Failure):
                    busy.discard(slot)

    def _check_served(self) -> None:
        """Raises RunInterruptedError where all that is left waits for workers that are not there, and none comes."""
        now = time.monotonic()
        stranded = [] if any(slot.unit for slot in self._pool.slots) else self._lanes.stranded()
        if not stranded:
            self._served = now
        elif all(slot.is_ready for slot in self._pool.slots) or now - self._served > MAX_STRANDED_SECONDS:
            there = describe(slot.machine for slot in self._pool.slots if slot.is_ready)
            raise RunInterruptedError(f"no worker may run {'; '.join(stranded)}; there are {there or 'none'}")

    def _end_overdue(self) -> None:
        """Kill what has run longer than a unit may."""
        for slot in self._pool.slots:
            if slot.unit is None or self._timeout is None:
                continue
            if time.monotonic() - self._started[slot.name] > self._timeout:
                self._pool.kill(slot)
                message = f"took longer than {show_duration(self._timeout)} (the grid's timeout)"
                self._handle(slot, Failure("timeout", message, message))

    def _hand_out(self) -> None:
        if num_left_out := self._lanes.leave_out(self._stop.seconds_left):
            self._note(f"left for another run: {num_left_out} quantizations that the time limit would cut off")
        for slot in self._pool.slots:
            if not slot.is_ready or slot.unit is not None:
                continue
            if (unit := self._retrier.next_unit(slot, self._pool.slots)) is not None:
                if isinstance(unit, EvaluateUnit):
                    unit = replace(unit, done=self._recorder.saved_responses(unit.cell))
                self._units[slot.name], self._started[slot.name] = unit, time.monotonic()
                self._pool.start(slot, unit)
                self._note_device(unit, slot)
                self._recorder.unit_started(unit, slot.name, attempts=self._lanes.attempts(unit))
                self._display.started(slot, unit)

    def _note_device(self, unit: Unit, slot: Slot) -> None:
        """Write down on which device a model begins, before there is any answer."""
        model = model_of(unit)
        if model.label not in self._devices:
            self._devices[model.label] = slot.machine.device or slot.machine.kind
            self._model_devices.began(model.label, self._devices[model.label])

    def _handle(self, slot: Slot, message: Message) -> None:
        unit = self._units[slot.name]
        match message:
            case Progress():
                self._progressed(slot, message)
            case Warned():
                self._recorder.warned(unit, message.text)
            case Samples():
                assert isinstance(unit, EvaluateUnit)
                self._recorder.samples(unit, message.rows)
                step = self._steps[slot.name]
                self._progressed(slot, replace(step, done=step.done + len(message.rows)))
            case Quantized():
                assert isinstance(unit, QuantizeUnit)
                self._recorder.quantized(unit, _with_device(message, slot))
                self._results[unit.unit_id] = f"{message.row['effective_bits']:.2f} bits per weight"
            case ShardDone():
                assert isinstance(unit, EvaluateUnit)
                self._shards[unit.cell.cell_id].append(message)
                self._results[unit.unit_id] = f"{message.num_requests} requests in {message.seconds:.1f} s"
            case Evaluated():
                assert isinstance(unit, EvaluateUnit)
                message = _with_shards(message, self._shards.pop(unit.cell.cell_id, []))
                message = replace(message, device=slot.machine.recorded_device(message.device))
                refusal = self._recorder.evaluated(unit, message, attempts=self._lanes.attempts(unit))
                self._results[unit.unit_id] = refusal or _shown_value(unit, message)
            case Finished():
                self._finish(slot, unit)
            case Failure():
                self._fail(slot, unit, message)
            case _:
                assert_never(message)

    def _progressed(self, slot: Slot, step: Progress) -> None:
        self._steps[slot.name] = step
        self._display.progressed(slot, step)
        if step.phase == "evaluate" and step.done == step.total:
            self._display.progressed(slot, Progress("score", 0, 1))

    def _finish(self, slot: Slot, unit: Unit) -> None:
        num_cells = int(self._lanes.finished(unit) is not None)
        self._retrier.finished(slot, unit)
        result = self._results.pop(unit.unit_id)
        if isinstance(result, Failure):
            self.outcome.num_failed += num_cells
            self._recorder.unit_failed(unit, result, [], attempts=self._lanes.attempts(unit))
            self._display.failed(slot, unit, result, num_cells=num_cells)
        else:
            self.outcome.num_done += num_cells
            self._recorder.unit_finished(unit, result)
            self._display.finished(slot, unit, result, num_cells=num_cells)

    def _fail(self, slot: Slot, unit: Unit, failure: Failure) -> None:
        if failure.is_storage:
            raise RunInterruptedError(f"{slot.name} cannot write or read: {failure.message}")
        folder = _model_folder(unit)
        if folder in self._model_folders and not folder.is_dir():
            raise RunInterruptedError(f"the model folder {folder} is gone; {slot.name} says {failure.message}")
        attempts = self._lanes.attempts(unit)
        lost = self._retrier.failed(slot, unit, failure)
        self._recorder.unit_failed(unit, failure, lost, attempts=attempts)
        self.outcome.num_failed += len(lost)
        self._display.failed(slot, unit, failure, num_cells=len(lost))
        if self._retrier.is_faulty(slot.node) and self._pool.avoid(slot.node):
            self._note(f"node {slot.node} loses one unit after another and is avoided from now on")


def _with_shards(event: Evaluated, shards: list[ShardDone]) -> Evaluated:
    """The event with what the cell's shards cost."""
    return replace(
        event,
        num_forwards=event.num_forwards + sum(shard.num_forwards for shard in shards),
        seconds=event.seconds + sum(shard.seconds for shard in shards),
    )


def _with_device(event: Quantized, slot: Slot) -> Quantized:
    """The event with the name that rows have for the device."""
    return Quantized(event.row | {"device": slot.machine.recorded_device(event.row["device"])})


def _model_folder(unit: Unit) -> Path:
    return Path(model_of(unit).path)


def _shown_value(unit: EvaluateUnit, event: Evaluated) -> str:
    shown = (unit.cell.task.metric, unit.cell.task.filter)
    value = next(row["value"] for row in event.metrics if (row["metric"], row["filter"]) == shown)
    return f"{shown[0]} {value:.4f} in {event.seconds:.1f} s"
