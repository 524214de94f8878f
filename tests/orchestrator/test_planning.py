from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from grids import Calibration, Cell, GridError, Study
from grids.expansion import CELL_KEYS
from grids.protocol import GenerationSettings, LikelihoodSettings, Protocol
from orchestrator.planning import make_plan
from orchestrator.study_directory import expected_cell
from reports import ResultStore
from tests.orchestrator.conftest import FAILED, cell_row, make_cell


def test_without_results_everything_applicable_runs(grid_cells: list[Cell], tmp_path: Path) -> None:
    refused = make_cell(scheme="w4a4kv4", not_applicable="no keys here")
    plan = make_plan(Study("s", (*grid_cells, refused)), ResultStore(tmp_path))
    assert plan.counts() == {"run": 6, "not_applicable": 1}
    assert plan.cells[-1].reason == "no keys here"
    assert plan.to_run() == grid_cells


def test_done_is_reused_and_failed_waits_for_its_flag(grid_cells: list[Cell], tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    store.record_cell([cell_row(grid_cells[0])])
    store.record_cell([cell_row(grid_cells[1], **FAILED)])
    study = Study("s", tuple(grid_cells))
    assert [planned.action for planned in make_plan(study, store).cells[:3]] == ["reuse", "failed", "run"]
    again = make_plan(study, store, retry_failed=True)
    assert [planned.action for planned in again.cells[:3]] == ["reuse", "run", "run"]
    assert "audit: x" in again.cells[1].reason


CALIBRATION = Calibration("text.txt", "text", "", "digest of text", 128, 2048, 0, "none")
Change = Callable[[Cell], Cell]


def of_variant(**changes: Any) -> Change:
    return lambda cell: replace(cell, variant=replace(cell.variant, **changes))


def of_model(**changes: Any) -> Change:
    return lambda cell: of_variant(model=replace(cell.variant.model, **changes))(cell)


def of_calibration(**changes: Any) -> Change:
    return of_variant(calibration=replace(CALIBRATION, **changes))


def of_task(**changes: Any) -> Change:
    return lambda cell: replace(cell, task=replace(cell.task, **changes))


def of_task_file(**changes: Any) -> Change:
    return lambda cell: of_task(info=replace(cell.task.info, **changes))(cell)


def of_likelihood(**changes: Any) -> Change:
    return of_task(protocol=Protocol(likelihood=LikelihoodSettings(**changes)))


CHANGES = [
    (of_model(digest="other"), "variant.model.digest digest of tiny -> other"),
    (of_model(dtype="bfloat16"), "variant.model.dtype float32 -> bfloat16"),
    (of_model(chat_template=True), "variant.model.chat_template False -> True"),
    (of_variant(parameters={"damp": 0.2}), "variant.method.parameters.damp 0.1 -> 0.2"),
    (
        of_variant(parameters={"damp": 0.1, "order": True}),
        "variant.method.parameters.order (absent) -> True",
    ),
    (of_variant(method_version=2), "variant.method.version 1 -> 2"),
    (of_calibration(num_samples=64), "variant.calibration.num_samples 128 -> 64"),
    (of_calibration(length=512), "variant.calibration.length 2048 -> 512"),
    (of_calibration(digest="other"), "variant.calibration.digest digest of text -> other"),
    (of_calibration(seed=1), "variant.calibration.seed 0 -> 1"),
    (of_calibration(mask="timestep"), "variant.calibration.mask none -> timestep"),
    (of_task_file(digest="other"), "task.digest digest of facts -> other"),
    (of_task_file(version="2"), "task.version 1 -> 2"),
    (of_task(num_fewshot=5), "task.num_fewshot 0 -> 5"),
    (of_task(limit=10), "task.limit None -> 10"),
    (of_likelihood(mc_num=64), "task.protocol.mc_num 128 -> 64"),
    (of_likelihood(strata=16), "task.protocol.strata 1 -> 16"),
]


@pytest.mark.parametrize(("change", "reason"), CHANGES, ids=[reason for _, reason in CHANGES])
def test_each_kind_of_change_makes_a_cell_stale_and_is_named(change: Change, reason: str, tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    before = of_variant(parameters={"damp": 0.1})(make_cell(calibration=CALIBRATION))
    store.record_cell([cell_row(before)])
    planned = make_plan(Study("s", (change(before),)), store).cells[0]
    assert (planned.action, planned.reason, planned.runs) == ("stale", reason, True)
    # And back again: the old number is still there.
    assert make_plan(Study("s", (before,)), store).cells[0].action == "reuse"


def test_several_changes_are_named_together(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    store.record_cell([cell_row(make_cell(limit=10))])
    planned = make_plan(Study("s", (of_model(dtype="float16")(make_cell(limit=20)),)), store).cells[0]
    assert planned.reason == "task.limit 10 -> 20; variant.model.dtype float32 -> float16"


def test_sampler_settings_make_a_generation_stale_and_no_likelihood(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    change = of_task(protocol=Protocol(generation=GenerationSettings(gen_length=512)))
    written, chosen = make_cell(task="sums", generates=True), make_cell()
    for cell in (written, chosen):
        store.record_cell([cell_row(cell)])
    plan = make_plan(Study("s", (change(written), change(chosen))), store)
    assert [(planned.action, planned.reason) for planned in plan.cells] == [
        ("stale", "task.protocol.gen_length 256 -> 512"),
        ("reuse", "done"),
    ]


@pytest.mark.parametrize(
    "other",
    [
        make_cell(scheme="w8a8"),
        make_cell(method="gptq"),
        make_cell(task="sums"),
        make_cell(model="larger"),
        of_variant(seed=1)(make_cell()),
    ],
    ids=["scheme", "method", "task", "model", "seed"],
)
def test_another_name_is_another_cell_and_not_a_stale_one(other: Cell, tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    store.record_cell([cell_row(make_cell())])
    planned = make_plan(Study("s", (other,)), store).cells[0]
    assert (planned.action, planned.reason) == ("run", "no result yet")


def test_cells_are_called_by_the_same_keys_everywhere(grid_cells: list[Cell]) -> None:
    assert set(grid_cells[0].names()) == set(CELL_KEYS)
    assert set(CELL_KEYS) <= expected_cell(grid_cells[0]).keys()


def test_only_selects_cells_by_name(grid_cells: list[Cell]) -> None:
    study = Study("s", tuple(grid_cells))
    plan = make_plan(study, None, only=["scheme=w4a4", "task=facts"])
    assert [cell.names()["scheme"] for cell in plan.to_run()] == ["w4a4"]


@pytest.mark.parametrize(
    ("only", "complaint"),
    [
        ("scheme", "write KEY=VALUE"),
        ("colour=red", "with a key of model, method, calibration, scheme, task, seed"),
        ("task=fact", "did you mean 'facts'?"),
    ],
)
def test_an_only_that_matches_nothing_is_refused(grid_cells: list[Cell], only: str, complaint: str) -> None:
    with pytest.raises(GridError) as error:
        make_plan(Study("s", tuple(grid_cells)), None, only=[only])
    assert complaint in str(error.value)
