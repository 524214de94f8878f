"""Why a cell is what it is: what decides its id, whether it will run, what came of it, and where its traces are."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from grids import GridError
from grids.errors import unknown_name
from orchestrator.logs import cell_reader
from orchestrator.planning import Records
from orchestrator.study_directory import StudyDirectory

SELECTION_KEYS = ("model", "method", "calibration", "scheme", "task", "seed")
# Of cells that a selection does not tell apart, the message names so many.
_MAX_NAMED = 8


@dataclass(frozen=True)
class Explanation:
    """One cell of a study. `log` and `samples` are None where nothing was written."""

    cell_id: str
    variant_id: str
    name: str
    action: str
    reason: str
    identity: dict[str, Any]
    attempts: int | None
    failure_kind: str | None
    failure_message: str | None
    variant_failure: str | None
    num_samples: int
    log: Path | None
    samples: Path | None

    def to_json(self) -> dict[str, Any]:
        return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}

    def to_lines(self) -> list[str]:
        """For people; the identity last, as it is hashed but indented."""
        verb = {
            "run": "will run",
            "stale": "is stale and will run again",
            "reuse": "will not run",
            "failed": "will not run (--retry-failed runs it again)",
            "not_applicable": "does not apply",
        }[self.action]
        lines = [f"{self.name}", f"cell {self.cell_id} of variant {self.variant_id}", f"{verb}: {self.reason}"]
        if self.attempts is not None:
            lines.append(f"attempts: {self.attempts}")
        if self.failure_kind:
            lines.append(f"failed with {self.failure_kind}: {self.failure_message}")
        if self.variant_failure:
            lines.append(f"its variant failed with {self.variant_failure}")
        lines.append(f"samples: {self.num_samples}" + (f" in {self.samples}" if self.samples else ""))
        lines.append(f"log: {self._log_command()}" if self.log else "log: none was written")
        return [*lines, "what decides the id:", json.dumps(self.identity, indent=1, sort_keys=True, ensure_ascii=False)]

    def _log_command(self) -> str:
        assert self.log is not None
        return f"qstudy logs {shlex.quote(str(self.log.parents[1]))} {self.cell_id} (of {self.log})"


def explain_cell(study: Path, cell: str) -> Explanation:
    """Explain a cell, named by its id, by the first letters of it, or by KEY=VALUE,... that only it agrees with.

    Raises GridError for a folder that is no study, and where no cell or more than one is meant.
    """
    directory = StudyDirectory.existing(study)
    description = directory.description()
    expected = _find(description["cells"], cell)
    identity = {
        "variant": description["variants"][expected["variant_id"]],
        "task": description["tasks"][expected["task_key"]],
    }
    records = Records(directory.store.cells())
    row = records.row(expected["cell_id"])
    variant_row = directory.store.variant(expected["variant_id"])
    num_samples = directory.store.num_samples(expected["cell_id"])
    action, reason = _decide(expected, identity, records)
    return Explanation(
        cell_id=expected["cell_id"],
        variant_id=expected["variant_id"],
        name=_name(expected),
        action=action,
        reason=reason,
        identity=identity,
        attempts=row["attempts"] if row else None,
        failure_kind=row["failure_kind"] if row else None,
        failure_message=row["failure_message"] if row else None,
        variant_failure=_failure(variant_row),
        num_samples=num_samples,
        log=directory.log.path if any(cell_reader(directory, expected).news()) else None,
        samples=directory.store.samples_folder(expected["cell_id"]) if num_samples else None,
    )


def _decide(expected: Mapping[str, Any], identity: dict[str, Any], records: Records) -> tuple[str, str]:
    if expected["not_applicable"] is not None:
        return "not_applicable", expected["not_applicable"]
    names = tuple(str(expected[key]) for key in ("model", "method_label", "scheme", "task", "seed"))
    return records.decide(expected["cell_id"], names, lambda: identity)


def _failure(variant_row: Mapping[str, Any] | None) -> str | None:
    if variant_row is None or variant_row["status"] != "failed":
        return None
    return f"{variant_row['failure_kind']}: {variant_row['failure_message']}"


def _find(cells: Sequence[dict[str, Any]], text: str) -> dict[str, Any]:
    if "=" in text:
        found = _select(cells, text)
    else:
        found = [cell for cell in cells if cell["cell_id"].startswith(text)] if text else []
    if not found:
        raise GridError(f"no cell of the study has an id that begins with {text!r}", key="CELL")
    if len(found) > 1:
        named = [f"{cell['cell_id']} ({_name(cell)})" for cell in found[:_MAX_NAMED]]
        more = f" and {len(found) - _MAX_NAMED} more" if len(found) > _MAX_NAMED else ""
        raise GridError(f"{text!r} means {len(found)} cells: {', '.join(named)}{more}", key="CELL")
    return found[0]


def _select(cells: Sequence[dict[str, Any]], text: str) -> list[dict[str, Any]]:
    """Cells that agree with each KEY=VALUE of a comma-separated list."""
    found = list(cells)
    for part in text.split(","):
        key, _, value = (piece.strip() for piece in part.partition("="))
        if key not in SELECTION_KEYS:
            raise GridError(
                f"cannot read {part!r}; write KEY=VALUE,... with keys of {', '.join(SELECTION_KEYS)}", key="CELL"
            )
        known = {name for cell in cells for name in _values(cell, key)}
        if value not in known:
            raise GridError(unknown_name(key, value, known), key="CELL")
        found = [cell for cell in found if value in _values(cell, key)]
    if not found:
        raise GridError(f"no cell of the study agrees with {text}", key="CELL")
    return found


def _values(cell: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """What a cell may be called by; a method by its name, or by its label in tables."""
    return (cell["method"], cell["method_label"]) if key == "method" else (str(cell[key]),)


def _name(cell: Mapping[str, Any]) -> str:
    return f"{cell['model']} {cell['method_label']} {cell['scheme']} {cell['task']}"
