"""What a worker is handed, and what it says while it works. Plain data that travels through Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from grids import Cell, Variant


@dataclass(frozen=True)
class WorkerSettings:
    """What decides a worker's speed and place, and no number: none of it is part of an id.

    artifact_dir: a folder that all workers see, an fsspec URL, or `node:NAME`: a folder of each node's own.
    batch_size: the most sequences of one forward, None for as many as suit the device.
    shipped_folder: where the driver has the files that ship with qstudy; empty where workers have the same folder.
    """

    artifact_dir: str
    device: str = "auto"
    num_threads: int = 1
    batch_size: int | None = None
    shipped_folder: str = ""


@dataclass(frozen=True)
class Response:
    """The answer to one request: a log-likelihood or a text. `key` is the hash of the request's content.

    `is_greedy`, whether greedy decoding gives the continuation, is None where no metric reads it.
    """

    key: str
    logprob: float | None = None
    text: str | None = None
    is_greedy: bool | None = None


@dataclass(frozen=True)
class QuantizeUnit:
    """Quantize a variant, audit it, save its artifact.

    batch_divisor: into how many parts batches are cut after memory ran out; 1 for whole ones.
    """

    variant: Variant
    batch_divisor: int = 1

    @property
    def unit_id(self) -> str:
        return self.variant.variant_id

    @property
    def variant_id(self) -> str:
        return self.variant.variant_id


@dataclass(frozen=True)
class EvaluateUnit:
    """Evaluate a cell, or a shard (index, number of shards) of it.

    `done` holds the responses that are saved already, by request index; `batch_divisor` is as for a QuantizeUnit.
    """

    cell: Cell
    done: Mapping[int, Response] = field(default_factory=dict)
    shard: tuple[int, int] = (0, 1)
    batch_divisor: int = 1

    @property
    def unit_id(self) -> str:
        index, num_shards = self.shard
        return self.cell.cell_id if num_shards == 1 else f"{self.cell.cell_id}.{index + 1}-of-{num_shards}"

    @property
    def variant_id(self) -> str:
        return self.cell.variant.variant_id


Unit = QuantizeUnit | EvaluateUnit


@dataclass(frozen=True)
class Progress:
    """`done` of `total` blocks or requests in this phase. An evaluation says it once: its samples tell how it goes on.

    When all its requests are answered, a cell is scored.
    """

    phase: str
    done: int
    total: int


@dataclass(frozen=True)
class Samples:
    """Responses that were just finished: rows of the `samples` table."""

    rows: list[dict[str, Any]]


@dataclass(frozen=True)
class Quantized:
    """A variant is ready; its fields of the `variants` table."""

    row: dict[str, Any]


@dataclass(frozen=True)
class ShardDone:
    """Every request of a shard is answered; the cell is scored when all its shards are."""

    num_requests: int
    num_forwards: int
    seconds: float


@dataclass(frozen=True)
class Evaluated:
    """A cell is done: one row per metric for `cells`, one row per item and metric for `scores`."""

    metrics: list[dict[str, Any]]
    scores: list[dict[str, Any]]
    num_forwards: int
    seconds: float
    device: str


@dataclass(frozen=True)
class Warned:
    """What a library warned of while the unit ran."""

    text: str


# A unit that went well says one of these, and nothing after it.
LAST_EVENTS = (Quantized, ShardDone, Evaluated)
Event = Progress | Samples | Quantized | ShardDone | Evaluated | Warned
