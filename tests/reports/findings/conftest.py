"""Studies with known effects: the scores of items, and what is found in them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reports import ItemLibrary, ResultStore
from reports.findings import Finding, Findings, build_findings

NUM_ITEMS = 200


def wrong(*places: int, num_items: int = NUM_ITEMS) -> list[float]:
    """All right but at these places."""
    return [0.0 if index in places else 1.0 for index in range(num_items)]


class Study:
    """A store with item scores, and its findings."""

    def __init__(self, folder: Path, cell_row: Any) -> None:
        self.folder = folder
        self.store = ResultStore(folder)
        self._cell_row = cell_row

    def add(
        self, model: str, scheme: str, method: str, scores: Sequence[float], task: str = "facts", **changes: Any
    ) -> str:
        """Record a cell with its items (0, 1, ... unless `doc_ids` says); returns its id."""
        doc_ids = changes.pop("doc_ids", range(len(scores)))
        group = changes.pop("group", "general")
        names = {"model": model, "scheme": scheme, "method": method, "task": task, "task_group": group}
        if "method_label" in changes:
            changes["variant_id"] = re.sub(r"\W+", "-", f"{model}-{changes['method_label']}-{scheme}")
        numbers = {"value": float(np.mean(scores)), "stderr": None, "num_items": len(scores)}
        row = self._cell_row(**names, **{**numbers, **changes})
        items = [
            {"doc_id": doc_id, "filter": row["filter"], "metric": row["metric"], "value": float(value)}
            for doc_id, value in zip(doc_ids, scores, strict=True)
        ]
        self.store.record_cell([row])
        self.store.record_scores(row["cell_id"], items)
        return str(row["cell_id"])

    def findings(self, expected: Sequence[Any] | None = None) -> Findings:
        return build_findings(self.store.cells(), expected=expected, matrices=ItemLibrary(self.store).matrices)

    def finding(self, first: str, second: str, expected: Sequence[Any] | None = None) -> Finding:
        found = self.findings(expected).findings
        return next(finding for finding in found if (finding.first, finding.second) == (first, second))


@pytest.fixture
def study(tmp_path: Path, cell_row: Any) -> Study:
    return Study(tmp_path / "study", cell_row)


def smoothed_error(gained: int, lost: int, num_items: int = NUM_ITEMS) -> float:
    """Bonett and Price's standard error of the difference of two paired proportions, in points."""
    total = num_items + 2
    p, q = (gained + 1) / total, (lost + 1) / total
    return 100 * math.sqrt((p + q - (p - q) ** 2) / total)
