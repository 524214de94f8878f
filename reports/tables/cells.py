"""The cells of a table: each row's scores and averages, and what became of full precision."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from reports.schemas import Row
from reports.statistics import (
    Comparison,
    Key,
    mean,
    relative_change,
    scaled,
    scaled_interval,
    severity,
    standard_error_of_average,
)
from reports.tables.devices import mixed_devices
from reports.tables.evidence import Evidence, Parts, best_rows, corrected
from reports.tables.grid import Entry, Layout, TaskColumn, model_labels
from reports.tables.model import ColumnKind, TableCell
from reports.tables.notes import Notes
from reports.tables.rows import RowSource
from reports.tables.spec import Axis

_NOT_COMPUTED = "missing: not computed"


class Cells:
    """Makes the cells of a layout's rows. Parts of one task stand for the task itself, several for their average."""

    def __init__(
        self,
        layout: Layout,
        rows: Sequence[RowSource],
        evidence: Evidence,
        failed_variants: Mapping[str, Row],
        notes: Notes,
        *,
        is_grid_known: bool,
    ) -> None:
        self._layout = layout
        self._evidence = evidence
        self._failed_variants = failed_variants
        self._notes = notes
        self._is_grid_known = is_grid_known
        self.percentages = layout.percentages()
        self._lower_is_better = layout.lower_is_better()
        self._mixed_devices = mixed_devices(layout)
        self._models = model_labels(row.names["model"] for row in rows)
        self._references = {
            row.key: replace(row, variant_ids=row.references, references=()) for row in rows if row.references
        }
        # Notes are numbered as a reader meets them, row by row.
        self._task_cells = {
            ((variant_id,), column): self._task_cell(variant_id, column)
            for variant_id in dict.fromkeys(variant_id for row in rows for variant_id in row.variant_ids)
            for column in layout.columns
        }
        self._scores: dict[tuple[Key, Parts], TableCell] = {}
        self._comparisons: dict[tuple[Key, Parts], Comparison] = {}
        self._best: dict[tuple[Key, Parts], bool] = {}

    def judge(
        self, rows: Sequence[RowSource], tested: Sequence[Parts], ranked: Sequence[Parts], best: tuple[Axis, ...] | None
    ) -> int:
        """Compare all rows with full precision in the columns `tested`, and rank them in the columns `ranked`.

        `best`: what the rows of a block share; None ranks nothing. Returns the number of tests.
        """
        found = {
            (row.key, parts): comparison
            for row in rows
            for parts in dict.fromkeys(tested)
            if (comparison := self._compare(row, parts)) is not None
        }
        self._comparisons = corrected(found)
        competing = _competing(rows) if best else []
        blocks = {row.key: tuple(row.names[axis] for axis in best or ()) for row in competing}
        for parts in dict.fromkeys(ranked):
            scores = {
                row.key: cell.value
                for row in competing
                if (cell := self.score(row, parts)).value is not None
                and cell.status == "done"
                and all(self._evidence.knows(part, row.key) for part in parts)
            }
            is_best = best_rows(
                scores,
                blocks,
                partial(self._evidence.compare, parts),
                higher_is_better=not self._is_lower_better(parts),
            )
            self._best |= {(key, parts): flag for key, flag in is_best.items()}
        return len(found)

    def cell(self, row: RowSource, kind: ColumnKind, parts: Parts) -> TableCell:
        """The cell of a row in a column."""
        if row.kind == "noise_floor":
            return self._noise_floor(row, kind, parts)
        if kind in ("task", "average"):
            return self._with_change(row, parts)
        return self._change_cell(row, kind, parts)

    # ---- scores

    def score(self, row: RowSource, parts: Parts) -> TableCell:
        """A task's score or an average by itself, with its uncertainty."""
        if (row.key, parts) not in self._scores:
            cells = [self._over_tasks((variant_id,), parts) for variant_id in row.variant_ids]
            self._scores[row.key, parts] = cells[0] if len(cells) == 1 else self._over_seeds(row, cells, parts)
        return self._scores[row.key, parts]

    def _task_cell(self, variant_id: str, column: TaskColumn) -> TableCell:
        entry = self._layout.entries.get((variant_id, column))
        if entry is None:
            reason = "not in the grid" if self._is_grid_known else _NOT_COMPUTED
            return TableCell(
                status="not_applicable" if self._is_grid_known else "missing", notes=(self._notes.add(reason),)
            )
        value = entry.value
        if value is None:
            return self._empty_cell(entry)
        scale = self._scale((column,))
        stored = entry.row or {}
        stderr = self._evidence.standard_error(column, (variant_id,))
        if stderr is None:
            stderr = stored.get("stderr")
        return TableCell(
            value=scale * value,
            stderr=scale * stderr if stderr is not None and math.isfinite(stderr) else None,
            interval=scaled_interval(self._evidence.interval((column,), (variant_id,)), scale),
            num_items=stored.get("num_items"),
            cell_ids=(entry.cell_id,),
            metric=f"{stored['metric']},{stored['filter']}",
            notes=self._device_notes(entry),
        )

    def _device_notes(self, entry: Entry) -> tuple[int, ...]:
        note = self._mixed_devices.get(entry.cell_id)
        return (self._notes.add(note, (entry.cell_id,)),) if note else ()

    def _empty_cell(self, entry: Entry) -> TableCell:
        """A cell without a number: failed, not applicable, or missing, with the reason as a footnote."""
        ids = (entry.cell_id,)
        failed_variant = self._failed_variants.get(entry.variant_id)
        if entry.row is not None:
            note = (
                _failure(entry.row, "failed") if entry.row["status"] == "failed" else "failed: the score is not finite"
            )
            return TableCell(status="failed", cell_ids=ids, notes=(self._notes.add(note, ids),))
        if entry.not_applicable:
            note = f"not applicable: {entry.not_applicable}"
            return TableCell(status="not_applicable", cell_ids=ids, notes=(self._notes.add(note, ids),))
        if failed_variant is not None:
            note = _failure(failed_variant, "failed while quantizing")
            return TableCell(status="failed", cell_ids=ids, notes=(self._notes.add(note, ids),))
        return TableCell(status="missing", cell_ids=ids, notes=(self._notes.add(_NOT_COMPUTED, ids),))

    def _over_tasks(self, key: tuple[str], parts: Parts) -> TableCell:
        if len(parts) == 1:
            return self._task_cells[key, parts[0]]
        done = [cell for part in parts if (cell := self._task_cells[key, part]).value is not None]
        coverage = (len(done), len(parts))
        if not done:
            return TableCell(status="missing", coverage=coverage)
        is_whole = len(done) == len(parts)
        return TableCell(
            value=_mean_value(done),
            stderr=standard_error_of_average([cell.stderr for cell in done]),
            interval=scaled_interval(self._evidence.interval(parts, key), self._scale(parts)) if is_whole else None,
            num_items=_total_items(done),
            status="done" if is_whole else "partial",
            cell_ids=_cell_ids(done),
            coverage=coverage,
        )

    def _over_seeds(self, row: RowSource, cells: Sequence[TableCell], parts: Parts) -> TableCell:
        """The mean over the seeds; without one of them it is partial, and says so."""
        done = [cell for cell in cells if cell.status == "done" and cell.value is not None]
        coverage = (len(done), len(cells))
        if not done:
            return replace(cells[0], cell_ids=_cell_ids(cells), coverage=coverage)
        values = [cell.value for cell in done if cell.value is not None]
        is_whole = len(done) == len(cells)
        scale = self._scale(parts)
        stderrs = [self._evidence.standard_error(part, row.key) for part in parts]
        return TableCell(
            value=mean(values),
            stderr=scaled(standard_error_of_average(stderrs), scale) if is_whole else None,
            interval=scaled_interval(self._evidence.interval(parts, row.key), scale) if is_whole else None,
            num_items=done[0].num_items,
            status="done" if is_whole else "partial",
            cell_ids=_cell_ids(done),
            coverage=coverage,
            spread=statistics.stdev(values) if len(values) > 1 else None,
            num_seeds=len(values),
        )

    # ---- against full precision

    def _reference(self, row: RowSource) -> RowSource | None:
        return self._references.get(row.key) if row.references else None

    def _compare(self, row: RowSource, parts: Parts) -> Comparison | None:
        reference = self._reference(row)
        if reference is None or not self._is_comparable(row, reference, parts):
            return None
        comparison = self._evidence.compare(parts, row.key, reference.key)
        return comparison.scaled(self._scale(parts)) if comparison else None

    def _is_comparable(self, row: RowSource, reference: RowSource, parts: Parts) -> bool:
        return all(self.score(each, parts).status == "done" for each in (row, reference))

    def _with_change(self, row: RowSource, parts: Parts) -> TableCell:
        cell = self.score(row, parts)
        reference = self._reference(row)
        cell = replace(cell, is_best=self._best.get((row.key, parts)))
        if reference is None or cell.value is None:
            return cell
        base = self.score(reference, parts)
        change = self._change(row, reference, parts)
        comparison = self._comparisons.get((row.key, parts))
        notes = cell.notes
        is_known = all(self._evidence.knows(part, each.key) for part in parts for each in (row, reference))
        if comparison is None and is_known:
            note = f"not compared with full precision: not the same items ({cell.num_items} and {base.num_items})"
            notes += (self._notes.add(note, cell.cell_ids),)
        return replace(
            cell,
            reference_cell_ids=base.cell_ids,
            comparison=comparison,
            drop=change,
            recovery=100.0 * cell.value / base.value if change is not None and base.value else None,
            severity=None if change is None else severity(change),
            notes=notes,
        )

    def _change(self, row: RowSource, reference: RowSource, parts: Parts) -> float | None:
        """The relative change in percent; None unless both sides are whole."""
        if not self._is_comparable(row, reference, parts):
            return None
        value, base = self.score(row, parts).value, self.score(reference, parts).value
        assert value is not None
        assert base is not None
        return relative_change(value, base, higher_is_better=not self._is_lower_better(parts))

    def _change_cell(self, row: RowSource, kind: ColumnKind, parts: Parts) -> TableCell:
        """A difference, drop or recovery; without one, a footnote says why unless the score's own cell does."""
        if row.is_reference:
            return TableCell(status="reference")
        cell, reference = self._with_change(row, parts), self._reference(row)
        # A task's own column says itself why a score is not there; a summary leaves that to the tasks.
        is_task = kind == "difference" and len(parts) == 1
        model = self._models[row.names["model"]]
        if reference is None:
            note = self._notes.add(f"no {kind}: no full-precision row of {model} to compare with")
            return TableCell(status="missing", notes=(note,))
        base = self.score(reference, parts)
        nothing = TableCell(status="missing", cell_ids=cell.cell_ids, reference_cell_ids=base.cell_ids)
        if cell.value is None and is_task:
            return cell
        if is_task and cell.status == "partial":
            return replace(nothing, notes=(self._notes.add("no difference: a seed has no score", cell.cell_ids),))
        if cell.value is None or cell.status != "done":
            return nothing
        if base.value is None or base.status != "done":
            note = self._notes.add(f"no {kind}: the full-precision row of {model} is incomplete")
            return replace(nothing, notes=(note,))
        if kind == "difference":
            comparison = cell.comparison
            return replace(
                cell,
                value=cell.value - base.value,
                stderr=comparison.stderr if comparison else None,
                interval=comparison.interval if comparison else None,
                spread=None,
            )
        if cell.drop is None:
            note = self._notes.add(f"no {kind}: the full-precision row of {model} scores 0")
            return replace(nothing, notes=(note,))
        return self._relative(row, reference, kind, parts, cell)

    def _relative(
        self, row: RowSource, reference: RowSource, kind: ColumnKind, parts: Parts, cell: TableCell
    ) -> TableCell:
        interval = self._evidence.change_interval(
            parts, row.key, reference.key, higher_is_better=not self._is_lower_better(parts)
        )
        if kind == "recovery" and interval is not None:
            interval = (100.0 + interval[0], 100.0 + interval[1])
        value = cell.drop if kind == "drop" else cell.recovery
        return replace(cell, value=value, stderr=None, interval=interval, spread=None, is_best=None)

    # ---- seeds of full precision

    def _noise_floor(self, row: RowSource, kind: ColumnKind, parts: Parts) -> TableCell:
        """How far the seeds of full precision are apart at most, as a number without a sign."""
        seeds = [replace(row, variant_ids=(variant_id,)) for variant_id in row.variant_ids]
        cells = [self.score(seed, parts) for seed in seeds]
        ids = _cell_ids(cells)
        pairs = [
            (abs(one.value - other.value), first, second, other.value)
            for (one, first), (other, second) in itertools.combinations(zip(cells, seeds, strict=True), 2)
            if one.value is not None and other.value is not None and one.status == other.status == "done"
        ]
        if kind == "recovery" or not pairs:
            return TableCell(status="reference" if pairs else "missing", cell_ids=ids)
        distance, first, second, base = max(pairs, key=lambda pair: pair[0])
        is_relative = kind == "drop"
        if is_relative and base == 0:
            return TableCell(status="missing", cell_ids=ids)
        comparison = self._evidence.compare(parts, first.key, second.key)
        return TableCell(
            value=100.0 * distance / base if is_relative else distance,
            status="noise_floor",
            num_items=cells[0].num_items,
            cell_ids=ids,
            comparison=comparison.scaled(self._scale(parts)) if comparison else None,
            num_seeds=len(cells),
        )

    # ---- units

    def _scale(self, parts: Parts) -> float:
        return 100.0 if all(part in self.percentages for part in parts) else 1.0

    def _is_lower_better(self, parts: Parts) -> bool:
        return any(part in self._lower_is_better for part in parts)


def _competing(rows: Sequence[RowSource]) -> list[RowSource]:
    """The rows among which a best is looked for: all quantized ones, of a variant with several seeds their mean."""
    averaged = [row.names for row in rows if row.kind == "mean"]
    return [
        row
        for row in rows
        if not row.is_reference and (row.kind == "mean" or (row.kind == "variant" and row.names not in averaged))
    ]


def _mean_value(cells: Sequence[TableCell]) -> float:
    return mean([cell.value for cell in cells if cell.value is not None])


def _total_items(cells: Sequence[TableCell]) -> int | None:
    counts = [cell.num_items for cell in cells if cell.num_items is not None]
    return sum(counts) if len(counts) == len(cells) else None


def _cell_ids(cells: Sequence[TableCell]) -> tuple[str, ...]:
    return tuple(cell_id for cell in cells for cell_id in cell.cell_ids)


def _failure(row: Row, what: str) -> str:
    message = row.get("failure_message")
    return f"{what} ({row['failure_kind']})" + (f": {message}" if message else "")
