"""Why a cell is what it is: what decides its id, whether it will run, what came of it, and where its traces are."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.logs import cell_reader
from orchestrator.planning import Records
from orchestrator.selection import cell_label, select_cell
from orchestrator.study_directory import StudyDirectory


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
    """Explain a cell, named as `select_cell` takes it.

    Raises GridError for a folder that is no study, and where no cell or more than one is meant.
    """
    directory = StudyDirectory.existing(study)
    description = directory.description()
    expected = select_cell(description["cells"], cell)
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
        name=cell_label(expected),
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
