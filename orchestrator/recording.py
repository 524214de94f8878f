"""Rows of the results store from what workers say. The driver is the only writer."""

from __future__ import annotations

import datetime
import json
import math
import time
from typing import Any

from grids import Cell, Variant
from grids.identity import canonical_json
from orchestrator.failures import Failure
from orchestrator.progress import unit_label
from orchestrator.provenance import provenance
from orchestrator.study_directory import StudyDirectory
from reports import EndedCell
from workers.units import Evaluated, EvaluateUnit, Quantized, QuantizeUnit, Response, Unit

# Files are written no more often: what comes faster shares some. A kill loses what came since the last save.
SAVE_SECONDS = 0.1


class Recorder:
    """Writes what finished, and what failed, to a study's store."""

    def __init__(self, directory: StudyDirectory) -> None:
        self._directory = directory
        self._store = directory.store
        self._with_samples = self._store.cells_with_samples()
        # What the next `save` writes: samples and ended cells, by cell.
        self._samples: dict[str, list[dict[str, Any]]] = {}
        self._ended: dict[str, EndedCell] = {}
        self._saved = -math.inf

    def saved_responses(self, cell: Cell) -> dict[int, Response]:
        """Responses of an earlier attempt, by request index."""
        if cell.cell_id not in self._with_samples:
            return {}
        self._save_samples_of(cell)
        return {
            row["request_index"]: Response(row["request_key"], row["logprob"], row["response"], row["is_greedy"])
            for row in self._store.samples(cell.cell_id)
        }

    def _save_samples_of(self, cell: Cell) -> None:
        """Before something is made of what the store has of a cell."""
        if cell.cell_id in self._samples:
            self.save()

    def samples(self, unit: EvaluateUnit, rows: list[dict[str, Any]]) -> None:
        """Note a batch of samples for the next `save`."""
        self._with_samples.add(unit.cell.cell_id)
        self._samples.setdefault(unit.cell.cell_id, []).extend(rows)

    def quantized(self, unit: QuantizeUnit, event: Quantized) -> None:
        self._store.record_variant(_variant_row(unit.variant) | {"status": "done"} | event.row)

    def evaluated(self, unit: EvaluateUnit, event: Evaluated, *, attempts: int) -> Failure | None:
        """Note a cell's metrics for the next `save`; a failure if the one that tables show is not among them."""
        cell = unit.cell
        shown = (cell.task.metric, cell.task.filter)
        if shown not in [(row["metric"], row["filter"]) for row in event.metrics]:
            failure = _no_such_metric(cell, event)
            self.cell_failed(cell, failure, attempts=attempts)
            return failure
        common = _cell_row(cell) | {
            "status": "done",
            "attempts": attempts,
            "seconds": event.seconds,
            "num_forwards": event.num_forwards,
            "device": event.device,
        }
        rows = [common | row | {"is_primary": (row["metric"], row["filter"]) == shown} for row in event.metrics]
        self._ended[cell.cell_id] = EndedCell(rows, event.scores)
        return None

    @property
    def seconds_to_save(self) -> float:
        """When `save` is due: at once for what comes alone; infinity where there is nothing to save."""
        return max(0.0, self._saved + SAVE_SECONDS - time.monotonic()) if self._samples or self._ended else math.inf

    def save(self) -> None:
        """Write samples and cells that have ended since the last time. Cells that end together go into one file."""
        for cell_id in self._samples.keys() - self._ended:
            self._store.append_samples(cell_id, self._samples[cell_id])
            del self._samples[cell_id]
        if self._ended:
            self._store.record_done(
                [cell._replace(samples=self._samples.get(cell_id, ())) for cell_id, cell in self._ended.items()]
            )
            self._samples, self._ended = {}, {}
        self._saved = time.monotonic()

    def unit_started(self, unit: Unit, worker: str, *, attempts: int) -> None:
        """Begin an attempt in the log."""
        saved = (
            f", {len(unit.done)} responses were saved before" if isinstance(unit, EvaluateUnit) and unit.done else ""
        )
        self._log(f"=== attempt {attempts} on {worker}: {unit_label(unit)}{saved}", unit)

    def warned(self, unit: Unit, text: str) -> None:
        """Keep a warning in the log."""
        self._log(f"    warning: {text}", unit)

    def unit_finished(self, unit: Unit, result: str) -> None:
        """End an attempt in the log."""
        self._log(f"--- done: {unit_label(unit)}: {result}", unit)

    def noted(self, text: str) -> None:
        """Keep in the log what is about the whole run."""
        self._directory.log.add(text)

    def _log(self, text: str, unit: Unit) -> None:
        self._directory.log.add(text, about=unit.unit_id)

    def unit_failed(self, unit: Unit, failure: Failure, lost: list[Cell], *, attempts: int) -> None:
        """Mark what a failed unit takes with it; nothing if it will be tried again."""
        what = f"--- attempt {attempts} failed: {unit_label(unit)}: {failure.kind}: {failure.message}"
        self._log(f"{what}\n{failure.trace}", unit)
        if isinstance(unit, QuantizeUnit) and lost:
            row = {"status": "failed", "failure_kind": failure.kind, "failure_message": failure.message}
            self._store.record_variant(_variant_row(unit.variant) | row)
        for cell in lost:
            self.cell_failed(cell, failure, attempts=attempts)

    def cell_failed(self, cell: Cell, failure: Failure, *, attempts: int) -> None:
        self._save_samples_of(cell)
        row = {
            "metric": "",
            "filter": "",
            "is_primary": False,
            "status": "failed",
            "failure_kind": failure.kind,
            "failure_message": failure.message,
            "attempts": attempts,
        }
        self._store.record_cell([_cell_row(cell) | row])


def _no_such_metric(cell: Cell, event: Evaluated) -> Failure:
    known = ", ".join(f"{row['metric']} ({row['filter']})" for row in event.metrics)
    message = f"the task has no metric {cell.task.metric!r} with filter {cell.task.filter!r}; it has {known}"
    return Failure("bad_input", message, message)


def _cell_row(cell: Cell) -> dict[str, Any]:
    variant, task = cell.variant, cell.task
    return provenance() | {
        "cell_id": cell.cell_id,
        "variant_id": variant.variant_id,
        "model": variant.model.label,
        "method": variant.method,
        "scheme": variant.scheme.name,
        "method_label": variant.method_label,
        "task": task.info.name,
        "task_group": task.group,
        "task_version": task.info.version,
        "num_fewshot": task.num_fewshot,
        "finished_at": datetime.datetime.now(datetime.UTC),
        "seeds": json.dumps([variant.seed]),
        "config": canonical_json(cell.identity()),
    }


def _variant_row(variant: Variant) -> dict[str, Any]:
    return provenance() | {
        "variant_id": variant.variant_id,
        "model": variant.model.label,
        "method": variant.method,
        "scheme": variant.scheme.name,
        "method_version": variant.method_version,
        "parameters": canonical_json(dict(variant.parameters)),
        "calibration": canonical_json(variant.calibration.identity()) if variant.calibration else None,
        "seed": variant.seed,
        "created_at": datetime.datetime.now(datetime.UTC),
        "seeds": json.dumps([variant.seed]),
        "config": canonical_json(variant.identity()),
    }
