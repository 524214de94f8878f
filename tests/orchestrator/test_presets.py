"""Presets as a grid sees them, with the methods that are installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from grids import CellTask, Model, ModelEntry, Study, read_grid, resolve
from grids.protocol import Family
from orchestrator.catalog import make_catalog
from orchestrator.listing import list_names
from workers.presets import read_presets

METHODS = ("rtn", "gptq", "awq", "smoothquant", "quarot", "duquant")


# Shots, draws, length, steps, block length: table A1 of arXiv 2508.14896 and the public scripts for LLaDA.
LLADA_TASKS = {
    "piqa": (0, 128, None),
    "hellaswag": (0, 128, None),
    "winogrande": (0, 128, None),
    "arc_easy": (0, 128, None),
    "arc_challenge": (0, 128, None),
    "mmlu": (5, 1, None),
    "gsm8k": (4, None, (256, 256, 32)),
    "minerva_math": (0, None, (256, 256, 64)),
    "humaneval": (0, None, (512, 512, 32)),
    "mbpp": (3, None, (512, 512, 32)),
}


def study_of(folder: Path, preset: str, family: Family, tasks: str = "demo_facts", more: str = "") -> Study:
    def find_model(entry: ModelEntry, folder: Path, dtype: str) -> Model:
        return Model(entry.label, entry.path, None, "digest", family, dtype, False, (256,))

    catalog = make_catalog()
    file = folder / "grid.yaml"
    file.write_text(
        f"name: x\nmodels: [m]\nmethods: [{', '.join(METHODS)}]\nschemes: [w4a4]\ntasks: [{tasks}]\n"
        f"preset: {preset}\ncalibration: text.txt\n{more}"
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


def tasks_of(folder: Path, preset: str, family: Family, more: str = "") -> dict[str, CellTask]:
    study = study_of(folder, preset, family, ", ".join(LLADA_TASKS), more)
    return {cell.task.info.name: cell.task for cell in study.cells}


@pytest.mark.parametrize("preset", ["paper", "qdlm"])
def test_shots_draws_and_lengths_of_llada_are_the_studys(tmp_path: Path, preset: str) -> None:
    for name, task in tasks_of(tmp_path, preset, "llada").items():
        num_fewshot, mc_num, lengths = LLADA_TASKS[name]
        assert task.num_fewshot == num_fewshot
        if mc_num is not None:
            assert task.protocol.likelihood.mc_num == mc_num
        if lengths is not None:
            settings = task.protocol.generation
            assert (settings.gen_length, settings.steps, settings.llada.block_length) == lengths
            assert (settings.temperature, settings.llada.remasking) == (0.0, "low_confidence")


def test_dream_generates_128_tokens_with_top_p_for_every_task(tmp_path: Path) -> None:
    for preset in ("paper", "qdlm"):
        for name, task in tasks_of(tmp_path, preset, "dream").items():
            settings = task.protocol.generation
            assert settings.gen_length == 128
            if (preset, name) == ("qdlm", "humaneval"):
                assert (settings.steps, settings.temperature, settings.dream.top_p) == (128, 0.08, 0.9)
            else:
                assert (settings.steps, settings.temperature, settings.dream.top_p) == (512, 0.0, 0.95)
            assert settings.dream.algorithm == "entropy"


def test_only_the_public_codes_llada_goes_on_after_an_end_of_text(tmp_path: Path) -> None:
    ends = {
        (preset, family): {
            task.protocol.generation.eos_ends_answer for task in tasks_of(tmp_path, preset, family).values()
        }
        for preset in ("paper", "qdlm")
        for family in get_args(Family)
    }
    assert {key for key, value in ends.items() if value == {False}} == {("qdlm", "llada")}
    assert all(value in ({True}, {False}) for value in ends.values())


def test_a_grids_protocol_is_laid_over_what_a_preset_says_of_a_family(tmp_path: Path) -> None:
    more = "protocol: {generation: {gen_length: 64, steps: 64}}\n"
    settings = tasks_of(tmp_path, "qdlm", "dream", more)["humaneval"].protocol.generation
    assert (settings.gen_length, settings.steps, settings.temperature) == (64, 64, 0.08)


def test_the_list_of_tasks_has_the_studys_ten_with_group_metric_shots_and_data() -> None:
    about = dict(list_names("tasks").rows)
    assert set(about) >= set(LLADA_TASKS)
    assert about["gsm8k"] == "math, generation, metric exact_match (strict-match), 4-shot, openai/gsm8k main"
    assert about["mmlu"] == "general, likelihood, metric acc, 5-shot, cais/mmlu all"
    assert about["minerva_math"].endswith("metric math_verify, 0-shot, EleutherAI/hendrycks_math 7 subsets")
    assert about["mbpp"].startswith("code, generation, metric pass_at_1, 3-shot")
