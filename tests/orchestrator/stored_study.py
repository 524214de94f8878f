"""Studies as the driver leaves them, from the scores of items: no model, no pool."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from grids import Cell, Study
from orchestrator.failures import Failure
from orchestrator.recording import Recorder
from orchestrator.study_directory import StudyDirectory
from workers.units import Evaluated, EvaluateUnit

# The scores of a cell's items; a failure; or nothing yet.
Outcome = Sequence[float] | Failure | None


def store_study(
    folder: Path, outcomes: Sequence[tuple[Cell, Outcome]], *, answer: Callable[[Cell, int], str] | None = None
) -> StudyDirectory:
    """A study of these cells; `answer` is what a cell's variant says to an item."""
    directory = StudyDirectory(folder)
    directory.describe(Study(folder.name, tuple(cell for cell, _ in outcomes)), f"name: {folder.name}\n")
    recorder = Recorder(directory)
    for cell, outcome in outcomes:
        if isinstance(outcome, Failure):
            recorder.cell_failed(cell, outcome, attempts=1)
        elif outcome is not None:
            _record(recorder, cell, outcome, answer or (lambda _, index: f"answer {index}"))
    recorder.save()
    return directory


def _record(recorder: Recorder, cell: Cell, values: Sequence[float], answer: Callable[[Cell, int], str]) -> None:
    unit = EvaluateUnit(cell)
    recorder.samples(
        unit,
        [
            {
                "request_key": f"key{index}",
                "request_index": index,
                "doc_id": index,
                "request_type": "generate_until",
                "arguments": json.dumps([f"examples ... question {index}", {"until": ["."]}]),
                "response": answer(cell, index),
                "target": f"right {index}",
            }
            for index in range(len(values))
        ],
    )
    scores = [
        {"doc_id": index, "filter": "none", "metric": "acc", "value": float(value)}
        for index, value in enumerate(values)
    ]
    metric: dict[str, Any] = {
        "metric": "acc",
        "filter": "none",
        "value": statistics.fmean(values),
        "stderr": statistics.stdev(values) / len(values) ** 0.5,
        "num_items": len(values),
        "higher_is_better": True,
    }
    assert recorder.evaluated(unit, Evaluated([metric], scores, 8, 1.5, "cpu"), attempts=1) is None


def wrong(*places: int, num_items: int = 60) -> list[float]:
    """All right but at these places."""
    return [0.0 if index in places else 1.0 for index in range(num_items)]
