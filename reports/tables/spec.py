"""What a table shows, as data: the keys of a table spec (YAML), and where specs are read from."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from grids.errors import GridError, unknown_name
from grids.loading import dotted
from reports.tables.model import ColumnKind

Axis = Literal["model", "scheme", "method"]
Item = TypeVar("Item")

SPEC_DIR = Path(__file__).parent
DEFAULT_TABLES = ("main", "differences")
PAPER_TABLES = tuple(f"paper-{number}" for number in range(1, 6))
_SUFFIXES = (".yaml", ".yml")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
Names = tuple[str, ...]
Chosen = Annotated[Names, Field(min_length=1)] | None
_KEYS_OF_PUBLISHED = {"name", "title", "content", "rows", "metrics", "only", "order", "labels"}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Group(_Strict):
    """Columns under one heading. `name`: a task group of the study, unless `tasks` lists the group's tasks itself."""

    name: str
    title: str | None = None
    tasks: Chosen = None


class Selection(_Strict):
    """What a table is confined to: names, or patterns with * ? [ ]. Full precision is always kept."""

    models: Chosen = None
    schemes: Chosen = None
    methods: Chosen = None
    tasks: Chosen = None


class Order(_Strict):
    """Names that come first, in this order; the others follow as the grid has them."""

    models: Names = ()
    schemes: Names = ()
    methods: Names = ()
    tasks: Names = ()
    groups: Names = ()


class Labels(_Strict):
    """What is printed in place of a name; names that the study does not have are passed over."""

    models: dict[str, str] = {}
    schemes: dict[str, str] = {}
    methods: dict[str, str] = {}
    tasks: dict[str, str] = {}
    groups: dict[str, str] = {}


class TableSpec(_Strict):
    """One table. A row is a variant; a column is a task, or a summary of the tasks of a group.

    With `content: published` a row is a score beside a published one, and only `rows`, `metrics`, `only`, `order` and
    `labels` mean anything.

    `rows`: the label columns from left to right, which is also how rows are sorted. `task_columns` and `summaries`: the
    columns of each task and of each group, in this order; `overall` adds the summaries over all tasks. `metrics`: task
    to METRIC or METRIC,FILTER, where the table is not to show the task's own. `best`: among which rows of a column the
    best is looked for, or null. `shade`: the kinds of columns whose cells are shaded by severity. `seeds`: `each` has a
    row per seed, `mean` one for all seeds, `both` both. `noise_floor` adds a row where full precision has several.
    """

    name: str
    title: str
    content: Literal["scores", "published"] = "scores"
    rows: Annotated[tuple[Axis, ...], Field(min_length=1)] = ("model", "scheme", "method")
    task_columns: tuple[Literal["score", "difference"], ...] = ("score",)
    summaries: tuple[Literal["average", "difference", "drop", "recovery"], ...] = ("average", "drop")
    groups: Annotated[tuple[Group, ...], Field(min_length=1)] | None = None
    overall: bool = True
    metrics: dict[str, str] = {}
    only: Selection = Selection()
    order: Order = Order()
    labels: Labels = Labels()
    uncertainty: Literal["stderr", "interval", "none"] = "stderr"
    best: tuple[Axis, ...] | None = ("model", "scheme")
    shade: tuple[ColumnKind, ...] = ("drop",)
    seeds: Literal["each", "mean", "both"] = "both"
    noise_floor: bool = True

    @field_validator("name")
    @classmethod
    def _is_file_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError("a table's name is the name of its file: letters, digits, '_' and '-'")
        return name

    @field_validator("rows", "task_columns", "summaries")
    @classmethod
    def _is_distinct(cls, names: tuple[Item, ...]) -> tuple[Item, ...]:
        if len(set(names)) < len(names):
            raise ValueError("a name is given twice")
        return names

    @field_validator("rows")
    @classmethod
    def _tells_variants_from_full_precision(cls, rows: tuple[Axis, ...]) -> tuple[Axis, ...]:
        if not {"scheme", "method"} & set(rows):
            raise ValueError("full precision and variants look the same: the list needs 'scheme' or 'method'")
        return rows

    @field_validator("best")
    @classmethod
    def _is_within_model(cls, axes: tuple[Axis, ...] | None) -> tuple[Axis, ...] | None:
        if axes is not None and "model" not in axes:
            raise ValueError("the best is looked for within a model: the list needs 'model'")
        return axes

    @field_validator("groups")
    @classmethod
    def _has_each_task_once(cls, groups: tuple[Group, ...] | None) -> tuple[Group, ...] | None:
        names = [group.name for group in groups or ()]
        tasks = [task for group in groups or () for task in group.tasks or ()]
        for listed in (names, tasks):
            for name in listed:
                if listed.count(name) > 1:
                    raise ValueError(f"{name!r} stands in two groups")
        return groups

    @model_validator(mode="after")
    def _has_keys_of_its_content(self) -> TableSpec:
        unused = sorted(self.model_fields_set - _KEYS_OF_PUBLISHED)
        if self.content == "published" and unused:
            raise ValueError(f"a table with content: published has no use for {', '.join(unused)}")
        return self


def table_names() -> list[str]:
    """The names of the tables that ship."""
    return sorted(path.stem for path in SPEC_DIR.glob("*.yaml"))


def read_table_spec(name: str) -> TableSpec:
    """The spec that ships under a name, or the one in a file (`.yaml`). Raises GridError that says what is wrong."""
    if name in table_names():
        return _read(SPEC_DIR / f"{name}.yaml")
    if Path(name).suffix not in _SUFFIXES:
        raise GridError(f"{unknown_name('table', name, table_names())}; a file of your own ends in .yaml")
    return _read(Path(name))


def _read(file: Path) -> TableSpec:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise GridError(f"cannot read the table spec: {error}", file=str(file)) from error
    except yaml.YAMLError as error:
        raise GridError(f"not valid YAML: {' '.join(str(error).split())}", file=str(file)) from error
    if not isinstance(content, dict):
        raise GridError("a table spec is a mapping of keys; it needs at least title", file=str(file))
    try:
        return TableSpec.model_validate({"name": file.stem, **content})
    except ValidationError as error:
        raise _first_problem(error, str(file)) from error


def _first_problem(error: ValidationError, file: str) -> GridError:
    """Unknown keys first: they usually cause the other messages."""
    problem: Any = min(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    *parents, last = problem["loc"] or ("",)
    if problem["type"] == "extra_forbidden":
        return GridError(unknown_name("key", str(last), _fields_at(parents)), file=file, key=dotted(parents))
    if problem["type"] == "missing":
        return GridError("this key is required", file=file, key=dotted(problem["loc"]))
    value = problem["input"]
    shown = f" (given: {value!r})" if isinstance(value, str | int | float | bool) else ""
    return GridError(problem["msg"].removeprefix("Value error, ") + shown, file=file, key=dotted(problem["loc"]))


def _fields_at(location: Sequence[int | str]) -> list[str]:
    models: dict[str, type[_Strict]] = {"groups": Group, "only": Selection, "order": Order, "labels": Labels}
    return list(models.get(str(location[0]) if location else "", TableSpec).model_fields)


def choose(spec: TableSpec, key: str, patterns: Chosen, names: Iterable[str], aliases: dict[str, str]) -> set[str]:
    """The names that a spec's `only.<key>` takes; `aliases` are short names. Raises GridError for a pattern of none."""
    known = list(dict.fromkeys(names))
    if patterns is None:
        return set(known)
    chosen: set[str] = set()
    for pattern in patterns:
        found = {name for name in known if fnmatch.fnmatchcase(name, pattern) or aliases.get(name) == pattern}
        if not found:
            raise GridError(
                f"{unknown_name(key.removesuffix('s'), pattern, known)}", file=f"table {spec.name}", key=f"only.{key}"
            )
        chosen |= found
    return chosen
