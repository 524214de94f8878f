"""A run that is told to end: what it saves, how it exits, that nothing is left, and that the next one goes on."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from reports import ResultStore
from tests.orchestrator.ray_machine import marked, processes, wait_until
from tests.orchestrator.test_runs import finish, qstudy

GRID = """
name: long
models: [tiny-llada-base]
tasks:
  - demo_facts
protocol: {likelihood: {mc_num: 512}}
dtype: float32
"""
ARGUMENTS = ("run", "grid.yaml", "--workers", "1")


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (signal.SIGINT, "Ctrl-C: batches in flight have up to 1m to finish, Ctrl-C again to stop at once"),
        (signal.SIGTERM, "SIGTERM: batches in flight have up to 12s to finish"),
    ],
)
def test_a_signal_saves_what_runs_and_leaves_the_rest_to_the_next_run(
    tmp_path: Path, number: signal.Signals, said: str
) -> None:
    (tmp_path / "grid.yaml").write_text(GRID)
    study = tmp_path / "studies" / "long"
    with marked() as mark:
        process = qstudy(tmp_path, *ARGUMENTS)
        assert wait_until(lambda: any(study.glob("results/samples/**/*.parquet")), seconds=120)
        begun = time.monotonic()
        process.send_signal(number)
        code, _, err = finish(process)
        assert code == 3, err
        assert said in err
        assert "1 started" in err
        # Thirty seconds are what a batch system leaves before it kills; the machine of this test may be busy.
        assert time.monotonic() - begun < 60
        assert wait_until(lambda: not processes(mark), seconds=30)
        (cell_id,) = {path.parent.name for path in study.glob("results/samples/**/*.parquet")}
        assert ResultStore(study).num_samples(cell_id) >= 16


def test_a_time_limit_ends_a_run_before_its_work_does(tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text(GRID)
    code, _, err = finish(
        qstudy(tmp_path, *ARGUMENTS, "--set", "protocol.likelihood.mc_num=8192", "--time-limit", "25s")
    )
    assert code == 3, err
    assert "the time limit of 25s is near: batches in flight have up to " in err


@pytest.mark.parametrize("text", ["soon", "30"])
def test_a_time_limit_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "grid.yaml").write_text(GRID)
    code, _, err = finish(qstudy(tmp_path, *ARGUMENTS, "--time-limit", text))
    assert code == 2
    assert f"--time-limit: '{text}' is not a length of time; write 90s, 15m, 2h or 3h55m" in err
