"""What a run would do, cell by cell, and why."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from grids import Cell, GridError, Study
from grids.errors import unknown_name
from grids.expansion import CELL_KEYS
from grids.identity import changed_fields
from reports import ResultStore

Action = Literal["run", "reuse", "stale", "failed", "not_applicable"]
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
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
    """Every cell of a study with its action, and the rows of the store that it was compared with."""

    study: Study
    cells: tuple[PlannedCell, ...]
    records: Records

    def to_run(self) -> list[Cell]:
        return [planned.cell for planned in self.cells if planned.runs]

    def counts(self) -> Counter[str]:
        return Counter(planned.action for planned in self.cells)


class Records:
    """What a store holds of cells: by id, and by how people call them."""

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self.rows = list(rows)
        self._by_id = {row["cell_id"]: row for row in self.rows}
        self._by_names = {_recorded_names(row): row for row in self._by_id.values()}

    def row(self, cell_id: str) -> Row | None:
        """A cell's first row; all of its rows tell its status."""
        return self._by_id.get(cell_id)

    def decide(
        self,
        cell_id: str,
        names: tuple[str, ...],
        identity: Callable[[], Mapping[str, Any]],
        *,
        retry_failed: bool = False,
    ) -> tuple[Action, str]:
        """What happens to an applicable cell, and why. `names`: model, method label, scheme, task, seed."""
        row = self._by_id.get(cell_id)
        if row is not None and row["status"] == "done":
            return "reuse", "done"
        if row is not None:
            failure = f"{row['failure_kind']}: {row['failure_message']}"
            return ("run", f"failed before ({failure})") if retry_failed else ("failed", failure)
        old = self._by_names.get(names)
        if old is not None:
            return "stale", "; ".join(changed_fields(json.loads(old["config"]), identity()))
        return "run", "no result yet"


def make_plan(study: Study, store: ResultStore | None, *, retry_failed: bool = False, only: Sequence[str] = ()) -> Plan:
    """Compare a study with what its store holds. `only` keeps cells that agree with every KEY=VALUE.

    Raises GridError for an `only` that matches nothing.
    """
    cells = _select(study.cells, only)
    records = Records(store.cells() if store else ())
    return Plan(study, tuple(_plan_cell(cell, records, retry_failed=retry_failed) for cell in cells), records)


def _plan_cell(cell: Cell, records: Records, *, retry_failed: bool) -> PlannedCell:
    if cell.not_applicable is not None:
        return PlannedCell(cell, "not_applicable", cell.not_applicable)
    if not records.rows:
        return PlannedCell(cell, "run", "no result yet")
    variant = cell.variant
    names = (variant.model.label, variant.method_label, variant.scheme.name, cell.task.info.name, str(variant.seed))
    return PlannedCell(cell, *records.decide(cell.cell_id, names, cell.identity, retry_failed=retry_failed))


def _recorded_names(row: Row) -> tuple[str, ...]:
    """How people call a recorded cell; the same for two cells that differ only in settings."""
    (seed,) = json.loads(row["seeds"])
    return row["model"], row["method_label"], row["scheme"], row["task"], str(seed)


def _select(cells: Sequence[Cell], only: Sequence[str]) -> list[Cell]:
    chosen = list(cells)
    for text in only:
        key, separator, value = text.partition("=")
        if not separator or key not in CELL_KEYS:
            raise GridError(f"cannot read {text!r}; write KEY=VALUE with a key of {', '.join(CELL_KEYS)}", key="--only")
        known = {str(cell.names()[key]) for cell in cells}
        if value not in known:
            raise GridError(unknown_name(key, value, known), key="--only")
        chosen = [cell for cell in chosen if str(cell.names()[key]) == value]
    if not chosen:
        raise GridError(f"no cell agrees with {' and '.join(only)}", key="--only")
    return chosen
