"""Cells and variants without models: what scheduling and planning look at."""

from __future__ import annotations

from pathlib import Path

import pytest

from grids import Calibration, Cell, CellTask, Model, TaskInfo, Variant, parse_scheme
from grids.protocol import Protocol


def make_cell(
    model: str = "tiny",
    method: str = "rtn",
    scheme: str = "w4a4",
    task: str = "facts",
    *,
    limit: int | None = None,
    calibration: Calibration | None = None,
    not_applicable: str | None = None,
) -> Cell:
    found = Model(model, f"models/{model}", None, f"digest of {model}", "llada", "float32", False, (256, 768))
    if scheme == "fp16":
        method = "none"
    variant = Variant(found, method, method, 1, {}, parse_scheme(scheme), calibration, 0)
    info = TaskInfo(
        task, Path(f"{task}.yaml"), "1", "multiple_choice", "general", "acc", "none", 0, {}, f"digest of {task}"
    )
    return Cell(variant, CellTask(info, 0, limit, Protocol(), "acc", "none", "general"), not_applicable)


@pytest.fixture
def grid_cells() -> list[Cell]:
    """Full precision and two variants of one model, two tasks each."""
    return [make_cell(scheme=scheme, task=task) for scheme in ("fp16", "w4a4", "w8a8") for task in ("facts", "sums")]
