"""The methods that can be named in a grid: those built in, and those of other packages."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from methods.awq import Awq
from methods.contract import Method, MethodParameters
from methods.duquant import Duquant
from methods.gptq import Gptq
from methods.quarot import Quarot
from methods.rtn import Rtn
from methods.smoothquant import SmoothQuant

ENTRY_POINT_GROUP = "qstudy.methods"
_BUILT_IN: tuple[type[Method[Any]], ...] = (Rtn, Gptq, Awq, SmoothQuant, Quarot, Duquant)


class MethodPluginError(RuntimeError):
    """A method of another package that cannot be used. The text names the package's entry point."""


def available_methods() -> dict[str, type[Method[Any]]]:
    """Every method class by name: built in, then those of entry points in the group `qstudy.methods`.

    Raises MethodPluginError for an entry point that does not load, is no method, or takes a name that is taken.
    """
    methods: dict[str, type[Method[Any]]] = {method.name: method for method in _BUILT_IN}
    for entry_point in entry_points(group=ENTRY_POINT_GROUP):
        method = _load(entry_point)
        if entry_point.name in methods:
            raise MethodPluginError(f"{_place(entry_point)}: the name {entry_point.name!r} is taken")
        methods[entry_point.name] = method
    return methods


def _load(entry_point: EntryPoint) -> type[Method[Any]]:
    try:
        loaded = entry_point.load()
    except Exception as error:  # whatever the import of foreign code raises, the message must say whose it is
        raise MethodPluginError(f"{_place(entry_point)} does not load: {type(error).__name__}: {error}") from error
    if not (isinstance(loaded, type) and issubclass(loaded, Method)):
        raise MethodPluginError(f"{_place(entry_point)} is not a subclass of methods.Method")
    if loaded.__abstractmethods__:
        missing = ", ".join(sorted(loaded.__abstractmethods__))
        raise MethodPluginError(f"{_place(entry_point)} does not define {missing}")
    wrong = _wrong_class_variable(loaded)
    if wrong is not None:
        raise MethodPluginError(f"{_place(entry_point)}: {wrong}")
    if loaded.name != entry_point.name:
        raise MethodPluginError(f"{_place(entry_point)}: the class calls itself {loaded.name!r}")
    return loaded


def _wrong_class_variable(method: type[Method[Any]]) -> str | None:
    for variable, kind in (("name", str), ("version", int), ("needs_calibration", bool), ("Parameters", type)):
        if not isinstance(getattr(method, variable, None), kind):
            return f"the class variable {variable} is missing or no {kind.__name__}"
    if not issubclass(method.Parameters, MethodParameters):
        return "Parameters is not a subclass of methods.MethodParameters"
    return None


def _place(entry_point: EntryPoint) -> str:
    package = f" of {entry_point.dist.name}" if entry_point.dist is not None else ""
    return f"method plug-in {entry_point.name!r}{package} ({entry_point.value})"
