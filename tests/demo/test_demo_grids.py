"""The grids that ship resolve to the variants that their comments promise."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import grids
from orchestrator.commands import load_grid

DEMO = Path(grids.__file__).parent / "demo"


def test_four_mask_policies_are_four_variants_of_each_method() -> None:
    study = load_grid(DEMO / "masks.yaml")
    masks: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for variant in study.variants():
        if variant.calibration is not None:
            masks[variant.model.label, variant.method][variant.calibration.mask] = variant.variant_id
    assert len(masks) == 2 * 5
    for by_mask in masks.values():
        assert set(by_mask) == {"none", "uniform", "timestep", "on-policy"}
        assert len(set(by_mask.values())) == 4


def test_six_methods_meet_every_scheme_that_they_serve() -> None:
    study = load_grid(DEMO / "six-methods.yaml")
    assert {cell.variant.method for cell in study.cells} == {
        *("none", "rtn", "gptq", "awq", "smoothquant", "quarot", "duquant")
    }
    refused = {(cell.variant.method, cell.variant.scheme.name) for cell in study.cells if cell.not_applicable}
    assert refused == {
        (method, scheme) for method in ("smoothquant", "duquant") for scheme in ("w4a16g128", "w3a16g128", "w2a16g128")
    }
