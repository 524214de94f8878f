"""What one GPU does: keep a model resident, quantize a variant once, answer the requests of a cell."""

from __future__ import annotations

import json
import math
import queue
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch

import methods
from grids import Cell, Variant
from workers.artifacts import ArtifactStore
from workers.calibration import audit_windows, calibration_windows
from workers.lm import DiffusionLM
from workers.models import LoadedModel, load_model
from workers.tasks import BuiltTask, Request
from workers.told_warnings import with_warnings
from workers.units import (
    Evaluated,
    EvaluateUnit,
    Event,
    Progress,
    Quantized,
    QuantizeUnit,
    Response,
    Samples,
    Unit,
    WorkerSettings,
)

Result = TypeVar("Result")


class Worker:
    """Runs units one after the other. The model of the last variant stays loaded."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._device = settings.device
        if self._device == "auto":
            self._device = "cuda" if torch.cuda.is_available() else "cpu"
        if self._device == "cpu":
            torch.set_num_threads(settings.num_threads)
        self._artifacts = ArtifactStore(Path(settings.artifact_dir))
        self._resident: tuple[str, LoadedModel] | None = None

    def run(self, unit: Unit) -> Iterator[Event]:
        """Events until the unit is done. What goes wrong is raised; the driver classifies it."""
        events = self._quantize(unit.variant) if isinstance(unit, QuantizeUnit) else self._evaluate(unit)
        yield from with_warnings(events)

    @property
    def device_name(self) -> str:
        return torch.cuda.get_device_name() if self._device == "cuda" else "cpu"

    def _load_base(self, variant: Variant) -> LoadedModel:
        """The full-precision model. The old one is let go first: two do not fit on a GPU."""
        self._resident = None
        dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[variant.model.dtype]
        return load_model(variant.model.path, revision=variant.model.revision, dtype=dtype, device=self._device)

    def _load(self, variant: Variant) -> LoadedModel:
        if self._resident is not None and self._resident[0] == variant.variant_id:
            return self._resident[1]
        loaded = self._load_base(variant)
        if not variant.is_full_precision:
            tensors, layout = self._artifacts.load(variant.variant_id)
            methods.restore_quantized(loaded.model, tensors, layout)
        self._resident = (variant.variant_id, loaded)
        return loaded

    def _quantize(self, variant: Variant) -> Iterator[Event]:
        if self._artifacts.has(variant.variant_id):
            yield Quantized(self._artifacts.row(variant.variant_id))
            return
        started = time.monotonic()
        loaded = self._load_base(variant)
        kind = methods.available_methods()[variant.method]
        method = kind(kind.Parameters.model_validate(dict(variant.parameters)))
        windows = calibration_windows(loaded, variant.calibration) if variant.calibration else None
        original = methods.original_weights(loaded.model)

        def work(progress: Callable[[int, int], None]) -> methods.QuantizationReport:
            return method.quantize(loaded.model, variant.scheme, windows, seed=variant.seed, progress=progress)

        report = yield from self._with_progress("quantize", work)
        yield Progress("audit", 0, 1)
        audit = methods.audit(
            loaded.model,
            variant.scheme,
            audit_windows(loaded, variant),
            original=original,
            left_out=report.left_out,
        )
        row = {
            "num_linears": audit.num_linears,
            "effective_bits": audit.effective_bits,
            "max_relative_error": audit.max_output_error,
            "audit": json.dumps(audit.to_json() | {"method": report.to_json()}),
            "quantize_seconds": time.monotonic() - started,
            "peak_memory_bytes": report.peak_memory_bytes,
            "device": self.device_name,
        }
        tensors, layout = methods.quantized_state(loaded.model, changed_parameters=report.changed_parameters)
        self._artifacts.save(variant, tensors, layout, row)
        self._resident = (variant.variant_id, loaded)
        yield Quantized(row)

    def _with_progress(
        self, phase: str, work: Callable[[Callable[[int, int], None]], Result]
    ) -> Generator[Event, None, Result]:
        """Run `work` in a thread beside this generator, so that its progress is told while it runs."""
        steps: queue.SimpleQueue[Progress | None] = queue.SimpleQueue()

        def body() -> Result:
            # The number of threads is a setting of the calling thread.
            if self._device == "cpu":
                torch.set_num_threads(self._settings.num_threads)
            try:
                return work(lambda done, total: steps.put(Progress(phase, done, total)))
            finally:
                steps.put(None)

        with ThreadPoolExecutor(max_workers=1) as executor:
            future = executor.submit(body)
            while (step := steps.get()) is not None:
                yield step
            return future.result()

    def _evaluate(self, unit: EvaluateUnit) -> Iterator[Event]:
        cell, started = unit.cell, time.monotonic()
        loaded = self._load(cell.variant)
        lm = DiffusionLM(loaded, cell.task.protocol, seed=cell.variant.seed)
        built = BuiltTask(cell.task, lm, chat_template=cell.variant.model.chat_template)
        # A response whose key is another one belongs to a task that has changed since.
        responses = {
            request.index: unit.done[request.index]
            for request in built.requests
            if request.index in unit.done and unit.done[request.index].key == request.key
        }
        yield Progress("evaluate", len(responses), len(built.requests))
        for batch_index, batch in enumerate(plan_batches(built.requests, self._settings.batch_size)):
            missing = [request for request in batch if request.index not in responses]
            if missing:
                rows = self._answer(lm, cell, batch_index, missing)
                responses |= {row["request_index"]: response_of(row) for row in rows}
                yield Samples(rows)
                yield Progress("evaluate", len(responses), len(built.requests))
        yield Progress("score", 0, 1)
        metrics, scores = built.score(responses)
        yield Evaluated(metrics, scores, lm.num_forwards, time.monotonic() - started, self.device_name)

    def _answer(self, lm: DiffusionLM, cell: Cell, batch_index: int, batch: list[Request]) -> list[dict[str, Any]]:
        """Rows of the `samples` table for one batch."""
        logprobs: list[float | None] = [None] * len(batch)
        texts: list[str | None] = [None] * len(batch)
        if cell.task.info.is_generation:
            texts = list(lm.answer_generations([(request.arguments[0], request.arguments[1]) for request in batch]))
        else:
            logprobs = list(lm.answer_likelihoods([(request.arguments[0], request.arguments[1]) for request in batch]))
            if any(value is None or not math.isfinite(value) for value in logprobs):
                raise methods.NonFiniteError(f"a log-likelihood of {cell} is not a finite number")
        return [
            {
                "request_key": request.key,
                "request_index": request.index,
                "doc_id": request.doc_id,
                "request_type": request.request_type,
                "arguments": request.arguments_json,
                "response": text,
                "logprob": logprob,
                "batch_index": batch_index,
            }
            for request, text, logprob in zip(batch, texts, logprobs, strict=True)
        ]


def plan_batches(requests: Sequence[Request], batch_size: int) -> list[list[Request]]:
    """Batches of similar prompt length, a function of the requests alone.

    A resumed cell forms the same batches as an undisturbed one, so even rounding is the same.
    """
    ordered = sorted(requests, key=lambda request: (len(str(request.arguments[0])), request.index))
    return [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]


def response_of(row: Mapping[str, Any]) -> Response:
    """What scoring needs of a row of the `samples` table."""
    return Response(key=row["request_key"], logprob=row["logprob"], text=row["response"])
