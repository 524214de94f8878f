"""What figures are drawn from: one table of the whole study, and the store's rows behind it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from grids.schemes import FULL_PRECISION_BITS, parse_scheme
from reports.schemas import Row
from reports.statistics import Interval, normal_interval
from reports.tables import Column, Table, TableCell, TableRow, TableSpec

# Of each variant its scores, what became of full precision, and the averages; seeds of a variant are one row.
FIGURE_TABLE = TableSpec(
    name="figures",
    title="What the figures show",
    task_columns=("score", "difference"),
    summaries=("average", "drop"),
    best=None,
    shade=(),
    seeds="mean",
    noise_floor=False,
)
# More method labels than this, and variants of one method share its mark.
MAX_SERIES = 14
_STATUS_WORDS = {"failed": "failed", "missing": "missing", "not_applicable": "n/a", "partial": "partial"}


@dataclass(frozen=True)
class Measured:
    """A number with its 95 % interval, where it has one."""

    value: float
    interval: Interval | None = None

    @property
    def errors(self) -> tuple[float, float]:
        """How far the interval reaches below and above the number."""
        low, high = self.interval or (self.value, self.value)
        return max(0.0, self.value - low), max(0.0, high - self.value)


@dataclass(frozen=True)
class NoFigure:
    """Why a study has no such figure."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class VariantScore:
    """A quantized variant and its score over all tasks, None where one is not there; `cell_ids` are behind it."""

    model: str
    scheme: str
    method: str
    series: str
    score: Measured | None
    cell_ids: tuple[str, ...]
    row: TableRow

    @property
    def quantizes_activations(self) -> bool:
        return any(bits < FULL_PRECISION_BITS for bits in parse_scheme(self.scheme).operand_bits[1:])


@dataclass(frozen=True, kw_only=True, eq=False)
class FigureSource:
    """`table` is made of `FIGURE_TABLE`; `cells` and `variants` are the store's rows."""

    table: Table
    cells: Sequence[Row] = ()
    variants: Sequence[Row] = ()

    @property
    def rows(self) -> list[TableRow]:
        """The quantized variants."""
        return [row for row in self.table.rows if not row.is_reference]

    @cached_property
    def models(self) -> tuple[str, ...]:
        """The models' labels, in order."""
        return tuple(dict.fromkeys(row.labels[0] for row in self.table.rows))

    @cached_property
    def variant_rows(self) -> Mapping[str, Row]:
        return {row["variant_id"]: row for row in self.variants}

    @cached_property
    def _methods(self) -> Mapping[str, str]:
        return {row["variant_id"]: row["method"] for row in self.cells}

    @cached_property
    def _has_few_labels(self) -> bool:
        return len({row.names["method"] for row in self.rows}) <= MAX_SERIES

    def series_of(self, row: TableRow) -> str:
        """What a variant is drawn as: its method label, or its method where there are too many labels."""
        label = row.names["method"]
        return label if self._has_few_labels else self._methods.get(row.variant_ids[0], label)

    @cached_property
    def series(self) -> tuple[str, ...]:
        """All series in the table's order; every figure gives them the same marks."""
        return tuple(dict.fromkeys(self.series_of(row) for row in self.rows))

    # ---- scores over all tasks

    @cached_property
    def overall(self) -> tuple[int, Column] | None:
        """The column of the score over all tasks; None where no task is scored in percent."""
        scores = [(place, column) for place, column in self._columns("task", "average") if column.is_percentage]
        return max(scores, key=lambda found: len(found[1].tasks), default=None)

    @property
    def overall_title(self) -> str:
        """What that score is, for an axis."""
        assert self.overall is not None
        tasks = self.overall[1].tasks
        return f"Average of {len(tasks)} tasks (%)" if len(tasks) > 1 else f"{tasks[0]} (%)"

    def scores(self) -> list[VariantScore]:
        """The quantized variants with their scores over all tasks; needs `overall`."""
        assert self.overall is not None
        place = self.overall[0]
        return [
            VariantScore(
                model=row.labels[0],
                scheme=row.names["scheme"],
                method=row.labels[2],
                series=self.series_of(row),
                score=measured(row.cells[place]),
                cell_ids=row.cells[place].cell_ids,
                row=row,
            )
            for row in self.rows
        ]

    def full_precision(self, model: str) -> Measured | None:
        """The score over all tasks of a model at full precision, if it has one of these."""
        assert self.overall is not None
        found = [row for row in self.table.rows if row.is_reference and row.labels[0] == model]
        return measured(found[0].cells[self.overall[0]]) if len(found) == 1 else None

    # ---- columns

    def columns(self, kind: str) -> list[tuple[int, Column]]:
        """The columns of a kind with their places."""
        return list(self._columns(kind))

    def _columns(self, *kinds: str) -> Iterator[tuple[int, Column]]:
        for place, column in enumerate(self.table.columns):
            if column.kind in kinds:
                yield place, column

    def word(self, row: TableRow, column: Column, cell: TableCell) -> str:
        """What is said in place of a number: the worst that became of the tasks behind it."""
        if cell.value is not None and cell.status != "partial":
            return ""
        statuses = {
            row.cells[place].status for place, task in self._columns("task") if set(task.tasks) <= set(column.tasks)
        }
        for status in ("failed", "missing", "partial", "not_applicable"):
            if status in statuses:
                return _STATUS_WORDS[status]
        return "no reference"


def measured(cell: TableCell) -> Measured | None:
    """A whole cell's number; None for one that is not there, or an average that misses some of its scores."""
    if cell.value is None or cell.status == "partial":
        return None
    interval = cell.interval
    if interval is None and cell.stderr is not None:
        interval = normal_interval(cell.value, cell.stderr)
    return Measured(cell.value, interval)
