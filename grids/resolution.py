"""Joins a grid file with what exists: models, methods, presets, tasks and calibration data."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError

import grids.protocol
from grids.errors import GridError, unknown_name
from grids.expansion import CELL_KEYS, FULL_PRECISION, Calibration, Cell, CellTask, Model, Study, Variant
from grids.identity import canonical_json
from grids.loading import dotted
from grids.protocol import Family
from grids.schema import CalibrationEntry, Grid, MethodEntry, ModelEntry, TaskEntry
from grids.schemes import Scheme, parse_scheme
from grids.task_data import check_fewshot, with_data
from grids.tasks import TaskInfo, find_tasks

TEXT_SUFFIXES = (".txt", ".md")
COLUMN_SUFFIXES = (".jsonl", ".parquet")


@dataclass(frozen=True)
class HubText:
    """A text data set on the hub."""

    path: str
    subset: str | None
    split: str
    field: str = "text"

    @property
    def digest(self) -> str:
        return ":".join(filter(None, [self.path, self.subset, self.split, self.field]))


# What the public code of the five methods calibrates on.
HUB_TEXTS = {
    "wikitext2": HubText("Salesforce/wikitext", "wikitext-2-raw-v1", "train"),
    "pileval": HubText("mit-han-lab/pile-val-backup", None, "validation"),
}


class MethodInfo(Protocol):
    """What the planner asks a method; `methods` answers it."""

    version: int
    needs_calibration: bool

    def resolve(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Every parameter with its value. Raises pydantic's ValidationError."""

    def refusal(self, parameters: Mapping[str, Any], scheme: Scheme) -> str | None:
        """Why the method does not serve the scheme; None if it does."""


@dataclass(frozen=True)
class Preset:
    """A named set of method parameters and protocol settings.

    `families` holds method parameters that differ for one family of models, `tasks` what differs for one task.
    `family_protocol` holds what differs for all tasks of one family, and under `tasks` for one task of that family; it
    is laid over `protocol` and `tasks`.
    """

    about: str

    methods: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    families: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    protocol: Mapping[str, Any] = field(default_factory=dict)
    tasks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    family_protocol: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def task_layers(self, task: str, family: Family | None) -> list[Mapping[str, Any]]:
        """Shots and settings of a task, from the general to the particular; those of `family` last."""
        of_family = self.family_protocol.get(family or "", {})
        return [self.protocol, self.tasks.get(task, {}), of_family, of_family.get("tasks", {}).get(task, {})]


@dataclass(frozen=True)
class Catalog:
    """Everything that a grid may name."""

    methods: Mapping[str, MethodInfo]
    presets: Mapping[str, Preset]
    task_folders: tuple[Path, ...]
    find_model: Callable[[ModelEntry, Path, str], Model]


def resolve(grid: Grid, file: Path, catalog: Catalog) -> Study:
    """The study that a grid means. Raises GridError that names the file and the key."""
    try:
        return Study(
            grid.name,
            tuple(_Resolver(grid, file.parent, catalog).cells()),
            grid.retries,
            grid.timeout,
            {entry.label: entry.needs for entry in grid.models},
            grid.allow_mixed_devices,
        )
    except GridError as error:
        raise GridError(error.message, file=str(file), key=error.key) from error


def resolve_data(grid: Grid, file: Path, catalog: Catalog) -> tuple[list[CellTask], list[Calibration]]:
    """The tasks (as for no family of models) and calibrations of a grid, without looking for its models.

    Raises GridError that names the file and the key.
    """
    try:
        resolver = _Resolver(grid, file.parent, catalog)
        return resolver.tasks(None), resolver.calibrations()
    except GridError as error:
        raise GridError(error.message, file=str(file), key=error.key) from error


class _Resolver:
    def __init__(self, grid: Grid, folder: Path, catalog: Catalog) -> None:
        self._grid, self._folder, self._catalog = grid, folder, catalog
        if grid.preset not in catalog.presets:
            raise GridError(unknown_name("preset", grid.preset, catalog.presets), key="preset")
        self._preset = catalog.presets[grid.preset]
        self._with_data: dict[tuple[str, int], TaskInfo] = {}

    def cells(self) -> Iterator[Cell]:
        models = [self._model(index, entry) for index, entry in enumerate(self._grid.models)]
        self._refuse_twins("models", [model.label for model in models])
        tasks = {family: self.tasks(family) for family in dict.fromkeys(model.family for model in models)}
        calibrations = self.calibrations()
        variants = [variant for model in models for variant in self._variants(model, calibrations)]
        rules = [rule.model_dump(exclude_none=True) for rule in self._grid.exclude]
        self._check_exclusions(rules, variants)
        cells = [cell for variant in variants for cell in self._cells_of(variant, tasks[variant.model.family], rules)]
        if not cells:
            raise GridError("nothing is left to run: every cell is excluded", key="exclude")
        self._check_lengths(cells)
        yield from cells

    def _check_lengths(self, cells: Sequence[Cell]) -> None:
        """Raise GridError for answers or calibration windows that a model cannot hold: it would show in each cell."""
        for cell in cells:
            model, task, calibration = cell.variant.model, cell.task, cell.variant.calibration
            if model.max_length is None or cell.not_applicable is not None:
                continue
            length = task.protocol.generation.gen_length
            if task.info.is_generation and length >= model.max_length:
                raise GridError(
                    f"answers of {length} tokens leave no room for a prompt in {model.label}, which holds "
                    f"{model.max_length}",
                    key=f"protocol of task {task.info.name}.generation.gen_length",
                )
            if calibration is not None and calibration.length > model.max_length:
                raise GridError(
                    f"windows of {calibration.length} tokens are longer than what {model.label} holds, "
                    f"{model.max_length}",
                    key=f"calibrations.{calibration.label}.length" if calibration.label else "calibration.length",
                )

    def _cells_of(
        self, variant: Variant, tasks: Sequence[CellTask], rules: Sequence[Mapping[str, Any]]
    ) -> Iterator[Cell]:
        """A variant's cells without those that a rule leaves out."""
        names = variant.names()
        fitting = [rule for rule in rules if all(names.get(key, value) == value for key, value in rule.items())]
        if any("task" not in rule for rule in fitting):
            return
        left_out = {rule["task"] for rule in fitting}
        reason = self._not_applicable(variant)
        for task in tasks:
            if task.info.name not in left_out:
                yield Cell(variant, task, reason)

    def _model(self, index: int, entry: ModelEntry) -> Model:
        try:
            return self._catalog.find_model(entry, self._folder, self._grid.dtype)
        except ValueError as error:
            raise GridError(str(error), key=f"models[{index}]") from error

    def _variants(self, model: Model, calibrations: Sequence[Calibration]) -> Iterator[Variant]:
        schemes = [parse_scheme(text) for text in dict.fromkeys(self._grid.schemes)]
        if bool(schemes) != bool(self._grid.methods):
            missing = "methods" if schemes else "schemes"
            raise GridError("the list is empty, so nothing would be quantized", key=missing)
        methods = [self._method(index, entry, model.family) for index, entry in enumerate(self._grid.methods)]
        self._refuse_twins("methods", [label for label, _, _ in methods])
        for seed in dict.fromkeys(self._grid.seeds):
            yield Variant(model, FULL_PRECISION, FULL_PRECISION, 0, {}, Scheme(), None, seed)
            for scheme in schemes:
                if scheme.is_full_precision:
                    continue
                for label, name, parameters in methods:
                    info = self._catalog.methods[name]
                    if info.needs_calibration and not calibrations:
                        raise GridError(f"method {name!r} needs calibration data; none is given", key="calibration")
                    for calibration in calibrations if info.needs_calibration else [None]:
                        yield Variant(model, name, label, info.version, parameters, scheme, calibration, seed)

    def _method(self, index: int, entry: MethodEntry, family: Family) -> tuple[str, str, dict[str, Any]]:
        """(label, name, every parameter)"""
        place = f"methods[{index}]"
        if entry.name == FULL_PRECISION:
            raise GridError("the full-precision row is added by itself; leave 'none' out", key=place)
        if entry.name not in self._catalog.methods:
            raise GridError(unknown_name("method", entry.name, self._catalog.methods), key=place)
        of_family = self._preset.families.get(family, {}).get(entry.name, {})
        given = {**self._preset.methods.get(entry.name, {}), **of_family, **entry.parameters}
        try:
            parameters = self._catalog.methods[entry.name].resolve(given)
        except ValidationError as error:
            problem = error.errors()[0]
            key = f"{place}.parameters"
            if problem["type"] == "extra_forbidden":
                known = self._catalog.methods[entry.name].resolve({})
                raise GridError(unknown_name("parameter", str(problem["loc"][-1]), known), key=key) from error
            raise GridError(
                f"{problem['msg'].removeprefix('Value error, ')} (given: {problem['input']!r})",
                key=".".join([key, dotted(problem["loc"])]),
            ) from error
        shown = ", ".join(f"{key}={canonical_json(value)}" for key, value in sorted(entry.parameters.items()))
        return entry.label or (f"{entry.name} ({shown})" if shown else entry.name), entry.name, parameters

    def _not_applicable(self, variant: Variant) -> str | None:
        if variant.is_full_precision:
            return None
        group_size = variant.scheme.group_size
        if group_size is not None:
            for size in variant.model.linear_inputs:
                if size % group_size:
                    label = variant.model.label
                    return f"a group of {group_size} does not divide the {size} inputs of a linear of {label}"
        return self._catalog.methods[variant.method].refusal(variant.parameters, variant.scheme)

    def calibrations(self) -> list[Calibration]:
        entries = self._grid.calibrations
        self._refuse_twins("calibrations", [entry.label for entry in entries])
        labels = [entry.label if len(entries) > 1 else "" for entry in entries]
        return [
            self._calibration(index, entry, label)
            for index, (entry, label) in enumerate(zip(entries, labels, strict=True))
        ]

    def _calibration(self, index: int, entry: CalibrationEntry, label: str) -> Calibration:
        path = (self._folder / Path(entry.dataset).expanduser()).resolve()
        if path.is_file():
            if path.suffix not in TEXT_SUFFIXES + COLUMN_SUFFIXES:
                allowed = ", ".join(TEXT_SUFFIXES + COLUMN_SUFFIXES)
                raise GridError(f"cannot read {path}; a file ends in {allowed}", key=f"calibrations[{index}].dataset")
            content = path.read_bytes()
            if not content.strip():
                raise GridError(f"the calibration file is empty: {path}", key=f"calibrations[{index}].dataset")
            column = entry.field.encode() if path.suffix in COLUMN_SUFFIXES else b""
            source, digest = str(path), hashlib.sha256(content + column).hexdigest()[:16]
        elif entry.dataset in HUB_TEXTS:
            source, digest = entry.dataset, HUB_TEXTS[entry.dataset].digest
        else:
            hint = unknown_name("data set", entry.dataset, HUB_TEXTS)
            raise GridError(f"no such text file: {path}; or {hint}", key=f"calibrations[{index}].dataset")
        return Calibration(source, entry.field, label, digest, entry.num_samples, entry.length, entry.seed, entry.mask)

    @cached_property
    def _known_tasks(self) -> dict[str, TaskInfo]:
        folders = [*self._catalog.task_folders, *(self._folder / path for path in self._grid.task_path)]
        return find_tasks(list(dict.fromkeys(folder.resolve() for folder in folders)))

    def tasks(self, family: Family | None) -> list[CellTask]:
        """The grid's tasks with the settings that one family of models has."""
        tasks = [self._task(index, entry, family) for index, entry in enumerate(self._grid.tasks)]
        names = [task.info.name for task in tasks]
        self._refuse_twins("tasks", names)
        for name in self._grid.data:
            if name not in names:
                raise GridError(unknown_name("task of this grid", name, names), key="data")
        return tasks

    def _task(self, index: int, entry: TaskEntry, family: Family | None) -> CellTask:
        place = f"tasks[{index}]"
        if entry.name not in self._known_tasks:
            raise GridError(unknown_name("task", entry.name, self._known_tasks), key=place)
        info = self._known_tasks[entry.name]
        layers = [*self._preset.task_layers(entry.name, family), self._grid.protocol.model_dump(), entry.model_dump()]
        try:
            protocol = grids.protocol.Protocol.from_layers(layers)
            if info.is_generation and family == "llada":
                protocol.generation.check_blocks()
        except ValidationError as error:
            problem = error.errors()[0]
            message = problem["msg"].removeprefix("Value error, ")
            raise GridError(message, key=f"protocol of {place}.{dotted(problem['loc'])}") from error
        except ValueError as error:
            raise GridError(str(error), key=f"protocol of {place}.generation") from error
        self._check_shown(entry, info, place)
        limits = [limit for limit in (entry.limit, self._grid.limit) if limit is not None]
        shots = [layer["num_fewshot"] for layer in layers if layer.get("num_fewshot") is not None]
        num_fewshot = int(shots[-1]) if shots else info.num_fewshot
        return CellTask(
            info=self._info(info, num_fewshot, place),
            num_fewshot=num_fewshot,
            limit=min(limits, default=None),
            protocol=protocol,
            metric=entry.metric or info.metric,
            filter=entry.filter or info.filter,
            group=entry.group or info.group,
        )

    @staticmethod
    def _check_shown(entry: TaskEntry, info: TaskInfo, place: str) -> None:
        """What tables are to show has to be declared by the task: a typing mistake would show after hours."""
        for key, value, known in (("metric", entry.metric, info.metrics), ("filter", entry.filter, info.filters)):
            if value is not None and known and value not in known:
                raise GridError(unknown_name(f"{key} of task {info.name!r}", value, known), key=f"{place}.{key}")

    def _info(self, info: TaskInfo, num_fewshot: int, place: str) -> TaskInfo:
        """The task with the grid's data in place of its own. A data file is read and checked once."""
        known = (info.name, num_fewshot)
        if known not in self._with_data:
            try:
                check_fewshot(info, num_fewshot)
            except ValueError as error:
                raise GridError(str(error), key=f"{place}.num_fewshot") from error
            given = self._grid.data.get(info.name)
            self._with_data[known] = info if given is None else with_data(info, given, self._folder, num_fewshot)
        return self._with_data[known]

    def _check_exclusions(self, rules: Sequence[Mapping[str, Any]], variants: Sequence[Variant]) -> None:
        """A rule that names something the grid does not have is a typing mistake."""
        known: dict[str, set[str]] = defaultdict(set)
        for variant in variants if rules else ():
            for key, value in variant.names().items():
                known[key].add(str(value))
        known["task"] = {entry.name for entry in self._grid.tasks}
        for index, rule in enumerate(rules):
            if not rule:
                raise GridError(f"an exclusion needs at least one of {', '.join(CELL_KEYS)}", key=f"exclude[{index}]")
            for key, value in rule.items():
                if str(value) not in known[key]:
                    raise GridError(unknown_name(key, str(value), known[key]), key=f"exclude[{index}].{key}")

    @staticmethod
    def _refuse_twins(key: str, labels: list[str]) -> None:
        for index, label in enumerate(labels):
            if label in labels[:index]:
                raise GridError(f"{label!r} is there twice; tables could not tell the two apart", key=f"{key}[{index}]")
