from __future__ import annotations

import os
import signal
import threading

import pytest

from orchestrator.stopping import INTERRUPT_GRACE, TERMINATE_GRACE, Stop


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def test_a_run_goes_on_until_it_is_asked_to_stop() -> None:
    clock = Clock()
    stop = Stop(clock=clock)
    clock.now += 1e9
    assert stop.reason is None
    assert not stop.is_overdue
    assert stop.seconds_left == float("inf")


@pytest.mark.parametrize(
    ("number", "name", "grace"), [(signal.SIGINT, "Ctrl-C", INTERRUPT_GRACE), (signal.SIGTERM, "SIGTERM", 12.0)]
)
def test_a_signal_asks_for_the_end_and_leaves_batches_some_time(number: int, name: str, grace: float) -> None:
    clock = Clock()
    stop = Stop(clock=clock)
    with stop.listening():
        send(number)
        assert stop.reason is not None
        assert stop.reason.startswith(f"{name}: batches in flight have up to ")
    clock.now += grace - 0.1
    assert not stop.is_overdue
    clock.now += 0.1
    assert stop.is_overdue


def test_the_second_ctrl_c_stops_at_once() -> None:
    stop = Stop(clock=Clock())
    with stop.listening():
        send(signal.SIGINT)
        assert stop.reason is not None
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_sigterm_twice_is_as_once_and_after_ctrl_c_it_leaves_less_time() -> None:
    clock = Clock()
    stop = Stop(clock=clock)
    with stop.listening():
        send(signal.SIGINT)
        send(signal.SIGTERM)
        clock.now += TERMINATE_GRACE - 1
        send(signal.SIGTERM)
    assert not stop.is_overdue
    clock.now += 1
    assert stop.is_overdue


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with Stop().listening():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_run_in_a_thread_needs_no_signals() -> None:
    entered = []

    def body() -> None:
        with Stop().listening():
            entered.append(True)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert entered == [True]


@pytest.mark.parametrize(("limit", "margin"), [(14_100.0, 120.0), (600.0, 60.0)])
def test_a_time_limit_ends_the_run_with_a_margin_and_within_it(limit: float, margin: float) -> None:
    clock = Clock()
    stop = Stop(limit, clock=clock)
    assert stop.seconds_left == limit - margin
    clock.now = 100.0 + limit - margin - 0.1
    assert stop.reason is None
    clock.now += 0.1
    assert stop.reason is not None
    assert stop.reason.startswith("the time limit of ")
    assert not stop.is_overdue
    clock.now += margin / 2
    assert stop.is_overdue
