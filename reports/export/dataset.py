"""A study's results as a data set to publish: tidy Parquet and CSV, samples on request, a README with the schema."""

from __future__ import annotations

import csv
import hashlib
import os
import uuid
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from reports.export.columns import RESULTS, SAMPLES, ResultSource, SampleSource, arrow_schema, arrow_table
from reports.export.readme import DataFile, dataset_readme
from reports.plain_text import one_line
from reports.schemas import Row
from reports.store import ResultStore

# A spreadsheet takes a cell that begins so for a formula; the last four are their full-width forms.
_FORMULA_STARTS = tuple("=+-@\uff1d\uff0b\uff0d\uff20")


def export_dataset(
    store: ResultStore, out_dir: Path, *, study: str, expected: Sequence[Row] = (), samples: bool = False
) -> list[Path]:
    """Write a study's data set into `out_dir` and return its files; files of the same names are replaced.

    `expected` are the cells of the study's description: those without a result get a row that says so. Raises
    ValueError for a study without results, before anything is written.
    """
    sources = result_sources(store, study=study, expected=expected)
    if not any(source.status in ("done", "failed") for source in sources):
        raise ValueError(f"no results in {store.results_dir}: run the study first (qstudy run)")
    out_dir.mkdir(parents=True, exist_ok=True)
    table = arrow_table(RESULTS, sources)
    files = []
    with replacing(out_dir / "results.parquet") as temporary:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)
    files.append(_described(out_dir / "results.parquet", len(table), RESULTS))
    with replacing(out_dir / "results.csv") as temporary:
        _write_csv(table, temporary)
    files.append(_described(out_dir / "results.csv", len(table), RESULTS))
    if samples:
        with replacing(out_dir / "samples.parquet") as temporary:
            num_rows = _write_samples(store, sources, temporary)
        files.append(_described(out_dir / "samples.parquet", num_rows, SAMPLES))
    with replacing(out_dir / "README.md") as temporary:
        temporary.write_text(dataset_readme(study, sources, files), encoding="utf-8")
    return [*(out_dir / file.name for file in files), out_dir / "README.md"]


def result_sources(store: ResultStore, *, study: str, expected: Sequence[Row]) -> list[ResultSource]:
    """A source per cell and metric: the grid's cells in its order, then older ones by id; primary metrics first."""
    variants = {row["variant_id"]: row for row in store.variants()}
    recorded: dict[str, list[Row]] = defaultdict(list)
    for recorded_row in store.cells():
        recorded[recorded_row["cell_id"]].append(recorded_row)
    current = {cell["cell_id"]: cell for cell in expected}
    sources = []
    for cell_id in dict.fromkeys([*current, *recorded]):
        rows: list[Row] = sorted(recorded.get(cell_id, ()), key=lambda row: not row["is_primary"])
        for row in rows or [current[cell_id]]:
            variant = variants.get(row["variant_id"])
            sources.append(ResultSource(study, row, _status(row), current.get(cell_id), variant))
    return sources


def _status(row: Row) -> str:
    if "status" in row:
        return str(row["status"])
    return "not_applicable" if row.get("not_applicable") else "missing"


def _write_samples(store: ResultStore, sources: Sequence[ResultSource], path: Path) -> int:
    """One row group per cell, so that a study of any size is written with one cell in memory."""
    num_rows = 0
    cells = {source.row["cell_id"]: source.row for source in sources}
    with pq.ParquetWriter(path, arrow_schema(SAMPLES), compression="zstd", write_page_checksum=True) as writer:
        for cell_id, cell in cells.items():
            rows = store.samples(cell_id)
            if rows:
                scores: dict[int | None, dict[str, float]] = defaultdict(dict)
                for score in store.scores(cell_id):
                    scores[score["doc_id"]][f"{score['metric']},{score['filter']}"] = score["value"]
                writer.write_table(
                    arrow_table(SAMPLES, [SampleSource(row, cell, scores.get(row["doc_id"], {})) for row in rows])
                )
                num_rows += len(rows)
    return num_rows


def _write_csv(table: pa.Table, path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table.column_names)
        writer.writerows(
            [csv_cell(value) for value in row.values()] for batch in table.to_batches() for row in batch.to_pylist()
        )


def csv_cell(value: Any) -> str:
    """A value as CSV text: null is empty, numbers in full, times as ISO 8601, and text that no program acts on.

    Text goes on one line without control or reordering characters; text that a spreadsheet would take for a formula
    gets an apostrophe in front. Parquet has it as it is.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.isoformat()
    if not isinstance(value, str):
        return repr(value)
    text = one_line(value)
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file that takes the place of `path` when it is whole."""
    temporary = path.parent / f".tmp-{uuid.uuid4().hex}"
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _described(path: Path, num_rows: int, columns: Sequence[Any]) -> DataFile:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return DataFile(path.name, num_rows, digest, columns)
