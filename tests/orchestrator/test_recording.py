"""When the driver writes what workers say, and into which files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from orchestrator.failures import Failure
from orchestrator.recording import Recorder
from orchestrator.study_directory import StudyDirectory
from tests.orchestrator.conftest import make_cell, sample
from workers.units import Evaluated, EvaluateUnit

SAVE_SECONDS = 0.1
FACTS, SUMS = (EvaluateUnit(make_cell(scheme="fp16", task=task)) for task in ("facts", "sums"))


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("orchestrator.recording.SAVE_SECONDS", SAVE_SECONDS)
    monkeypatch.setattr("orchestrator.recording.time", made)
    return made


@pytest.fixture
def directory(tmp_path: Path) -> StudyDirectory:
    return StudyDirectory(tmp_path)


def end(recorder: Recorder, unit: EvaluateUnit) -> None:
    metric = {"metric": "acc", "filter": "none", "value": 0.5, "num_items": 1, "higher_is_better": True}
    assert recorder.evaluated(unit, Evaluated([metric], [], 1, 0.1, "cpu"), attempts=1) is None


def test_what_comes_alone_is_saved_at_once_and_what_follows_soon_waits(directory: StudyDirectory, clock: Clock) -> None:
    recorder = Recorder(directory)
    assert recorder.seconds_to_save == math.inf
    recorder.samples(FACTS, [sample(0)])
    assert recorder.seconds_to_save == 0
    recorder.save()
    assert recorder.seconds_to_save == math.inf
    assert directory.store.num_samples(FACTS.cell.cell_id) == 1

    clock.now += 0.03
    recorder.samples(FACTS, [sample(1)])
    assert recorder.seconds_to_save == pytest.approx(0.07)
    # More does not push it out.
    clock.now += 0.05
    end(recorder, SUMS)
    assert recorder.seconds_to_save == pytest.approx(0.02)
    clock.now += 0.05
    assert recorder.seconds_to_save == 0

    recorder.save()
    clock.now += 60
    end(recorder, FACTS)
    assert recorder.seconds_to_save == 0


def test_a_cell_that_ends_at_once_shares_its_files_and_a_longer_one_has_a_folder(
    directory: StudyDirectory, clock: Clock
) -> None:
    recorder = Recorder(directory)
    recorder.samples(FACTS, [sample(0)])
    recorder.save()
    for unit in (FACTS, SUMS):
        recorder.samples(unit, [sample(1), sample(2)])
        end(recorder, unit)
    recorder.save()
    store = StudyDirectory(directory.root).store
    assert [row["request_index"] for row in store.samples(FACTS.cell.cell_id)] == [0, 1, 2]
    assert [row["request_index"] for row in store.samples(SUMS.cell.cell_id)] == [1, 2]
    own, shared = (store.samples_folder(unit.cell.cell_id) for unit in (FACTS, SUMS))
    assert (own.name, shared.name) == (FACTS.cell.cell_id, "short_samples")
    # Merged, for it is done.
    assert [path.name for path in own.iterdir()] == ["00000001..00000002.parquet"]
    assert {row["cell_id"] for row in store.cells()} == {FACTS.cell.cell_id, SUMS.cell.cell_id}


def test_an_attempt_goes_on_from_answers_that_still_wait_to_be_saved(directory: StudyDirectory, clock: Clock) -> None:
    recorder = Recorder(directory)
    assert recorder.saved_responses(FACTS.cell) == {}
    recorder.samples(SUMS, [sample(0)])
    recorder.save()
    recorder.samples(FACTS, [sample(3)])
    saved = recorder.saved_responses(FACTS.cell)
    assert {index: response.logprob for index, response in saved.items()} == {3: -3.0}
    # And from those of another run.
    assert set(Recorder(StudyDirectory(directory.root)).saved_responses(SUMS.cell)) == {0}


def test_a_failed_cell_has_its_answers_on_the_disk(directory: StudyDirectory, clock: Clock) -> None:
    recorder = Recorder(directory)
    recorder.samples(FACTS, [sample(0)])
    recorder.cell_failed(FACTS.cell, Failure("error", "no", ""), attempts=1)
    assert directory.store.num_samples(FACTS.cell.cell_id) == 1
    assert recorder.seconds_to_save == math.inf


def test_what_a_full_disk_refuses_is_saved_by_the_next_try(
    directory: StudyDirectory, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(directory)
    recorder.samples(FACTS, [sample(0)])
    recorder.samples(SUMS, [sample(0)])
    end(recorder, SUMS)

    def refuse(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr("reports.part_folder.write_file", refuse)
        with pytest.raises(OSError, match="No space"):
            recorder.save()
        assert recorder.seconds_to_save < math.inf
    recorder.save()
    assert [directory.store.num_samples(unit.cell.cell_id) for unit in (FACTS, SUMS)] == [1, 1]
    assert [row["cell_id"] for row in directory.store.cells()] == [SUMS.cell.cell_id]
    assert recorder.seconds_to_save == math.inf
