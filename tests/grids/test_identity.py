from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from grids import Study
from grids.expansion import CELL_KEYS
from grids.identity import canonical_json, changed_fields, content_id
from grids.needs import Needs
from grids.protocol import DreamSampler, GenerationSettings, LikelihoodSettings, LladaSampler, Protocol
from grids.schema import CalibrationEntry, Exclusion, Grid, MethodEntry, ModelEntry, ProtocolEntry, Retries, TaskEntry

StudyOf = Callable[..., Study]

# Never change these: results on disk are found by them. A change of meaning raises a version instead.
GOLDEN_IDS = {
    ("none", "fp16", "capitals"): "8cd1efa08c858b9f",
    ("none", "fp16", "sums"): "65a374cb2de40bf9",
    ("rtn", "w4a4", "capitals"): "c9e2374c642c9652",
    ("gptq", "w4a16g128", "sums"): "c6de130532663dc8",
}


def test_cell_ids_are_golden(study_of: StudyOf, small_grid: str) -> None:
    names = {
        (c.names()["method"], c.names()["scheme"], c.names()["task"]): c.cell_id for c in study_of(small_grid).cells
    }
    assert {key: names[key] for key in GOLDEN_IDS} == GOLDEN_IDS


def test_every_cell_has_its_own_id(study_of: StudyOf, small_grid: str) -> None:
    cells = study_of(small_grid).cells
    assert len({cell.cell_id for cell in cells}) == len(cells)


# Each field of a grid decides a number (through the resolved settings), or only names, places or selects.
CLASSIFIED = {
    Grid: (
        {
            *("models", "methods", "schemes", "tasks", "data", "preset", "protocol", "calibrations", "seeds", "limit"),
            "dtype",
        },
        {"name", "exclude", "task_path", "retries", "timeout", "allow_mixed_devices"},
    ),
    ModelEntry: ({"path", "revision", "chat_template"}, {"name", "needs"}),
    Needs: (set(), {"label_selector", "gpu_memory", "host_memory"}),
    MethodEntry: ({"name", "parameters"}, {"label"}),
    TaskEntry: ({"name", "num_fewshot", "limit", "likelihood", "generation"}, {"group", "metric", "filter"}),
    CalibrationEntry: ({"dataset", "field", "num_samples", "length", "seed", "mask"}, {"name"}),
    ProtocolEntry: ({"likelihood", "generation"}, set()),
    Retries: (set(), {"worker_lost", "node_lost", "oom_host", "oom_gpu", "timeout", "backoff"}),
    Exclusion: (set(), set(CELL_KEYS)),
    Protocol: ({"likelihood", "generation"}, set()),
    LikelihoodSettings: ({"mc_num", "strata", "exact", "race"}, set()),
    GenerationSettings: ({"gen_length", "steps", "temperature", "eos_ends_answer", "llada", "dream"}, set()),
    LladaSampler: (
        {"block_length", "remasking", "cfg_scale", "logits_eos_inf", "confidence_eos_eot_inf"},
        set(),
    ),
    DreamSampler: ({"algorithm", "top_p", "top_k", "alg_temp"}, set()),
}


@pytest.mark.parametrize("model", CLASSIFIED, ids=lambda model: model.__name__)
def test_every_field_is_classified_as_identity_or_not(model: type) -> None:
    identity, other = CLASSIFIED[model]
    assert not identity & other
    assert identity | other == set(model.model_fields)


IDENTITY_CHANGES = [
    ("limit: 10", "limit: 11"),
    ("num_samples: 4", "num_samples: 5"),
    ("gen_length: 32, steps: 32", "gen_length: 64, steps: 32"),
    ("dtype: float32", "dtype: bfloat16"),
    ("dtype: float32", "dtype: float32\nseeds: [1]"),
    ("dtype: float32", "dtype: float32\nprotocol: {generation: {temperature: 0.5}}"),
    ("dtype: float32", "dtype: float32\nprotocol: {generation: {llada: {cfg_scale: 0.5}}}"),
    ("dtype: float32", "dtype: float32\nprotocol: {generation: {llada: {logits_eos_inf: true}}}"),
    ("dtype: float32", "dtype: float32\nprotocol: {generation: {llada: {confidence_eos_eot_inf: true}}}"),
    ("models: [tiny]", "models: [{path: tiny, chat_template: true}]"),
]


@pytest.mark.parametrize(("old", "new"), IDENTITY_CHANGES)
def test_what_decides_the_number_changes_the_id(study_of: StudyOf, small_grid: str, old: str, new: str) -> None:
    def find(study: Study) -> str:
        return next(c.cell_id for c in study.cells if c.variant.method == "gptq" and c.task.info.name == "sums")

    assert find(study_of(small_grid)) != find(study_of(small_grid.replace(old, new)))


def test_likelihood_options_that_are_off_leave_older_results_where_they_are() -> None:
    assert LikelihoodSettings().identity() == {"mc_num": 128, "strata": 1}
    settings = LikelihoodSettings(mc_num=8, exact=True, race=0.05)
    assert settings.identity() == {"mc_num": 8, "strata": 1, "exact": True, "race": 0.05}
    assert Protocol(likelihood=settings).identity("llada", "multiple_choice") == settings.identity()
    assert Protocol(likelihood=settings).identity("causal", "multiple_choice") == {}


NAME_CHANGES = [
    ("name: small", "name: large"),
    ("models: [tiny]", "models: [{path: tiny, name: other}]"),
    ("- capitals", "- {name: capitals, group: math, metric: acc}"),
    # What is done about failures decides no number.
    ("dtype: float32", "dtype: float32\ntimeout: 2h\nretries: {worker_lost: 7, backoff: 1m}"),
    # A setting that came later, at what was done before it came.
    ("dtype: float32", "dtype: float32\nprotocol: {generation: {llada: {cfg_scale: 0.0, logits_eos_inf: false}}}"),
    # Dream's sampler settings decide nothing for a LLaDA model.
    ("dtype: float32", "dtype: float32\nprotocol: {generation: {dream: {algorithm: origin}}}"),
]


@pytest.mark.parametrize(("old", "new"), NAME_CHANGES)
def test_what_only_names_or_shows_keeps_the_ids(study_of: StudyOf, small_grid: str, old: str, new: str) -> None:
    before = [cell.cell_id for cell in study_of(small_grid).cells]
    assert [cell.cell_id for cell in study_of(small_grid.replace(old, new)).cells] == before


def test_ids_depend_on_the_models_content_and_not_on_its_place(
    study_of: StudyOf, small_grid: str, tmp_path: Path
) -> None:
    before = [cell.cell_id for cell in study_of(small_grid).cells]
    (tmp_path / "tiny").rename(tmp_path / "moved")
    moved = small_grid.replace("models: [tiny]", "models: [{path: moved, name: tiny}]")
    assert [cell.cell_id for cell in study_of(moved).cells] == before
    (tmp_path / "moved" / "config.json").write_text('{"model_type": "llada", "n_layers": 2}')
    assert not {cell.cell_id for cell in study_of(moved).cells} & set(before)


def test_a_tasks_data_is_part_of_its_identity_and_its_comments_are_not(
    study_of: StudyOf, small_grid: str, tmp_path: Path
) -> None:
    before = [cell.cell_id for cell in study_of(small_grid).cells]
    file = tmp_path / "tasks" / "capitals.yaml"
    file.write_text("# a comment\n" + file.read_text())
    assert [cell.cell_id for cell in study_of(small_grid).cells] == before
    (tmp_path / "tasks" / "capitals.jsonl").write_text('{"question": "??"}\n')
    assert not {cell.cell_id for cell in study_of(small_grid).cells} & set(before)


def test_canonical_json_is_one_text_for_equal_values() -> None:
    assert canonical_json({"b": 1, "a": [1.0, None, "ü"]}) == '{"a":[1.0,null,"ü"],"b":1}'
    assert content_id({"a": 1, "b": 2}) == content_id({"b": 2, "a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(float("nan"))


def test_changed_fields_name_the_old_and_the_new_value() -> None:
    assert changed_fields({"a": {"b": 1, "c": 2}}, {"a": {"b": 3, "c": 2}, "d": 4}) == [
        "a.b 1 -> 3",
        "d (absent) -> 4",
    ]


def test_grids_imports_neither_torch_nor_ray() -> None:
    code = "import sys, grids; print([m for m in ('torch', 'ray', 'transformers', 'lm_eval') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
