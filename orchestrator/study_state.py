"""How far a study is: its cells by state, what runs now and where, what failed, when it will be done.

Reads the study's folder and nothing else, so that it works from any shell, also while the driver runs elsewhere.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.progress_file import RunningUnit, RunProgress
from orchestrator.selection import cell_label
from orchestrator.study_directory import StudyDirectory
from orchestrator.study_lock import LockState, read_lock

STATES = ("done", "failed", "running", "started", "missing", "not applicable")
Row = Mapping[str, Any]


@dataclass(frozen=True)
class FailedCell:
    """A cell that failed, and why."""

    cell_id: str
    label: str
    kind: str
    message: str


@dataclass(frozen=True)
class Status:
    """Cells by state for each variant, and the run that is on.

    `seconds_left` is the time that the run that is on will take, as its driver sees it, None as long as nothing shows
    its pace. `damaged` are result files that do not count, with the reason.
    """

    name: str
    folder: Path
    variants: dict[str, Counter[str]]
    failures: tuple[FailedCell, ...]
    lock: LockState | None
    running: tuple[RunningUnit, ...]
    seconds_left: float | None
    damaged: dict[Path, str]

    @property
    def total(self) -> Counter[str]:
        return sum(self.variants.values(), Counter())

    @property
    def is_complete(self) -> bool:
        return not any(self.total[state] for state in ("failed", "running", "started", "missing"))

    @property
    def is_running(self) -> bool:
        """Whether a driver holds the study's lock and lives."""
        return self.lock is not None and self.lock.is_alive

    @property
    def failed_by_kind(self) -> Counter[str]:
        return Counter(failure.kind for failure in self.failures)

    def to_json(self) -> dict[str, Any]:
        owner = self.lock.owner if self.lock else None
        return {
            "study": self.name,
            "complete": self.is_complete,
            "cells": {state: self.total[state] for state in STATES if self.total[state]},
            "variants": {label: dict(states) for label, states in self.variants.items()},
            "failed_by_kind": dict(self.failed_by_kind),
            "failures": [dataclasses.asdict(failure) for failure in self.failures],
            "driver": None
            if self.lock is None
            else {
                "alive": self.lock.is_alive,
                "host": owner.host if owner else None,
                "pid": owner.pid if owner else None,
                "since": owner.since if owner else None,
            },
            "running": [dataclasses.asdict(unit) for unit in self.running],
            "seconds_left": self.seconds_left,
            "damaged_files": {str(path): reason for path, reason in self.damaged.items()},
        }


def study_status(folder: Path) -> Status:
    """The status of a study at this moment. Raises GridError if the folder is not a study."""
    directory = StudyDirectory.existing(folder)
    description = directory.description()
    # The lock is read before the results: a run that ends in between shows as running, never as one that stopped short.
    lock = read_lock(folder)
    progress = _progress_of(folder, lock)
    running = progress.running if progress else ()
    rows = directory.store.cells(["status", "failure_kind", "failure_message"])
    recorded = {row["cell_id"]: row for row in rows}
    begun = directory.store.cells_with_samples()
    evaluated_now = {unit.cell_id for unit in running}

    variants: dict[str, Counter[str]] = defaultdict(Counter)
    failures = []
    for cell in description["cells"]:
        row = recorded.get(cell["cell_id"])
        if cell["not_applicable"] is not None:
            state = "not applicable"
        elif cell["cell_id"] in evaluated_now:
            state = "running"
        elif row is not None:
            state = row["status"]
        else:
            state = "started" if cell["cell_id"] in begun else "missing"
        if state == "failed" and row is not None:
            failures.append(FailedCell(cell["cell_id"], cell_label(cell), row["failure_kind"], row["failure_message"]))
        variants[f"{cell['model']} {cell['method_label']} {cell['scheme']}"][state] += 1
    return Status(
        name=description["name"],
        folder=folder,
        variants=dict(variants),
        failures=tuple(failures),
        lock=lock,
        running=running,
        seconds_left=progress.seconds_left if progress else None,
        damaged=directory.store.files_set_aside(),
    )


def _progress_of(folder: Path, lock: LockState | None) -> RunProgress | None:
    """What the driver tells that holds the lock; a killed one's last word is none."""
    progress = RunProgress.read(folder)
    if progress is None or lock is None or not lock.is_alive or lock.owner is None:
        return None
    return progress if progress.token == lock.owner.token else None
