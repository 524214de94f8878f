from __future__ import annotations

from pathlib import Path

from tests.orchestrator.chaos import Storm, check, log_of, machines_for_chaos
from tests.orchestrator.ray_machine import processes, wait_until


def test_a_study_under_blows_ends_as_an_undisturbed_one_and_leaves_nothing_running(tmp_path: Path) -> None:
    with machines_for_chaos(tmp_path) as (machines, mark, calm):
        storm = Storm(tmp_path, machines, mark, seed=7, num_workers=2)
        storm.strike(["worker", "driver", "node", "driver", "worker"])
        assert storm.finish() == 3, log_of(storm.study).read_text()
        check(storm, calm)
    assert wait_until(lambda: not processes(mark), seconds=30), processes(mark)
