"""Files that ship with the package (tasks, the demo's models and texts), which lie elsewhere on another node."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import grids
from grids import Cell, Variant
from workers.units import EvaluateUnit, Unit

SHIPPED = Path(grids.__file__).resolve().parent


def with_own_files(unit: Unit, driver_folder: str) -> Unit:
    """The unit with this node's shipped files in place of the driver's, which are below `driver_folder`.

    No path is part of an id.
    """
    if not driver_folder or Path(driver_folder) == SHIPPED:
        return unit
    if isinstance(unit, EvaluateUnit):
        return replace(unit, cell=_cell(unit.cell, driver_folder))
    return replace(unit, variant=_variant(unit.variant, driver_folder))


def _cell(cell: Cell, driver_folder: str) -> Cell:
    info = cell.task.info
    data_files = {split: _own(path, driver_folder) for split, path in info.data_files.items()}
    info = replace(info, file=Path(_own(str(info.file), driver_folder)), data_files=data_files)
    return replace(cell, variant=_variant(cell.variant, driver_folder), task=replace(cell.task, info=info))


def _variant(variant: Variant, driver_folder: str) -> Variant:
    calibration = variant.calibration
    if calibration is not None:
        calibration = replace(calibration, source=_own(calibration.source, driver_folder))
    model = replace(variant.model, path=_own(variant.model.path, driver_folder))
    return replace(variant, model=model, calibration=calibration)


def _own(path: str, driver_folder: str) -> str:
    is_shipped = Path(path).is_absolute() and Path(path).is_relative_to(driver_folder)
    return str(SHIPPED / Path(path).relative_to(driver_folder)) if is_shipped else path
