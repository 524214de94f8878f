"""The lock of a study: one driver at a time, whoever dies, and wherever."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import main
from orchestrator.failures import RunInterruptedError
from orchestrator.study_lock import LOCK_NAME, STALE_SECONDS, Owner, StudyLock, StudyLockedError, read_lock
from reports import StorageError
from tests.orchestrator.fake_pool import write_grid

HOLD = """
import sys
from pathlib import Path
from orchestrator.study_lock import StudyLock
with StudyLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other_driver(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock of `tmp_path/study` until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "study")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def write_lock(folder: Path, *, age: float = 0.0, **changes: Any) -> None:
    """The lock of another driver: this process, but for `changes`."""
    folder.mkdir(exist_ok=True)
    owner = dataclasses.replace(Owner.this_process(), **changes)
    path = folder / LOCK_NAME
    path.write_text(json.dumps(dataclasses.asdict(owner)))
    os.utime(path, (time.time() - age,) * 2)


def test_a_second_driver_is_refused_with_exit_2_and_told_who_runs_the_study_where_and_since_when(
    tmp_path: Path,
    other_driver: subprocess.Popen[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    state = read_lock(tmp_path / "study")
    assert state is not None
    assert state.owner is not None
    assert state.is_alive
    monkeypatch.setattr(sys, "argv", ["qstudy", "run", str(write_grid(tmp_path)), "--study", str(tmp_path / "study")])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    told = capsys.readouterr().err
    assert f"another driver runs this study: process {other_driver.pid} on {platform.node()}, since " in told
    assert state.owner.since in told
    assert [path.name for path in (tmp_path / "study").iterdir()] == [LOCK_NAME]
    # When the first one is done, its lock and the folder that it made are gone.
    other_driver.communicate("")
    assert not (tmp_path / "study").exists()


def test_a_killed_drivers_lock_is_taken_over(
    tmp_path: Path, other_driver: subprocess.Popen[str], caplog: pytest.LogCaptureFixture
) -> None:
    other_driver.kill()
    # Not even waited for: a zombie is dead too.
    while (state := read_lock(tmp_path / "study")) is not None and state.is_alive:
        assert state.silent_seconds < 60
    with StudyLock(tmp_path / "study") as lock:
        lock.check()
        state = read_lock(tmp_path / "study")
        assert state is not None
        assert state.owner == lock.owner
        assert f"took over {tmp_path / 'study' / LOCK_NAME} from a driver that is gone: process" in caplog.text
    assert list((tmp_path / "study").iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "age", "is_alive"),
    [
        ({}, 0, True),
        ({}, 10 * STALE_SECONDS, True),  # A process that lives holds its lock, however long it was suspended.
        ({"process_started": "1"}, 0, False),  # Its number belongs to another process by now.
        ({"pid": 2**22 + 1}, 0, False),
        ({"host": "node7"}, STALE_SECONDS - 30, True),
        ({"host": "node7"}, STALE_SECONDS + 30, False),
        ({"boot": "before the reboot", "pid": 2**22 + 1}, 0, True),
        ({"boot": "before the reboot"}, STALE_SECONDS + 30, False),
        # Another container on this machine: its process has a number that means nothing here.
        ({"pid_namespace": "pid:[1]", "pid": 2**22 + 1}, 0, True),
        ({"pid_namespace": "pid:[1]"}, STALE_SECONDS + 30, False),
    ],
)
def test_a_lock_is_taken_over_only_from_a_driver_that_is_dead(
    tmp_path: Path, changes: dict[str, Any], age: float, is_alive: bool
) -> None:
    write_lock(tmp_path, age=age, **changes)
    state = read_lock(tmp_path)
    assert state is not None
    assert state.is_alive == is_alive
    content = (tmp_path / LOCK_NAME).read_text()
    if is_alive:
        with pytest.raises(StudyLockedError, match="another driver runs this study"):
            StudyLock(tmp_path).__enter__()
        assert (tmp_path / LOCK_NAME).read_text() == content
    else:
        with StudyLock(tmp_path):
            assert (tmp_path / LOCK_NAME).read_text() != content
    assert [path.name for path in tmp_path.iterdir()] == ([LOCK_NAME] if is_alive else [])


def test_a_lock_that_is_being_written_counts_as_held_until_it_is_old(tmp_path: Path) -> None:
    path = tmp_path / LOCK_NAME
    path.touch()
    with pytest.raises(StudyLockedError, match="a driver that has just begun"):
        StudyLock(tmp_path).__enter__()
    os.utime(path, (time.time() - STALE_SECONDS - 30,) * 2)
    with StudyLock(tmp_path) as lock:
        lock.check()


def test_of_two_drivers_that_find_the_same_dead_one_a_single_one_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lock(tmp_path, pid=2**22 + 1)
    rename, faster = os.rename, StudyLock(tmp_path)

    def late(source: Path, target: Path) -> None:
        """The slower driver has judged the dead one's lock; before it moves it, the faster one takes over."""
        monkeypatch.setattr("orchestrator.study_lock.os.rename", rename)
        faster.__enter__()
        rename(source, target)

    monkeypatch.setattr("orchestrator.study_lock.os.rename", late)
    with pytest.raises(StudyLockedError):
        StudyLock(tmp_path).__enter__()
    faster.check()
    state = read_lock(tmp_path)
    assert state is not None
    assert state.owner == faster.owner
    faster.__exit__(None, None, None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_the_lock_is_released_however_a_run_ends(tmp_path: Path, error: type[BaseException]) -> None:
    def run() -> None:
        with StudyLock(tmp_path / "a" / "study"):
            assert (tmp_path / "a" / "study" / LOCK_NAME).is_file()
            raise error

    with pytest.raises(error):
        run()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_which_something_was_written_stays(tmp_path: Path) -> None:
    with StudyLock(tmp_path / "study"):
        (tmp_path / "study" / "study.json").touch()
    assert [path.name for path in (tmp_path / "study").iterdir()] == ["study.json"]


def test_the_lock_is_kept_fresh_while_it_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.study_lock.HEARTBEAT_SECONDS", 0.001)
    path = tmp_path / LOCK_NAME
    with StudyLock(tmp_path):
        os.utime(path, (0, 0))
        deadline = time.monotonic() + 60
        while path.stat().st_mtime == 0:
            assert time.monotonic() < deadline


@pytest.mark.parametrize("loss", ["taken over", "removed"])
def test_a_driver_that_was_taken_for_dead_stops_and_leaves_the_lock_alone(
    tmp_path: Path, loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with StudyLock(tmp_path) as lock:
        if loss == "removed":
            (tmp_path / LOCK_NAME).unlink()
        else:
            write_lock(tmp_path, host="node7")
        lock.check()
        now = time.time
        # The process was suspended for some minutes.
        monkeypatch.setattr("orchestrator.study_lock.time.time", lambda: now() + STALE_SECONDS * 0.6)
        with pytest.raises(RunInterruptedError, match="removed" if loss == "removed" else "on node7.* has taken it"):
            lock.check()
    assert [path.name for path in tmp_path.iterdir()] == ([] if loss == "removed" else [LOCK_NAME])


def test_a_driver_whose_lock_cannot_be_kept_fresh_stops_before_others_may_take_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    with StudyLock(tmp_path) as lock:
        monkeypatch.setattr("orchestrator.study_lock.os.utime", refuse)
        now = time.time
        monkeypatch.setattr("orchestrator.study_lock.time.time", lambda: now() + STALE_SECONDS * 0.9)
        lock.check()
        monkeypatch.setattr("orchestrator.study_lock.time.time", lambda: now() + STALE_SECONDS * 1.1)
        with pytest.raises(RunInterruptedError, match="could not be kept fresh"):
            lock.check()


def test_a_study_folder_that_cannot_be_made_is_a_storage_error_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"cannot write .*file/study: Not a directory"):
        StudyLock(tmp_path / "file" / "study").__enter__()
