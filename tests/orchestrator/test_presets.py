"""Presets as a grid sees them, with the methods that are installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from grids import Model, ModelEntry, Study, read_grid, resolve
from grids.protocol import Family
from orchestrator.catalog import make_catalog
from workers.presets import read_presets

METHODS = ("rtn", "gptq", "awq", "smoothquant", "quarot", "duquant")


def study_of(folder: Path, preset: str, family: Family) -> Study:
    def find_model(entry: ModelEntry, folder: Path, dtype: str) -> Model:
        return Model(entry.label, entry.path, None, "digest", family, dtype, False, (256,))

    catalog = make_catalog()
    file = folder / "grid.yaml"
    file.write_text(
        f"name: x\nmodels: [m]\nmethods: [{', '.join(METHODS)}]\nschemes: [w4a4]\ntasks: [demo_facts]\n"
        f"preset: {preset}\ncalibration: text.txt\n"
    )
    (folder / "text.txt").write_text("text")
    return resolve(
        read_grid(file), file, type(catalog)(catalog.methods, catalog.presets, catalog.task_folders, find_model)
    )


def parameters(study: Study) -> dict[str, dict[str, Any]]:
    return {variant.method: dict(variant.parameters) for variant in study.variants()}


def test_both_presets_name_parameters_of_every_method(tmp_path: Path) -> None:
    for preset in read_presets():
        assert set(parameters(study_of(tmp_path, preset, "llada"))) == {"none", *METHODS}


def test_the_papers_preset_rounds_every_linear_for_every_family(tmp_path: Path) -> None:
    llada, dream = (parameters(study_of(tmp_path, "paper", family)) for family in ("llada", "dream"))
    assert llada == dream
    assert not any(chosen.get("skip") for chosen in llada.values())
    assert llada["gptq"]["symmetric"] is False
    assert llada["quarot"]["quantize_k"] is True


def test_the_public_codes_defects_are_those_of_its_llada_path(tmp_path: Path) -> None:
    llada, dream = (parameters(study_of(tmp_path, "qdlm", family)) for family in ("llada", "dream"))
    assert llada["gptq"]["skip"] == ["q_proj", "k_proj", "v_proj"]
    assert dream["gptq"]["skip"] == []
    assert (llada["awq"]["inspect"], dream["awq"]["inspect"]) == ("block", "module")
    assert (llada["quarot"]["quantize_k"], dream["quarot"]["quantize_k"]) == (False, True)
    assert llada["smoothquant"]["anchor_only"]
    assert llada["duquant"]["outlier_index"] == "row"
    assert llada["gptq"]["symmetric"]


@pytest.mark.parametrize("method", METHODS)
def test_a_preset_is_part_of_identity_through_what_it_changes(tmp_path: Path, method: str) -> None:
    ids = {
        preset: {variant.method: variant.variant_id for variant in study_of(tmp_path, preset, "llada").variants()}
        for preset in ("paper", "qdlm")
    }
    # RTN has no deviation to switch on.
    assert (ids["paper"][method] == ids["qdlm"][method]) == (method == "rtn")
