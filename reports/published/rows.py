"""The paper's published scores as rows of a results store, so that every table and printer takes them."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, time
from typing import Any

from reports.published.results import PAPER, PublishedResult, paper_groups, published_results
from reports.store import ResultStore

# What a table of numbers as published can be asked of, and the name of the study that it then is.
PUBLICATIONS = {PAPER: "arXiv-2508.14896"}
_NOT_STATED = "metric not stated"


def record_paper(store: ResultStore) -> None:
    """Write the 228 scores of the paper's tables 1 to 5 into a store, a cell each.

    A row has what the paper states, and no standard error and no number of items, for it states none.
    """
    for result in published_results():
        if result.source.name == PAPER:
            store.record_cell([_row(result)])


def _row(result: PublishedResult) -> dict[str, Any]:
    source = result.source
    variant_id = f"{source.name}-{result.model}-{result.method}-{result.scheme}"
    published = date.fromisoformat(source.version.rpartition(", ")[2])
    return {
        "cell_id": f"{variant_id}-{result.task}",
        "variant_id": variant_id,
        "model": result.model,
        "method": result.method,
        "method_label": result.method,
        "scheme": result.scheme,
        "task": result.task,
        "task_group": paper_groups()[int(result.place.removeprefix("Table "))],
        "num_fewshot": result.protocol["num_fewshot"],
        "metric": result.protocol.get("metric", _NOT_STATED),
        "filter": "none",
        "value": result.value / 100,
        "higher_is_better": True,
        "is_primary": True,
        "status": "done",
        "finished_at": datetime.combine(published, time(), UTC),
        # No version of qstudy made it.
        "qstudy_version": "",
        "package_versions": "{}",
        "seeds": "[]",
        "config": json.dumps({"publication": f"{source.title}, {source.version}, {source.url}"}),
    }
