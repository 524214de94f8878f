"""Tables as data: specs of what they show, and the builder that fills them from a study's results.

What stands in a table is decided here; how it looks is the printers' matter. Only specs are read from files here.
"""

from reports.tables.evidence import MatrixSource
from reports.tables.grid import REFERENCE_SCHEME, Layout, TableOrder, TaskColumn, lay_out, model_labels
from reports.tables.model import (
    SEVERITY_MARKS,
    SIGNIFICANT_MARK,
    CellStatus,
    Column,
    ColumnKind,
    Footnote,
    RowKind,
    ShownCell,
    Table,
    TableCell,
    TableRow,
    decimal_text,
    show_cell,
)
from reports.tables.rows import RowSource, find_rows
from reports.tables.spec import DEFAULT_TABLES, PAPER_TABLES, TableSpec, read_table_spec, table_names
from reports.tables.study import build_study_table

__all__ = [
    "DEFAULT_TABLES",
    "PAPER_TABLES",
    "REFERENCE_SCHEME",
    "SEVERITY_MARKS",
    "SIGNIFICANT_MARK",
    "CellStatus",
    "Column",
    "ColumnKind",
    "Footnote",
    "Layout",
    "MatrixSource",
    "RowKind",
    "RowSource",
    "ShownCell",
    "Table",
    "TableCell",
    "TableOrder",
    "TableRow",
    "TableSpec",
    "TaskColumn",
    "build_study_table",
    "decimal_text",
    "find_rows",
    "lay_out",
    "model_labels",
    "read_table_spec",
    "show_cell",
    "table_names",
]
