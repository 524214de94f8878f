"""The results store: a study's numbers as small Parquet files, each written at once or not at all."""

from __future__ import annotations

import logging
import os
import re
import uuid
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from reports.schemas import CELLS, SAMPLES, SCORES, STATUSES, VARIANTS, Row, TableSchema, conform, to_arrow

_LOGGER = logging.getLogger("qstudy.reports")
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_TEMPORARY_PREFIX = ".tmp-"
_DAMAGED_SUFFIX = ".damaged"
_NUM_READERS = 4
# For a few rows with long texts, dictionaries and statistics triple the size and add half to the time of reading.
_WRITE_OPTIONS = {
    "compression": "zstd",
    "write_page_checksum": True,
    "use_dictionary": False,
    "write_statistics": False,
}


class NewerSchemaError(ValueError):
    """A file of the store was written by a later version of qstudy than this one."""


class ResultStore:
    """The results of one study, in `study_dir/results`: variants, cells, scores and samples.

    One file per variant, per cell and per cell's scores, replaced when recorded again; one folder per cell for samples,
    with one file per append. A file becomes visible only when it is complete (temporary name, fsync, rename). A file
    that cannot be read, or that is not of its table, is renamed to `*.damaged`, reported in `warnings` and in the log,
    and left out: what it held counts as not computed. Nothing is written before the first row is.
    """

    def __init__(self, study_dir: Path) -> None:
        self.results_dir = Path(study_dir) / "results"
        self.warnings: list[str] = []
        self._num_appends: dict[str, int] = {}

    # ---- writing: the driver is the only writer

    def record_variant(self, row: Row) -> None:
        """Record a quantized variant, or that quantizing it failed, in place of what was recorded before."""
        _check_status(VARIANTS, row)
        variant_id = _checked_id(VARIANTS, row.get("variant_id"))
        self._write(self._file(VARIANTS, variant_id), to_arrow(VARIANTS, [row]))

    def record_cell(self, rows: Sequence[Row]) -> None:
        """Record one cell: a row per (metric, filter), or one failed row with metric "" and no value.

        All rows of the cell come in one call and take the place of what was recorded before. Raises ValueError for rows
        of several cells, a (metric, filter) given twice, more than one primary metric, or a failure with a value.
        """
        cell_ids = {row.get("cell_id") for row in rows}
        if len(cell_ids) != 1:
            raise ValueError(
                f"a cell is recorded with one or more rows of its own; got cell ids {sorted(map(str, cell_ids))}"
            )
        cell_id = _checked_id(CELLS, cell_ids.pop())
        _check_cell_rows(cell_id, rows)
        self._write(self._file(CELLS, cell_id), to_arrow(CELLS, rows))

    def record_scores(self, cell_id: str, rows: Sequence[Row]) -> None:
        """Record the scores of a cell's items, in place of those recorded before. `cell_id` is filled into the rows."""
        _checked_id(SCORES, cell_id)
        self._write(self._file(SCORES, cell_id), to_arrow(SCORES, _of_cell(SCORES, cell_id, rows)))

    def append_samples(self, cell_id: str, rows: Sequence[Row]) -> None:
        """Add a batch of a cell's samples. `cell_id` is filled into the rows; no rows write nothing."""
        _checked_id(SAMPLES, cell_id)
        if not rows:
            return
        table = to_arrow(SAMPLES, _of_cell(SAMPLES, cell_id, rows))
        folder = self.samples_folder(cell_id)
        number = self._num_appends.get(cell_id)
        if number is None:
            number = _next_number(folder)
        # The random part keeps a second writer from ever taking the place of a batch.
        self._write(folder / f"{number:06d}-{uuid.uuid4().hex[:8]}.parquet", table)
        self._num_appends[cell_id] = number + 1

    # ---- reading

    def variants(self) -> list[dict[str, Any]]:
        """All variants, ordered by id."""
        return self._read_rows(VARIANTS, _parquet_files(self.results_dir / VARIANTS.name))

    def variant(self, variant_id: str) -> dict[str, Any] | None:
        """One variant's row, or None where it is not recorded."""
        rows = self._read_rows(VARIANTS, _existing(self._file(VARIANTS, variant_id)))
        return rows[0] if rows else None

    def cells(self) -> list[dict[str, Any]]:
        """All rows of all cells, ordered by (cell_id, metric, filter)."""
        return sorted(self._read_rows(CELLS, _parquet_files(self.results_dir / CELLS.name)), key=_cell_order)

    def cell(self, cell_id: str) -> list[dict[str, Any]]:
        """The rows of one cell, ordered by (metric, filter); empty where it is not recorded."""
        return sorted(self._read_rows(CELLS, _existing(self._file(CELLS, cell_id))), key=_cell_order)

    def scores(self, cell_id: str) -> list[dict[str, Any]]:
        """The scores of a cell's items, in the order they were recorded."""
        return self._read_rows(SCORES, _existing(self._file(SCORES, cell_id)))

    def score_table(self, cell_id: str) -> pa.Table | None:
        """The same as an Arrow table, for statistics over many cells; None where nothing is recorded."""
        return self._read(SCORES, self._file(SCORES, cell_id), None)

    def samples(self, cell_id: str) -> list[dict[str, Any]]:
        """A cell's samples, ordered by `request_index`; of a request that was appended twice, the later row."""
        rows = self._read_rows(SAMPLES, _parquet_files(self.samples_folder(cell_id)), within=cell_id)
        latest = {(row["request_index"], row["request_key"]): row for row in rows}
        return [latest[key] for key in sorted(latest)]

    def num_samples(self, cell_id: str) -> int:
        """How many requests of a cell have a sample."""
        return len(self.samples(cell_id))

    def files_set_aside(self) -> list[Path]:
        """The damaged or foreign files that were renamed, now or by an earlier run."""
        return sorted(path for path in self.results_dir.rglob(f"*{_DAMAGED_SUFFIX}*") if path.is_file())

    # ---- files

    def _file(self, schema: TableSchema, identity: str) -> Path:
        return self.results_dir / schema.name / f"{_checked_id(schema, identity)}.parquet"

    def samples_folder(self, cell_id: str) -> Path:
        """Where a cell's samples are, if it has any."""
        return self.results_dir / SAMPLES.name / _checked_id(SAMPLES, cell_id)

    def _write(self, path: Path, table: pa.Table) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not named *.parquet, so that no tool's pattern takes a file that is still being written.
        temporary = path.parent / f"{_TEMPORARY_PREFIX}{uuid.uuid4().hex}"
        try:
            with temporary.open("wb") as file:
                pq.write_table(table, file, **_WRITE_OPTIONS)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(path.parent)

    def _read_rows(
        self, schema: TableSchema, paths: Sequence[Path], *, within: str | None = None
    ) -> list[dict[str, Any]]:
        if len(paths) <= 1:
            tables = [self._read(schema, path, within) for path in paths]
        else:
            with ThreadPoolExecutor(_NUM_READERS) as readers:
                tables = list(readers.map(lambda path: self._read(schema, path, within), paths))
        found = [table for table in tables if table is not None]
        rows: list[dict[str, Any]] = pa.concat_tables(found).to_pylist() if found else []
        return rows

    def _read(self, schema: TableSchema, path: Path, within: str | None) -> pa.Table | None:
        """One file of a table; None where it was replaced or set aside. Its key column must hold its own name."""
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                table = file.read(use_threads=False)
            version = _version(schema, table, path)
            table = conform(schema, table, version=version)
            keys = set(pc.unique(table[schema.key]).to_pylist())
        except NewerSchemaError:
            raise
        except FileNotFoundError:
            return None
        except OSError as error:
            # Arrow's own complaint about broken bytes has no error number; a disk or permission error has one.
            if error.errno is not None:
                raise
            self._set_aside(path, error)
            return None
        except ValueError as error:
            self._set_aside(path, error)
            return None
        if not keys <= {within or path.stem}:
            self._set_aside(path, f"it holds rows of {schema.key} {', '.join(sorted(map(str, keys)))}")
            return None
        return table

    def _set_aside(self, path: Path, reason: object) -> None:
        target = path.with_name(path.name + _DAMAGED_SUFFIX)
        if target.exists():
            target = target.with_name(f"{target.name}-{uuid.uuid4().hex[:8]}")
        try:
            os.replace(path, target)
            outcome = f"set aside as {target.name}"
        except OSError as error:
            outcome = f"left out, and could not be renamed ({error.strerror})"
        message = f"{path} is damaged or not a file of this store, {outcome}: {reason}"
        self.warnings.append(message)
        _LOGGER.warning(message)


def _version(schema: TableSchema, table: pa.Table, path: Path) -> int:
    if "schema_version" not in table.column_names:
        raise ValueError("it has no column schema_version")
    versions = pc.unique(table["schema_version"]).to_pylist()
    newest = max((int(version) for version in versions if version is not None), default=schema.version)
    if newest > schema.version:
        raise NewerSchemaError(
            f"{path}: schema version {newest} of table {schema.name!r} is newer than version {schema.version}, "
            "the latest that this qstudy knows; install the qstudy that wrote it, or a later one"
        )
    return newest


def _checked_id(schema: TableSchema, identity: object) -> str:
    if not isinstance(identity, str) or not _ID.fullmatch(identity):
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


def _cell_order(row: Row) -> tuple[str, str, str]:
    return row["cell_id"], row["metric"], row["filter"]


def _existing(path: Path) -> list[Path]:
    return [path] if path.is_file() else []


def _parquet_files(folder: Path) -> list[Path]:
    """The complete files of a folder, by name; temporary names and files set aside do not end in .parquet."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries]
    return [folder / name for name in sorted(names) if name.endswith(".parquet") and not name.startswith(".")]


def _next_number(folder: Path) -> int:
    numbers = [int(match[0]) for path in _parquet_files(folder) if (match := re.match(r"\d+", path.name))]
    return max(numbers, default=-1) + 1


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where the system lets a folder be opened."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
