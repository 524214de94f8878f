"""How long a run will take yet, as its workers are heard; prices and times are the test's."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from grids import Cell
from orchestrator.failures import Failure
from orchestrator.pools import Slot
from orchestrator.time_left import TimeLeft
from tests.orchestrator.conftest import make_cell
from workers.units import EvaluateUnit, Progress, QuantizeUnit, Unit

FAILURE = Failure("error", "no", "")


def price(unit: Unit) -> float:
    """A quantization 5, sums 20, facts 10; a shard its part."""
    if isinstance(unit, QuantizeUnit):
        return 5.0
    return (20.0 if unit.cell.task.info.name == "sums" else 10.0) / unit.shard[1]


class Run:
    """A run of these cells that is told by hand, at times that the test sets."""

    def __init__(self, cells: Sequence[Cell], num_workers: int = 1, *, artifacts: Sequence[str] = ()) -> None:
        self.now = 100.0
        self.slots = [Slot(f"worker-{number}") for number in range(num_workers)]
        self.time_left = TimeLeft(
            cells, self.slots, seconds_of=price, has_artifact=lambda name: name in artifacts, clock=lambda: self.now
        )

    def start(self, unit: Unit, slot: int = 0) -> None:
        self.time_left.started(self.slots[slot], unit)

    def tell(self, done: int, total: int = 10, slot: int = 0, phase: str = "evaluate") -> None:
        self.time_left.progressed(self.slots[slot], Progress(phase, done, total))

    def finish(self, unit: Unit, slot: int = 0, *, num_cells: int = 1) -> None:
        self.time_left.finished(self.slots[slot], unit, "", num_cells=num_cells)

    def fail(self, unit: Unit, slot: int = 0, *, num_cells: int = 1) -> None:
        self.time_left.failed(self.slots[slot], unit, FAILURE, num_cells=num_cells)


def full(task: str = "facts", model: str = "tiny") -> Cell:
    return make_cell(model, scheme="fp16", task=task)


def test_nothing_is_said_before_there_is_a_pace_and_then_the_prices_at_that_pace() -> None:
    facts, sums = full(), full("sums")
    run = Run([facts, sums])
    run.start(EvaluateUnit(facts))
    run.tell(0)
    assert run.time_left.seconds() is None
    # A quarter of what costs 10 took 5 seconds: the pace is 2.
    run.now += 5
    run.tell(1, 4)
    assert run.time_left.seconds() == pytest.approx(2 * (7.5 + 20))
    run.now += 15
    run.finish(EvaluateUnit(facts))
    assert run.time_left.seconds() == pytest.approx(2 * 20)


def test_a_cell_has_the_pace_of_its_own_model_and_task_else_of_its_task_else_of_all() -> None:
    cells = [full(task, model) for model in ("tiny", "large") for task in ("facts", "sums")]
    run = Run([*cells, full("sums", "tiny-instruct"), full("code")])
    for cell, seconds in zip(cells, (10, 40, 30, 120), strict=True):
        run.start(EvaluateUnit(cell))
        run.now += seconds
        run.finish(EvaluateUnit(cell))
    # Of sums, 160 seconds for 40; of all, 200 for 60.
    assert run.time_left.seconds() == pytest.approx(20 * 160 / 40 + 10 * 200 / 60)


def test_workers_share_what_is_left_but_none_hastens_another() -> None:
    cells = [full("sums"), *(full(f"facts{number}") for number in range(3))]
    run = Run(cells, 4)
    for slot, cell in enumerate(cells):
        run.start(EvaluateUnit(cell), slot)
        run.tell(0, slot=slot)
    run.now += 2
    for slot in range(4):
        run.tell(1, slot=slot)
    # The long one is at 2 seconds for 2, the others are at 2 for 1.
    assert run.time_left.seconds() == pytest.approx(max((18 + 3 * 9 * 2) / 4, 18))
    run.tell(9, slot=0)
    # The others: 9 of 10 left at that pace; the long one is nearly done.
    assert run.time_left.seconds() == pytest.approx(18)


def test_what_earlier_attempts_computed_shows_no_pace() -> None:
    facts = full()
    run = Run([facts])
    run.start(EvaluateUnit(facts))
    run.now += 60
    run.tell(8)
    assert run.time_left.seconds() is None
    run.now += 3
    run.tell(9)
    assert run.time_left.seconds() == pytest.approx(3)


def test_shards_leave_their_cell_less_and_at_last_only_scoring() -> None:
    sums = full("sums")
    run = Run([sums, full()], 2)
    for index in range(2):
        run.start(EvaluateUnit(sums, shard=(index, 2)), index)
        run.tell(0, slot=index)
    run.now += 10
    run.finish(EvaluateUnit(sums, shard=(0, 2)), 0, num_cells=0)
    run.tell(5, slot=1)
    # Half of the other shard, at 15 / 20 a price of one, and the facts, shared by two.
    pace = (10 + 10) / (10 + 5)
    assert run.time_left.seconds() == pytest.approx(max((5 * pace + 10 * pace) / 2, 5 * pace))
    run.now += 10
    run.finish(EvaluateUnit(sums, shard=(1, 2)), 1, num_cells=0)
    run.start(EvaluateUnit(sums), 0)
    run.tell(10)
    assert run.time_left.seconds() == pytest.approx(10 * 30 / 20 / 2)


def test_quantizations_count_but_not_those_that_are_there_and_a_failed_one_takes_its_cells_along() -> None:
    made, failing = make_cell(scheme="w8a8"), make_cell(scheme="w4a4")
    run = Run([full(), made, failing], artifacts=[made.variant.variant_id])
    run.start(EvaluateUnit(full()))
    run.now += 10
    run.finish(EvaluateUnit(full()))
    assert run.time_left.seconds() == pytest.approx(10 + 5 + 10)
    run.start(QuantizeUnit(failing.variant))
    run.now += 1
    run.fail(QuantizeUnit(failing.variant), num_cells=0)
    assert run.time_left.seconds() == pytest.approx(10 + 5 + 10)
    run.start(QuantizeUnit(failing.variant))
    run.fail(QuantizeUnit(failing.variant), num_cells=1)
    assert run.time_left.seconds() == pytest.approx(10)


def test_nothing_is_left_at_the_end() -> None:
    cell = make_cell()
    run = Run([cell])
    for unit in (QuantizeUnit(cell.variant), EvaluateUnit(cell)):
        run.start(unit)
        run.now += 3
        run.finish(unit, num_cells=int(isinstance(unit, EvaluateUnit)))
    assert run.time_left.seconds() == pytest.approx(0)
