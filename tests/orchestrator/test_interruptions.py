"""Disks that are full or read-only, folders that vanish, files that are damaged: said clearly, and nothing is lost."""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from grids import GridError
from orchestrator.catalog import shipped_models
from orchestrator.cli import main
from orchestrator.commands import RunOptions, plan_grid, run_grid
from orchestrator.failures import RunInterruptedError
from orchestrator.logs import study_log
from orchestrator.reporting import write_study_report
from orchestrator.study_lock import LOCK_NAME
from orchestrator.study_state import study_status
from reports import CELLS, ResultStore, StorageError
from tests.orchestrator.fake_pool import GRID, NUM_REQUESTS, FakePool, write_grid
from workers.units import Evaluated, EvaluateUnit, Samples, Unit

Disturb = Callable[[Unit, object], BaseException | None]


def run(folder: Path, disturb: Disturb | None = None, *, grid: str = GRID) -> FakePool:
    """One run of the grid into `folder/study`, which is to end without an exception."""
    pool = FakePool(disturb=disturb)
    run_grid(write_grid(folder, grid), RunOptions(study=folder / "study"), pool)
    return pool


def nth(kind: type, number: int, act: Callable[[], BaseException | None]) -> Disturb:
    """Act on the message of this kind with this number, once."""
    seen = iter(range(number))

    def disturb(_: Unit, message: object) -> BaseException | None:
        return act() if isinstance(message, kind) and next(seen, None) is None else None

    return disturb


def numbers_of(study: Path) -> dict[str, Any]:
    store = ResultStore(study)
    cells = {row["cell_id"]: row["value"] for row in store.cells()}
    samples = {cell_id: [row["request_index"] for row in store.samples(cell_id)] for cell_id in cells}
    assert store.warnings == []
    return {"cells": cells, "samples": samples}


def unfinished_files(study: Path) -> list[str]:
    return [path.name for path in study.rglob("*") if path.name.startswith((".tmp-", LOCK_NAME, "progress.json"))]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("undisturbed")
    pool = run(folder)
    assert set(pool.computed.values()) == {NUM_REQUESTS}
    numbers = numbers_of(folder / "study")
    assert len(numbers["cells"]) == 4
    return numbers


@contextmanager
def restored_file_size() -> Iterator[None]:
    """Ends what `limit_file_size` began. Within the test: the limit holds for the test runner's own output, too."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def limit_file_size(size: int) -> None:
    """Lets no file of this process grow beyond a size: a real refusal of the system, as of a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.mark.parametrize("number", [0, 1, 5])
def test_a_disk_that_is_full_stops_the_run_and_what_was_saved_is_used_by_the_next(
    tmp_path: Path, undisturbed: dict[str, Any], number: int
) -> None:
    pool = FakePool(disturb=nth(Samples, number, lambda: limit_file_size(10)))
    with (
        restored_file_size(),
        pytest.raises(RunInterruptedError, match=r"cannot write .*study/.*: File too large \(.* GB free there\)"),
    ):
        run_grid(write_grid(tmp_path), RunOptions(study=tmp_path / "study"), pool)
    assert pool.is_closed
    assert unfinished_files(tmp_path / "study") == []
    saved = sum(ResultStore(tmp_path / "study").num_samples(cell_id) for cell_id in undisturbed["cells"])
    assert saved == number
    again = run(tmp_path)
    assert sum(again.computed.values()) == 4 * NUM_REQUESTS - saved
    assert numbers_of(tmp_path / "study") == undisturbed


MOUNT = """
import os, subprocess, sys
from pathlib import Path
from orchestrator import commands
from orchestrator.cli import main
from tests.orchestrator.fake_pool import FakePool
from workers.units import Samples

disk = Path(sys.argv.pop())
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=" + sys.argv.pop(), "tmpfs", str(disk)], check=True)
what = sys.argv.pop()

def fill(unit, message):
    if isinstance(message, Samples) and not (disk / "ballast").exists():
        with open(disk / "ballast", "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                return

if what == "read-only":
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
commands.RayPool = lambda *_, **__: FakePool(disturb=fill)
try:
    main()
finally:
    print("left:", sorted(p.name for p in disk.rglob("*") if p.is_file() and p.name.startswith((".tmp-", "progress"))))
"""


@pytest.mark.parametrize(
    ("what", "code", "complaint"),
    [
        ("full", 3, "No space left on device (0.0 GB free there)"),
        ("read-only", 2, "Read-only file system"),
    ],
)
def test_a_real_disk_that_is_full_or_read_only_gives_one_clear_message_and_the_exit_code(
    tmp_path: Path, what: str, code: int, complaint: str
) -> None:
    inside = ["unshare", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*inside, "true"], check=False).returncode != 0:
        pytest.skip("this machine does not let a test mount a file system of its own")
    disk = tmp_path / "disk"
    disk.mkdir()
    arguments = ["run", str(write_grid(tmp_path)), "--study", str(disk / "study"), what, "1m", str(disk)]
    python_path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*inside, sys.executable, "-c", MOUNT, *arguments],
        env=os.environ | {"PYTHONPATH": python_path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert complaint in done.stderr
    assert f"cannot write {disk / 'study'}" in done.stderr
    assert "Traceback" not in done.stderr
    assert ("the same command goes on from there" in done.stderr) == (code == 3)
    assert done.stdout == "left: []\n"


def test_a_worker_whose_disk_is_full_stops_the_run_and_no_cell_is_marked_failed(
    tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "artifacts/x/quantized.safetensors")
    pool = FakePool(disturb=nth(Samples, 3, lambda: full))
    with pytest.raises(RunInterruptedError, match=r"worker-0 .*No space left on device: 'artifacts/x"):
        run_grid(write_grid(tmp_path), RunOptions(study=tmp_path / "study"), pool)
    assert "failed" not in {row["status"] for row in ResultStore(tmp_path / "study").cells()}
    run(tmp_path)
    assert numbers_of(tmp_path / "study") == undisturbed


def test_a_model_folder_that_vanishes_stops_the_run_and_no_cell_is_marked_failed(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(shipped_models()["tiny-llada-base"], model)

    def vanish() -> BaseException:
        shutil.rmtree(model)
        return ValueError("no such model folder")

    pool = FakePool(disturb=nth(Samples, 2, vanish))
    grid = write_grid(tmp_path, GRID.replace("tiny-llada-base", "./model"))
    with pytest.raises(RunInterruptedError, match=rf"the model folder {model} is gone"):
        run_grid(grid, RunOptions(study=tmp_path / "study"), pool)
    assert ResultStore(tmp_path / "study").cells() == []
    assert study_status(tmp_path / "study").total == {"started": 1, "missing": 3}


def test_a_study_that_cannot_be_written_is_refused_with_exit_2_before_anything_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    study = tmp_path / "file" / "study"
    monkeypatch.setattr(sys, "argv", ["qstudy", "run", str(write_grid(tmp_path)), "--study", str(study)])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    assert f"error: cannot write {study}: Not a directory" in capsys.readouterr().err


def test_a_disk_that_is_full_before_the_first_result_is_a_run_that_could_not_begin(
    tmp_path: Path,
) -> None:
    grid = write_grid(tmp_path)
    with restored_file_size():
        # The lock fits, the study's description does not.
        limit_file_size(600)
        with pytest.raises(StorageError, match=r"study\.json: File too large"):
            run_grid(grid, RunOptions(study=tmp_path / "study"), FakePool())
    assert not (tmp_path / "study").exists()


def test_damaged_and_newer_result_files_are_named_and_their_cells_run_again(
    tmp_path: Path, undisturbed: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path)
    study = tmp_path / "study"
    damaged, newer, *_ = sorted((study / "results/cells").iterdir())
    damaged.write_bytes(damaged.read_bytes()[:100])
    table = pq.read_table(newer)
    pq.write_table(table.set_column(0, "schema_version", pa.array([CELLS.version + 1], pa.int32())), newer)

    plan = plan_grid(tmp_path / "grid.yaml", RunOptions(study=study))
    assert plan.plan.counts() == {"run": 2, "reuse": 2}
    for path, reason in ((damaged, "damaged"), (newer, "newer than")):
        assert any(str(path) in line and reason in line for line in caplog.messages)
    status = study_status(study)
    assert status.total == {"done": 2, "started": 2}
    assert set(status.damaged) == {damaged, newer}
    assert status.to_json()["damaged_files"][str(newer)].startswith("schema version")

    caplog.clear()
    again = run(tmp_path)
    assert any("set aside as set-aside/cells/" in line for line in caplog.messages)
    # Their samples were sound, so nothing was computed.
    assert again.computed == {}
    assert numbers_of(study) == undisturbed
    assert [path.parent for path in study_status(study).damaged] == [study / "results/set-aside/cells"] * 2


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('{"version": 1, "na', "damaged; delete it, and `qstudy run GRID` writes it again"),
        ("[]", "damaged"),
        ('{"version": 1, "tables": {}, "name": "s"}', "damaged"),
        ('{"version": 3, "tables": {}, "name": "s", "cells": []}', "a later qstudy wrote this study (study.json"),
        (
            '{"version": 1, "tables": {"cells": 99}, "name": "s", "cells": []}',
            "a later qstudy wrote this study (cells: a newer version",
        ),
    ],
)
def test_a_description_that_is_damaged_or_newer_is_refused_by_every_command_and_left_alone(
    tmp_path: Path, content: str, complaint: str
) -> None:
    grid, study = write_grid(tmp_path), tmp_path / "study"
    study.mkdir()
    (study / "study.json").write_text(content)
    commands: list[Callable[[], object]] = [
        lambda: study_status(study),
        lambda: plan_grid(grid, RunOptions(study=study)),
        lambda: run_grid(grid, RunOptions(study=study), FakePool()),
        lambda: write_study_report(study, ["markdown"], None),
    ]
    for command in commands:
        with pytest.raises(GridError) as error:
            command()
        assert str(error.value).startswith(f"{study / 'study.json'}: ")
        assert complaint in str(error.value)
    assert [path.name for path in study.iterdir()] == ["study.json"]
    assert (study / "study.json").read_text() == content


def test_a_killed_driver_leaves_nothing_in_the_way(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    class KilledError(BaseException):
        """Stands for SIGKILL: whatever would clean up does not run."""

    def kill() -> None:
        raise KilledError

    pool = FakePool(disturb=nth(Evaluated, 1, kill))
    with pytest.raises(KilledError):
        run_grid(write_grid(tmp_path), RunOptions(study=tmp_path / "study"), pool)
    study = tmp_path / "study"
    for litter in (study / ".tmp-1", study / "artifacts/.tmp-2/quantized.safetensors", study / "results/cells/.tmp-3"):
        litter.parent.mkdir(parents=True, exist_ok=True)
        litter.write_bytes(b"half")
    again = run(tmp_path)
    assert unfinished_files(study) == []
    assert sum(again.computed.values()) == 2 * NUM_REQUESTS
    assert numbers_of(study) == undisturbed


def test_the_logs_of_a_cell_tell_every_attempt_with_worker_times_and_traces(tmp_path: Path) -> None:
    errors = iter([ArithmeticError("no weight is good enough")])

    def fail(unit: Unit, message: object) -> BaseException | None:
        is_first_cell = isinstance(unit, EvaluateUnit) and isinstance(message, Evaluated)
        return next(errors, None) if is_first_cell else None

    run(tmp_path, fail)
    study = tmp_path / "study"
    failed = study_status(study).failures[0]
    options = RunOptions(study=study, retry_failed=True)
    assert run_grid(tmp_path / "grid.yaml", options, FakePool()).is_complete
    log = list(study_log(study, failed.cell_id))
    lines = [line.rstrip("\n") for line in log if "    warning: " not in line]
    assert len(log) == len(lines) + 2
    assert "    warning: py.warnings: this GPU is warm" in "".join(log)
    name = "tiny-llada-base none fp16 demo_facts"
    assert lines[0].endswith(f" === attempt 1 on worker-0: {name}")
    assert lines[1].endswith(f" --- attempt 1 failed: {name}: error: ArithmeticError: no weight is good enough")
    assert "    ArithmeticError: no weight is good enough" in lines[2:]
    assert f"{NUM_REQUESTS} responses were saved before" in lines[-2]
    assert f" --- done: {name}: acc " in lines[-1]
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", lines[0])
