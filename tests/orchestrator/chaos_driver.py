"""`qstudy run` with workers that count, on the CPU of a cluster whose GPUs are only logical, or in one process."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from rich.console import Console

import workers.engine
from orchestrator.commands import RunOptions, run_grid
from orchestrator.pools import InProcessPool, Pool
from orchestrator.ray_pool import RayPool
from tests.orchestrator.chaos_workers import CountingWorker
from workers.units import WorkerSettings


def main(grid: Path, study: Path, address: str, num_workers: int) -> bool:
    """Run a grid; `address` is a cluster's, or "here"."""
    torch.set_num_threads(1)
    settings = WorkerSettings(str((study / "artifacts").resolve()), device="cpu", batch_size=2)
    workers.engine.Worker = CountingWorker  # type: ignore[misc]
    result = run_grid(
        grid, RunOptions(study=study), _pool(settings, address, num_workers), console=Console(stderr=True)
    )
    return result.is_complete


def _pool(settings: WorkerSettings, address: str, num_workers: int) -> Pool:
    if address == "here":
        return InProcessPool(settings)
    return RayPool(settings, address=address, num_workers=num_workers)


if __name__ == "__main__":
    sys.exit(0 if main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])) else 3)
