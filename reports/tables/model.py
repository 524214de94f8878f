"""A table as data: columns, rows of cells, and the cells of the study behind each number.

Printers (Markdown, LaTeX, terminal, CSV, JSON) show a `Table`; none of them computes a number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from reports.statistics import SIGNIFICANCE, Comparison, Interval, Severity

# `partial` is an average over only some of its cells; `reference` marks a full-precision row, which has no drop;
# `noise_floor` is a distance between seeds.
CellStatus = Literal["done", "partial", "reference", "noise_floor", "failed", "missing", "not_applicable"]
# `difference`, `drop` and `recovery` are against the same model's full precision, a `difference` beside a `published`
# score against that; a `verdict` is a word.
ColumnKind = Literal["task", "average", "difference", "drop", "recovery", "published", "verdict"]
# `mean` is several seeds of one variant; `noise_floor` is how far seeds of full precision are apart.
RowKind = Literal["variant", "mean", "noise_floor"]
Uncertainty = Literal["stderr", "interval", "none"]

SEVERITY_MARKS: dict[Severity, str] = {"negligible": "", "moderate": "†", "significant": "‡"}
SIGNIFICANT_MARK = "*"
_STATUS_WORDS: dict[CellStatus, str] = {
    "done": "-",
    "partial": "-",
    "reference": "",
    "noise_floor": "",
    "failed": "failed",
    "missing": "missing",
    "not_applicable": "n/a",
}


@dataclass(frozen=True, kw_only=True)
class Column:
    """A header cell: a task, the average of some tasks, or what became of one of these against full precision.

    `group` is the heading over it, if it has one. A column that `is_percentage` holds values in percent (a difference:
    in points); a drop or a recovery always does. `tasks` are the tasks that it is made of, `is_task` says that it
    stands for a single one by itself, `is_overall` that it sums up those of all groups. `uncertainty` is what is
    printed beside its numbers; `is_shaded` colours them by severity.
    """

    kind: ColumnKind
    title: str
    group: str
    tasks: tuple[str, ...]
    is_percentage: bool = True
    is_task: bool = False
    is_overall: bool = False
    uncertainty: Uncertainty = "stderr"
    is_shaded: bool = False


@dataclass(frozen=True, kw_only=True)
class TableCell:
    """One number and what is behind it.

    `value`, `stderr`, `interval` (95 %) and `comparison` (with the same model's full precision, item by item) are in
    the column's unit (percent, or the metric's own); `drop` is the relative change against full precision in percent,
    negative where it is worse, `recovery` the share of it that is left, in percent. `cell_ids` are the study's cells
    behind the number, `reference_cell_ids` those that it is compared with; `metric` is METRIC,FILTER where it is one
    task's. `is_best` says that no other row of its
    block is significantly better; None where it does not compete. `coverage` says for an average how many of how many
    tasks (or seeds) it has; `spread` is the standard deviation over `num_seeds` seeds. `word` is what stands in place
    of a number. `notes` are footnotes' numbers.
    """

    value: float | None = None
    stderr: float | None = None
    interval: Interval | None = None
    num_items: int | None = None
    status: CellStatus = "done"
    cell_ids: tuple[str, ...] = ()
    reference_cell_ids: tuple[str, ...] = ()
    metric: str | None = None
    comparison: Comparison | None = None
    drop: float | None = None
    recovery: float | None = None
    severity: Severity | None = None
    is_best: bool | None = None
    coverage: tuple[int, int] | None = None
    spread: float | None = None
    num_seeds: int | None = None
    word: str = ""
    notes: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """A row: its labels (one for each of the table's `label_titles`) and a cell for each column.

    `names`: model, scheme and method as the study has them; `variant_ids`: the variants that it shows; `seed`: that of
    a single variant.
    """

    labels: tuple[str, ...]
    cells: tuple[TableCell, ...]
    kind: RowKind = "variant"
    is_reference: bool = False
    names: Mapping[str, str] = field(default_factory=dict)
    variant_ids: tuple[str, ...] = ()
    seed: int | None = None

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
    """A table: `legend` explains how to read it, `remarks` say what is not in it, `footnotes` explain single cells.

    `name` is that of its spec; `num_tests` is how many tests its p-values are corrected for.
    """

    name: str
    title: str
    label_titles: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]
    num_tests: int = 0
    footnotes: tuple[Footnote, ...] = ()
    legend: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def cell_ids(self) -> frozenset[str]:
        """All of the study's cells behind this table, those compared with included."""
        cells = [cell for row in self.rows for cell in row.cells]
        return frozenset(cell_id for cell in cells for cell_id in (*cell.cell_ids, *cell.reference_cell_ids))


@dataclass(frozen=True, kw_only=True)
class ShownCell:
    """The parts of a cell's text, without any markup: `number` may be a word, the other parts may be empty."""

    number: str
    stderr: str = ""
    interval: tuple[str, str] | None = None
    mark: str = ""
    extra: str = ""
    notes: str = ""
    is_best: bool = False
    is_number: bool = False

    @property
    def text(self) -> str:
        """Number, uncertainty and what is said in brackets, in plain text; not the marks."""
        text = f"{self.number} ± {self.stderr}" if self.stderr else self.number
        text += f" [{', '.join(self.interval)}]" if self.interval else ""
        return text + (f" ({self.extra})" if self.extra else "")


def show_cell(cell: TableCell, column: Column) -> ShownCell:
    """A cell's text in parts: one decimal for percentages and points, four significant digits for other metrics."""
    notes = ",".join(map(str, cell.notes))
    if cell.word:
        return ShownCell(number=cell.word, notes=notes)
    if cell.value is None:
        word = "-" if not column.is_task and cell.status == "missing" else _STATUS_WORDS[cell.status]
        return ShownCell(number=word, notes=notes)
    is_signed = column.kind in ("difference", "drop") and cell.status != "noise_floor"
    interval = cell.interval if column.uncertainty == "interval" else None
    stderr = cell.stderr if column.uncertainty == "stderr" else None
    extra = [f"{cell.coverage[0]}/{cell.coverage[1]}"] if cell.coverage and cell.status == "partial" else []
    decimal = partial(decimal_text, is_percentage=column.is_percentage)
    extra += [] if cell.spread is None else [f"sd {decimal(cell.spread)}"]
    return ShownCell(
        number=decimal(cell.value, sign="+" if is_signed else "-"),
        stderr="" if stderr is None else decimal(stderr) if column.is_percentage else f"{stderr:.2g}",
        interval=None if interval is None else (decimal(interval[0]), decimal(interval[1])),
        mark=_mark(cell, column),
        extra=", ".join(extra),
        notes=notes,
        is_best=bool(cell.is_best),
        is_number=True,
    )


def _mark(cell: TableCell, column: Column) -> str:
    if column.kind == "difference":
        adjusted = cell.comparison.adjusted_p if cell.comparison else None
        return SIGNIFICANT_MARK if adjusted is not None and adjusted < SIGNIFICANCE else ""
    if column.kind in ("drop", "recovery") or column.is_shaded:
        return SEVERITY_MARKS[cell.severity] if cell.severity else ""
    return ""


def decimal_text(value: float, *, is_percentage: bool, sign: Literal["+", "-"] = "-") -> str:
    """A number as tables show it; `sign` "+" writes that of a gain, too. Zero has none."""
    text = f"{value:{sign}.1f}" if is_percentage else f"{value:{sign}.4g}"
    return text[1:] if text in ("-0.0", "+0.0", "-0", "+0") else text
