"""Cells and variants without models: what scheduling, planning and pricing look at."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from grids import Calibration, Cell, CellTask, Model, TaskInfo, Variant, parse_scheme
from grids.identity import canonical_json
from grids.protocol import Family, Protocol
from orchestrator.cli import main
from orchestrator.devices import find_device
from orchestrator.pricing import Pricer
from orchestrator.rates import Rates
from workers.models.info import ModelInfo

Command = Callable[..., tuple[int, str, str]]
# Of LLaDA-8B.
SHAPE_8B = ModelInfo("llada", 32, 4096, 12288, 32, 32, 128, 126464, 4096, False)


def make_cell(
    model: str = "tiny",
    method: str = "rtn",
    scheme: str = "w4a4",
    task: str = "facts",
    *,
    limit: int | None = None,
    calibration: Calibration | None = None,
    not_applicable: str | None = None,
    family: Family = "llada",
    generates: bool = False,
    num_fewshot: int = 0,
    protocol: Protocol | None = None,
) -> Cell:
    found = Model(model, f"models/{model}", None, f"digest of {model}", family, "float32", False, (256, 768))
    if scheme == "fp16":
        method = "none"
    variant = Variant(found, method, method, 1, {}, parse_scheme(scheme), calibration, 0)
    kind = "generate_until" if generates else "multiple_choice"
    info = TaskInfo(task, Path(f"{task}.yaml"), "1", kind, "general", "acc", "none", 0, {}, f"digest of {task}")
    settings = protocol or Protocol()
    return Cell(variant, CellTask(info, num_fewshot, limit, settings, "acc", "none", "general"), not_applicable)


def make_pricer(cells: Iterable[Cell], rows: Iterable[dict[str, Any]] = (), variants: Iterable[Any] = ()) -> Pricer:
    """Prices of 8B models on an H100."""
    return Pricer(cells, Rates(rows, variants), find_device("H100"), lambda model: SHAPE_8B)


def cell_row(cell: Cell, **fields: Any) -> dict[str, Any]:
    """A row of the `cells` table, as the driver records it."""
    names = cell.names()
    return {
        "cell_id": cell.cell_id,
        "variant_id": cell.variant.variant_id,
        "model": names["model"],
        "method": cell.variant.method,
        "method_label": names["method"],
        "scheme": names["scheme"],
        "task": names["task"],
        "task_group": "general",
        "metric": "acc",
        "filter": "none",
        "value": 0.5,
        "is_primary": True,
        "status": "done",
        "finished_at": datetime.datetime.now(datetime.UTC),
        "qstudy_version": "0",
        "package_versions": "{}",
        "seeds": f"[{cell.variant.seed}]",
        "config": canonical_json(cell.identity()),
    } | fields


FAILED = {
    "metric": "",
    "filter": "",
    "value": None,
    "status": "failed",
    "failure_kind": "audit",
    "failure_message": "x",
}


@pytest.fixture
def qstudy(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `qstudy` with arguments; gives its exit code, standard output and standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["qstudy", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
        told = capsys.readouterr()
        return int(exit_.value.code or 0), told.out, told.err

    return run


def sample(index: int) -> dict[str, Any]:
    """A worker's row of one answer."""
    return {
        "request_key": f"key{index}",
        "request_index": index,
        "request_type": "loglikelihood",
        "arguments": "[]",
        "logprob": float(-index),
    }


@pytest.fixture
def grid_cells() -> list[Cell]:
    """Full precision and two variants of one model, two tasks each."""
    return [make_cell(scheme=scheme, task=task) for scheme in ("fp16", "w4a4", "w8a8") for task in ("facts", "sums")]


@pytest.fixture(autouse=True)
def _results_wait_for_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests' workers need no time, so that all their results would be saved together."""
    monkeypatch.setattr("orchestrator.recording.SAVE_SECONDS", 0.0)
