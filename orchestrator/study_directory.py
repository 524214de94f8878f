"""A study on disk: its description beside results, artifacts, logs and report."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from grids import Cell, GridError, Study
from reports import ResultStore

_DESCRIPTION = "study.json"
_DESCRIPTION_VERSION = 2


class StudyDirectory:
    """The folder that a grid is run into. Nothing is written before `describe`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = ResultStore(root)
        self.artifact_dir = root / "artifacts"
        self.log_dir = root / "logs"
        self.report_dir = root / "report"

    @classmethod
    def existing(cls, root: Path) -> StudyDirectory:
        """Raises GridError if the folder is not a study."""
        if not (root / _DESCRIPTION).is_file():
            raise GridError("not a study: it has no study.json; `qstudy run GRID` makes one", file=str(root))
        return cls(root)

    def describe(self, study: Study, grid_text: str) -> None:
        """Write what the grid expects, so that reports and status need neither the grid nor its models."""
        self.root.mkdir(parents=True, exist_ok=True)
        content = {
            "version": _DESCRIPTION_VERSION,
            "name": study.name,
            "grid": grid_text,
            "cells": [expected_cell(cell) for cell in study.cells],
            # The two halves of every cell's identity, each once.
            "variants": {cell.variant.variant_id: cell.variant.identity() for cell in study.cells},
            "tasks": {task_key(cell): cell.task.identity(cell.variant.model.family) for cell in study.cells},
        }
        temporary = self.root / f".tmp-{_DESCRIPTION}"
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
        os.replace(temporary, self.root / _DESCRIPTION)

    def description(self) -> dict[str, Any]:
        """What `describe` wrote. Raises GridError for a file that a later version wrote."""
        content: dict[str, Any] = json.loads((self.root / _DESCRIPTION).read_text(encoding="utf-8"))
        if content["version"] != _DESCRIPTION_VERSION:
            raise GridError(
                f"study.json has version {content['version']}, not {_DESCRIPTION_VERSION}; `qstudy run GRID` writes it "
                "anew and computes nothing again",
                file=str(self.root),
            )
        return content

    def log_file(self, unit_id: str) -> Path:
        return self.log_dir / f"{unit_id}.log"

    def write_log(self, unit_id: str, text: str) -> None:
        """Add to a unit's log."""
        self.log_dir.mkdir(parents=True, exist_ok=True)
        with self.log_file(unit_id).open("a", encoding="utf-8") as log:
            log.write(text)


def task_key(cell: Cell) -> str:
    """What tells a cell's task and settings from those of other cells in a study."""
    return f"{cell.task.info.name}/{cell.variant.model.family}"


def expected_cell(cell: Cell) -> dict[str, Any]:
    """A cell as tables and status need it."""
    variant, task = cell.variant, cell.task
    return {
        "cell_id": cell.cell_id,
        "variant_id": variant.variant_id,
        "model": variant.model.label,
        "method": variant.method,
        "method_label": variant.method_label,
        "scheme": variant.scheme.name,
        "seed": variant.seed,
        "calibration": variant.calibration.label if variant.calibration else "",
        "task": task.info.name,
        "task_key": task_key(cell),
        "task_group": task.group,
        "metric": task.metric,
        "filter": task.filter,
        "not_applicable": cell.not_applicable,
    }
