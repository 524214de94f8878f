"""Reads a grid file and says in one message what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from grids.errors import GridError, unknown_name
from grids.schema import Grid


def read_grid(file: Path, overrides: Sequence[str] = ()) -> Grid:
    """The grid in `file` with `KEY=VALUE` overrides (dotted keys, YAML values). Raises GridError."""
    content = _read_yaml(file)
    for override in overrides:
        _override(content, override)
    try:
        return Grid.model_validate(content)
    except ValidationError as error:
        raise _first_problem(error, str(file)) from error


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise GridError("no such grid file", file=str(file)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise GridError(f"cannot read the grid file: {error}", file=str(file)) from error
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise GridError(f"not valid YAML: {' '.join(str(error).split())}", file=str(file)) from error
    if content is None:
        raise GridError(f"the grid is empty; it needs at least {', '.join(_required(Grid))}", file=str(file))
    if not isinstance(content, dict):
        raise GridError(f"a grid is a mapping of keys, not a {type(content).__name__}", file=str(file))
    return content


def _override(content: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not (key and separator):
        raise GridError(f"cannot read override {override!r}; write KEY=VALUE, as in limit=8", key="--set")
    *parents, last = key.split(".")
    place = content
    for parent in parents:
        inner = place.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise GridError(f"cannot set {key!r}: {parent!r} is not a mapping", key="--set")
        place = inner
    try:
        place[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise GridError(f"the value of {override!r} is not valid YAML", key="--set") from error


def _required(model: type[BaseModel]) -> list[str]:
    return [name for name, field in model.model_fields.items() if field.is_required()]


def _first_problem(error: ValidationError, file: str) -> GridError:
    """Unknown keys first: they usually cause the other messages."""
    problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    problem = problems[0]
    location: tuple[int | str, ...] = problem["loc"]
    key, value = dotted(location), problem.get("input")
    if problem["type"] == "extra_forbidden":
        message = unknown_name("key", str(location[-1]), _fields_at(location[:-1]))
        return GridError(message, file=file, key=dotted(location[:-1]))
    if problem["type"] == "missing":
        return GridError("this key is required", file=file, key=key)
    if problem["type"] == "too_short":
        return GridError("the list is empty; it needs at least one entry", file=file, key=key)
    message = problem["msg"].removeprefix("Value error, ")
    shown = "" if repr(value) in message or isinstance(value, dict | list) else f" (given: {value!r})"
    return GridError(message + shown, file=file, key=key)


def dotted(location: Sequence[int | str]) -> str:
    """A place in the file as people write it: `methods[0].name`."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _fields_at(location: Sequence[int | str]) -> list[str]:
    """The keys that the grid allows at a place."""
    model: type[BaseModel] = Grid
    for part in location:
        if isinstance(part, str):
            model = _inner_model(model.model_fields[part].annotation)
    return list(model.model_fields)


def _inner_model(annotation: Any) -> type[BaseModel]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(_inner_model(inner) for inner in get_args(annotation) if inner is not type(None))
