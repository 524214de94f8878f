"""The failures of a study, grouped by kind and message, with the cells that they took and where the logs are."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from orchestrator.logs import unit_logs
from orchestrator.study_directory import StudyDirectory
from orchestrator.study_state import FailedCell, study_status

_NUMBER = re.compile(r"\d+(?:\.\d+)?")


@dataclass(frozen=True)
class FailureGroup:
    """Cells that failed in the same way: messages that differ only in numbers are one; the first one is shown."""

    kind: str
    message: str
    cells: tuple[FailedCell, ...]
    logs: tuple[Path, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "message": self.message,
            "cells": [{"cell_id": cell.cell_id, "cell": cell.label, "message": cell.message} for cell in self.cells],
            "logs": [str(path) for path in self.logs],
        }


def study_failures(folder: Path) -> list[FailureGroup]:
    """The groups of a study's failed cells, the largest first. Raises GridError if the folder is not a study."""
    directory = StudyDirectory.existing(folder)
    variants = {cell["cell_id"]: cell["variant_id"] for cell in directory.description()["cells"]}
    groups: dict[tuple[str, str], list[FailedCell]] = {}
    for cell in study_status(folder).failures:
        groups.setdefault((cell.kind, _NUMBER.sub("#", cell.message)), []).append(cell)
    made = [
        FailureGroup(kind, cells[0].message, tuple(cells), _logs(directory, cells, variants))
        for (kind, _), cells in groups.items()
    ]
    return sorted(made, key=lambda group: -len(group.cells))


def _logs(directory: StudyDirectory, cells: list[FailedCell], variants: dict[str, str]) -> tuple[Path, ...]:
    """Of each cell the log of its last unit: its own, or its variant's where quantizing failed."""
    found = [unit_logs(directory, variants[cell.cell_id], cell.cell_id)[-1:] for cell in cells]
    return tuple(dict.fromkeys(path for paths in found for path in paths))


def failures_view(groups: list[FailureGroup]) -> RenderableType:
    """Failures as text."""
    lines = []
    for group in groups:
        lines.append(Text(f"{group.kind}: {group.message}", style="bold red"))
        lines += [Text(f"  {cell.cell_id}  {cell.label}") for cell in group.cells]
        lines += [Text(f"  log: {path}", style="dim") for path in group.logs]
    return Group(*lines) if lines else Text("no cell of this study has failed")
