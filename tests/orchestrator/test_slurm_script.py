"""The Slurm script with stubs for Slurm, Ray and qstudy: when it queues itself again, and when it does not."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

import orchestrator
from tests.orchestrator.fake_pool import FakePool, write_grid
from tests.orchestrator.ray_machine import wait_until

SCRIPT = Path(orchestrator.__file__).parent / "places" / "study.sbatch"
ROOT = Path(__file__).parents[2]
# `srun ray symmetric-run ... -- COMMAND` runs COMMAND once, on the head.
STUBS = {
    "srun": 'echo "srun $*" >>"$CALLS"; while [[ $1 != -- ]]; do shift; done; shift; exec "$@"',
    "scontrol": 'echo "scontrol $*" >>"$CALLS"',
    "squeue": 'echo "squeue $*" >>"$CALLS"; date --date "@$STUB_END" +%Y-%m-%dT%H:%M:%S',
    "hostname": "echo 10.1.2.3 fd00::1",
    "qstudy": """
echo "qstudy $*" >>"$CALLS"
if [[ $1 == plan ]]; then
    [[ -z ${QSTUDY_RETRY_FAILED:-} ]] || echo "plan with QSTUDY_RETRY_FAILED" >>"$CALLS"
    echo "{\\"counts\\": {$STUB_COUNTS}}"
    exit 0
fi
[[ -z ${QSTUDY_RETRY_FAILED:-} ]] || echo "run with QSTUDY_RETRY_FAILED" >>"$CALLS"
if [[ -n ${STUB_SLEEPS:-} ]]; then
    trap 'echo "the driver got TERM" >>"$CALLS"; exit 3' TERM
    echo "the driver sleeps" >>"$CALLS"
    while true; do sleep 0.05; done
fi
exit "$STUB_CODE"
""",
}


@dataclass(frozen=True)
class Ended:
    """The script's exit code, the calls of stubs, what it said."""

    code: int
    calls: list[str]
    err: str

    @property
    def was_requeued(self) -> bool:
        return "scontrol requeue 70123" in self.calls


class Job:
    """A folder with the stubs, and the script's process in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls = folder, folder / "calls"
        self.calls.touch()
        stubs = folder / "bin"
        stubs.mkdir()
        for name, body in STUBS.items():
            (stubs / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
            (stubs / name).chmod(0o755)

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        given = {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "CALLS": str(self.calls),
            "SLURM_JOB_ID": "70123",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_CPUS_PER_TASK": "16",
            "SLURM_JOB_END_TIME": str(int(time.time()) + 4 * 3600),
            "TMPDIR": str(self.folder),
        }
        bash = shutil.which("bash")
        assert bash is not None
        return subprocess.Popen(
            [bash, str(SCRIPT), *(arguments or ("grid.yaml", "study"))],
            cwd=self.folder,
            env=os.environ | given | environment,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self, process: subprocess.Popen[str]) -> Ended:
        _, err = process.communicate(timeout=60)
        return Ended(process.returncode, self.calls.read_text().splitlines(), err)

    def run(self, *arguments: str, **environment: str) -> Ended:
        return self.end(self.start(*arguments, **environment))


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


def test_shellcheck_finds_nothing() -> None:
    shellcheck = shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    subprocess.run([shellcheck, str(SCRIPT)], check=True)


def test_a_run_that_is_done_ends_the_job(job: Job) -> None:
    ended = job.run("grid.yaml", "my study", "--only", "model=a b", STUB_CODE="0")
    assert ended.code == 0, ended.err
    assert not ended.was_requeued
    srun, run = ended.calls
    # One Ray per node, and its head on the first; words with spaces stay whole.
    assert "--nodes=2 --ntasks=2 --ntasks-per-node=1 --cpus-per-task=16" in srun
    assert "ray symmetric-run --address 10.1.2.3:20123 --min-nodes 2 -- " in srun
    assert run.startswith("qstudy run grid.yaml --study my study --address auto --time-limit ")
    assert run.endswith("s --only model=a b")
    # Four hours without the margin of five minutes.
    seconds = int(run.split("--time-limit ")[1].split("s")[0])
    assert 4 * 3600 - 330 <= seconds <= 4 * 3600 - 300
    # Nothing is left on the node.
    assert sorted(path.name for path in job.folder.iterdir()) == ["bin", "calls"]


def test_cells_that_are_left_queue_the_job_again(job: Job) -> None:
    ended = job.run("grid.yaml", "study", "--only", "scheme=w4a4", STUB_CODE="3", STUB_COUNTS='"run": 2, "stale": 1')
    assert ended.code == 3
    assert ended.was_requeued, ended.err
    assert "3 cells are left: queued again" in ended.err
    # Asked with the same choice of cells: others are no reason to go on.
    assert "qstudy plan grid.yaml --study study --only scheme=w4a4 --json" in ended.calls


def test_a_step_that_was_killed_queues_the_job_again(job: Job) -> None:
    ended = job.run(STUB_CODE="137", STUB_COUNTS='"run": 1')
    assert ended.was_requeued, ended.err


def test_cells_that_failed_for_good_do_not(job: Job) -> None:
    ended = job.run(STUB_CODE="3", STUB_COUNTS='"failed": 4, "reuse": 8')
    assert ended.code == 3
    assert not ended.was_requeued
    assert "no cell of those asked for is left to run; what failed stays failed (qstudy failures study)" in ended.err


@pytest.mark.parametrize("code", [1, 2])
def test_bad_input_and_a_crash_do_not(job: Job, code: int) -> None:
    ended = job.run(STUB_CODE=str(code), STUB_COUNTS='"run": 9')
    assert ended.code == code
    assert not ended.was_requeued
    assert not any(call.startswith("qstudy plan") for call in ended.calls)


def test_the_number_of_restarts_is_bounded(job: Job) -> None:
    settings = {"STUB_CODE": "3", "STUB_COUNTS": '"run": 1', "QSTUDY_MAX_RESTARTS": "2"}
    assert job.run(**settings, SLURM_RESTART_COUNT="1").was_requeued
    job.calls.write_text("")
    ended = job.run(**settings, SLURM_RESTART_COUNT="2")
    assert ended.code == 3
    assert not ended.was_requeued
    assert "1 cells are left after 2 restarts (QSTUDY_MAX_RESTARTS)" in ended.err


@pytest.mark.parametrize(
    ("number", "is_requeued"),
    # Slurm warns of the end with USR1; TERM means that somebody cancelled the job, or that Slurm requeues it itself.
    [(signal.SIGUSR1, True), (signal.SIGTERM, False)],
)
def test_a_signal_reaches_the_driver_as_sigterm(job: Job, number: signal.Signals, is_requeued: bool) -> None:
    process = job.start(STUB_SLEEPS="yes", STUB_COUNTS='"run": 5')
    assert wait_until(lambda: "the driver sleeps" in job.calls.read_text())
    process.send_signal(number)
    ended = job.end(process)
    assert "the driver got TERM" in ended.calls
    assert ended.code == 3
    assert ended.was_requeued == is_requeued, ended.err


def test_without_the_jobs_end_in_the_environment_the_queue_is_asked(job: Job) -> None:
    ended = job.run(STUB_CODE="0", SLURM_JOB_END_TIME="", STUB_END=str(int(time.time()) + 1000))
    assert ended.code == 0, ended.err
    assert "squeue --noheader --job 70123 --format %e" in ended.calls
    limit = re.search(r"--time-limit (\d+)s", ended.calls[-1])
    assert limit is not None
    assert 660 <= int(limit[1]) <= 700


def test_a_job_that_is_shorter_than_the_margin_is_refused(job: Job) -> None:
    ended = job.run(STUB_CODE="0", SLURM_JOB_END_TIME=str(int(time.time()) + 200))
    assert ended.code == 2
    assert "which is not more than the margin of 300 s" in ended.err
    assert ended.calls == []


def test_failed_cells_are_retried_by_the_first_start_alone(job: Job) -> None:
    settings = {"STUB_CODE": "3", "STUB_COUNTS": '"run": 1', "QSTUDY_RETRY_FAILED": "1"}
    assert "run with QSTUDY_RETRY_FAILED" in job.run(**settings).calls
    job.calls.write_text("")
    assert not any("with QSTUDY_RETRY_FAILED" in call for call in job.run(**settings, SLURM_RESTART_COUNT="1").calls)


def test_a_call_without_a_study_is_refused(job: Job) -> None:
    ended = job.run("grid.yaml")
    assert ended.code == 2
    assert "usage: sbatch" in ended.err


def test_the_real_plan_says_how_many_cells_are_left(job: Job) -> None:
    from orchestrator.commands import RunOptions, run_grid

    grid = write_grid(job.folder)
    run_grid(grid, RunOptions(study=job.folder / "study", only=("scheme=fp16",)), FakePool())
    real = job.folder / "real"
    real.write_text(f"#!{sys.executable}\nfrom orchestrator.cli import main\n\nmain()\n")
    real.chmod(0o755)
    stub = job.folder / "bin" / "qstudy"
    stub.write_text(f'#!/usr/bin/env bash\n[[ $1 == plan ]] && exec {real} "$@"\nexit 3\n')
    ended = job.run(str(grid), "study", PYTHONPATH=str(ROOT))
    assert ended.was_requeued, ended.err
    assert "2 cells are left: queued again" in ended.err
