"""What a table is laid out from: which cell of the study stands at which variant and task, and why one does not."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from grids.errors import GridError, unknown_name
from grids.identity import differing_fields
from reports.schemas import Row
from reports.tables.spec import TableSpec, choose

REFERENCE_SCHEME = "fp16"
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

    def after(self, spec: TableSpec) -> TableOrder:
        """This order where the spec's own says nothing."""
        first = spec.order
        return TableOrder(
            models=(*first.models, *self.models),
            schemes=(REFERENCE_SCHEME, *first.schemes, *self.schemes),
            methods=(*first.methods, *self.methods),
            tasks=(*first.tasks, *self.tasks),
            groups=(*first.groups, *self.groups),
        )


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One cell of the study: as the grid expects it, with what the store has for it.

    `row` is the stored row of the metric that is shown, or of the failure; None where nothing is stored.
    """

    cell_id: str
    variant_id: str
    model: str
    method_label: str
    scheme: str
    task: str
    task_group: str
    num_fewshot: int | None
    seed: int | None
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
class Layout:
    """The cells of a table by variant, the task columns, the entry at each crossing, and remarks on what was left out.

    `variants` has the entries of each variant; `order` the places of models, schemes and methods.
    """

    variants: Mapping[str, list[Entry]]
    columns: list[TaskColumn]
    entries: Mapping[tuple[str, TaskColumn], Entry]
    places: Mapping[str, Mapping[str, int]]
    remarks: list[str] = field(default_factory=list)

    def column_rows(self, column: TaskColumn) -> dict[str, Row]:
        """The stored rows of a column by variant, failures left out."""
        crossings = {variant_id: self.entries.get((variant_id, column)) for variant_id in self.variants}
        return {
            variant_id: entry.row
            for variant_id, entry in crossings.items()
            if entry and entry.row and entry.row["status"] == "done"
        }

    def percentages(self) -> set[TaskColumn]:
        """The columns that hold shares, which are shown in percent: higher is better, and every value is in [0, 1]."""
        return {column for column in self.columns if _is_percentage(list(self.column_rows(column).values()))}

    def lower_is_better(self) -> set[TaskColumn]:
        """The columns in which less is better."""
        return {column for column in self.columns if not _is_higher_better(list(self.column_rows(column).values()))}


def _is_higher_better(rows: Sequence[Row]) -> bool:
    return all(row["higher_is_better"] is not False for row in rows)


def _is_percentage(rows: Sequence[Row]) -> bool:
    return _is_higher_better(rows) and all(0.0 <= row["value"] <= 1.0 for row in rows if math.isfinite(row["value"]))


def lay_out(cells: Sequence[Row], spec: TableSpec, order: TableOrder, expected: Sequence[Row] | None) -> Layout:
    """Where every cell stands.

    Raises ValueError for an expected cell without one of its keys, and GridError for a name or metric of the spec that
    the study does not have.
    """
    order = order.after(spec)
    entries, remarks = _entries(cells, spec, expected)
    entries = _grouped(_chosen(entries, spec), spec)
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
    if not is_listed:
        _check_alike(by_crossing)
    variants: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        variants[entry.variant_id].append(entry)
    return Layout(
        variants=variants,
        columns=_ordered_columns(entries, {column for _, column in by_crossing}, spec, order, is_listed),
        entries=by_crossing,
        places={
            "model": _positions(order.models, (entry.model for entry in entries), is_listed),
            "scheme": _positions(order.schemes, (entry.scheme for entry in entries), is_listed),
            "method": _positions(order.methods, (entry.method_label for entry in entries), is_listed),
        },
        remarks=remarks,
    )


def _check_alike(entries: Mapping[tuple[str, TaskColumn], Entry]) -> None:
    """Raises GridError where cells of one model in one column were scored in two ways; a grid cannot ask for that."""
    first: dict[tuple[str, TaskColumn], tuple[Entry, Row]] = {}
    for (_, column), entry in entries.items():
        identity = _task_identity(entry)
        if identity is None:
            continue
        other, its = first.setdefault((entry.model, column), (entry, identity))
        if differing := differing_fields(its, identity):
            raise GridError(
                f"cells {other.cell_id} and {entry.cell_id} of task {column.task} were scored in two ways: "
                f"{'; '.join(differing)}; one column cannot show both"
            )


def _task_identity(entry: Entry) -> Row | None:
    content = json.loads(entry.row["config"]) if entry.row else None
    found = content.get("task") if isinstance(content, dict) else None
    return found if isinstance(found, dict) else None


def _entries(cells: Sequence[Row], spec: TableSpec, expected: Sequence[Row] | None) -> tuple[list[Entry], list[str]]:
    stored: dict[str, list[Row]] = defaultdict(list)
    for row in cells:
        stored[row["cell_id"]].append(row)
    _check_metrics(cells, spec)
    if expected is None:
        return [_entry(rows[0], _shown_row(rows, spec)) for rows in stored.values()], []
    for index, cell in enumerate(expected):
        absent = [key for key in _EXPECTED_KEYS if key not in cell]
        if absent:
            raise ValueError(f"expected cell {index} has no {absent[0]!r}; it needs {', '.join(_EXPECTED_KEYS)}")
    entries = [_entry(cell, _shown_row(stored.get(cell["cell_id"], []), spec, cell)) for cell in expected]
    others = len(set(stored) - {cell["cell_id"] for cell in expected})
    remarks = [f"{others} cells of the store are not part of this grid and are not shown"] if others else []
    return entries, remarks


def _entry(cell: Row, row: Row | None) -> Entry:
    num_fewshot, seed = cell.get("num_fewshot"), cell.get("seed")
    return Entry(
        **{key: cell[key] for key in _EXPECTED_KEYS},
        num_fewshot=row["num_fewshot"] if num_fewshot is None and row else num_fewshot,
        seed=_only_seed(row["seeds"]) if seed is None and row else seed,
        not_applicable=cell.get("not_applicable"),
        row=row,
    )


def _only_seed(seeds: str) -> int | None:
    """The seed of a row's JSON list, where it is the only one."""
    content = json.loads(seeds)
    return int(content[0]) if isinstance(content, list) and len(content) == 1 else None


def _shown_row(rows: Sequence[Row], spec: TableSpec, cell: Row | None = None) -> Row | None:
    """The row of the metric that is shown, or of the failure.

    That is the spec's, else the grid's of today, else the one that was primary when the cell was recorded.
    """
    if not rows:
        return None
    wanted = spec.metrics.get(rows[0]["task"])
    if wanted is None and cell is not None and cell.get("metric"):
        wanted = f"{cell['metric']},{cell['filter']}"
    for row in rows:
        if row["status"] == "failed" or (row["is_primary"] if wanted is None else _is_metric(row, wanted)):
            return row
    message = "no metric is marked as primary" if wanted is None else f"the cell has no metric {wanted}"
    return {**rows[0], "status": "failed", "failure_kind": "error", "failure_message": message}


def _is_metric(row: Row, wanted: str) -> bool:
    metric, separator, filter_ = wanted.partition(",")
    return bool(row["metric"] == metric and (not separator or row["filter"] == filter_))


def _check_metrics(cells: Sequence[Row], spec: TableSpec) -> None:
    """Raises GridError for a metric that a task does not have, or has under several filters."""
    for task, wanted in spec.metrics.items():
        place = {"file": f"table {spec.name}", "key": f"metrics.{task}"}
        known = {(row["metric"], row["filter"]) for row in cells if row["task"] == task and row["status"] == "done"}
        if not known:
            raise GridError(unknown_name("task", task, {row["task"] for row in cells}), **place)
        names = {f"{metric},{filter_}" for metric, filter_ in known}
        found = {name for name in names if name == wanted or name.partition(",")[0] == wanted}
        if not found:
            raise GridError(unknown_name(f"metric of task {task}", wanted, names), **place)
        if len(found) > 1:
            raise GridError(f"metric {wanted!r} has several filters; name one of {', '.join(sorted(found))}", **place)


def _chosen(entries: list[Entry], spec: TableSpec) -> list[Entry]:
    """The entries that `only` takes; those of full precision whatever scheme and method it names."""
    if not entries:
        return entries
    quantized = [entry for entry in entries if entry.scheme != REFERENCE_SCHEME]
    models = choose(
        spec, "models", spec.only.models, (e.model for e in entries), model_labels(e.model for e in entries)
    )
    tasks = choose(spec, "tasks", spec.only.tasks, (entry.task for entry in entries), {})
    schemes = choose(spec, "schemes", spec.only.schemes, (entry.scheme for entry in quantized), {})
    methods = choose(spec, "methods", spec.only.methods, (entry.method_label for entry in quantized), {})
    return [
        entry
        for entry in entries
        if entry.model in models
        and entry.task in tasks
        and (entry.scheme == REFERENCE_SCHEME or (entry.scheme in schemes and entry.method_label in methods))
    ]


def _grouped(entries: list[Entry], spec: TableSpec) -> list[Entry]:
    """The entries under the spec's groups; tasks of no group are left out. Raises GridError for a group of nothing."""
    if spec.groups is None:
        return entries
    group_of: dict[str, str] = {}
    tasks = {entry.task for entry in entries}
    for index, group in enumerate(spec.groups):
        place = {"file": f"table {spec.name}", "key": f"groups[{index}]"}
        for task in group.tasks or ():
            if task not in tasks:
                raise GridError(unknown_name("task", task, tasks), **place)
        listed = group.tasks or tuple(entry.task for entry in entries if entry.task_group == group.name)
        if not listed:
            raise GridError(unknown_name("group", group.name, {entry.task_group for entry in entries}), **place)
        for task in listed:
            group_of.setdefault(task, group.name)
    return [replace(entry, task_group=group_of[entry.task]) for entry in entries if entry.task in group_of]


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


def _ordered_columns(
    entries: list[Entry], columns: Iterable[TaskColumn], spec: TableSpec, order: TableOrder, is_listed: bool
) -> list[TaskColumn]:
    first_groups = [group.name for group in spec.groups or ()]
    first_tasks = [task for group in spec.groups or () for task in group.tasks or ()]
    groups = _positions((*first_groups, *order.groups), (entry.task_group for entry in entries), is_listed)
    tasks = _positions((*first_tasks, *order.tasks), (entry.task for entry in entries), is_listed)
    return sorted(columns, key=lambda column: (groups[column.group], tasks[column.task], column.num_fewshot or 0))
