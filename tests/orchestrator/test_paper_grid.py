"""grids/paper.yaml is the whole study, planned where none of its models are."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import pytest

import grids
from grids import Study, read_grid, resolve
from orchestrator import load_grid, run
from orchestrator.catalog import make_catalog
from orchestrator.planning import make_plan
from orchestrator.priced_plan import PricedPlan, price_plan
from reports import ResultStore
from tests.orchestrator.paper_with_tiny_models import LIMIT, overrides

PAPER_GRID = Path(grids.__file__).parent / "paper.yaml"
# Every score that the paper prints: tables 1 to 5 of arXiv 2508.14896, each model x method x scheme x task once.
PAPER_CELLS = Path(__file__).parents[1] / "grids" / "paper_cells.csv"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The grid, with an empty cache and no network."""
    from huggingface_hub import constants

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        return resolve(read_grid(PAPER_GRID), PAPER_GRID, make_catalog())


@pytest.fixture(scope="module")
def priced(study: Study) -> PricedPlan:
    return price_plan(make_plan(study, None), device="H200")


def test_the_grid_has_every_cell_of_the_paper_and_no_other(study: Study) -> None:
    with PAPER_CELLS.open(encoding="utf-8") as file:
        published = Counter((row["model"], row["method"], row["scheme"], row["task"]) for row in csv.DictReader(file))
    planned = Counter(tuple(cell.names()[key] for key in ("model", "method", "scheme", "task")) for cell in study.cells)
    assert planned == published
    assert len(study.cells) == 228
    assert set(planned.values()) == {1}
    assert all(cell.not_applicable is None for cell in study.cells)
    assert len({cell.cell_id for cell in study.cells}) == 228
    assert len(list(study.variants())) == 27


def test_each_method_calibrates_on_what_the_paper_says(study: Study) -> None:
    used = {
        variant.method: (variant.calibration.source, variant.calibration.num_samples, variant.calibration.length)
        for variant in study.variants()
        if variant.calibration is not None
    }
    wikitext = ("wikitext2", 128, 2048)
    assert used == {
        "gptq": wikitext,
        "awq": ("pileval", 128, 512),
        "smoothquant": wikitext,
        "quarot": wikitext,
        "duquant": wikitext,
    }


def test_tasks_are_in_the_papers_groups_with_its_shots_and_lengths(study: Study) -> None:
    tasks = {cell.task.info.name: cell.task for cell in study.cells if cell.variant.model.family == "llada"}
    groups = {name: task.group for name, task in tasks.items()}
    assert {name for name, group in groups.items() if group == "math"} == {"gsm8k", "minerva_math"}
    assert {name for name, group in groups.items() if group == "code"} == {"humaneval", "mbpp"}
    assert Counter(groups.values())["general"] == 6
    assert {name: task.num_fewshot for name, task in tasks.items() if task.num_fewshot} == {
        "mmlu": 5,
        "gsm8k": 4,
        "mbpp": 3,
    }
    lengths = {
        name: (task.protocol.generation.gen_length, task.protocol.generation.llada.block_length)
        for name, task in tasks.items()
        if task.info.is_generation
    }
    assert lengths == {"gsm8k": (256, 32), "minerva_math": (256, 64), "humaneval": (512, 32), "mbpp": (512, 32)}
    assert {name: tasks[name].protocol.likelihood.mc_num for name in ("mmlu", "piqa")} == {"mmlu": 1, "piqa": 128}


def test_models_are_pinned_to_commits(study: Study) -> None:
    models = {cell.variant.model.label: cell.variant.model for cell in study.cells}
    for model in models.values():
        assert model.revision is not None
        assert len(model.revision) == 40
        assert model.digest == f"{model.path}@{model.revision}"


def test_the_study_is_priced_near_the_published_reckoning(priced: PricedPlan) -> None:
    # Some 27 EFLOP a configuration at 128 forwards for every choice; equal masks and idle forwards are not run.
    evaluation = {str(variant.variant): variant.evaluation.flops / 1e18 for variant in priced.variants}
    assert 20 < evaluation["llada-8b-base none fp16"] < 27.4
    # Quantizing is less than a hundredth of it.
    quantizing = sum(variant.quantization.seconds for variant in priced.variants if variant.quantization)
    assert quantizing < 0.01 * priced.total.seconds
    assert 200 * 3600 < priced.total.seconds < 300 * 3600
    assert priced.total.memory_bytes < 80e9
    assert priced.pricer.guessed_tasks() == []


@pytest.mark.parametrize("num_workers", [8, 64, 512])
def test_the_study_runs_within_five_percent_of_the_lower_bound(priced: PricedPlan, num_workers: int) -> None:
    made = priced.simulate(num_workers)
    assert made.lower_bound <= made.makespan <= 1.05 * made.lower_bound
    assert made.num_lost_cells == 0


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides with which the grid needs no hub; `make chaos` runs all of it with them."""
    return overrides(tmp_path_factory.mktemp("data") / "data")


def test_with_the_demos_models_and_local_files_the_grid_has_the_same_cells(study: Study, local: list[str]) -> None:
    tiny = load_grid(PAPER_GRID, limit=LIMIT, overrides=local)
    assert [cell.names() for cell in tiny.cells] == [cell.names() for cell in study.cells]
    assert all(cell.not_applicable is None for cell in tiny.cells)
    assert [cell.task.num_fewshot for cell in tiny.cells] == [cell.task.num_fewshot for cell in study.cells]
    draws = [[cell.task.protocol.likelihood.mc_num for cell in made.cells] for made in (tiny, study)]
    assert draws[0] == draws[1]


def test_cells_of_the_grid_run_with_the_demos_models_and_local_files(local: list[str], tmp_path: Path) -> None:
    only = ["model=dream-7b-base", "scheme=w3a16g128", "method=gptq", "task=arc_easy"]
    result = run(PAPER_GRID, tmp_path, limit=LIMIT, overrides=local, only=only, in_process=True)
    assert (result.num_done, result.num_failed) == (1, 0)
    (row,) = (row for row in ResultStore(tmp_path).cells() if row["is_primary"])
    assert (row["model"], row["task"], row["num_fewshot"]) == ("dream-7b-base", "arc_easy", 0)
    (variant,) = ResultStore(tmp_path).variants()
    assert variant["num_linears"] == 35
