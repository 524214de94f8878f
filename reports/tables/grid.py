"""What a study table is laid out from: which cell of the study stands in which row and column, and why one does not."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from reports.plain_text import words_of_json
from reports.schemas import Row

REFERENCE_SCHEME = "fp16"
# What a full-precision row shows in place of a method.
NO_METHOD = "-"
DEFAULT_GROUPS = ("general", "math", "code")
_EXPECTED_KEYS = ("cell_id", "variant_id", "model", "method_label", "scheme", "task", "task_group")
_BEGINNING = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class TableOrder:
    """The order of a grid's names in a table (`methods` are method labels); names left out follow by themselves."""

    models: tuple[str, ...] = ()
    schemes: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    groups: tuple[str, ...] = DEFAULT_GROUPS


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One cell of the study: as the grid expects it, with what the store has for it.

    `row` is the stored row of the primary metric, or of the failure; None where nothing is stored.
    """

    cell_id: str
    variant_id: str
    model: str
    method_label: str
    scheme: str
    task: str
    task_group: str
    num_fewshot: int | None
    not_applicable: str | None
    row: Row | None

    @property
    def finished_at(self) -> datetime:
        finished: datetime = self.row["finished_at"] if self.row else _BEGINNING
        return finished

    @property
    def value(self) -> float | None:
        """The number, in the metric's own unit; None unless the cell is done and the number finite."""
        if self.row is None or self.row["status"] != "done" or not math.isfinite(self.row["value"]):
            return None
        return float(self.row["value"])


@dataclass(frozen=True, kw_only=True)
class TaskColumn:
    """A task with its shots; `num_fewshot` is None where one number of shots is all there is."""

    task: str
    num_fewshot: int | None
    group: str

    @property
    def title(self) -> str:
        return self.task if self.num_fewshot is None else f"{self.task} ({self.num_fewshot}-shot)"


@dataclass(frozen=True, kw_only=True)
class VariantRow:
    """One variant, with the names that a reader sees."""

    variant_id: str
    model: str
    scheme: str
    method_label: str
    seeds: str | None
    labels: tuple[str, str, str]

    @property
    def is_reference(self) -> bool:
        return self.scheme == REFERENCE_SCHEME


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Rows, task columns, the entry at each crossing, and remarks on what was left out."""

    rows: list[VariantRow]
    columns: list[TaskColumn]
    entries: Mapping[tuple[str, TaskColumn], Entry]
    remarks: list[str] = field(default_factory=list)

    def column_rows(self, column: TaskColumn) -> list[Row]:
        """The stored rows of the primary metric in a column, failures left out."""
        crossings = (self.entries.get((row.variant_id, column)) for row in self.rows)
        return [entry.row for entry in crossings if entry and entry.row and entry.row["status"] == "done"]


def lay_out(cells: Sequence[Row], order: TableOrder, expected: Sequence[Row] | None) -> Layout:
    """Where every cell stands. Raises ValueError for an expected cell without one of its keys."""
    entries, remarks = _entries(cells, expected)
    entries, unserved = _without_unserved_variants(entries)
    remarks += unserved
    # A cell without a result may come without its shots; that alone does not make another column.
    shots: dict[str, set[int]] = defaultdict(set)
    for entry in entries:
        shots[entry.task] |= set() if entry.num_fewshot is None else {entry.num_fewshot}
    by_crossing: dict[tuple[str, TaskColumn], Entry] = {}
    for entry in sorted(entries, key=lambda entry: entry.finished_at):
        num_fewshot = entry.num_fewshot if len(shots[entry.task]) > 1 else None
        column = TaskColumn(task=entry.task, num_fewshot=num_fewshot, group=entry.task_group)
        older = by_crossing.get((entry.variant_id, column))
        if older is not None:
            remarks.append(
                f"cell {older.cell_id} is not shown: cell {entry.cell_id} has the same variant and task, and is newer"
            )
        by_crossing[entry.variant_id, column] = entry
    is_listed = expected is not None
    return Layout(
        rows=_ordered_rows(entries, order, is_listed),
        columns=_ordered_columns(entries, {column for _, column in by_crossing}, order, is_listed),
        entries=by_crossing,
        remarks=remarks,
    )


def _entries(cells: Sequence[Row], expected: Sequence[Row] | None) -> tuple[list[Entry], list[str]]:
    stored: dict[str, list[Row]] = defaultdict(list)
    for row in cells:
        stored[row["cell_id"]].append(row)
    if expected is None:
        return [_entry(rows[0], _shown_row(rows)) for rows in stored.values()], []
    for index, cell in enumerate(expected):
        absent = [key for key in _EXPECTED_KEYS if key not in cell]
        if absent:
            raise ValueError(f"expected cell {index} has no {absent[0]!r}; it needs {', '.join(_EXPECTED_KEYS)}")
    entries = [_entry(cell, _shown_row(stored.get(cell["cell_id"], []))) for cell in expected]
    others = len(set(stored) - {cell["cell_id"] for cell in expected})
    remarks = [f"{others} cells of the store are not part of this grid and are not shown"] if others else []
    return entries, remarks


def _entry(cell: Row, row: Row | None) -> Entry:
    num_fewshot = cell.get("num_fewshot")
    return Entry(
        **{key: cell[key] for key in _EXPECTED_KEYS},
        num_fewshot=row["num_fewshot"] if num_fewshot is None and row else num_fewshot,
        not_applicable=cell.get("not_applicable"),
        row=row,
    )


def _shown_row(rows: Sequence[Row]) -> Row | None:
    """The row of the primary metric or of the failure."""
    for row in rows:
        if row["status"] == "failed" or row["is_primary"]:
            return row
    if not rows:
        return None
    return {**rows[0], "status": "failed", "failure_kind": "error", "failure_message": "no metric is marked as primary"}


def _without_unserved_variants(entries: list[Entry]) -> tuple[list[Entry], list[str]]:
    """Leaves out variants that apply to no task at all, with a remark instead of a row of dashes."""
    served = {entry.variant_id for entry in entries if entry.row is not None or not entry.not_applicable}
    where: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for entry in entries:
        if entry.variant_id not in served:
            models = where[entry.method_label, entry.scheme, str(entry.not_applicable)]
            if entry.model not in models:
                models.append(entry.model)
    labels = model_labels(entry.model for entry in entries)
    remarks = [
        f"not applicable, no row: {method} at {scheme} on {', '.join(labels[model] for model in models)} ({reason})"
        for (method, scheme, reason), models in where.items()
    ]
    return [entry for entry in entries if entry.variant_id in served], remarks


def model_labels(models: Iterable[str]) -> dict[str, str]:
    """Short names for hub ids and folders: the last part, where no two models share it."""
    names = list(dict.fromkeys(models))
    parts = [name.rstrip("/").rsplit("/", 1)[-1] for name in names]
    return {name: part if part and parts.count(part) == 1 else name for name, part in zip(names, parts, strict=True)}


def _positions(listed: Sequence[str], seen: Iterable[str], is_listed: bool) -> dict[str, int]:
    """Names to places: as listed, then as a grid gives them, or by name where there is only the store."""
    rest = dict.fromkeys(seen) if is_listed else sorted(set(seen))
    return {name: index for index, name in enumerate(dict.fromkeys([*listed, *rest]))}


def _ordered_rows(entries: list[Entry], order: TableOrder, is_listed: bool) -> list[VariantRow]:
    models = _positions(order.models, (entry.model for entry in entries), is_listed)
    schemes = _positions((REFERENCE_SCHEME, *order.schemes), (entry.scheme for entry in entries), is_listed)
    methods = _positions(order.methods, (entry.method_label for entry in entries), is_listed)
    first = {entry.variant_id: entry for entry in reversed(entries)}
    seeds = {entry.variant_id: entry.row.get("seeds") for entry in entries if entry.row is not None}
    same: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for variant_id, entry in first.items():
        same[entry.model, entry.scheme, entry.method_label].append(variant_id)
    short = model_labels(entry.model for entry in entries)
    rows = []
    for variant_id, entry in first.items():
        alike = same[entry.model, entry.scheme, entry.method_label]
        method = NO_METHOD if entry.scheme == REFERENCE_SCHEME else entry.method_label
        if len(alike) > 1:
            method += f" ({_difference(variant_id, [seeds.get(other) for other in alike], seeds.get(variant_id))})"
        rows.append(
            VariantRow(
                variant_id=variant_id,
                model=entry.model,
                scheme=entry.scheme,
                method_label=entry.method_label,
                seeds=seeds.get(variant_id),
                labels=(short[entry.model], entry.scheme, method),
            )
        )
    return sorted(
        rows,
        key=lambda row: (models[row.model], schemes[row.scheme], methods[row.method_label], row.labels, row.variant_id),
    )


def _difference(variant_id: str, all_seeds: list[str | None], seeds: str | None) -> str:
    """What tells apart variants of one model, scheme and method: their seeds, else their ids."""
    if seeds is None or None in all_seeds or len(set(all_seeds)) < len(all_seeds):
        return f"variant {variant_id[:8]}"
    return words_of_json(seeds)


def _ordered_columns(
    entries: list[Entry], columns: Iterable[TaskColumn], order: TableOrder, is_listed: bool
) -> list[TaskColumn]:
    groups = _positions(order.groups, (entry.task_group for entry in entries), is_listed)
    tasks = _positions(order.tasks, (entry.task for entry in entries), is_listed)
    return sorted(columns, key=lambda column: (groups[column.group], tasks[column.task], column.num_fewshot or 0))
