"""What one GPU does: keep a model resident, quantize a variant once, answer the requests of a cell."""

from __future__ import annotations

import json
import queue
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

import torch

import methods
from grids import Cell, Variant
from workers.calibration import audit_windows, calibration_windows
from workers.causal import CausalLM
from workers.lm import DiffusionLM
from workers.models import LoadedModel, load_model
from workers.node_cache import node_lock
from workers.remote_artifacts import open_artifacts
from workers.shipped_files import with_own_files
from workers.tasks import BuiltTask, Evaluator, Request
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
    ShardDone,
    Unit,
    Warned,
    WorkerSettings,
)

Result = TypeVar("Result")
_ROWS_SAVED_TOGETHER = 16
_SECONDS_BETWEEN_SAVES = 10.0


class Worker:
    """Runs units one after the other. The model of the last variant stays loaded."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._device = settings.device
        if self._device == "auto":
            self._device = "cuda" if torch.cuda.is_available() else "cpu"
        if self._device == "cpu":
            torch.set_num_threads(settings.num_threads)
        self._artifacts = open_artifacts(settings.artifact_dir)
        self._resident: tuple[str, LoadedModel] | None = None

    def run(self, unit: Unit) -> Iterator[Event]:
        """Events until the unit is done. What goes wrong is raised; the driver classifies it."""
        unit = with_own_files(unit, self._settings.shipped_folder)
        events = (
            self._quantize(unit.variant, unit.batch_divisor) if isinstance(unit, QuantizeUnit) else self._evaluate(unit)
        )
        yield from with_warnings(events)

    @property
    def device_name(self) -> str:
        return torch.cuda.get_device_name() if self._device == "cuda" else "cpu"

    @property
    def device_memory(self) -> float | None:
        """Bytes; None for a CPU, whose memory is its node's."""
        return torch.cuda.get_device_properties().total_memory if self._device == "cuda" else None

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

    def _quantize(self, variant: Variant, batch_divisor: int) -> Iterator[Event]:
        if self._artifacts.has(variant.variant_id):
            yield Quantized(self._artifacts.row(variant.variant_id))
            return
        yield Quantized((yield from self._make(variant, batch_divisor)))

    def _have_artifact(self, variant: Variant, batch_divisor: int) -> Iterator[Event]:
        """Quantize a variant once more where its artifact is on other nodes' disks, gone, or damaged.

        The same draws and sums give the same bits. Of a node's workers one does it, and the others wait.
        """
        variant_id = variant.variant_id
        is_resident = self._resident is not None and self._resident[0] == variant_id
        if variant.is_full_precision or is_resident or self._artifacts.fetch(variant_id):
            return
        with node_lock(variant_id):
            if not self._artifacts.fetch(variant_id):
                yield Warned("the variant is not on this node, or is damaged: quantized again here")
                yield from self._make(variant, batch_divisor)

    def _make(self, variant: Variant, batch_divisor: int) -> Generator[Event, None, dict[str, Any]]:
        """Quantize a variant, audit it, save it, keep it; its fields of the `variants` table."""
        started = time.monotonic()
        loaded = self._load_base(variant)
        kind = methods.available_methods()[variant.method]
        method = kind(kind.Parameters.model_validate(dict(variant.parameters)))
        windows = calibration_windows(loaded, variant.calibration) if variant.calibration else None
        original = methods.original_weights(loaded.model)
        compute = methods.ComputeSettings()
        compute = replace(compute, batch_size=max(1, compute.batch_size // batch_divisor))

        def work(progress: Callable[[int, int], None]) -> methods.QuantizationReport:
            return method.quantize(
                loaded.model, variant.scheme, windows, seed=variant.seed, progress=progress, compute=compute
            )

        report = yield from self._with_progress("quantize", work)
        yield Progress("audit", 0, 1)
        audit = methods.audit(
            loaded.model,
            variant.scheme,
            audit_windows(loaded, variant),
            original=original,
            left_out=report.left_out,
            batch_size=compute.batch_size,
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
        return row

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
        cell = unit.cell
        yield from self._have_artifact(cell.variant, unit.batch_divisor)
        started = time.monotonic()
        loaded = self._load(cell.variant)
        batch_size = self._settings.batch_size
        if batch_size is not None:
            batch_size = max(1, batch_size // unit.batch_divisor)
        kind = CausalLM if loaded.family == "causal" else DiffusionLM
        lm: Evaluator = kind(loaded, cell.task.protocol, seed=cell.variant.seed, batch_size=batch_size)
        built = BuiltTask(cell.task, lm, chat_template=cell.variant.model.chat_template)
        index, num_shards = unit.shard
        # All requests of an item are in one shard: they share forwards, and race against each other.
        requests = [request for request in built.requests if request.doc_id % num_shards == index]
        responses = _still_valid(unit, requests)
        missing = [request for request in requests if request.index not in responses]
        yield Progress("evaluate", len(responses), len(requests))
        group_size = self._settings.batch_size or _ROWS_SAVED_TOGETHER
        for rows in _in_groups(_answers(lm, cell, built, missing), group_size):
            responses |= {row["request_index"]: response_of(row) for row in rows}
            yield Samples(rows)
        if num_shards > 1:
            yield ShardDone(len(requests), lm.num_forwards, time.monotonic() - started)
            return
        metrics, scores = built.score(responses)
        yield Evaluated(metrics, scores, lm.num_forwards, time.monotonic() - started, self.device_name)


def _still_valid(unit: EvaluateUnit, requests: Sequence[Request]) -> dict[int, Response]:
    """The saved responses that still answer their requests."""
    # A response whose key is another one belongs to a task that has changed since.
    saved = {
        request.index: unit.done[request.index]
        for request in requests
        if request.index in unit.done and unit.done[request.index].key == request.key
    }
    if unit.cell.task.protocol.likelihood.race is None:
        return saved
    # What a choice of a race was answered depends on the others that ran beside it.
    unfinished = {request.doc_id for request in requests if request.index not in saved}
    return {request.index: saved[request.index] for request in requests if request.doc_id not in unfinished}


def _answers(lm: Evaluator, cell: Cell, built: BuiltTask, requests: Sequence[Request]) -> Iterator[dict[str, Any]]:
    """Rows of the `samples` table, as answers are finished."""
    pairs = [(request.arguments[0], request.arguments[1]) for request in requests]
    if cell.task.info.is_generation:
        for index, text in lm.generations(pairs):
            yield _row(requests[index], response=text)
        return
    flags = dict(lm.greedy_flags(pairs)) if built.reads_greedy else {}
    contenders = built.contenders
    racing = None if contenders is None else [contenders[request.index] for request in requests]
    for index, logprob in lm.likelihoods(pairs, racing):
        yield _row(requests[index], logprob=logprob, is_greedy=flags.get(index))


def _row(
    request: Request, *, response: str | None = None, logprob: float | None = None, is_greedy: bool | None = None
) -> dict[str, Any]:
    return {
        "request_key": request.key,
        "request_index": request.index,
        "doc_id": request.doc_id,
        "request_type": request.request_type,
        "arguments": request.arguments_json,
        "target": request.target,
        "response": response,
        "logprob": logprob,
        "is_greedy": is_greedy,
    }


def _in_groups(rows: Iterable[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    """Groups that are saved together: what a kill may lose beside the answers that were not finished."""
    group: list[dict[str, Any]] = []
    saved = time.monotonic()
    for row in rows:
        group.append(row)
        if len(group) == size or time.monotonic() - saved > _SECONDS_BETWEEN_SAVES:
            yield group
            group, saved = [], time.monotonic()
    if group:
        yield group


def response_of(row: Mapping[str, Any]) -> Response:
    """What scoring needs of a row of the `samples` table."""
    return Response(key=row["request_key"], logprob=row["logprob"], text=row["response"], is_greedy=row["is_greedy"])
