"""The study's main table: rows by model, scheme and method; columns by task; averages and drops recomputed."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from reports.schemas import Row
from reports.statistics import (
    SEVERITY_RULE,
    mean,
    relative_change,
    severity,
    standard_error_of_average,
)
from reports.tables.grid import Entry, Layout, TableOrder, TaskColumn, VariantRow, lay_out
from reports.tables.model import SEVERITY_MARKS, Column, Footnote, Table, TableCell, TableRow

ALL_TASKS = "all"
_LABEL_TITLES = ("Model", "Scheme", "Method")
_NOT_COMPUTED = "missing: not computed"


def build_study_table(
    cells: Sequence[Row],
    order: TableOrder | None = None,
    expected: Sequence[Row] | None = None,
    *,
    variants: Sequence[Row] = (),
    title: str = "Scores by task, and drop against full precision",
) -> Table:
    """The table of a study from the store's rows of `cells`.

    A block of rows per model x scheme (full precision first), a row per variant, a column per task, an average per task
    group and over all tasks, and the relative drop of each against the same model's full precision. Task columns whose
    metric is better when higher and whose values lie in [0, 1] are shown in percent; only these enter averages, each
    with the same weight. An average that misses a cell says over how many it is, and has no drop and no severity.

    `expected` lists the cells of the grid (`cell_id`, `variant_id`, `model`, `method_label`, `scheme`, `task`,
    `task_group`, optionally `num_fewshot` and `not_applicable`, a reason): cells without a result are then marked and
    footnoted, and stored cells that are not among them are left out with a remark. `variants` (rows of the store) tell
    a cell that is missing because its variant failed. Raises ValueError for an expected cell without one of its keys.
    """
    order = order or TableOrder()
    layout = lay_out(cells, order, expected)
    failed_variants = {row["variant_id"]: row for row in variants if row["status"] == "failed"}
    return _Builder(layout, failed_variants, is_grid_known=expected is not None).build(title)


@dataclass(frozen=True)
class _Average:
    """A column that is made of others: their plain mean."""

    group: str
    parts: tuple[TaskColumn, ...]


class _Builder:
    def __init__(self, layout: Layout, failed_variants: dict[str, Row], *, is_grid_known: bool) -> None:
        self._layout = layout
        self._failed_variants = failed_variants
        self._is_grid_known = is_grid_known
        self._notes: dict[str, list[str]] = {}
        stored = {column: layout.column_rows(column) for column in layout.columns}
        self._percentages = {column for column, rows in stored.items() if _is_percentage(rows)}
        self._lower_is_better = {column for column, rows in stored.items() if not _is_higher_better(rows)}
        self._averages = self._find_averages()
        self._columns = self._find_columns()
        self._references = {row.variant_id: self._find_reference(row) for row in layout.rows}
        # Notes are numbered as a reader meets them, row by row.
        self._task_cells = {
            (row.variant_id, column): self._task_cell(row, column) for row in layout.rows for column in layout.columns
        }

    def build(self, title: str) -> Table:
        rows = tuple(self._row(row) for row in self._layout.rows)
        footnotes = tuple(
            Footnote(number=number, text=text, cell_ids=tuple(dict.fromkeys(cell_ids)))
            for number, (text, cell_ids) in enumerate(self._notes.items(), start=1)
        )
        return Table(
            title=title,
            label_titles=_LABEL_TITLES,
            columns=tuple(column for column, _ in self._columns),
            rows=rows,
            footnotes=footnotes,
            legend=self._legend(rows),
            remarks=tuple(self._layout.remarks),
        )

    # ---- columns

    def _find_averages(self) -> list[_Average]:
        groups: dict[str, list[TaskColumn]] = defaultdict(list)
        for column in self._layout.columns:
            if column in self._percentages:
                groups[column.group].append(column)
        averages = [_Average(group, tuple(parts)) for group, parts in groups.items()]
        if len(averages) > 1:
            averages.append(_Average(ALL_TASKS, tuple(part for average in averages for part in average.parts)))
        return averages

    def _find_columns(self) -> list[tuple[Column, TaskColumn | _Average]]:
        """Each group's tasks, its average where there are several, its drop; at the end the same over all tasks.

        A column comes with what it shows.
        """
        columns: list[tuple[Column, TaskColumn | _Average]] = []
        by_group = {average.group: average for average in self._averages}
        for group in dict.fromkeys(column.group for column in self._layout.columns):
            for task in self._layout.columns:
                if task.group == group:
                    columns.append((_task_column(task, is_percentage=task in self._percentages), task))
            if group in by_group:
                columns += _average_columns(by_group.pop(group))
        for average in by_group.values():
            columns += _average_columns(average)
        return columns

    # ---- cells

    def _row(self, row: VariantRow) -> TableRow:
        cells = []
        for column, source in self._columns:
            if isinstance(source, TaskColumn):
                cells.append(self._with_task_drop(row, source))
            elif column.kind == "average":
                cells.append(self._average_cell(row, source))
            else:
                cells.append(self._drop_cell(row, source))
        return TableRow(labels=row.labels, cells=tuple(cells), is_reference=row.is_reference)

    def _task_cell(self, row: VariantRow, column: TaskColumn) -> TableCell:
        entry = self._layout.entries.get((row.variant_id, column))
        if entry is None:
            reason = "not in the grid" if self._is_grid_known else _NOT_COMPUTED
            return TableCell(
                status="not_applicable" if self._is_grid_known else "missing", notes=(self._note(reason, ()),)
            )
        value = entry.value
        if value is None:
            return self._empty_cell(entry)
        scale = 100.0 if column in self._percentages else 1.0
        stored = entry.row or {}
        stderr = stored.get("stderr")
        return TableCell(
            value=scale * value,
            stderr=scale * stderr if stderr is not None and math.isfinite(stderr) else None,
            num_items=stored.get("num_items"),
            cell_ids=(entry.cell_id,),
        )

    def _empty_cell(self, entry: Entry) -> TableCell:
        """A cell without a number: failed, not applicable, or missing, with the reason as a footnote."""
        ids = (entry.cell_id,)
        failed_variant = self._failed_variants.get(entry.variant_id)
        if entry.row is not None:
            note = (
                _failure(entry.row, "failed") if entry.row["status"] == "failed" else "failed: the score is not finite"
            )
            return TableCell(status="failed", cell_ids=ids, notes=(self._note(note, ids),))
        if entry.not_applicable:
            note = f"not applicable: {entry.not_applicable}"
            return TableCell(status="not_applicable", cell_ids=ids, notes=(self._note(note, ids),))
        if failed_variant is not None:
            note = _failure(failed_variant, "failed while quantizing")
            return TableCell(status="failed", cell_ids=ids, notes=(self._note(note, ids),))
        return TableCell(status="missing", cell_ids=ids, notes=(self._note(_NOT_COMPUTED, ids),))

    def _with_task_drop(self, row: VariantRow, column: TaskColumn) -> TableCell:
        cell = self._task_cells[row.variant_id, column]
        reference = self._references[row.variant_id]
        if reference is None or cell.value is None:
            return cell
        baseline = self._task_cells[reference.variant_id, column].value
        if baseline is None:
            return cell
        change = relative_change(cell.value, baseline, higher_is_better=column not in self._lower_is_better)
        return replace(cell, drop=change, severity=None if change is None else severity(change))

    def _average_cell(self, row: VariantRow, average: _Average) -> TableCell:
        done = self._done_parts(row, average)
        coverage = (len(done), len(average.parts))
        if not done:
            return TableCell(status="missing", coverage=coverage)
        num_items = [cell.num_items for cell in done if cell.num_items is not None]
        change = self._average_change(row, average)
        return TableCell(
            value=_mean_value(done),
            stderr=standard_error_of_average([cell.stderr for cell in done]),
            num_items=sum(num_items) if len(num_items) == len(done) else None,
            status="done" if coverage[0] == coverage[1] else "partial",
            cell_ids=_cell_ids(done),
            drop=change,
            severity=None if change is None else severity(change),
            coverage=coverage,
        )

    def _drop_cell(self, row: VariantRow, average: _Average) -> TableCell:
        if row.is_reference:
            return TableCell(status="reference")
        reference = self._references[row.variant_id]
        if reference is None:
            note = self._note(f"no drop: no full-precision row of {row.labels[0]} to compare with", ())
            return TableCell(status="missing", notes=(note,))
        own, base = self._done_parts(row, average), self._done_parts(reference, average)
        change = self._average_change(row, average)
        if change is not None:
            return TableCell(value=change, drop=change, severity=severity(change), cell_ids=_cell_ids([*own, *base]))
        if len(own) < len(average.parts):
            return TableCell(status="missing", cell_ids=_cell_ids([*own, *base]))
        why = "is incomplete" if len(base) < len(average.parts) else "scores 0"
        note = self._note(f"no drop: the full-precision row of {row.labels[0]} {why}", ())
        return TableCell(status="missing", cell_ids=_cell_ids([*own, *base]), notes=(note,))

    def _average_change(self, row: VariantRow, average: _Average) -> float | None:
        """The relative change of a complete average against the reference's complete average."""
        reference = self._references[row.variant_id]
        if reference is None:
            return None
        own, base = self._done_parts(row, average), self._done_parts(reference, average)
        if len(own) < len(average.parts) or len(base) < len(average.parts):
            return None
        return relative_change(_mean_value(own), _mean_value(base))

    def _done_parts(self, row: VariantRow, average: _Average) -> list[TableCell]:
        cells = [self._task_cells[row.variant_id, part] for part in average.parts]
        return [cell for cell in cells if cell.value is not None]

    def _find_reference(self, row: VariantRow) -> VariantRow | None:
        """The full-precision row to compare with: the model's only one, or of several the one with the same seeds."""
        if row.is_reference:
            return None
        references = [other for other in self._layout.rows if other.is_reference and other.model == row.model]
        if len(references) > 1:
            references = [other for other in references if other.seeds == row.seeds]
        return references[0] if len(references) == 1 else None

    # ---- words

    def _note(self, text: str, cell_ids: tuple[str, ...]) -> int:
        self._notes.setdefault(text, []).extend(cell_ids)
        return list(self._notes).index(text) + 1

    def _legend(self, rows: Sequence[TableRow]) -> tuple[str, ...]:
        lines = []
        if self._percentages:
            lines.append("Scores are in percent, ± one standard error over the items.")
        described = [_describe(column, self._layout.column_rows(column)) for column in self._layout.columns]
        lines.append("Tasks: " + "; ".join(described) + ".")
        others = [column.title for column in self._layout.columns if column not in self._percentages]
        if others:
            lines.append(f"Not in percent, and in no average: {', '.join(others)}.")
        if self._averages:
            lines.append("avg: the plain mean of the tasks of the group (all: of every task), its error from theirs.")
            lines.append(
                "drop: the change of that mean (or of the group's only task) in percent of the same model's full "
                "precision (fp16); negative is worse."
            )
            moderate, significant = SEVERITY_MARKS["moderate"], SEVERITY_MARKS["significant"]
            lines.append(f"Severity: {moderate} moderate, {significant} significant; {SEVERITY_RULE}.")
        if any(cell.status == "partial" for row in rows for cell in row.cells):
            lines.append("(k/n): an average over only k of its n tasks; it has no drop and no severity.")
        return tuple(lines)


def _task_column(task: TaskColumn, *, is_percentage: bool) -> Column:
    return Column(kind="task", title=task.title, group=task.group, tasks=(task.title,), is_percentage=is_percentage)


def _average_columns(average: _Average) -> list[tuple[Column, TaskColumn | _Average]]:
    """The average and its drop; the average of a single task would only repeat it."""
    tasks = tuple(part.title for part in average.parts)
    drop = Column(kind="drop", title="drop %", group=average.group, tasks=tasks)
    if len(tasks) == 1:
        return [(drop, average)]
    return [(Column(kind="average", title="avg", group=average.group, tasks=tasks), average), (drop, average)]


def _mean_value(cells: Sequence[TableCell]) -> float:
    return mean([cell.value for cell in cells if cell.value is not None])


def _cell_ids(cells: Sequence[TableCell]) -> tuple[str, ...]:
    return tuple(cell_id for cell in cells for cell_id in cell.cell_ids)


def _is_higher_better(rows: Sequence[Row]) -> bool:
    return all(row["higher_is_better"] is not False for row in rows)


def _is_percentage(rows: Sequence[Row]) -> bool:
    """Whether a column holds shares: higher is better, and every value lies in [0, 1]."""
    return _is_higher_better(rows) and all(0.0 <= row["value"] <= 1.0 for row in rows if math.isfinite(row["value"]))


def _failure(row: Row, what: str) -> str:
    message = row.get("failure_message")
    return f"{what} ({row['failure_kind']})" + (f": {message}" if message else "")


def _describe(column: TaskColumn, rows: Sequence[Row]) -> str:
    """A task's metric, filter, shots and number of items, as they are stored."""
    parts: list[str] = []
    values: tuple[Callable[[Row], str | None], ...] = (
        lambda row: row["metric"],
        lambda row: None if row["filter"] in ("", "none") else f"filter {row['filter']}",
        lambda row: None if row["num_fewshot"] is None else f"{row['num_fewshot']}-shot",
        lambda row: None if row["num_items"] is None else f"{row['num_items']} items",
    )
    for value in values:
        found = sorted({text for text in map(value, rows) if text is not None})
        parts += [" or ".join(found)] if found else []
    return f"{column.title} ({', '.join(parts) or 'no result'})"
