"""The presets that ship: one YAML document in `methods/presets` for each."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import yaml

import methods
from grids import Preset


def read_presets() -> dict[str, Preset]:
    """The presets that ship, by name."""
    folder = files(methods) / "presets"
    return {
        Path(file.name).stem: Preset(**yaml.safe_load(file.read_text(encoding="utf-8")))
        for file in folder.iterdir()
        if file.name.endswith(".yaml")
    }
