"""A run over workers that do what the test says: time limits, timeouts, workers that are not ready, bad nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from rich.console import Console

from grids import Cell, Retries, Study
from orchestrator.failures import Failure, RunInterruptedError
from orchestrator.log_file import StudyLog
from orchestrator.planning import make_plan
from orchestrator.pools import Finished, Message, Slot
from orchestrator.progress import PlainDisplay
from orchestrator.running import POLL_SECONDS, Run
from orchestrator.stopping import Stop
from orchestrator.study_directory import StudyDirectory
from reports import ResultStore, StorageError
from tests.orchestrator.conftest import make_cell, sample
from workers.units import Evaluated, EvaluateUnit, Progress, Samples, Unit

NUM_REQUESTS = 2

# What a worker says to a unit, one message a poll; None for a poll without a word.
Script = Callable[[Unit, int], list[Message | None]]


class ScriptedPool:
    def __init__(self, script: Script, nodes: str = "a") -> None:
        self.slots = [Slot(f"worker-{number}") for number in range(len(nodes))]
        for slot, node in zip(self.slots, nodes, strict=True):
            slot.node = node
        self.started: list[Unit] = []
        self.killed: list[Unit] = []
        self.avoided: list[str] = []
        self.num_polls = 0
        self._script = script
        self._said: dict[Slot, list[Message | None]] = {}

    def start(self, slot: Slot, unit: Unit) -> None:
        assert slot.is_ready
        slot.unit = unit
        self._said[slot] = self._script(unit, len(self.started))
        self.started.append(unit)

    def poll(self, timeout: float) -> Iterator[tuple[Slot, Message]]:
        self.num_polls += 1
        assert self.num_polls < 200, "the run does not end"
        for slot in self.slots:
            if slot.unit is not None and self._said[slot] and (message := self._said[slot].pop(0)) is not None:
                if isinstance(message, Finished | Failure):
                    slot.unit = None
                yield slot, message

    def kill(self, slot: Slot) -> None:
        assert slot.unit is not None
        self.killed.append(slot.unit)
        slot.unit = None

    def avoid(self, node: str) -> bool:
        self.avoided.append(node)
        return True

    def close(self) -> None:
        raise AssertionError("the pool belongs to the caller of the run")


def answers(unit: Unit) -> list[Message | None]:
    assert isinstance(unit, EvaluateUnit)
    metric = {"metric": "acc", "filter": "none", "value": 0.5, "num_items": 1, "higher_is_better": True}
    samples = [Samples([sample(index)]) for index in range(NUM_REQUESTS)]
    return [Progress("evaluate", 0, NUM_REQUESTS), *samples, Evaluated([metric], [], 1, 0.1, "cpu"), Finished()]


def cells(number: int) -> list[Cell]:
    return [make_cell(scheme="fp16", task=f"facts{index}") for index in range(number)]


class Ran:
    def __init__(self, folder: Path, pool: ScriptedPool, own: list[Cell], **options: Any) -> None:
        directory = StudyDirectory(folder)
        self.console = Console(record=True, width=200, file=(folder / "out").open("w"))
        options = {"retries": Retries.model_construct(backoff=0.0)} | options
        plan = make_plan(Study("s", tuple(own)), directory.store)
        self.outcome = Run(plan, directory, pool, PlainDisplay(self.console, len(own)), **options).execute()
        self.store = directory.store
        self.rows = {row["task"]: row for row in self.store.cells()}
        self.text = self.console.export_text()


def test_a_unit_past_its_time_is_killed_tried_once_more_and_then_marked(tmp_path: Path) -> None:
    pool = ScriptedPool(lambda unit, number: [None] * 99)
    ran = Ran(tmp_path, pool, cells(1), timeout=0.0)
    assert len(pool.killed) == len(pool.started) == 2
    assert ran.rows["facts0"]["failure_kind"] == "timeout"
    assert ran.rows["facts0"]["attempts"] == 2
    assert "took longer than 0s (the grid's timeout)" in ran.text
    assert ran.outcome.num_failed == 1


def test_without_a_timeout_nothing_is_killed(tmp_path: Path) -> None:
    pool = ScriptedPool(lambda unit, number: [None] * 50 + answers(unit))
    ran = Ran(tmp_path, pool, cells(1))
    assert (pool.killed, ran.outcome.num_done) == ([], 1)


class Steps(PlainDisplay):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.seen: list[Progress] = []

    def progressed(self, slot: Slot, step: Progress) -> None:
        self.seen.append(step)


def test_the_samples_of_a_cell_tell_how_far_it_is(tmp_path: Path) -> None:
    display = Steps(Console(file=(tmp_path / "out").open("w")), 1)
    (own,) = cells(1)
    directory = StudyDirectory(tmp_path)
    # One request was answered before.
    directory.store.append_samples(own.cell_id, [sample(0)])

    def script(unit: Unit, number: int) -> list[Message | None]:
        assert isinstance(unit, EvaluateUnit)
        last = answers(unit)[-2:]
        return [Progress("evaluate", len(unit.done), 4), Samples([sample(1)]), Samples([sample(2), sample(3)]), *last]

    Run(make_plan(Study("s", (own,)), directory.store), directory, ScriptedPool(script), display).execute()
    assert display.seen == [*(Progress("evaluate", done, 4) for done in (1, 2, 4)), Progress("score", 0, 1)]


def test_a_worker_that_is_not_ready_gets_nothing(tmp_path: Path) -> None:
    pool = ScriptedPool(lambda unit, number: answers(unit), "ab")
    pool.slots[0].is_ready = False
    ran = Ran(tmp_path, pool, cells(3))
    assert ran.outcome.num_done == 3


def test_a_node_that_loses_unit_after_unit_is_avoided_and_the_run_says_so(tmp_path: Path) -> None:
    def script(unit: Unit, number: int) -> list[Message | None]:
        return [Failure("worker_lost", "gone", "")] if number < 3 else answers(unit)

    pool = ScriptedPool(script)
    ran = Ran(tmp_path, pool, cells(4), retries=Retries.model_construct(backoff=0.0, worker_lost=0))
    assert pool.avoided == ["a"]
    assert "node a loses one unit after another and is avoided from now on" in ran.text
    assert ran.outcome.num_failed == 3


class AskedStop(Stop):
    """Asked to stop once `after` calls have looked."""

    def __init__(self, after: int, *, is_overdue: bool = False) -> None:
        super().__init__()
        self._left, self._overdue = after, is_overdue

    @property
    def reason(self) -> str | None:
        self._left -= 1
        return "asked to stop" if self._left < 0 else None

    @property
    def is_overdue(self) -> bool:
        return self._overdue


@pytest.mark.parametrize("silence", [1, 5])
def test_a_run_that_is_asked_to_stop_saves_the_batches_in_flight_and_starts_nothing(
    tmp_path: Path, silence: int
) -> None:
    pool = ScriptedPool(lambda unit, number: [None] * silence + answers(unit)[:2] + [None] * 500, "ab")
    own = cells(5)
    ran = Ran(tmp_path, pool, own, stop=AskedStop(1))
    assert len(pool.started) == 2
    saved = {cell.cell_id for cell in own if ran.store.num_samples(cell.cell_id)}
    assert saved == {unit.unit_id for unit in pool.started}
    assert "asked to stop" in ran.text
    assert not ran.rows


def test_a_run_that_is_asked_to_stop_waits_no_longer_than_it_may(tmp_path: Path) -> None:
    pool = ScriptedPool(lambda unit, number: [None] * 500)
    ran = Ran(tmp_path, pool, cells(2), stop=AskedStop(1, is_overdue=True))
    assert pool.num_polls == 1
    assert not ran.rows


def test_what_ends_while_the_run_stops_counts(tmp_path: Path) -> None:
    pool = ScriptedPool(lambda unit, number: [None, *answers(unit)[-2:]])
    ran = Ran(tmp_path, pool, cells(2), stop=AskedStop(1))
    assert ran.outcome.num_done == 1


def test_quantizations_that_would_not_end_in_time_are_left_for_another_run(tmp_path: Path) -> None:
    pool = ScriptedPool(lambda unit, number: answers(unit))
    ran = Ran(tmp_path, pool, [*cells(1), make_cell()], stop=Stop(3600.0), seconds_of=lambda unit: 4000.0)
    assert [unit.unit_id for unit in pool.started] == [cells(1)[0].cell_id]
    assert "left for another run: 1 quantizations that the time limit would cut off" in ran.text
    assert set(ran.rows) == {"facts0"}


def test_fail_fast_ends_the_run_with_the_first_failed_cell(tmp_path: Path) -> None:
    pool = ScriptedPool(lambda unit, number: [Failure("error", "no", "")])
    ran = Ran(tmp_path, pool, cells(5), fail_fast=True)
    assert (len(pool.started), ran.outcome.num_failed) == (1, 1)


def recorded_files(folder: Path) -> list[str]:
    return sorted(path.name.partition("-")[0] for path in (folder / "results/cells").iterdir())


def test_cells_that_end_while_others_talk_are_recorded_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.recording.SAVE_SECONDS", 60.0)
    ran = Ran(tmp_path, ScriptedPool(lambda unit, number: answers(unit), "ab"), cells(6))
    assert ran.outcome.num_done == len(ran.rows) == 6
    assert recorded_files(tmp_path) == ["00000001..00000006.parquet"]


class Watched(ScriptedPool):
    """Notes what each poll finds on the disk, and how long the driver would wait."""

    def __init__(self, folder: Path, script: Script) -> None:
        super().__init__(script)
        self._store = StudyDirectory(folder).store
        self.found: list[tuple[int, int]] = []
        self.timeouts: list[float] = []

    def poll(self, timeout: float) -> Iterator[tuple[Slot, Message]]:
        self.found.append(num_stored(self._store))
        self.timeouts.append(timeout)
        yield from super().poll(timeout)


def num_stored(store: ResultStore) -> tuple[int, int]:
    """Samples and cells."""
    return sum(map(store.num_samples, store.cells_with_samples())), len(store.cells())


def test_what_comes_slowly_is_on_the_disk_before_the_driver_waits(tmp_path: Path) -> None:
    pool = Watched(tmp_path, lambda unit, number: answers(unit))
    Ran(tmp_path, pool, cells(2))
    # Found when a worker is about to say: its size, two samples, the evaluation, the end.
    first, second = [(0, 0), (0, 0), (1, 0), (2, 0), (2, 1)], [(2, 1), (2, 1), (3, 1), (4, 1), (4, 2)]
    assert pool.found == first + second
    assert set(pool.timeouts) == {POLL_SECONDS}


def test_the_driver_waits_no_longer_than_until_the_next_save_is_due(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.recording.SAVE_SECONDS", 0.5)
    pool = Watched(tmp_path, lambda unit, number: answers(unit))
    ran = Ran(tmp_path, pool, cells(1))
    # The first sample is saved at once, the rest waits; the script needs no time.
    assert pool.found == [(0, 0), (0, 0), (1, 0), (1, 0), (1, 0)]
    assert pool.timeouts[:3] == [POLL_SECONDS] * 3
    assert all(0 < timeout < 0.5 for timeout in pool.timeouts[3:])
    assert num_stored(ran.store) == (2, 1)


def test_cells_that_have_ended_are_recorded_when_the_run_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.recording.SAVE_SECONDS", 60.0)

    class Dying(ScriptedPool):
        def poll(self, timeout: float) -> Iterator[tuple[Slot, Message]]:
            if len(self.started) == 3:
                raise RunInterruptedError("Ray has died")
            yield from super().poll(timeout)

    with pytest.raises(RunInterruptedError):
        Ran(tmp_path, Dying(lambda unit, number: answers(unit)), cells(4))
    assert len(StudyDirectory(tmp_path).store.cells()) == 2


def test_why_a_run_was_interrupted_is_heard_though_the_disk_takes_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = Mock(side_effect=StorageError("write", tmp_path, OSError(28, "No space left on device")))

    class Dying(ScriptedPool):
        def poll(self, timeout: float) -> Iterator[tuple[Slot, Message]]:
            monkeypatch.setattr(StudyLog, "add", refused)
            raise RunInterruptedError("worker-0 cannot write or read: the disk is full")

    with pytest.raises(RunInterruptedError, match="the disk is full"):
        Ran(tmp_path, Dying(lambda unit, number: answers(unit)), cells(1))
    refused.assert_called_once()
