"""What becomes of a study's numbers: the results store (Parquet), statistics, tables, and their printers.

Reads and writes results; never imports torch, Ray, transformers or lm-eval, so that tables render on a machine with
none of them, and never runs or plans anything.
"""

from reports.files import StorageError, write_file
from reports.report import PRINTERS, Report, build_report, write_report
from reports.schemas import CELLS, SAMPLES, SCORES, VARIANTS, TableSchema
from reports.statistics import (
    SEVERITY_RULE,
    Severity,
    mean,
    relative_change,
    severity,
    standard_error,
    standard_error_of_average,
)
from reports.store import ResultStore
from reports.tables import Table, TableCell, TableOrder, TableRow, build_study_table

REPORT_FORMATS = tuple(PRINTERS)

__all__ = [
    "CELLS",
    "REPORT_FORMATS",
    "SAMPLES",
    "SCORES",
    "SEVERITY_RULE",
    "VARIANTS",
    "Report",
    "ResultStore",
    "Severity",
    "StorageError",
    "Table",
    "TableCell",
    "TableOrder",
    "TableRow",
    "TableSchema",
    "build_report",
    "build_study_table",
    "mean",
    "relative_change",
    "severity",
    "standard_error",
    "standard_error_of_average",
    "write_file",
    "write_report",
]
