"""Where a report's numbers come from, for the page's script: each cell's run, and what ran it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from reports.plain_text import NOTE_LENGTH, one_line
from reports.schemas import Row

# What the script knows of each cell, in this order; of one that is not stored, the id.
CELL_FIELDS = ("id", "variant", "task", "shots", "run", "finished", "seconds", "forwards", "attempts", "failure")


def origins(cell_ids: Sequence[str], rows: Sequence[Row]) -> dict[str, Any]:
    """The cells in the order of `cell_ids`; runs are what many cells share, each once."""
    first = {row["cell_id"]: row for row in reversed(rows)}
    runs: dict[str, int] = {}
    cells = [_cell(cell_id, first.get(cell_id), runs) for cell_id in cell_ids]
    return {"fields": CELL_FIELDS, "cells": cells, "runs": [json.loads(run) for run in runs]}


def _cell(cell_id: str, row: Row | None, runs: dict[str, int]) -> list[Any]:
    if row is None:
        return [cell_id]
    run = json.dumps(_run(row), sort_keys=True)
    failure = f"{row['failure_kind']}: {row['failure_message'] or ''}" if row["failure_kind"] else None
    return [
        cell_id,
        row["variant_id"],
        one_line(row["task"]),
        row["num_fewshot"],
        runs.setdefault(run, len(runs)),
        f"{row['finished_at']:%Y-%m-%d %H:%M} UTC",
        None if row["seconds"] is None else round(row["seconds"], 1),
        row["num_forwards"],
        row["attempts"],
        None if failure is None else one_line(failure, NOTE_LENGTH),
    ]


def _run(row: Row) -> Mapping[str, Any]:
    packages = json.loads(row["package_versions"])
    return {
        "qstudy": one_line(row["qstudy_version"]),
        "revision": one_line(row["git_revision"] or "not recorded"),
        "device": one_line(row["device"] or "not recorded"),
        "host": one_line(row["host"] or "not recorded"),
        "seeds": one_line(row["seeds"]),
        "packages": one_line(", ".join(f"{name} {version}" for name, version in packages.items())),
    }
