"""What runs at this moment, as a small file in the study's folder: for `status` in another shell."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from orchestrator.failures import Failure
from orchestrator.pools import Slot
from orchestrator.progress import unit_label
from orchestrator.time_left import TimeLeft
from reports.files import write_file
from workers.units import EvaluateUnit, Progress, Unit

PROGRESS_NAME = "progress.json"
WRITE_SECONDS = 1.0


@dataclass(frozen=True)
class RunningUnit:
    """A unit on a worker: `done` of `total` blocks or requests of its phase; `since` in seconds since 1970."""

    worker: str
    unit_id: str
    variant_id: str
    cell_id: str | None
    label: str
    since: float
    phase: str = "load"
    done: int = 0
    total: int = 0


@dataclass(frozen=True)
class RunProgress:
    """A run as its driver told it last: cells that it was to end and that ended, its workers, and what they run.

    `seconds_left`: until its end, None while nothing shows the pace.
    """

    token: str
    began: float
    num_cells: int
    num_ended: int
    num_failed: int
    num_workers: int
    running: tuple[RunningUnit, ...]
    seconds_left: float | None = None

    @classmethod
    def read(cls, folder: Path) -> RunProgress | None:
        """None where no run has written, or the file makes no sense: it decides nothing but what is shown."""
        try:
            content: dict[str, Any] = json.loads((folder / PROGRESS_NAME).read_bytes())
            return cls(**{**content, "running": tuple(RunningUnit(**unit) for unit in content["running"])})
        except (OSError, ValueError, TypeError, KeyError):
            return None


class ProgressFile:
    """A display that writes itself to the study's folder, at most every second, and is gone when the run is.

    `token` is the run's lock: a file that a killed driver left is told by it.
    """

    def __init__(self, folder: Path, token: str, num_cells: int, slots: Sequence[Slot], time_left: TimeLeft) -> None:
        self._path, self._time_left = folder / PROGRESS_NAME, time_left
        self._state = RunProgress(token, time.time(), num_cells, 0, 0, len(slots), ())
        self._running: dict[str, RunningUnit] = {}
        self._is_written = False
        self._written_at = 0.0

    def __enter__(self) -> ProgressFile:
        self.write_if_due()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._path.unlink()

    def started(self, slot: Slot, unit: Unit) -> None:
        cell_id = unit.cell.cell_id if isinstance(unit, EvaluateUnit) else None
        self._running[slot.name] = RunningUnit(
            slot.name, unit.unit_id, unit.variant_id, cell_id, unit_label(unit), time.time()
        )
        self._is_written = False

    def progressed(self, slot: Slot, step: Progress) -> None:
        unit = self._running[slot.name]
        self._running[slot.name] = dataclasses.replace(unit, phase=step.phase, done=step.done, total=step.total)
        self._is_written = False

    def finished(self, slot: Slot, unit: Unit, result: str, *, num_cells: int) -> None:
        self._ended(slot, num_cells, 0)

    def failed(self, slot: Slot, unit: Unit, failure: Failure, *, num_cells: int) -> None:
        self._ended(slot, num_cells, num_cells)

    def noted(self, text: str) -> None:
        """What befalls the run itself is told where it runs; the lock says that it goes on."""

    def _ended(self, slot: Slot, num_cells: int, num_failed: int) -> None:
        del self._running[slot.name]
        num_ended, num_failed = self._state.num_ended + num_cells, self._state.num_failed + num_failed
        self._state = dataclasses.replace(self._state, num_ended=num_ended, num_failed=num_failed)
        self._is_written = False

    def write_if_due(self) -> None:
        """Write what has changed, if the last time is long enough ago. Raises StorageError."""
        now = time.monotonic()
        if self._is_written or now - self._written_at < WRITE_SECONDS:
            return
        running, seconds_left = tuple(self._running.values()), self._time_left.seconds()
        state = dataclasses.replace(self._state, running=running, seconds_left=seconds_left)
        text = json.dumps(dataclasses.asdict(state), ensure_ascii=False)
        write_file(self._path, lambda file: file.write(text.encode()), sync=False)
        self._is_written, self._written_at = True, now
