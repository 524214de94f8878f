"""Runs a grid while workers, nodes and drivers die at seeded moments, and compares it with an undisturbed run.

As a command (`make chaos`), one study after another: `python -m tests.orchestrator.chaos --minutes 60 --seed 1`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from reports import ResultStore
from tests.orchestrator import chaos_workers
from tests.orchestrator.ray_machine import MARK, Cluster, busy_workers, cluster, processes, wait_until

ROOT = Path(__file__).parents[2]
GRID = """
name: chaos
models: [tiny-llada-base, tiny-dream-base]
methods: [rtn, broken, hungry]
schemes: [w4a4]
exclude: [{model: tiny-dream-base, method: broken}, {model: tiny-dream-base, method: hungry}]
tasks:
  - {name: demo_facts, likelihood: {mc_num: 8}}
  - {name: demo_math, generation: {gen_length: 16, steps: 8, llada: {block_length: 8}}}
limit: 32
dtype: float32
retries: {worker_lost: 50, node_lost: 50, backoff: 0s}
"""
# What a worker computes before it is saved.
ROWS_OF_A_BATCH = 16
SECONDS_TO_FINISH = 600.0

Blow = Literal["worker", "node", "driver"]


@dataclass(frozen=True)
class Ended:
    """What a run left: metrics and samples of cells that are done, kinds of those that failed, answers computed."""

    metrics: dict[tuple[str, ...], tuple[Any, ...]]
    samples: dict[tuple[str, int], tuple[Any, ...]]
    failures: dict[tuple[str, str], str]
    computed: Counter[tuple[str, int]]

    @classmethod
    def read(cls, study: Path) -> Ended:
        store = ResultStore(study)
        done = [row for row in store.cells() if row["status"] == "done"]
        return cls(
            {
                (row["cell_id"], row["metric"], row["filter"]): (row["value"], row["stderr"], row["num_items"])
                for row in done
            },
            {
                (cell_id, row["request_index"]): (row["request_key"], row["logprob"], row["response"])
                for cell_id in {row["cell_id"] for row in done}
                for row in store.samples(cell_id)
            },
            {(row["method"], row["task"]): row["failure_kind"] for row in store.cells() if row["status"] == "failed"},
            Counter(
                (cell_id, index)
                for log in (study / chaos_workers.LOG).iterdir()
                for cell_id, index in map(json.loads, log.read_text().splitlines())
            ),
        )

    @property
    def num_computed_twice(self) -> int:
        return self.computed.total() - len(self.computed)


class Storm:
    """A study that runs under blows. `num_lost` counts the workers that were busy when one hit them."""

    def __init__(self, folder: Path, machines: Cluster, mark: str, *, seed: int, num_workers: int) -> None:
        self.study = folder / "study"
        self.num_lost = 0
        self.text = ""
        self._folder, self._machines, self._mark, self._num_workers = folder, machines, mark, num_workers
        self._draw = random.Random(seed)  # noqa: S311
        self._seen: set[Path] = set()
        self._driver = self._start()

    def strike(self, blows: Sequence[Blow]) -> None:
        """Strike, each time after some more batches have been saved."""
        for blow in blows:
            target = self._num_batches() + self._draw.randint(1, 4)
            assert wait_until(
                lambda target=target: self._has_ended() or (self._num_batches() >= target and bool(self._busy())),
                seconds=SECONDS_TO_FINISH,
            ), f"nothing is saved any more\n{self._log()}"
            assert not self._has_ended(), f"the run ended before the blow against a {blow}\n{self._log()}"
            {"worker": self._kill_worker, "node": self._lose_node, "driver": self._kill_driver}[blow]()

    def finish(self) -> int:
        """Wait for the run's end; its exit code."""
        assert wait_until(self._has_ended, seconds=SECONDS_TO_FINISH), f"the run does not end\n{self._log()}"
        return self._driver.returncode

    def _start(self) -> subprocess.Popen[bytes]:
        return start_driver(self._folder, self.study, self._machines.address, self._num_workers)

    def _has_ended(self) -> bool:
        return self._driver.poll() is not None

    def _log(self) -> str:
        return log_of(self.study).read_text()[-5000:]

    def _num_batches(self) -> int:
        """Files of samples that were ever seen: the store may merge some."""
        self._seen |= set(self.study.glob("results/samples/**/*.parquet"))
        return len(self._seen)

    def _busy(self) -> list[int]:
        return busy_workers(self._mark)

    def _kill_worker(self) -> None:
        busy = self._busy()
        if busy:
            kill(self._draw.choice(busy))
            self.num_lost += 1

    def _lose_node(self) -> None:
        """A node with a busy worker goes, another comes."""
        of_node = {node: [pid for pid in self._busy() if is_child(pid, node)] for node in self._machines.nodes}
        node = max(of_node, key=lambda node: len(of_node[node]))
        self.num_lost += self._num_workers if not of_node[node] else len(of_node[node])
        self._machines.remove_node(node)
        self._machines.add_node()

    def _kill_driver(self) -> None:
        self.num_lost += self._num_workers
        kill(self._driver.pid)
        self._driver.wait()
        # Its workers end with it; the next driver needs their GPUs.
        assert wait_until(lambda: not self._busy())
        self._driver = self._start()


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def is_child(worker: int, node: Any) -> bool:
    raylet = node.all_processes["raylet"][0].process.pid
    return int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1]) == raylet


def log_of(study: Path) -> Path:
    return study.with_suffix(".log")


def start_driver(folder: Path, study: Path, address: str, num_workers: int) -> subprocess.Popen[bytes]:
    with log_of(study).open("ab") as log:
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.orchestrator.chaos_driver",
                "grid.yaml",
                str(study),
                address,
                str(num_workers),
            ],
            cwd=folder,
            stdout=log,
            stderr=log,
        )


@contextmanager
def machines_for_chaos(folder: Path) -> Iterator[tuple[Cluster, str, Path]]:
    """Three nodes of two logical GPUs, the mark of all processes, and the undisturbed study."""
    chaos_workers.install(folder / "plugins")
    (folder / "grid.yaml").write_text(GRID)
    python_path = os.pathsep.join([str(folder / "plugins"), str(ROOT)])
    with cluster(3, PYTHONPATH=python_path) as machines:
        calm = start_driver(folder, folder / "calm", "here", 1)
        assert calm.wait(SECONDS_TO_FINISH) == 3, log_of(folder / "calm").read_text()
        yield machines, os.environ[MARK], folder / "calm"


def check(storm: Storm, calm: Path) -> str:
    """Compare a study that has ended with the undisturbed one; a line about it."""
    stormy, expected = Ended.read(storm.study), Ended.read(calm)
    assert stormy.metrics == expected.metrics
    assert stormy.samples == expected.samples
    assert stormy.failures == expected.failures == {("broken", task): "error" for task in ("demo_facts", "demo_math")}
    assert expected.num_computed_twice == 0
    bound = ROWS_OF_A_BATCH * storm.num_lost
    assert stormy.num_computed_twice <= bound, f"{stormy.num_computed_twice} answers were computed twice, not {bound}"
    return (
        f"{len(stormy.samples)} answers, {stormy.num_computed_twice} computed twice, "
        f"{storm.num_lost} workers lost under way (bound: {bound})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Run studies under random blows and compare each with a calm one.")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    ends = time.monotonic() + 60 * arguments.minutes
    seed = arguments.seed
    with tempfile.TemporaryDirectory(prefix="chaos-") as text:
        folder = Path(text)
        with machines_for_chaos(folder) as (machines, mark, calm):
            while time.monotonic() < ends:
                draw = random.Random(seed)  # noqa: S311
                blows: list[Blow] = draw.choices(["worker", "node", "driver"], [4, 1, 1], k=draw.randint(3, 8))
                (folder / f"{seed}").mkdir()
                (folder / f"{seed}" / "grid.yaml").write_text(GRID)
                storm = Storm(folder / f"{seed}", machines, mark, seed=seed, num_workers=draw.randint(1, 6))
                storm.strike(blows)
                assert storm.finish() == 3, log_of(storm.study).read_text()[-5000:]
                print(f"seed {seed}: {' '.join(blows)}: {check(storm, calm)}", flush=True)
                seed += 1
        left = processes(mark)
    sys.exit(f"still running: {left}" if left else 0)


if __name__ == "__main__":
    main()
