"""Several studies read as one: the rows of their stores, each cell once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from grids.errors import GridError
from reports.schemas import Row
from reports.store import ResultStore

# The rows of a cell, and the study that they are of.
_Found = tuple[Path, list[dict[str, Any]]]


class Results(Protocol):
    """What tables read: a store, or several. `place` says where the results are."""

    @property
    def place(self) -> str: ...

    def cells(self, columns: Sequence[str] | None = None) -> list[dict[str, Any]]: ...

    def variants(self, columns: Sequence[str] | None = None) -> list[dict[str, Any]]: ...

    def scores(self, cell_id: str) -> list[dict[str, Any]]: ...

    def score_table(self, cell_id: str) -> pa.Table | None: ...

    def samples(self, cell_id: str) -> list[dict[str, Any]]: ...

    def sample_table(self, cell_id: str) -> pa.Table | None: ...

    def names_set_aside(self) -> list[str]: ...


class JoinedStores:
    """Stores by the folders of their studies. Of a cell that several have, the first that is done counts.

    Reading cells raises GridError where two studies have other numbers for one cell.
    """

    def __init__(self, stores: Mapping[Path, ResultStore]) -> None:
        self._stores = stores
        self._home: dict[str, ResultStore] = {}

    @property
    def place(self) -> str:
        return " and ".join(store.place for store in self._stores.values())

    def cells(self, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
        needed = None if columns is None else [*columns, "status", "value", "num_items"]
        found: dict[str, _Found] = {}
        for folder, store in self._stores.items():
            for cell_id, rows in _by_cell(store.cells(needed)).items():
                older = found.get(cell_id)
                if older is not None:
                    _check_equal(cell_id, older, (folder, rows))
                if older is None or (older[1][0]["status"] != "done" and rows[0]["status"] == "done"):
                    found[cell_id] = (folder, rows)
        self._home = {cell_id: self._stores[folder] for cell_id, (folder, _) in found.items()}
        return [row for cell_id in sorted(found) for row in found[cell_id][1]]

    def variants(self, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
        needed = None if columns is None else [*columns, "status"]
        found: dict[str, dict[str, Any]] = {}
        for store in self._stores.values():
            for row in store.variants(needed):
                older = found.get(row["variant_id"])
                if older is None or (older["status"] != "done" and row["status"] == "done"):
                    found[row["variant_id"]] = row
        return [found[variant_id] for variant_id in sorted(found)]

    def scores(self, cell_id: str) -> list[dict[str, Any]]:
        return self._of(cell_id).scores(cell_id)

    def score_table(self, cell_id: str) -> pa.Table | None:
        return self._of(cell_id).score_table(cell_id)

    def samples(self, cell_id: str) -> list[dict[str, Any]]:
        return self._of(cell_id).samples(cell_id)

    def sample_table(self, cell_id: str) -> pa.Table | None:
        return self._of(cell_id).sample_table(cell_id)

    def names_set_aside(self) -> list[str]:
        return [f"{folder.name}: {name}" for folder, store in self._stores.items() for name in store.names_set_aside()]

    def _of(self, cell_id: str) -> ResultStore:
        """The store whose rows of the cell count; that of a cell that none has is any."""
        if not self._home:
            self.cells([])
        return self._home.get(cell_id) or next(iter(self._stores.values()))


def _by_cell(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    cells: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        cells.setdefault(row["cell_id"], []).append(row)
    return cells


def _check_equal(
    cell_id: str, one: tuple[Path, list[dict[str, Any]]], other: tuple[Path, list[dict[str, Any]]]
) -> None:
    """A cell's id says all that decides its number, so that two numbers under one id are a fault of one of them."""
    values, others = (
        {_metric(row): (row["value"], row["num_items"]) for row in rows if row["status"] == "done"}
        for _, rows in (one, other)
    )
    for metric in sorted(values.keys() & others.keys()):
        if values[metric] != others[metric]:
            told = [
                f"{folder} has {value!r} over {num_items} items"
                for folder, (value, num_items) in ((one[0], values[metric]), (other[0], others[metric]))
            ]
            raise GridError(
                f"cell {cell_id}, {metric}: {' and '.join(told)}; one cell has one number, so one of the two is wrong "
                "(qstudy verify checks a study). Report the studies apart"
            )


def _metric(row: Row) -> str:
    return ",".join(name for name in (row["metric"], row["filter"]) if name)
