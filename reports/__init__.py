"""What becomes of a study's numbers: the results store (Parquet), statistics, tables, and their printers.

Reads and writes results; never imports torch, Ray, transformers or lm-eval, so that tables render on a machine with
none of them, and never runs or plans anything.
"""

from reports.files import StorageError, write_file
from reports.items import ItemLibrary, ItemScores, score_matrices
from reports.report import PRINTERS, Report, build_report, write_report
from reports.schemas import CELLS, SAMPLES, SCORES, VARIANTS, TableSchema
from reports.store import EndedCell, ResultStore
from reports.tables import (
    DEFAULT_TABLES,
    PAPER_TABLES,
    Table,
    TableCell,
    TableOrder,
    TableRow,
    TableSpec,
    build_study_table,
    read_table_spec,
    table_names,
)

REPORT_FORMATS = tuple(PRINTERS)

__all__ = [
    "CELLS",
    "DEFAULT_TABLES",
    "PAPER_TABLES",
    "REPORT_FORMATS",
    "SAMPLES",
    "SCORES",
    "VARIANTS",
    "EndedCell",
    "ItemLibrary",
    "ItemScores",
    "Report",
    "ResultStore",
    "StorageError",
    "Table",
    "TableCell",
    "TableOrder",
    "TableRow",
    "TableSchema",
    "TableSpec",
    "build_report",
    "build_study_table",
    "read_table_spec",
    "score_matrices",
    "table_names",
    "write_file",
    "write_report",
]
