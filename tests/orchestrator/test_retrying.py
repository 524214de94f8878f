"""Where and when failed units run again, with a clock that the test moves."""

from __future__ import annotations

import pytest

from grids import Cell, Retries
from orchestrator.failures import Failure, Kind
from orchestrator.lanes import Lanes
from orchestrator.pools import Slot
from orchestrator.retrying import MAX_REST_SECONDS, Retrier
from orchestrator.scheduling import Scheduler
from tests.orchestrator.conftest import make_cell
from workers.units import EvaluateUnit, QuantizeUnit, Response, Unit


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Workers:
    """Slots on nodes named by letters: `Workers("aab", cells)` has two on a, one on b."""

    def __init__(self, nodes: str, cells: list[Cell], **policy: float) -> None:
        self.clock = Clock()
        self.scheduler = Scheduler(cells, has_artifact=lambda variant_id: False, num_workers=len(nodes))
        policy = {"backoff": 0.0} | policy
        self.slots = [Slot(f"worker-{number}") for number in range(len(nodes))]
        for slot, node in zip(self.slots, nodes, strict=True):
            slot.node = node
        lanes = Lanes(cells, self.slots, lambda lane: self.scheduler)
        self.retrier = Retrier(lanes, Retries.model_construct(**policy), clock=self.clock)

    def ask(self, number: int) -> Unit | None:
        slot = self.slots[number]
        slot.unit = self.retrier.next_unit(slot, self.slots)
        return slot.unit

    def give(self, number: int) -> Unit:
        unit = self.ask(number)
        assert unit is not None
        return unit

    def fail(self, number: int, kind: Kind) -> list[Cell]:
        slot = self.slots[number]
        assert slot.unit is not None
        unit, slot.unit = slot.unit, None
        return self.retrier.failed(slot, unit, Failure(kind, "", ""))

    def finish(self, number: int) -> None:
        slot = self.slots[number]
        assert slot.unit is not None
        unit, slot.unit = slot.unit, None
        self.scheduler.finished(unit)
        self.retrier.finished(slot, unit)


def cells(number: int) -> list[Cell]:
    return [make_cell(scheme="fp16", task=f"facts{index}") for index in range(number)]


@pytest.mark.parametrize(
    ("kind", "num_retries"),
    [("worker_lost", 2), ("node_lost", 5), ("oom_host", 1), ("oom_gpu", 2), ("timeout", 1)],
)
def test_each_kind_is_tried_again_as_often_as_the_policy_says(kind: Kind, num_retries: int) -> None:
    workers = Workers("a", cells(1))
    for _ in range(num_retries):
        workers.give(0)
        assert workers.fail(0, kind) == []
    workers.give(0)
    assert len(workers.fail(0, kind)) == 1
    assert workers.scheduler.is_done


@pytest.mark.parametrize("kind", ["error", "nonfinite", "audit", "bad_input"])
def test_what_would_happen_again_is_never_tried_again(kind: Kind) -> None:
    workers = Workers("a", cells(1))
    workers.give(0)
    assert len(workers.fail(0, kind)) == 1
    assert workers.ask(0) is None


def test_kinds_are_counted_apart() -> None:
    workers = Workers("a", cells(1))
    for kind in ("timeout", "oom_host", "worker_lost", "worker_lost"):
        workers.give(0)
        assert workers.fail(0, kind) == []
    workers.give(0)
    assert len(workers.fail(0, "timeout")) == 1


def test_a_unit_rests_twice_as_long_each_time_and_others_run_meanwhile() -> None:
    workers = Workers("a", cells(2), backoff=10.0, worker_lost=9)
    first = workers.give(0)
    workers.fail(0, "worker_lost")
    assert workers.give(0) != first
    workers.finish(0)
    for rest in (10.0, 20.0, 40.0, 80.0, 160.0, MAX_REST_SECONDS, MAX_REST_SECONDS):
        workers.clock.now += rest - 0.1
        assert workers.ask(0) is None
        workers.clock.now += 0.1
        assert workers.give(0) == first
        workers.fail(0, "worker_lost")


def test_what_was_lost_goes_to_another_node_where_there_is_one() -> None:
    workers = Workers("ab", cells(3))
    lost = workers.give(0)
    workers.fail(0, "worker_lost")
    # Here other work comes first, and there the lost unit does.
    assert workers.give(0) != lost
    assert workers.give(1) == lost


def test_what_was_lost_stays_where_there_is_no_other_node_or_nothing_else_to_do() -> None:
    alone = Workers("aa", cells(2))
    lost = alone.give(0)
    alone.fail(0, "worker_lost")
    assert alone.give(0) == lost
    idle = Workers("ab", cells(1))
    lost = idle.give(0)
    idle.fail(0, "worker_lost")
    assert idle.give(0) == lost


def test_a_node_whose_workers_are_not_ready_is_no_other_node() -> None:
    workers = Workers("ab", cells(2))
    lost = workers.give(0)
    workers.fail(0, "node_lost")
    workers.slots[1].is_ready = False
    assert workers.give(0) == lost


def test_after_its_host_ran_out_of_memory_a_unit_runs_alone_on_a_node() -> None:
    workers = Workers("aab", cells(6))
    hog, neighbour = workers.give(0), workers.give(1)
    assert hog != neighbour
    workers.fail(0, "oom_host")
    # Node a is kept for it, and its neighbour there may end its unit; b goes on.
    assert workers.ask(0) is None
    workers.give(2)
    workers.finish(1)
    assert workers.give(1) == hog
    assert workers.ask(0) is None
    workers.finish(2)
    assert workers.give(2) != hog
    workers.finish(1)
    assert workers.give(0) not in (None, hog)
    assert workers.give(1) != hog


def test_two_hogs_wait_for_each_other_or_take_two_nodes() -> None:
    workers = Workers("aa", cells(2))
    first, second = workers.give(0), workers.give(1)
    workers.fail(0, "oom_host")
    workers.fail(1, "oom_host")
    assert workers.give(0) == first
    assert workers.ask(1) is None
    workers.finish(0)
    assert workers.give(1) == second
    assert workers.ask(0) is None
    workers.finish(1)
    assert workers.scheduler.is_done


def test_a_claim_ends_with_its_node() -> None:
    workers = Workers("aab", cells(3))
    hog, _ = workers.give(0), workers.give(1)
    workers.fail(0, "oom_host")
    assert workers.ask(0) is None
    workers.slots[0].is_ready = False
    workers.fail(1, "node_lost")
    workers.slots[1].is_ready = False
    assert workers.give(2) == hog


def test_a_hog_that_fails_for_good_leaves_its_node_to_others() -> None:
    workers = Workers("aa", cells(2))
    hog = workers.give(0)
    workers.fail(0, "oom_host")
    assert workers.give(0) == hog
    assert workers.ask(1) is None
    assert len(workers.fail(0, "oom_host")) == 1
    assert workers.give(1) != hog


def test_after_the_gpu_ran_out_of_memory_the_batch_is_halved_each_time() -> None:
    workers = Workers("a", [make_cell()])
    divisors = []
    for _ in range(3):
        unit = workers.give(0)
        divisors.append(unit.batch_divisor)
        workers.fail(0, "oom_gpu")
    assert isinstance(unit, QuantizeUnit)
    assert divisors == [1, 2, 4]


def test_half_the_batch_stays_after_another_loss() -> None:
    workers = Workers("a", cells(1))
    workers.give(0)
    workers.fail(0, "oom_gpu")
    workers.give(0)
    workers.fail(0, "worker_lost")
    assert workers.give(0).batch_divisor == 2


def test_a_waiting_unit_holds_no_responses() -> None:
    workers = Workers("a", cells(1))
    unit = workers.give(0)
    assert isinstance(unit, EvaluateUnit)
    workers.slots[0].unit = EvaluateUnit(unit.cell, {0: Response("key")})
    workers.fail(0, "worker_lost")
    assert workers.give(0) == unit


def test_a_node_that_loses_three_different_units_in_a_row_is_faulty() -> None:
    workers = Workers("ab", cells(9))
    for _ in range(3):
        assert not workers.retrier.is_faulty("a")
        workers.give(0)
        workers.fail(0, "worker_lost")
    assert workers.retrier.is_faulty("a")
    assert not workers.retrier.is_faulty("b")


def test_one_unit_that_kills_its_workers_and_one_that_ends_in_between_blame_no_node() -> None:
    poison = Workers("a", cells(1), worker_lost=9)
    for _ in range(5):
        poison.give(0)
        poison.fail(0, "worker_lost")
    assert not poison.retrier.is_faulty("a")
    mixed = Workers("a", cells(9), backoff=1e9)
    for _ in range(2):
        for _ in range(2):
            mixed.give(0)
            mixed.fail(0, "worker_lost")
        mixed.give(0)
        mixed.finish(0)
    assert not mixed.retrier.is_faulty("a")


def test_errors_of_units_blame_no_node() -> None:
    workers = Workers("a", cells(9))
    for _ in range(5):
        workers.give(0)
        workers.fail(0, "error")
    assert not workers.retrier.is_faulty("a")
