"""The columns of a table: tasks under their groups, and summaries of groups and of all tasks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from reports.tables.evidence import Parts
from reports.tables.grid import Layout, TaskColumn
from reports.tables.model import Column, ColumnKind
from reports.tables.spec import TableSpec

ALL_TASKS = "all"
_TITLES: dict[ColumnKind, str] = {
    "average": "avg",
    "difference": "difference",
    "drop": "drop %",
    "recovery": "recovery %",
}
_SCORE_KINDS: tuple[ColumnKind, ...] = ("task", "average")


@dataclass(frozen=True, kw_only=True)
class ColumnSource:
    """A column and the tasks that it is made from."""

    column: Column
    parts: Parts

    @property
    def is_score(self) -> bool:
        """Whether it shows scores or averages themselves, and not what became of full precision."""
        return self.column.kind in _SCORE_KINDS


def find_columns(layout: Layout, spec: TableSpec, percentages: Collection[TaskColumn]) -> list[ColumnSource]:
    """Each group's tasks and its summaries; at the end the summaries of all tasks.

    Only tasks in `percentages` enter summaries: their scores have one unit.
    """
    maker = _Maker(spec, percentages)
    groups: dict[str, list[TaskColumn]] = defaultdict(list)
    for task in layout.columns:
        groups[task.group].append(task)
    summed = {group: tuple(task for task in tasks if task in percentages) for group, tasks in groups.items()}
    summed = {group: parts for group, parts in summed.items() if parts}
    sources = []
    for group, tasks in groups.items():
        heading = maker.heading(group)
        sources += [maker.task(task, heading, shown) for task in tasks for shown in spec.task_columns]
        if group in summed:
            sources += maker.summaries(heading, summed[group])
    if spec.overall and len(summed) > 1:
        sources += maker.summaries(ALL_TASKS, sum(summed.values(), ()), is_overall=True)
    return sources


class _Maker:
    def __init__(self, spec: TableSpec, percentages: Collection[TaskColumn]) -> None:
        self._spec = spec
        self._percentages = percentages

    def heading(self, group: str) -> str:
        titles = {entry.name: entry.title for entry in self._spec.groups or () if entry.title}
        return titles.get(group) or self._spec.labels.groups.get(group, group)

    def task(self, task: TaskColumn, heading: str, shown: Literal["score", "difference"]) -> ColumnSource:
        title = self._title(task)
        if shown == "difference" and "score" in self._spec.task_columns:
            title += f" {_TITLES['difference']}"
        kind: ColumnKind = "task" if shown == "score" else "difference"
        column = self._column(kind, title, heading, (task,), is_task=True)
        return ColumnSource(column=column, parts=(task,))

    def summaries(self, heading: str, parts: Parts, *, is_overall: bool = False) -> list[ColumnSource]:
        """The spec's summaries of some tasks; of a single task, those that would only repeat its own columns not."""
        sources = []
        for kind in self._spec.summaries:
            repeated = "score" if kind == "average" else kind
            if len(parts) == 1 and repeated in self._spec.task_columns:
                continue
            title = _TITLES[kind]
            if len(parts) == 1 and kind == "average":
                title = self._title(parts[0])
            elif kind == "difference" and "average" not in self._spec.summaries:
                title = _TITLES["average"]
            column = self._column(kind, title, heading, parts, is_overall=is_overall)
            sources.append(ColumnSource(column=column, parts=parts))
        return sources

    def _title(self, task: TaskColumn) -> str:
        label = self._spec.labels.tasks.get(task.task)
        return task.title if label is None else task.title.replace(task.task, label, 1)

    def _column(
        self,
        kind: ColumnKind,
        title: str,
        group: str,
        parts: Parts,
        *,
        is_task: bool = False,
        is_overall: bool = False,
    ) -> Column:
        spec = self._spec
        return Column(
            kind=kind,
            title=title,
            group=group,
            tasks=tuple(part.title for part in parts),
            is_percentage=all(part in self._percentages for part in parts),
            is_task=is_task,
            is_overall=is_overall,
            # The interval of a drop is there for those who ask; beside every drop it would hide the table.
            uncertainty=spec.uncertainty if kind in (*_SCORE_KINDS, "difference") else "none",
            is_shaded=kind in spec.shade,
        )
