"""Runs grids/paper.yaml to its end with the demo's models, four items a task, and local files in place of the hub's.

As a command (`make paper-grid`): `python -m tests.orchestrator.paper_with_tiny_models`, some minutes on two cores.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import grids
from orchestrator import RunResult, run
from reports import ResultStore
from tests.workers.study_documents import DOCUMENTS

PAPER_GRID = Path(grids.__file__).parent / "paper.yaml"
CALIBRATION_TEXT = Path(grids.__file__).parent / "demo" / "calibration.txt"
NUM_CELLS, NUM_VARIANTS, LIMIT = 228, 27, 4
# By the names that the grid's exclusions know.
MODELS = {
    "llada-8b-base": "tiny-llada-base",
    "llada-8b-instruct": "tiny-llada-instruct",
    "dream-7b-base": "tiny-dream-base",
}
# These models hold 256 tokens, so that answers and windows are shorter; methods, shots, draws and blocks stay the
# paper's.
GENERATION = {"gen_length": 64, "steps": 64, "llada": {"block_length": 32}}
WINDOWS = {"num_samples": 16, "length": 128}


def overrides(folder: Path) -> list[str]:
    """What `--set` takes for the paper's grid to run here; writes the tasks' files to `folder`."""
    windows = {"dataset": str(CALIBRATION_TEXT)} | WINDOWS
    changes: dict[str, Any] = {
        "models": [{"path": path, "name": name} for name, path in MODELS.items()],
        "data": {name: _write_splits(folder / name, splits) for name, splits in DOCUMENTS.items()},
        "calibrations": [windows | {"name": name} for name in ("wikitext2", "pileval")],
        "protocol.generation": GENERATION,
        "dtype": "float32",
    }
    # JSON is YAML.
    return [f"{key}={json.dumps(value)}" for key, value in changes.items()]


def _write_splits(folder: Path, splits: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
    """Files in the hub's columns, by split."""
    folder.mkdir(parents=True)
    for split, rows in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {split: str(folder / f"{split}.jsonl") for split in splits}


def run_paper(folder: Path, **options: Any) -> RunResult:
    """Run the grid into `folder/study`; `options` as for `run`."""
    changes = overrides(folder / "data")
    return run(PAPER_GRID, folder / "study", limit=LIMIT, overrides=changes, **options)


def check(result: RunResult) -> None:
    """Every number of the paper has its counterpart, and every variant has proved its label."""
    assert result.is_complete
    assert result.counts == {"done": NUM_CELLS}
    store = ResultStore(result.study)
    assert len({row["cell_id"] for row in store.cells()}) == NUM_CELLS
    quantized = store.variants()
    assert len(quantized) == NUM_VARIANTS - len(MODELS)
    assert {row["status"] for row in quantized} == {"done"}
    # 5 blocks of 7 linears.
    assert {row["num_linears"] for row in quantized} == {35}


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="paper-grid-") as name:
        result = run_paper(Path(name), show_progress=True)
        check(result)
        print(f"{result.num_done} cells in {result.seconds:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
