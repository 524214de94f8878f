"""What a run would do, cell by cell, and why."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from grids import Cell, GridError, Study
from grids.errors import unknown_name
from grids.identity import changed_fields
from reports import ResultStore

Action = Literal["run", "reuse", "stale", "failed", "not_applicable"]


@dataclass(frozen=True)
class PlannedCell:
    """A cell and what happens to it. A stale cell runs: its old number belongs to other settings."""

    cell: Cell
    action: Action
    reason: str

    @property
    def runs(self) -> bool:
        return self.action in ("run", "stale")

    def to_json(self) -> dict[str, Any]:
        return {"cell_id": self.cell.cell_id} | self.cell.names() | {"action": self.action, "reason": self.reason}


@dataclass(frozen=True)
class Plan:
    """Every cell of a study with its action."""

    study: Study
    cells: tuple[PlannedCell, ...]

    def to_run(self) -> list[Cell]:
        return [planned.cell for planned in self.cells if planned.runs]

    def counts(self) -> Counter[str]:
        return Counter(planned.action for planned in self.cells)

    def to_json(self) -> dict[str, Any]:
        return {
            "study": self.study.name,
            "counts": dict(self.counts()),
            "cells": [planned.to_json() for planned in self.cells],
        }


def make_plan(study: Study, store: ResultStore | None, *, retry_failed: bool = False, only: Sequence[str] = ()) -> Plan:
    """Compare a study with what its store holds. `only` keeps cells that agree with every KEY=VALUE.

    Raises GridError for an `only` that matches nothing.
    """
    cells = _select(study.cells, only)
    recorded = {row["cell_id"]: row for row in store.cells()} if store else {}
    by_names = {_names(row): row for row in recorded.values()}
    return Plan(study, tuple(_plan_cell(cell, recorded, by_names, retry_failed=retry_failed) for cell in cells))


def _plan_cell(
    cell: Cell,
    recorded: Mapping[str, Mapping[str, Any]],
    by_names: Mapping[tuple[str, ...], Mapping[str, Any]],
    *,
    retry_failed: bool,
) -> PlannedCell:
    if cell.not_applicable is not None:
        return PlannedCell(cell, "not_applicable", cell.not_applicable)
    row = recorded.get(cell.cell_id)
    if row is not None and row["status"] == "done":
        return PlannedCell(cell, "reuse", "done")
    if row is not None:
        failure = f"{row['failure_kind']}: {row['failure_message']}"
        if retry_failed:
            return PlannedCell(cell, "run", f"failed before ({failure})")
        return PlannedCell(cell, "failed", failure)
    variant = cell.variant
    old = by_names.get(
        (variant.model.label, variant.method_label, variant.scheme.name, cell.task.info.name, str(variant.seed))
    )
    if old is not None:
        return PlannedCell(cell, "stale", "; ".join(changed_fields(json.loads(old["config"]), cell.identity())))
    return PlannedCell(cell, "run", "no result yet")


_NAME_KEYS = ("model", "method", "calibration", "scheme", "task", "seed")


def _names(row: Mapping[str, Any]) -> tuple[str, ...]:
    """How people call a recorded cell; the same for two cells that differ only in settings."""
    seed = json.loads(row["config"])["variant"]["seed"]
    return row["model"], row["method_label"], row["scheme"], row["task"], str(seed)


def _select(cells: Sequence[Cell], only: Sequence[str]) -> list[Cell]:
    chosen = list(cells)
    for text in only:
        key, separator, value = text.partition("=")
        if not separator or key not in _NAME_KEYS:
            raise GridError(
                f"cannot read {text!r}; write KEY=VALUE with a key of {', '.join(_NAME_KEYS)}", key="--only"
            )
        known = {str(cell.names()[key]) for cell in cells}
        if value not in known:
            raise GridError(unknown_name(key, value, known), key="--only")
        chosen = [cell for cell in chosen if str(cell.names()[key]) == value]
    if not chosen:
        raise GridError(f"no cell agrees with {' and '.join(only)}", key="--only")
    return chosen
