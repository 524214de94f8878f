"""The results store: a study's numbers as Parquet files, each written at once or not at all, merged as they gather."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from reports.damage import DamagedFiles
from reports.files import SyncQueue, storage_errors
from reports.part_folder import AppendedParts, KeyedParts
from reports.parts import ID
from reports.schemas import CELLS, SAMPLES, SCORES, STATUSES, VARIANTS, Row, TableSchema, to_arrow, to_rows


class EndedCell(NamedTuple):
    """What is recorded of a cell that is done: its rows, its scores, and those of its samples that were not before."""

    rows: Sequence[Row]
    scores: Sequence[Row]
    samples: Sequence[Row] = ()


class ResultStore:
    """The results of one study, in `study_dir/results`: variants, cells, scores and samples.

    Each table is a folder of parts (`reports.parts`): a file per write at first, few files in the end. Samples have a
    folder per cell, merged into one file when the cell is done: what took hours to compute is never rewritten with
    that of other cells. Only cells that were done before any of their samples was written are kept together, in
    `short_samples`. A file that cannot be read, or that is not of its table, or of a later version, is left out,
    and told in `warnings` and in the log: what it held counts as not recorded. `open_for_writing` is for the driver,
    the only writer; readers need no lock. Nothing is written before the first row is. What the system refuses to read
    or write raises StorageError.
    """

    def __init__(self, study_dir: Path) -> None:
        self.results_dir = Path(study_dir) / "results"
        self._damage = DamagedFiles(self.results_dir)
        self._unsynced = SyncQueue()
        self._variants, self._cells, self._scores = (
            KeyedParts(self.results_dir / schema.name, schema, self._damage, self._unsynced)
            for schema in (VARIANTS, CELLS, SCORES)
        )
        # Of the cells that this process adds samples to.
        self._samples: dict[str, AppendedParts] = {}
        self._short = KeyedParts(self.results_dir / _SHORT, SAMPLES, self._damage, self._unsynced)

    @property
    def place(self) -> str:
        """Where the results are, for messages."""
        return str(self.results_dir)

    @property
    def warnings(self) -> list[str]:
        """A sentence for each damaged or foreign file that this object met."""
        return self._damage.messages

    def open_for_writing(self) -> None:
        """For the driver, when it holds the study's lock: remove what a killed one left, set damaged files aside."""
        self._damage.sets_aside = True
        for table in (self._variants, self._cells, self._scores, self._short):
            table.tidy()

    # ---- writing: the driver is the only writer

    def record_variant(self, row: Row) -> None:
        """Record a quantized variant, or that quantizing it failed, in place of what was recorded before."""
        _check_status(VARIANTS, row)
        variant_id = _checked_id(VARIANTS, row.get("variant_id"))
        self._variants.append(variant_id, to_arrow(VARIANTS, [row]))

    def record_cell(self, rows: Sequence[Row]) -> None:
        """Record one cell: a row per (metric, filter), or one failed row with metric "" and no value.

        All rows of the cell come in one call and take the place of what was recorded before. Raises ValueError for rows
        of several cells, a (metric, filter) given twice, more than one primary metric, or a failure with a value.
        """
        cell_id = _checked_cell(rows)
        self._end_samples(cell_id, is_done=rows[0]["status"] == "done")
        self._cells.append(cell_id, to_arrow(CELLS, rows))

    def record_done(self, cells: Sequence[EndedCell]) -> None:
        """Record several cells at once, as `record_cell`, `record_scores` and `append_samples` do of one."""
        by_id = {_checked_cell(cell.rows): cell for cell in cells}
        if len(by_id) < len(cells):
            raise ValueError(f"cells: one is there twice among {', '.join(_checked_cell(cell.rows) for cell in cells)}")
        short, begun = {}, self._short.keys()
        for cell_id, cell in by_id.items():
            if cell.samples and cell_id not in begun and not self._own_folder(cell_id).is_dir():
                short[cell_id] = cell.samples
            else:
                self.append_samples(cell_id, cell.samples)
                self._end_samples(cell_id, is_done=True)
        # The cells come last: one that is recorded has its samples and scores.
        _record(self._short, SAMPLES, short)
        _record(self._scores, SCORES, {cell_id: cell.scores for cell_id, cell in by_id.items()})
        _record(self._cells, CELLS, {cell_id: cell.rows for cell_id, cell in by_id.items()})

    def _end_samples(self, cell_id: str, *, is_done: bool) -> None:
        """No more samples of a cell come; those of one that is done are merged."""
        samples = self._samples.pop(cell_id, None) or self._samples_of(cell_id)
        if is_done and samples.folder.is_dir():
            samples.merge_all()

    def record_scores(self, cell_id: str, rows: Sequence[Row]) -> None:
        """Record the scores of a cell's items, in place of those recorded before. `cell_id` is filled into the rows."""
        _checked_id(SCORES, cell_id)
        self._scores.append(cell_id, to_arrow(SCORES, _of_cell(SCORES, cell_id, rows)))

    def append_samples(self, cell_id: str, rows: Sequence[Row]) -> None:
        """Add a batch of a cell's samples. `cell_id` is filled into the rows; no rows write nothing."""
        _checked_id(SAMPLES, cell_id)
        if not rows:
            return
        table = to_arrow(SAMPLES, _of_cell(SAMPLES, cell_id, rows))
        samples = self._samples.setdefault(cell_id, self._samples_of(cell_id))
        # The random part keeps a second writer from ever taking the place of a batch.
        samples.append(uuid.uuid4().hex[:8], table)

    # ---- reading

    def variants(self, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """All variants, ordered by id; only `columns` and the id, if given."""
        return sorted(self._variants.rows(columns), key=lambda row: str(row["variant_id"]))

    def variant(self, variant_id: str) -> dict[str, Any] | None:
        """One variant's row, or None where it is not recorded."""
        rows = _rows_of(self._variants, VARIANTS, variant_id)
        return rows[0] if rows else None

    def cells(self, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """All rows of all cells, ordered by (cell_id, metric, filter); only `columns` and these three, if given."""
        names = None if columns is None else [*_CELL_ORDER, *columns]
        return sorted(self._cells.rows(names), key=_cell_order)

    def cell(self, cell_id: str) -> list[dict[str, Any]]:
        """The rows of one cell, ordered by (metric, filter); empty where it is not recorded."""
        return sorted(_rows_of(self._cells, CELLS, cell_id), key=_cell_order)

    def scores(self, cell_id: str) -> list[dict[str, Any]]:
        """The scores of a cell's items, in the order they were recorded."""
        return _rows_of(self._scores, SCORES, cell_id)

    def score_table(self, cell_id: str) -> pa.Table | None:
        """The same as an Arrow table, for statistics over many cells; None where nothing is recorded."""
        return self._scores.table_of(_checked_id(SCORES, cell_id))

    def samples(self, cell_id: str) -> list[dict[str, Any]]:
        """A cell's samples, ordered by `request_index`; of a request that was appended twice, the later row."""
        table = self.sample_table(cell_id)
        rows = [] if table is None else to_rows(table)
        return sorted(rows, key=lambda row: (row["request_index"], row["request_key"]))

    def sample_table(self, cell_id: str) -> pa.Table | None:
        """The same as an Arrow table, in the order in which they were recorded; None where nothing is."""
        return self._samples_of(cell_id).table(self._short.table_of(cell_id))

    def num_samples(self, cell_id: str) -> int:
        """How many requests of a cell have a sample."""
        table = self.sample_table(cell_id)
        return 0 if table is None else len(table)

    def cells_with_samples(self) -> set[str]:
        """The ids of cells that were begun."""
        with storage_errors("read", self._samples_dir):
            try:
                names = {path.name for path in self._samples_dir.iterdir()}
            except FileNotFoundError:
                names = set()
        return names | self._short.keys()

    def files_set_aside(self) -> dict[Path, str]:
        """The damaged or foreign files that do not count, with the reason of each.

        Those that the driver moved, now or in an earlier run, and those that this object met and left where they are.
        """
        return self._damage.files()

    def names_set_aside(self) -> list[str]:
        """The same files by name."""
        return [str(path.relative_to(self.results_dir)) for path in self.files_set_aside()]

    def samples_folder(self, cell_id: str) -> Path:
        """Where a cell's samples are, if it has any."""
        folder = self._own_folder(cell_id)
        return folder if folder.is_dir() else self._short.folder

    @property
    def _samples_dir(self) -> Path:
        return self.results_dir / SAMPLES.name

    def _own_folder(self, cell_id: str) -> Path:
        return self._samples_dir / _checked_id(SAMPLES, cell_id)

    def _samples_of(self, cell_id: str) -> AppendedParts:
        folder, unique = self._own_folder(cell_id), ("request_index", "request_key")
        return AppendedParts(folder, SAMPLES, self._damage, self._unsynced, key=cell_id, unique=unique)


_SHORT = "short_samples"
_CELL_ORDER = ("cell_id", "metric", "filter")


def _cell_order(row: Row) -> tuple[str, ...]:
    return tuple(row[name] for name in _CELL_ORDER)


def _rows_of(parts: KeyedParts, schema: TableSchema, identity: str) -> list[dict[str, Any]]:
    table = parts.table_of(_checked_id(schema, identity))
    return [] if table is None else to_rows(table)


def _record(parts: KeyedParts, schema: TableSchema, rows_of: Mapping[str, Sequence[Row]]) -> None:
    if rows_of:
        rows = [row for key, of_key in rows_of.items() for row in _of_cell(schema, key, of_key)]
        parts.append_all(to_arrow(schema, rows), [(key, len(of_key)) for key, of_key in rows_of.items()])


def _checked_cell(rows: Sequence[Row]) -> str:
    """The id of the cell that rows are of. Raises ValueError for rows that `record_cell` does not take."""
    cell_ids = {row.get("cell_id") for row in rows}
    if len(cell_ids) != 1:
        raise ValueError(
            f"a cell is recorded with one or more rows of its own; got cell ids {sorted(map(str, cell_ids))}"
        )
    cell_id = _checked_id(CELLS, cell_ids.pop())
    _check_cell_rows(cell_id, rows)
    return cell_id


def _checked_id(schema: TableSchema, identity: object) -> str:
    if not isinstance(identity, str) or not ID.fullmatch(identity):
        raise ValueError(
            f"{schema.name}: {schema.key} {identity!r} cannot name a file; use letters, digits, '_', '-', '.'"
        )
    return identity


def _of_cell(schema: TableSchema, cell_id: str, rows: Iterable[Row]) -> list[Row]:
    for row in rows:
        if row.get("cell_id", cell_id) != cell_id:
            raise ValueError(f"{schema.name} of cell {cell_id}: a row is of cell {row['cell_id']!r}")
    return [{**row, "cell_id": cell_id} for row in rows]


def _check_status(schema: TableSchema, row: Row) -> None:
    status = row.get("status")
    if status not in STATUSES:
        raise ValueError(f"{schema.name}: status {status!r} is not one of {', '.join(STATUSES)}")
    if (status == "failed") != bool(row.get("failure_kind")):
        raise ValueError(
            f"{schema.name}: a failed row, and no other, has a failure_kind; status {status!r} has "
            f"{row.get('failure_kind')!r}"
        )


def _check_cell_rows(cell_id: str, rows: Sequence[Row]) -> None:
    for row in rows:
        _check_status(CELLS, row)
        if row["status"] == "failed" and (len(rows) > 1 or row.get("metric") != "" or row.get("value") is not None):
            raise ValueError(f"cells: failed cell {cell_id} has one row, with metric '' and no value")
        if row["status"] == "done" and (not row.get("metric") or row.get("value") is None):
            raise ValueError(f"cells: a row of done cell {cell_id} has a metric and a value")
    names = [(row.get("metric"), row.get("filter")) for row in rows]
    if len(set(names)) != len(names):
        raise ValueError(f"cells: cell {cell_id} has a (metric, filter) twice: {names}")
    if sum(bool(row.get("is_primary")) for row in rows) > 1:
        raise ValueError(f"cells: cell {cell_id} has more than one primary metric: {names}")
