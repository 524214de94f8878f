"""The workers of a chaos run: they write down every answer that they compute; and two methods that misbehave."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from methods.contract import QuantizationJob
from methods.rtn import Rtn
from workers import engine
from workers.units import EvaluateUnit, Event, Unit, WorkerSettings

FULL_BATCH = 8
LOG = "computed"


class CountingWorker(engine.Worker):
    """Adds a line to a file of its own, beside the artifacts, for each answer, before it can be lost."""

    def __init__(self, settings: WorkerSettings) -> None:
        super().__init__(settings)
        folder = Path(settings.artifact_dir).parent / LOG
        folder.mkdir(parents=True, exist_ok=True)
        self._log = (folder / uuid.uuid4().hex).open("w", buffering=1)
        self._cell_id = ""
        in_groups = engine._in_groups
        engine._in_groups = lambda rows, size: in_groups(self._written(rows), size)

    def run(self, unit: Unit) -> Iterator[Event]:
        if isinstance(unit, EvaluateUnit):
            self._cell_id = unit.cell.cell_id
        yield from super().run(unit)

    def _written(self, rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for row in rows:
            self._log.write(json.dumps([self._cell_id, row["request_index"]]) + "\n")
            yield row


class Broken(Rtn):
    """Always raises."""

    name = "broken"

    def quantize_blocks(self, job: QuantizationJob) -> None:
        raise ArithmeticError("no weight is good enough")


class Hungry(Rtn):
    """Rounds to nearest, and runs out of GPU memory at full batch."""

    name = "hungry"

    def quantize_blocks(self, job: QuantizationJob) -> None:
        if job.compute.batch_size >= FULL_BATCH:
            raise torch.OutOfMemoryError("CUDA out of memory (simulated)")
        super().quantize_blocks(job)


def install(folder: Path) -> None:
    """Make a folder for PYTHONPATH that declares the methods as a package of a third party would."""
    metadata = folder / "chaos_methods-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: chaos-methods\nVersion: 1.0\n")
    lines = [f"{name} = {__name__}:{name.title()}" for name in ("broken", "hungry")]
    (metadata / "entry_points.txt").write_text("\n".join(["[qstudy.methods]", *lines, ""]))
