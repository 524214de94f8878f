from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from grids import Cell, GridError, Study

StudyOf = Callable[..., Study]


def cell(study: Study, **names: object) -> Cell:
    return next(c for c in study.cells if all(c.names()[key] == value for key, value in names.items()))


def test_each_model_gets_its_full_precision_row_and_every_combination(study_of: StudyOf, small_grid: str) -> None:
    study = study_of(small_grid)
    combinations = {(c.names()["method"], c.names()["scheme"], c.names()["task"]) for c in study.cells}
    schemes = ["w4a16g128", "w4a4"]
    expected = {(m, s, t) for m in ["rtn", "gptq"] for s in schemes for t in ["capitals", "sums"]}
    assert combinations == expected | {("none", "fp16", "capitals"), ("none", "fp16", "sums")}
    assert len(study.cells) == len(combinations)


def test_a_scheme_that_a_method_does_not_serve_is_marked_with_the_reason(study_of: StudyOf, small_grid: str) -> None:
    study = study_of(small_grid)
    assert cell(study, method="gptq", scheme="w4a4").not_applicable == "weights only"
    assert cell(study, method="gptq", scheme="w4a16g128").not_applicable is None
    assert {v.scheme.name for v in study.variants() if v.method == "gptq"} == {"w4a16g128"}


def test_groups_that_do_not_divide_a_models_linears_are_not_applicable(study_of: StudyOf, small_grid: str) -> None:
    study = study_of(small_grid.replace("w4a16g128", "w4a16g512"))
    reason = cell(study, method="rtn", scheme="w4a16g512").not_applicable
    assert reason == "a group of 512 does not divide the 256 inputs of a linear of tiny"


def test_exclude_leaves_out_partial_matches_only(study_of: StudyOf, small_grid: str) -> None:
    study = study_of(small_grid + "exclude: [{method: rtn, task: sums}]\n")
    left_out = [c for c in study_of(small_grid).cells if c not in study.cells]
    assert {(c.names()["method"], c.names()["task"]) for c in left_out} == {("rtn", "sums")}


def test_calibrations_are_an_axis_of_the_methods_that_calibrate(study_of: StudyOf, small_grid: str) -> None:
    one = "calibration: {dataset: text.txt, num_samples: 4, length: 8}"
    several = "\n".join(
        ["calibrations:"]
        + [f"  - {{dataset: text.txt, num_samples: 4, length: 8, mask: {mask}}}" for mask in ("none", "uniform")]
        + ["  - {dataset: text.txt, num_samples: 4, length: 8, mask: timestep, name: by-time}"]
    )
    study = study_of(small_grid.replace(one, several))
    labels = {variant.method_label: variant.variant_id for variant in study.variants()}
    assert set(labels) == {"none", "rtn", "gptq, none", "gptq, uniform", "gptq, by-time"}
    served = [variant for variant in study.variants() if variant.method == "gptq"]
    assert len({variant.variant_id for variant in served}) == 3
    # A grid with one calibration names no calibration, and means the same variant.
    assert cell(study_of(small_grid), method="gptq").variant.variant_id == labels["gptq, none"]
    study = study_of(small_grid.replace(one, several) + "exclude: [{calibration: uniform}, {calibration: none}]\n")
    assert {variant.method_label for variant in study.variants()} == {"none", "rtn", "gptq, by-time"}


def test_a_column_of_a_file_is_part_of_the_calibrations_identity(
    study_of: StudyOf, small_grid: str, tmp_path: Path
) -> None:
    study_of(small_grid)
    (tmp_path / "text.jsonl").write_text('{"text": "a", "story": "b"}\n')
    grids = [small_grid.replace("text.txt", name) for name in ("text.jsonl", "text.jsonl, field: story")]
    assert len({cell(study_of(grid), method="gptq").variant.variant_id for grid in grids}) == 2


def test_a_preset_fills_parameters_and_the_grid_has_the_last_word(study_of: StudyOf, small_grid: str) -> None:
    study = study_of(small_grid)
    assert cell(study, method="gptq").variant.parameters == {"symmetric": False, "damp_percent": 0.02}
    text = small_grid.replace("[rtn, gptq]", "[rtn, {name: gptq, parameters: {damp_percent: 0.5}}]")
    changed = study_of(text)
    assert cell(changed, method="gptq (damp_percent=0.5)").variant.parameters["damp_percent"] == 0.5


def test_overrides_reach_nested_keys(study_of: StudyOf, small_grid: str) -> None:
    study = study_of(small_grid, ("limit=3", "protocol.likelihood.mc_num=16"))
    assert cell(study, task="capitals").task.limit == 3
    assert cell(study, task="capitals").task.protocol.likelihood.mc_num == 16


def test_a_task_brings_its_group_metric_and_filter(study_of: StudyOf, small_grid: str) -> None:
    task = cell(study_of(small_grid), task="sums").task
    assert (task.group, task.metric, task.filter, task.info.version) == ("math", "exact_match", "strict", "1")


BAD_GRIDS = [
    (
        "name: x\nmodels: [tiny]\nmethods: [gptq]\nschemes: [w4a16]\ntasks: [capitals]\ncalibration: wikitext\n",
        "calibrations[0].dataset: no such text file",
    ),
    (
        "name: x\nmodels: [tiny]\nmethods: [gptq]\nschemes: [w4a16]\ntasks: [capitals]\ncalibration: grid.yaml\n",
        "a file ends in .txt, .md, .jsonl, .parquet",
    ),
    (
        "name: x\nmodels: [tiny]\ntasks: [capitals]\ncalibration: text.txt\ncalibrations: [text.txt]\n",
        "give calibration or calibrations, not both",
    ),
    ("", "the grid is empty"),
    ("- a\n- b\n", "a grid is a mapping of keys, not a list"),
    ("name: [", "not valid YAML"),
    ("name: x\nmodels: [tiny]\n", "tasks: this key is required"),
    ("name: x\nmodels: []\ntasks: [capitals]\n", "models: the list is empty"),
    ("name: x\nmodels: [tiny]\ntasks: [capitals]\nmethod: [rtn]\n", "unknown key 'method'; did you mean 'methods'?"),
    ("name: x\nmodels: [{path: tiny, revison: a}]\ntasks: [capitals]\n", "models[0]: unknown key 'revison'"),
    ("name: x\nmodels: [tiny]\ntasks: [capitals]\nschemes: [w4]\nmethods: [rtn]\n", "schemes: cannot read scheme 'w4'"),
    ("name: x\nmodels: [tiny]\ntasks: [capital]\n", "tasks[0]: unknown task 'capital'; did you mean 'capitals'?"),
    ("name: x\nmodels: [tinny]\ntasks: [capitals]\n", "models[0]: no such model folder"),
    ("name: x\nmodels: [tiny]\ntasks: [capitals]\nmethods: [rtn]\n", "schemes: the list is empty"),
    (
        "name: x\nmodels: [tiny]\ntasks: [capitals]\nschemes: [w8a8]\nmethods: [rtn, gtpq]\n",
        "methods[1]: unknown method 'gtpq'; did you mean 'gptq'?",
    ),
    (
        "name: x\nmodels: [tiny]\ntasks: [capitals]\nschemes: [w8a8]\n"
        "methods: [{name: rtn, parameters: {symetric: true}}]\n",
        "methods[0].parameters: unknown parameter 'symetric'; did you mean 'symmetric'?",
    ),
    ("name: x\nmodels: [tiny]\ntasks: [capitals]\nschemes: [w8a8]\nmethods: [gptq]\n", "needs calibration data"),
    (
        "name: x\nmodels: [tiny]\ntasks: [capitals]\npreset: papre\n",
        "preset: unknown preset 'papre'; did you mean 'paper'?",
    ),
    ("name: x\nmodels: [tiny]\ntasks: [capitals]\nexclude: [{task: sum}]\n", "exclude[0].task: unknown task 'sum'"),
    ("name: x\nmodels: [tiny]\ntasks: [capitals]\nexclude: [{model: tiny}]\n", "every cell is excluded"),
    ("name: x\nmodels: [tiny, tiny]\ntasks: [capitals]\n", "models[1]: 'tiny' is there twice"),
    (
        "name: x\nmodels: [tiny]\ntasks: [{name: sums, generation: {gen_length: 33}}]\n",
        "not a multiple of block_length",
    ),
    ("name: x\nmodels: [tiny]\ntasks: [{name: capitals, likelihood: {mc_num: 0}}]\n", "likelihood.mc_num"),
    ("name: a/b\nmodels: [tiny]\ntasks: [capitals]\n", "name: "),
    # What would show after hours, when the first such cell has been computed.
    (
        "name: x\nmodels: [tiny]\ntasks: [{name: capitals, metric: acc_nrom}]\n",
        "tasks[0].metric: unknown metric of task 'capitals' 'acc_nrom'; did you mean 'acc'?",
    ),
    (
        "name: x\nmodels: [tiny]\ntasks: [capitals, {name: sums, filter: strct}]\n",
        "tasks[1].filter: unknown filter of task 'sums' 'strct'; did you mean 'strict'?",
    ),
    (
        "name: x\nmodels: [tiny]\ntasks: [{name: sums, generation: {gen_length: 2048}}]\n",
        "protocol of task sums.generation.gen_length: answers of 2048 tokens leave no room for a prompt in tiny, which "
        "holds 2048",
    ),
    (
        "name: x\nmodels: [tiny]\nmethods: [gptq]\nschemes: [w4a16]\ntasks: [capitals]\n"
        "calibration: {dataset: text.txt, length: 2049}\n",
        "calibration.length: windows of 2049 tokens are longer than what tiny holds, 2048",
    ),
    (
        "name: x\nmodels: [tiny]\nmethods: [gptq]\nschemes: [w4a16]\ntasks: [capitals]\n"
        "calibrations: [{name: short, dataset: text.txt}, {name: long, dataset: text.txt, length: 4096}]\n",
        "calibrations.long.length: windows of 4096 tokens",
    ),
]


def test_lengths_that_a_model_can_just_hold_are_taken_and_so_are_those_of_excluded_cells(study_of: StudyOf) -> None:
    base = "name: x\nmodels: [tiny]\nmethods: [gptq]\nschemes: [w4a16, w4a4]\n"
    calibration = "calibration: {dataset: text.txt, length: 2048}\n"
    tasks = "tasks: [capitals, {name: sums, generation: {gen_length: 2016, steps: 2016}}]\n"
    assert len(study_of(base + tasks + calibration).cells) == 6
    excluded = tasks.replace("2016", "2048") + "exclude: [{task: sums}]\n"
    assert len(study_of(base + excluded + calibration).cells) == 3


@pytest.mark.parametrize(("text", "complaint"), BAD_GRIDS)
def test_bad_input_names_the_file_the_key_and_what_is_allowed(study_of: StudyOf, text: str, complaint: str) -> None:
    with pytest.raises(GridError) as error:
        study_of(text)
    message = str(error.value)
    assert complaint in message
    assert message.startswith(error.value.file)
    assert "grid.yaml" in message
    assert len(message.splitlines()) == 1


def test_a_missing_grid_file_is_named(tmp_path: Path) -> None:
    from grids import read_grid

    with pytest.raises(GridError, match="no such grid file"):
        read_grid(tmp_path / "nowhere.yaml")
