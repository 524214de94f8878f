from __future__ import annotations

import itertools
from collections import Counter

from grids import Cell
from orchestrator.failures import Failure
from orchestrator.scheduling import Scheduler
from workers.units import EvaluateUnit, QuantizeUnit, Unit

LOST = Failure("worker_lost", "the worker died", "")
WRONG = Failure("error", "ValueError: no", "")


def scheduler_of(cells: list[Cell], artifacts: set[str] | None = None) -> Scheduler:
    return Scheduler(cells, has_artifact=(artifacts or set()).__contains__)


def drain(scheduler: Scheduler) -> list[Unit]:
    """Every unit in the order in which one worker would run them."""
    units: list[Unit] = []
    while (unit := scheduler.next_unit(units[-1].variant_id if units else None)) is not None:
        units.append(unit)
        scheduler.finished(unit)
    return units


def test_every_cell_runs_once_and_every_variant_is_quantized_once(grid_cells: list[Cell]) -> None:
    scheduler = scheduler_of(grid_cells)
    units = drain(scheduler)
    evaluated = [unit.cell for unit in units if isinstance(unit, EvaluateUnit)]
    quantized = Counter(unit.variant_id for unit in units if isinstance(unit, QuantizeUnit))
    assert sorted(cell.cell_id for cell in evaluated) == sorted(cell.cell_id for cell in grid_cells)
    assert set(quantized.values()) == {1}
    assert len(quantized) == 2
    assert scheduler.is_done


def test_a_variant_that_is_on_disk_is_not_quantized_again(grid_cells: list[Cell]) -> None:
    artifacts = {cell.variant.variant_id for cell in grid_cells}
    assert all(isinstance(unit, EvaluateUnit) for unit in drain(scheduler_of(grid_cells, artifacts)))


def test_no_cell_starts_before_its_variant_is_quantized(grid_cells: list[Cell]) -> None:
    ready: set[str] = set()
    for unit in drain(scheduler_of(grid_cells)):
        if isinstance(unit, QuantizeUnit):
            ready.add(unit.variant_id)
        else:
            assert unit.cell.variant.is_full_precision or unit.variant_id in ready


def test_a_worker_stays_with_the_variant_that_it_holds(grid_cells: list[Cell]) -> None:
    variants = [unit.variant_id for unit in drain(scheduler_of(grid_cells))]
    changes = sum(before != after for before, after in itertools.pairwise(variants))
    assert changes == len(set(variants)) - 1


def test_two_workers_take_different_variants(grid_cells: list[Cell]) -> None:
    scheduler = scheduler_of(grid_cells)
    first, second = scheduler.next_unit(None), scheduler.next_unit(None)
    assert first is not None
    assert second is not None
    assert first.variant_id != second.variant_id


def test_a_lost_worker_costs_a_retry_and_at_last_the_cell(grid_cells: list[Cell]) -> None:
    scheduler = scheduler_of(grid_cells[:1])
    for attempt in (1, 2):
        unit = scheduler.next_unit(None)
        assert unit is not None
        assert scheduler.attempts(unit) == attempt
        assert scheduler.failed(unit, LOST) == []
    unit = scheduler.next_unit(None)
    assert unit is not None
    assert scheduler.failed(unit, LOST) == grid_cells[:1]
    assert scheduler.is_done


def test_an_error_is_not_retried(grid_cells: list[Cell]) -> None:
    scheduler = scheduler_of(grid_cells[:1])
    unit = scheduler.next_unit(None)
    assert unit is not None
    assert scheduler.failed(unit, WRONG) == grid_cells[:1]
    assert scheduler.is_done


def test_a_variant_that_fails_takes_its_cells_with_it_and_no_others(grid_cells: list[Cell]) -> None:
    scheduler = scheduler_of(grid_cells)
    lost: list[Cell] = []
    ran: list[Cell] = []
    while (unit := scheduler.next_unit(None)) is not None:
        if isinstance(unit, QuantizeUnit) and unit.variant.scheme.name == "w4a4":
            lost += scheduler.failed(unit, WRONG)
        else:
            scheduler.finished(unit)
            ran += [unit.cell] if isinstance(unit, EvaluateUnit) else []
    assert {cell.variant.scheme.name for cell in lost} == {"w4a4"}
    assert len(lost) == 2
    assert len(ran) == 4
    assert scheduler.is_done
