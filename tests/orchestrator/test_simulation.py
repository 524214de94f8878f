"""Simulated runs against closed forms, and against the bound that no schedule can beat."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from grids import Cell
from orchestrator import simulation
from orchestrator.simulation import Simulation, simulate
from tests.orchestrator.conftest import make_cell, make_pricer

TASKS = ("piqa", "winogrande", "arc_easy", "gsm8k")
LOAD_SECONDS = 32.06


def of(cells: list[Cell], num_workers: int, **options: Any) -> Simulation:
    return simulate(
        cells, make_pricer(cells), num_workers=num_workers, has_artifact=options.pop("has", lambda _: False), **options
    )


def some_cells(num_variants: int) -> list[Cell]:
    schemes = ["fp16"] + [f"w{bits}a8" for bits in range(2, 2 + num_variants - 1)]
    return [
        make_cell(scheme=scheme, task=task, generates=task == "gsm8k", limit=200)
        for scheme in schemes
        for task in TASKS
    ]


def test_one_worker_takes_the_sum_of_all_units_and_of_all_loads() -> None:
    cells = some_cells(3)
    pricer = make_pricer(cells)
    variants = {cell.variant.variant_id: cell.variant for cell in cells if not cell.variant.is_full_precision}
    work = sum(pricer.cell(cell).seconds for cell in cells)
    work += sum(pricer.quantization(variant).seconds for variant in variants.values())
    made = of(cells, 1)
    assert made.busy_seconds == pytest.approx(work)
    # Only the full-precision model is loaded apart: a quantized one is at hand where it was made.
    assert made.makespan == pytest.approx(work + LOAD_SECONDS, rel=1e-4)
    assert made.lower_bound == pytest.approx(work)
    assert made.utilization == pytest.approx(work / made.makespan)


def test_artifacts_save_quantizing_and_cost_loading() -> None:
    cells = some_cells(3)
    made, again = of(cells, 1), of(cells, 1, has=lambda _: True)
    pricer = make_pricer(cells)
    assert again.busy_seconds == pytest.approx(sum(pricer.cell(cell).seconds for cell in cells))
    assert again.makespan == pytest.approx(again.busy_seconds + 3 * LOAD_SECONDS, rel=1e-4)
    assert again.num_units == made.num_units - 2


@pytest.mark.parametrize("num_workers", [1, 2, 3, 8, 50, 4096])
def test_no_run_beats_the_lower_bound_and_more_workers_do_the_same_work(num_workers: int) -> None:
    cells = some_cells(5)
    made = of(cells, num_workers)
    assert made.makespan >= made.lower_bound
    assert made.busy_seconds == pytest.approx(of(cells, 1).busy_seconds)
    assert 0 < made.utilization <= 1


def test_the_bound_is_a_quantization_with_its_longest_shard_where_workers_abound() -> None:
    cells = some_cells(2)
    made = of(cells, 4096)
    pricer = make_pricer(cells)
    quantized = [cell for cell in cells if not cell.variant.is_full_precision]
    longest = max(quantized, key=lambda cell: pricer.cell(cell).seconds)
    assert made.longest_pole.startswith(f"quantization, then {longest}, 1 of ")
    num_shards = int(made.longest_pole.split()[-2])
    expected = pricer.quantization(longest.variant).seconds + pricer.cell(longest).seconds / num_shards
    assert made.lower_bound == pytest.approx(expected)


def test_a_simulation_gives_the_same_every_time() -> None:
    cells = some_cells(4)
    assert of(cells, 8, failures_per_hour=2.0) == of(cells, 8, failures_per_hour=2.0)
    assert of(cells, 8, failures_per_hour=2.0) != of(cells, 8, failures_per_hour=2.0, seed=1)


def test_failures_cost_time_and_every_cell_is_done_or_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = some_cells(4)
    calm, rough = of(cells, 8), of(cells, 8, failures_per_hour=5.0)
    assert calm.num_failures == 0
    assert rough.num_failures > 0
    assert rough.makespan > calm.makespan
    if not rough.num_lost_cells:
        assert rough.num_units == calm.num_units
    monkeypatch.setattr(simulation, "RESTART_SECONDS", 0.0)
    assert of(cells, 8, failures_per_hour=5.0).makespan < rough.makespan


def test_workers_that_die_all_the_time_lose_every_cell() -> None:
    cells = some_cells(3)
    made = of(cells, 4, failures_per_hour=1e6)
    assert made.num_lost_cells == len(cells)
    assert made.num_units == 0


def test_a_lost_evaluation_keeps_what_it_had_finished() -> None:
    # One cell, one worker, one failure: what was done before it is not done again.
    (cell,) = [make_cell(scheme="fp16", task="gsm8k", generates=True)]
    pricer = make_pricer([cell])
    seconds = pricer.cell(cell).seconds
    for seed in range(100):
        made = of([cell], 1, failures_per_hour=0.7 * 3600 / seconds, seed=seed)
        if made.num_failures == 1 and not made.num_lost_cells:
            spare = made.makespan - seconds - simulation.RESTART_SECONDS
            assert LOAD_SECONDS - 0.1 <= spare <= 2 * LOAD_SECONDS + 0.1
            return
    raise AssertionError("no seed had exactly one failure")


def test_random_grids_stay_near_the_bound_when_cells_are_split() -> None:
    rng = np.random.default_rng(3)
    for _ in range(3):
        cells = [
            replace(cell, task=replace(cell.task, limit=int(rng.integers(500, 1800))))
            for cell in some_cells(int(rng.integers(3, 7)))
        ]
        made = of(cells, int(rng.integers(2, 9)))
        assert made.makespan <= 1.05 * made.lower_bound
