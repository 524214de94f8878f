"""How a person names a cell of a study: its id, the beginning of its id, or KEY=VALUE,... of what tables call it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from grids import GridError
from grids.errors import unknown_name
from grids.expansion import CELL_KEYS

Cell = Mapping[str, Any]

# A method's label may hold a comma of its own, so a pair ends only where the next one begins.
_NEXT_PAIR = re.compile(rf",(?=(?:{'|'.join(CELL_KEYS)})=)")
_SHOWN = 10


def cell_label(cell: Cell) -> str:
    """A cell of a study's description in words: model, method, scheme, task."""
    return f"{cell['model']} {cell['method_label']} {cell['scheme']} {cell['task']}"


def select_cell(cells: Sequence[Cell], text: str) -> Cell:
    """The one cell of a study's description that `text` names.

    Raises GridError where it names none, with what comes near, or several, with their ids.
    """
    found = select_cells(cells, text)
    if len(found) > 1:
        shown = "".join(f"\n  {cell['cell_id']}  {cell_label(cell)}" for cell in found[:_SHOWN])
        more = f"\n  and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise GridError(f"{text!r} names {len(found)} cells; write more of it, or one of these ids:{shown}{more}")
    return found[0]


def select_cells(cells: Sequence[Cell], text: str) -> list[Cell]:
    """All cells that `text` names, at least one. Raises GridError."""
    if "=" not in text:
        found = [cell for cell in cells if text and cell["cell_id"].startswith(text)]
        if not found:
            raise GridError(
                f"no cell has an id that begins with {text!r}; give an id, its beginning, or "
                f"KEY=VALUE,... with keys of {', '.join(CELL_KEYS)}"
            )
        return found
    found = list(cells)
    for pair in _NEXT_PAIR.split(text):
        key, _, value = pair.partition("=")
        if key not in CELL_KEYS:
            raise GridError(unknown_name("key", key, CELL_KEYS), key=text)
        known = {name for cell in cells for name in _names(cell, key) if name}
        if value not in known:
            raise GridError(unknown_name(key, value, known), key=text)
        found = [cell for cell in found if value in _names(cell, key)]
    if not found:
        raise GridError(f"no cell agrees with all of {text!r}")
    return found


def select_variants(cells: Sequence[Cell], text: str) -> dict[str, list[Cell]]:
    """Cells by variant: those of `select_cells`, or of a variant whose id `text` begins. Raises GridError."""
    found = [cell for cell in cells if text and "=" not in text and cell["variant_id"].startswith(text)]
    variants: dict[str, list[Cell]] = {}
    for cell in found or select_cells(cells, text):
        variants.setdefault(cell["variant_id"], []).append(cell)
    return variants


def _names(cell: Cell, key: str) -> tuple[str, ...]:
    """What a cell answers to: a method to its name and to its label in tables."""
    return (cell["method"], cell["method_label"]) if key == "method" else (str(cell[key]),)
