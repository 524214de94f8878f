"""The failures of a study, grouped by kind and message, with the cells that they took and how to read their logs."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from orchestrator.study_state import FailedCell, study_status

_NUMBER = re.compile(r"\d+(?:\.\d+)?")


@dataclass(frozen=True)
class FailureGroup:
    """Cells that failed in the same way: messages that differ only in numbers are one; the first one is shown."""

    kind: str
    message: str
    cells: tuple[FailedCell, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "message": self.message,
            "cells": [{"cell_id": cell.cell_id, "cell": cell.label, "message": cell.message} for cell in self.cells],
        }


def study_failures(study: str | Path) -> list[FailureGroup]:
    """The groups of a study's failed cells, the largest first. Raises GridError if the folder is not a study."""
    groups: dict[tuple[str, str], list[FailedCell]] = {}
    for cell in study_status(Path(study)).failures:
        groups.setdefault((cell.kind, _NUMBER.sub("#", cell.message)), []).append(cell)
    made = [FailureGroup(kind, cells[0].message, tuple(cells)) for (kind, _), cells in groups.items()]
    return sorted(made, key=lambda group: -len(group.cells))


def failures_view(folder: Path, groups: list[FailureGroup]) -> RenderableType:
    """Failures of a study as text, each group with the command that shows the log of its first cell."""
    lines = []
    for group in groups:
        lines.append(Text(f"{group.kind}: {group.message}", style="bold red"))
        lines += [Text(f"  {cell.cell_id}  {cell.label}") for cell in group.cells]
        lines.append(Text(f"  log: qstudy logs {shlex.quote(str(folder))} {group.cells[0].cell_id}", style="dim"))
    return Group(*lines) if lines else Text("no cell of this study has failed")
