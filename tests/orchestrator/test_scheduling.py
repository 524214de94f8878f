from __future__ import annotations

import itertools
from collections import Counter

import pytest

from grids import Cell
from orchestrator.scheduling import Scheduler, even_shards
from tests.orchestrator.conftest import make_cell
from workers.units import EvaluateUnit, QuantizeUnit, Unit

# Seconds by task, and of a quantization.
SECONDS = {"facts": 10.0, "sums": 30.0, "code": 20.0, "quantize": 5.0}


def seconds_of(unit: Unit) -> float:
    if isinstance(unit, QuantizeUnit):
        return SECONDS["quantize"]
    return SECONDS[unit.cell.task.info.name.rstrip("0123456789")] / unit.shard[1]


def scheduler_of(
    cells: list[Cell], artifacts: set[str] | None = None, *, num_shards: int = 1, num_workers: int = 1
) -> Scheduler:
    return Scheduler(
        cells,
        has_artifact=(artifacts or set()).__contains__,
        seconds_of=seconds_of,
        shards_of=lambda cell: num_shards,
        num_workers=num_workers,
    )


def drain(scheduler: Scheduler) -> list[Unit]:
    """Every unit in the order in which one worker would run them."""
    units: list[Unit] = []
    while (unit := scheduler.next_unit(units[-1].variant_id if units else None)) is not None:
        units.append(unit)
        scheduler.finished(unit)
    return units


def take(scheduler: Scheduler, resident: str | None = None) -> Unit:
    unit = scheduler.next_unit(resident)
    assert unit is not None
    return unit


def take_cell(scheduler: Scheduler, resident: str | None = None) -> EvaluateUnit:
    unit = take(scheduler, resident)
    assert isinstance(unit, EvaluateUnit)
    return unit


def all_variants(cells: list[Cell]) -> set[str]:
    return {cell.variant.variant_id for cell in cells}


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
    units = drain(scheduler_of(grid_cells, all_variants(grid_cells)))
    assert all(isinstance(unit, EvaluateUnit) for unit in units)


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


def test_the_longest_cell_of_a_variant_comes_first() -> None:
    cells = [make_cell(scheme="fp16", task=task) for task in ("facts", "sums", "code")]
    units = drain(scheduler_of(cells))
    assert [unit.cell.task.info.name for unit in units if isinstance(unit, EvaluateUnit)] == ["sums", "code", "facts"]


def test_full_precision_comes_first_whatever_is_longer(grid_cells: list[Cell]) -> None:
    long = [make_cell(scheme="w8a8", task=task) for task in ("facts", "sums", "code")]
    short = [make_cell(scheme="fp16", task="facts"), make_cell("other", scheme="fp16", task="facts")]
    scheduler = scheduler_of([*long, *short], all_variants(long))
    first, second, third = (take_cell(scheduler) for _ in range(3))
    # The rows of two models, by two workers.
    assert {first.cell.variant.model.label, second.cell.variant.model.label} == {"tiny", "other"}
    assert first.cell.variant.is_full_precision
    assert second.cell.variant.is_full_precision
    assert not third.cell.variant.is_full_precision


def test_workers_take_different_variants_and_then_help_where_most_is_left() -> None:
    small = [make_cell(scheme="w4a4", task="facts"), make_cell(scheme="w4a4", task="code")]
    large = [make_cell(scheme="w8a8", task=task) for task in ("facts", "sums", "code")]
    scheduler = scheduler_of([*small, *large], all_variants([*small, *large]))
    first, second = take_cell(scheduler), take_cell(scheduler)
    assert [unit.cell.variant.scheme.name for unit in (first, second)] == ["w8a8", "w4a4"]
    # 30 seconds are left of the one, 10 of the other.
    assert take_cell(scheduler).cell.variant.scheme.name == "w8a8"
    # But who holds a variant keeps to it.
    assert take_cell(scheduler, small[0].variant.variant_id).cell.variant.scheme.name == "w4a4"


def test_help_goes_where_most_is_left_for_each_worker() -> None:
    few = [make_cell(scheme="w4a4", task=task) for task in ("facts", "facts2", "facts3")]
    many = [make_cell(scheme="w8a8", task=f"facts{number}") for number in range(8)]
    scheduler = scheduler_of([*few, *many], all_variants([*few, *many]))
    names = [take_cell(scheduler).cell.variant.scheme.name for _ in range(5)]
    # Of 80 and 30 seconds each has a worker; then 70 / 2, 60 / 3 and 50 / 4 are more than 20 / 2, and 40 / 5 is less.
    assert names == ["w8a8", "w4a4", "w8a8", "w8a8", "w8a8"]
    assert [take_cell(scheduler).cell.variant.scheme.name for _ in range(2)] == ["w4a4", "w8a8"]


def test_a_worker_without_a_variant_quantizes_before_it_helps(grid_cells: list[Cell]) -> None:
    quantized = grid_cells[2:4]
    scheduler = scheduler_of(grid_cells[2:], all_variants(quantized))
    assert isinstance(take(scheduler), EvaluateUnit)
    assert isinstance(take(scheduler), QuantizeUnit)


@pytest.mark.parametrize(("num_workers", "expected"), [(8, EvaluateUnit), (10, QuantizeUnit)])
def test_quantizing_starts_while_the_full_precision_row_still_keeps_the_others_busy(
    num_workers: int, expected: type
) -> None:
    # 40 seconds of work for all but one worker, while a quantization takes 5.
    baseline = [make_cell(scheme="fp16", task="facts"), make_cell(scheme="fp16", task="sums")]
    scheduler = scheduler_of([*baseline, make_cell()], num_workers=num_workers)
    assert isinstance(take(scheduler), expected)
    # Also where the row's own worker asks.
    scheduler = scheduler_of([*baseline, make_cell()], num_workers=num_workers)
    assert isinstance(take(scheduler, baseline[0].variant.variant_id), expected)


def test_two_workers_never_quantize_one_variant(grid_cells: list[Cell]) -> None:
    scheduler = scheduler_of(grid_cells[2:4], num_workers=2)
    assert isinstance(take(scheduler), QuantizeUnit)
    assert scheduler.next_unit(None) is None
    assert not scheduler.is_done


def test_a_cell_is_complete_with_its_last_shard(grid_cells: list[Cell]) -> None:
    scheduler = scheduler_of(grid_cells[:1], num_shards=3)
    units = [take_cell(scheduler) for _ in range(3)]
    assert sorted(unit.shard for unit in units) == [(0, 3), (1, 3), (2, 3)]
    assert len({unit.unit_id for unit in units}) == 3
    assert [scheduler.finished(unit) for unit in reversed(units)] == [None, None, None]
    # Once more, to be scored.
    whole = scheduler.next_unit(None)
    assert whole == EvaluateUnit(grid_cells[0])
    assert scheduler.only_scores(whole)
    assert not any(scheduler.only_scores(unit) for unit in units)
    assert scheduler.finished(whole) is grid_cells[0]
    assert scheduler.is_done


def test_a_cell_in_one_piece_has_its_own_id(grid_cells: list[Cell]) -> None:
    scheduler = scheduler_of(grid_cells[:1])
    unit = take_cell(scheduler)
    assert unit.unit_id == grid_cells[0].cell_id
    assert scheduler.finished(unit) is grid_cells[0]


def test_a_shard_that_fails_takes_its_cell_with_it_once_and_no_other(grid_cells: list[Cell]) -> None:
    scheduler = scheduler_of(grid_cells[:2], num_shards=4)
    first = take_cell(scheduler)
    second, third = take_cell(scheduler), take_cell(scheduler)
    assert first.cell is second.cell is third.cell
    assert scheduler.failed(first, again=False) == [first.cell]
    # Shards that run already are of no use any more; those that wait are gone.
    assert scheduler.failed(second, again=False) == []
    assert scheduler.finished(third) is None
    rest = drain(scheduler)
    assert {unit.cell.cell_id for unit in rest if isinstance(unit, EvaluateUnit)} == (
        {cell.cell_id for cell in grid_cells[:2]} - {first.cell.cell_id}
    )
    # Four shards, and the scoring.
    assert len(rest) == 5
    assert scheduler.is_done


def test_a_unit_that_is_kept_counts_its_attempts_and_at_last_costs_the_cell(grid_cells: list[Cell]) -> None:
    scheduler = scheduler_of(grid_cells[:1])
    unit = take(scheduler)
    assert scheduler.attempts(unit) == 1
    assert scheduler.failed(unit, again=True) == []
    assert scheduler.next_unit(None) is None
    assert not scheduler.is_done
    assert scheduler.resume(unit)
    assert scheduler.attempts(unit) == 2
    assert scheduler.failed(unit, again=False) == grid_cells[:1]
    assert scheduler.is_done


def test_a_kept_shard_is_of_no_use_once_its_cell_is_lost(grid_cells: list[Cell]) -> None:
    scheduler = scheduler_of(grid_cells[:1], num_shards=2)
    first, second = take_cell(scheduler), take_cell(scheduler)
    assert scheduler.failed(first, again=True) == []
    assert scheduler.failed(second, again=False) == grid_cells[:1]
    assert not scheduler.resume(first)
    assert scheduler.is_done


def test_a_kept_quantization_runs_once_more_and_its_cells_after_it(grid_cells: list[Cell]) -> None:
    scheduler = scheduler_of(grid_cells[2:4])
    unit = take(scheduler)
    assert scheduler.failed(unit, again=True) == []
    assert scheduler.next_unit(None) is None
    assert scheduler.resume(unit)
    assert not scheduler.resume(unit)
    scheduler.finished(unit)
    assert len(drain(scheduler)) == 2


def test_quantizations_that_take_too_long_are_left_out_with_their_cells(grid_cells: list[Cell]) -> None:
    scheduler = scheduler_of(grid_cells)
    assert scheduler.leave_out(SECONDS["quantize"]) == 0
    assert scheduler.leave_out(SECONDS["quantize"] - 1) == 2
    ran = drain(scheduler)
    assert [unit.cell for unit in ran if isinstance(unit, EvaluateUnit)] == [grid_cells[1], grid_cells[0]]
    assert len(ran) == 2
    assert scheduler.is_done


def test_a_variant_that_fails_takes_its_cells_with_it_and_no_others(grid_cells: list[Cell]) -> None:
    scheduler = scheduler_of(grid_cells)
    lost: list[Cell] = []
    ran: list[Cell] = []
    while (unit := scheduler.next_unit(None)) is not None:
        if isinstance(unit, QuantizeUnit) and unit.variant.scheme.name == "w4a4":
            lost += scheduler.failed(unit, again=False)
        else:
            scheduler.finished(unit)
            ran += [unit.cell] if isinstance(unit, EvaluateUnit) else []
    assert {cell.variant.scheme.name for cell in lost} == {"w4a4"}
    assert len(lost) == 2
    assert len(ran) == 4
    assert scheduler.is_done


def test_no_shard_is_longer_than_a_share_of_the_whole_nor_shorter_than_is_worth_it(grid_cells: list[Cell]) -> None:
    shards_of = even_shards(lambda cell: 10_000.0, 100_000.0, 8)
    # 100,000 seconds on 8 workers are 12,500 each, of which a 32nd is 390.6.
    assert shards_of(grid_cells[0]) == 26
    assert even_shards(lambda cell: 300.0, 100_000.0, 8)(grid_cells[0]) == 1
    assert even_shards(lambda cell: 100.0, 100_000.0, 4096)(grid_cells[0]) == 3
    assert even_shards(lambda cell: 0.0, 0.0, 4)(grid_cells[0]) == 1
