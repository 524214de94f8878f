"""The columns of an exported data set, each defined once: name, type, unit, meaning, and where its value comes from."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

import pyarrow as pa

from grids.identity import canonical_json
from grids.schemes import Scheme, parse_scheme
from reports.schemas import Row

Source = TypeVar("Source")

_TEXT, _INTEGER, _REAL, _FLAG = pa.string(), pa.int64(), pa.float64(), pa.bool_()


@dataclass(frozen=True)
class Column(Generic[Source]):
    """A column: what a reader must know of it, and how its value is read from a source. An empty unit is no unit."""

    name: str
    kind: pa.DataType
    meaning: str
    value: Callable[[Source], object]
    unit: str = ""

    @property
    def field(self) -> pa.Field:
        """The Arrow field, which carries meaning and unit into the file."""
        about = {"meaning": self.meaning} | ({"unit": self.unit} if self.unit else {})
        return pa.field(self.name, self.kind, metadata=about)


@dataclass(frozen=True)
class ResultSource:
    """What a row of the results is made from.

    `row` is a row of the store's `cells`, or of the study's description where the cell has none; `variant` is that of
    the store, None where it has none.
    """

    study: str
    row: Row
    status: str
    expected: Row | None
    variant: Row | None

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The configuration that the cell's id is the hash of; empty where nothing is recorded."""
        return _mapping(json.loads(self.row.get("config") or "{}"))

    @cached_property
    def scheme(self) -> Scheme | None:
        try:
            return parse_scheme(self.row["scheme"])
        except ValueError:
            return None


@dataclass(frozen=True)
class SampleSource:
    """What a row of the samples is made from; `scores` are those of its item, by `metric,filter`."""

    row: Row
    cell: Row
    scores: Mapping[str, float]


def _row(name: str) -> Callable[[ResultSource], object]:
    return lambda source: source.row.get(name)


def _shown(name: str) -> Callable[[ResultSource], object]:
    """The name that a failed cell has no room for is the grid's."""
    return lambda source: source.row.get(name) or (source.expected or {}).get(name)


def _variant(name: str) -> Callable[[ResultSource], object]:
    return lambda source: None if source.variant is None else source.variant.get(name)


def _config(*keys: str) -> Callable[[ResultSource], object]:
    """A leaf of the configuration; a mapping in it as JSON."""

    def read(source: ResultSource) -> object:
        content: object = source.config
        for key in keys:
            content = _mapping(content).get(key)
        return canonical_json(content) if isinstance(content, Mapping) else content

    return read


def _bits(name: str) -> Callable[[ResultSource], object]:
    return lambda source: None if source.scheme is None else getattr(source.scheme, name)


def _seed(source: ResultSource) -> object:
    found = _config("variant", "seed")(source)
    return source.row.get("seed") if found is None else found


def _mapping(content: object) -> Mapping[str, Any]:
    return content if isinstance(content, Mapping) else {}


def _sample(name: str) -> Callable[[SampleSource], object]:
    return lambda source: source.row.get(name)


def _of_cell(name: str) -> Callable[[SampleSource], object]:
    return lambda source: source.cell.get(name)


RESULTS: Sequence[Column[ResultSource]] = (
    Column("study", _TEXT, "The study's name.", lambda source: source.study),
    Column("cell_id", _TEXT, "Hash of all that decides the number: variant, task, settings.", _row("cell_id")),
    Column("variant_id", _TEXT, "Hash of all that decides the quantized model.", _row("variant_id")),
    Column(
        "is_current",
        _FLAG,
        "Whether the grid that the study was last run with asks for this cell; an older cell is kept.",
        lambda source: source.expected is not None,
    ),
    Column("model", _TEXT, "The model as the grid calls it.", _row("model")),
    Column(
        "model_digest",
        _TEXT,
        "Hash of the checkpoint's files, or its hub id and revision.",
        _config("variant", "model", "digest"),
    ),
    Column("dtype", _TEXT, "Type of what is not quantized.", _config("variant", "model", "dtype")),
    Column(
        "chat_template",
        _FLAG,
        "Whether prompts go through the model's chat template.",
        _config("variant", "model", "chat_template"),
    ),
    Column("method", _TEXT, "Quantization method; none is full precision.", _row("method")),
    Column("method_label", _TEXT, "The method as the grid calls it.", _row("method_label")),
    Column(
        "method_version", _INTEGER, "Raised when a method computes otherwise.", _config("variant", "method", "version")
    ),
    Column(
        "method_parameters",
        _TEXT,
        "Every parameter of the method, as a JSON object.",
        _config("variant", "method", "parameters"),
    ),
    Column("scheme", _TEXT, "The bit scheme, such as w4a16g128.", _row("scheme")),
    Column("weight_bits", _INTEGER, "Of the blocks' linears.", _bits("weight_bits"), "bits"),
    Column("activation_bits", _INTEGER, "Of the inputs of these linears.", _bits("activation_bits"), "bits"),
    Column("kv_bits", _INTEGER, "Of keys and values in attention.", _bits("kv_bits"), "bits"),
    Column("query_bits", _INTEGER, "Of queries in attention.", _bits("query_bits"), "bits"),
    Column(
        "group_size",
        _INTEGER,
        "Inputs that share a weight scale; null is one scale per output channel.",
        _bits("group_size"),
        "input channels",
    ),
    Column(
        "calibration",
        _TEXT,
        "Hash of the text, number and length in tokens of its windows, seed, masks, as a JSON object; null for none.",
        _config("variant", "calibration"),
    ),
    Column("seed", _INTEGER, "What every random draw is keyed with.", _seed),
    Column("task", _TEXT, "The task.", _row("task")),
    Column("task_group", _TEXT, "general, math, code or other.", _row("task_group")),
    Column("task_version", _TEXT, "The task file's version.", _row("task_version")),
    Column("task_digest", _TEXT, "Hash of the task's settings, functions and local data.", _config("task", "digest")),
    Column("num_fewshot", _INTEGER, "Solved examples in each prompt.", _row("num_fewshot"), "examples"),
    Column("limit", _INTEGER, "The first items that were asked; null is all.", _config("task", "limit"), "items"),
    Column(
        "protocol",
        _TEXT,
        "How a diffusion model is asked: settings of likelihood or generation, as a JSON object.",
        _config("task", "protocol"),
    ),
    Column("metric", _TEXT, "The metric.", _shown("metric")),
    Column("filter", _TEXT, "How the answer was taken out of the response.", _shown("filter")),
    Column(
        "is_primary",
        _FLAG,
        "Whether this is the metric that tables show.",
        lambda source: source.row.get("is_primary") if source.status == "done" else True,
    ),
    Column("higher_is_better", _FLAG, "Whether a greater value is the better one.", _row("higher_is_better")),
    Column("value", _REAL, "The metric over all items.", _row("value"), "the metric's; accuracies from 0 to 1"),
    Column(
        "stderr",
        _REAL,
        "Standard error of the mean over items, s / sqrt(n); null where the metric is no mean.",
        _row("stderr"),
        "as value",
    ),
    Column("num_items", _INTEGER, "Items behind the value.", _row("num_items"), "items"),
    Column("status", _TEXT, "done, failed, missing or not_applicable; only done has a value.", lambda s: s.status),
    Column("failure_kind", _TEXT, "Why the cell failed, in a word.", _row("failure_kind")),
    Column("failure_message", _TEXT, "Why the cell failed.", _row("failure_message")),
    Column(
        "not_applicable",
        _TEXT,
        "Why the method does not serve the scheme or the model.",
        lambda source: (source.expected or {}).get("not_applicable"),
    ),
    Column("attempts", _INTEGER, "How often the cell was begun.", _row("attempts")),
    Column("num_linears", _INTEGER, "Linears that the audit found quantized.", _variant("num_linears")),
    Column(
        "effective_bits",
        _REAL,
        "Stored bits per weight of the quantized linears, with scales and zero points.",
        _variant("effective_bits"),
        "bits",
    ),
    Column(
        "max_relative_error",
        _REAL,
        "The largest relative error of a quantized linear's output on the audit's text.",
        _variant("max_relative_error"),
        "fraction",
    ),
    Column("quantize_seconds", _REAL, "Time to quantize and audit the variant.", _variant("quantize_seconds"), "s"),
    Column(
        "peak_memory_bytes",
        _INTEGER,
        "Most device memory while quantizing; null where it is not measured.",
        _variant("peak_memory_bytes"),
        "bytes",
    ),
    Column("evaluate_seconds", _REAL, "A worker's time for the cell.", _row("seconds"), "s"),
    Column("num_forwards", _INTEGER, "Forward passes of the model for the cell.", _row("num_forwards")),
    Column("finished_at", pa.timestamp("us", tz="UTC"), "When the cell was recorded.", _row("finished_at"), "UTC"),
    Column("device", _TEXT, "What the cell was evaluated on.", _row("device")),
    Column("quantize_device", _TEXT, "What the variant was quantized on.", _variant("device")),
    Column("qstudy_version", _TEXT, "The program's version.", _row("qstudy_version")),
    Column("git_revision", _TEXT, "The program's commit; -dirty where files differed from it.", _row("git_revision")),
    Column("package_versions", _TEXT, "Python and libraries, as a JSON object.", _row("package_versions")),
)

SAMPLES: Sequence[Column[SampleSource]] = (
    Column("cell_id", _TEXT, "The cell, as in the results.", _sample("cell_id")),
    Column("model", _TEXT, "The model as the grid calls it.", _of_cell("model")),
    Column("method_label", _TEXT, "The method as the grid calls it.", _of_cell("method_label")),
    Column("scheme", _TEXT, "The bit scheme.", _of_cell("scheme")),
    Column("task", _TEXT, "The task.", _of_cell("task")),
    Column("request_index", _INTEGER, "The request's place in the task.", _sample("request_index")),
    Column(
        "request_key",
        _TEXT,
        "SHA-256 of the request's content: equal keys are equal questions, also across variants.",
        _sample("request_key"),
    ),
    Column("doc_id", _INTEGER, "The item; a multiple-choice item has a request per choice.", _sample("doc_id")),
    Column("request_type", _TEXT, "loglikelihood or generate_until.", _sample("request_type")),
    Column("arguments", _TEXT, "Prompt, and continuation or settings, as a JSON array.", _sample("arguments")),
    Column("response", _TEXT, "The generated answer; null for a likelihood.", _sample("response")),
    Column(
        "logprob",
        _REAL,
        "Estimated log-likelihood of the continuation; null for a generation.",
        _sample("logprob"),
        "nats",
    ),
    Column("target", _TEXT, "The item's right answer as text; null where an earlier version ran.", _sample("target")),
    Column(
        "scores",
        pa.map_(pa.string(), pa.float64()),
        "The item's scores by 'metric,filter'; the same for all requests of an item.",
        lambda source: sorted(source.scores.items()),
        "the metric's",
    ),
)


def arrow_table(columns: Sequence[Column[Source]], sources: Sequence[Source]) -> pa.Table:
    """The sources as an Arrow table, a row each."""
    arrays = [pa.array([column.value(source) for source in sources], column.kind) for column in columns]
    return pa.Table.from_arrays(arrays, schema=arrow_schema(columns))


def arrow_schema(columns: Sequence[Column[Any]]) -> pa.Schema:
    """The columns' fields, with meaning and unit as metadata."""
    return pa.schema([column.field for column in columns])
