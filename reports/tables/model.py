"""A table as data: columns, rows of cells, and the cells of the study behind each number.

Printers (Markdown, LaTeX, terminal, CSV, JSON) show a `Table`; none of them computes a number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from reports.statistics import Severity

# `partial` is an average over only some of its cells; `reference` marks a full-precision row, which has no drop.
CellStatus = Literal["done", "partial", "reference", "failed", "missing", "not_applicable"]
ColumnKind = Literal["task", "average", "drop"]

SEVERITY_MARKS: dict[Severity, str] = {"negligible": "", "moderate": "†", "significant": "‡"}
_STATUS_WORDS: dict[CellStatus, str] = {
    "done": "-",
    "partial": "-",
    "reference": "",
    "failed": "failed",
    "missing": "missing",
    "not_applicable": "n/a",
}


@dataclass(frozen=True, kw_only=True)
class Column:
    """A header cell: a task, the average of some tasks, or the relative drop of one of these.

    `group` is the task group, or "all". A column that `is_percentage` holds values in percent; a drop always does.
    `tasks` are the tasks that an average or a drop is made of.
    """

    kind: ColumnKind
    title: str
    group: str
    tasks: tuple[str, ...]
    is_percentage: bool = True


@dataclass(frozen=True, kw_only=True)
class TableCell:
    """One number and what is behind it.

    `value` and `stderr` are in the column's unit (percent, or the metric's own), `drop` is the relative change against
    the same model's full precision in percent, negative where it is worse. `cell_ids` are the study's cells behind the
    number, `coverage` says for an average how many of how many tasks it has, `notes` are numbers of footnotes.
    """

    value: float | None = None
    stderr: float | None = None
    num_items: int | None = None
    status: CellStatus = "done"
    cell_ids: tuple[str, ...] = ()
    drop: float | None = None
    severity: Severity | None = None
    coverage: tuple[int, int] | None = None
    notes: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """A row: its labels (one for each of the table's `label_titles`) and a cell for each column."""

    labels: tuple[str, ...]
    cells: tuple[TableCell, ...]
    is_reference: bool = False

    @property
    def block(self) -> tuple[str, ...]:
        """What the rows of one block share: all labels but the last."""
        return self.labels[:-1]


@dataclass(frozen=True, kw_only=True)
class Footnote:
    """Why cells of the table are failed, missing, or without a claim; `cell_ids` are the study's cells concerned."""

    number: int
    text: str
    cell_ids: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table: `legend` explains how to read it, `remarks` say what is not in it, `footnotes` explain single cells."""

    title: str
    label_titles: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]
    footnotes: tuple[Footnote, ...] = ()
    legend: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def cell_ids(self) -> frozenset[str]:
        """All of the study's cells behind this table."""
        return frozenset(cell_id for row in self.rows for cell in row.cells for cell_id in cell.cell_ids)


@dataclass(frozen=True, kw_only=True)
class ShownCell:
    """The parts of a cell's text, without any markup: `number` may be a word, the other parts may be empty."""

    number: str
    stderr: str = ""
    mark: str = ""
    coverage: str = ""
    notes: str = ""


def show_cell(cell: TableCell, column: Column) -> ShownCell:
    """A cell's text in parts: one decimal for percentages, four significant digits for other metrics."""
    notes = ",".join(map(str, cell.notes))
    if cell.value is None:
        word = "-" if column.kind != "task" and cell.status == "missing" else _STATUS_WORDS[cell.status]
        return ShownCell(number=word, notes=notes)
    if column.kind == "drop":
        mark = SEVERITY_MARKS[cell.severity] if cell.severity else ""
        return ShownCell(number=_one_decimal(cell.value, "+"), mark=mark, notes=notes)
    number, stderr = (
        (_one_decimal(cell.value), "" if cell.stderr is None else _one_decimal(cell.stderr))
        if column.is_percentage
        else (f"{cell.value:.4g}", "" if cell.stderr is None else f"{cell.stderr:.2g}")
    )
    covered = f"{cell.coverage[0]}/{cell.coverage[1]}" if cell.coverage and cell.status == "partial" else ""
    return ShownCell(number=number, stderr=stderr, coverage=covered, notes=notes)


def _one_decimal(value: float, sign: str = "-") -> str:
    text = f"{value:{sign}.1f}"
    return "0.0" if text in ("-0.0", "+0.0") else text
