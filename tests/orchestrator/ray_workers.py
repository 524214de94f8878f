"""Workers for tests of Ray pools: they do at once what a unit's task is called, without models."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from workers.units import EvaluateUnit, Event, Progress, Unit, WorkerSettings


class ObedientWorker:
    """`artifact_dir` is where it writes what it has started. Tasks: report, sleep, die, hog, spawn."""

    device_name = "cpu"
    device_memory = None

    def __init__(self, settings: WorkerSettings) -> None:
        self._folder = Path(settings.artifact_dir)
        if settings.device == "none":
            raise RuntimeError("there is no such device")

    def run(self, unit: Unit) -> Iterator[Event]:
        assert isinstance(unit, EvaluateUnit)
        order = unit.cell.task.info.name.rstrip("0123456789")
        yield Progress(order, 0, 1)
        if order == "report":
            yield Progress(f"CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES')!r}", os.getpid(), 0)
        elif order == "die":
            os._exit(1)
        elif order == "hog":
            self._fill_memory(limit=3 * 2**30)
        elif order == "spawn":
            # A shell that starts another program and waits for it: a grandchild.
            child = subprocess.Popen(["/bin/sh", "-c", "sleep 1000 & echo $!; wait"], stdout=subprocess.PIPE)
            assert child.stdout is not None
            (self._folder / "spawned").write_text(f"{child.pid} {child.stdout.readline().decode()}")
            time.sleep(1000)
        elif order == "sleep":
            time.sleep(1000)

    def _fill_memory(self, *, limit: int) -> None:
        portion = 64 * 2**20
        held = []
        while len(held) * portion < limit:
            held.append(b"x" * portion)
            time.sleep(0.05)
        time.sleep(5)
