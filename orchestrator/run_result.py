"""What a run gives back: how far its study is now, and where its report is."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from orchestrator.study_state import FailedCell, Status


@dataclass(frozen=True)
class RunResult:
    """A study after a run.

    `status` is that of the whole study, with cells of earlier runs; `num_done` and `num_failed` are cells that ended in
    this run. `report_paths` is empty where no cell has a result. `seconds` is the run's wall time.
    """

    status: Status
    num_done: int
    num_failed: int
    report_paths: tuple[Path, ...]
    seconds: float

    @property
    def study(self) -> Path:
        """The study's folder."""
        return self.status.folder

    @property
    def is_complete(self) -> bool:
        """Whether every applicable cell of the grid is done."""
        return self.status.is_complete

    @property
    def counts(self) -> Counter[str]:
        """The grid's cells by state."""
        return self.status.total

    @property
    def failures(self) -> tuple[FailedCell, ...]:
        """The grid's failed cells."""
        return self.status.failures
