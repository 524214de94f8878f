"""Tables as data, and the builder of the study's main table.

What stands in a table is decided here; how it looks is the printers' matter. No file is read or written here.
"""

from reports.tables.grid import REFERENCE_SCHEME, TableOrder, model_labels
from reports.tables.model import (
    SEVERITY_MARKS,
    CellStatus,
    Column,
    ColumnKind,
    Footnote,
    ShownCell,
    Table,
    TableCell,
    TableRow,
    show_cell,
)
from reports.tables.study import build_study_table

__all__ = [
    "REFERENCE_SCHEME",
    "SEVERITY_MARKS",
    "CellStatus",
    "Column",
    "ColumnKind",
    "Footnote",
    "ShownCell",
    "Table",
    "TableCell",
    "TableOrder",
    "TableRow",
    "build_study_table",
    "model_labels",
    "show_cell",
]
