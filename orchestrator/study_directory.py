"""A study on disk: its description beside results, artifacts, logs and report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from grids import Cell, GridError, Study
from orchestrator.log_file import StudyLog
from reports import CELLS, SAMPLES, SCORES, VARIANTS, ResultStore
from reports.files import remove_temporary_files, storage_errors, write_file

_DESCRIPTION = "study.json"
_DESCRIPTION_VERSION = 2
_TABLE_VERSIONS = {schema.name: schema.version for schema in (VARIANTS, CELLS, SAMPLES, SCORES)}


class StudyDirectory:
    """The folder that a grid is run into. Nothing is written before `describe`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = ResultStore(root)
        self.artifact_dir = root / "artifacts"
        self.log = StudyLog(root / "logs" / "study.log")
        self.report_dir = root / "report"

    @classmethod
    def existing(cls, root: Path) -> StudyDirectory:
        """Raises GridError if the folder is not a study."""
        if not (root / _DESCRIPTION).is_file():
            raise GridError("not a study: it has no study.json; `qstudy run GRID` makes one", file=str(root))
        return cls(root)

    def open_for_writing(self) -> None:
        """For the driver, when it holds the lock: remove what a killed one left, set damaged result files aside.

        Raises GridError for a description that is damaged or newer, before anything is changed.
        """
        self.check_description()
        for folder in (self.root, self.artifact_dir):
            remove_temporary_files(folder)
        self.store.open_for_writing()

    def describe(self, study: Study, grid_text: str) -> None:
        """Write what the grid expects, so that reports and status need neither the grid nor its models."""
        write_description(
            self.root,
            name=study.name,
            grid=grid_text,
            cells=[expected_cell(cell) for cell in study.cells],
            # The two halves of every cell's identity, each once.
            variants={cell.variant.variant_id: cell.variant.identity() for cell in study.cells},
            tasks={task_key(cell): cell.task.identity(cell.variant.model.family) for cell in study.cells},
        )

    def check_description(self) -> None:
        """Raise GridError for a description that is damaged or newer; there need not be any."""
        if (self.root / _DESCRIPTION).exists():
            self._read_description()

    def description(self) -> dict[str, Any]:
        """What `describe` wrote. Raises GridError for a file that is damaged, or that another version wrote."""
        description = self._read_description()
        if description["version"] < _DESCRIPTION_VERSION:
            raise GridError(
                f"study.json has version {description['version']}, not {_DESCRIPTION_VERSION}; `qstudy run GRID` "
                "writes it anew and computes nothing again",
                file=str(self.root),
            )
        return description

    def _read_description(self) -> dict[str, Any]:
        path = self.root / _DESCRIPTION
        with storage_errors("read", path):
            text = path.read_bytes()
        try:
            content = json.loads(text)
            versions = {_DESCRIPTION: content["version"]} | content.get("tables", {})
            is_whole = isinstance(content["name"], str) and isinstance(content["cells"], list)
        except (ValueError, KeyError, TypeError):
            is_whole = False
        if not is_whole:
            raise GridError(
                "the file is damaged; delete it, and `qstudy run GRID` writes it again. It holds no results",
                file=str(path),
            )
        known = {_DESCRIPTION: _DESCRIPTION_VERSION} | _TABLE_VERSIONS
        if newer := [name for name, version in versions.items() if version > known.get(name, 0)]:
            raise GridError(
                f"a later qstudy wrote this study ({', '.join(newer)}: a newer version than this one knows); "
                "install that qstudy, or a later one",
                file=str(path),
            )
        description: dict[str, Any] = content
        return description


def write_description(root: Path, **content: Any) -> None:
    """Write a study's description. Raises StorageError."""
    versions = {"version": _DESCRIPTION_VERSION, "tables": _TABLE_VERSIONS}
    text = json.dumps(versions | content, indent=1, ensure_ascii=False)
    write_file(root / _DESCRIPTION, lambda file: file.write(text.encode()))


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
