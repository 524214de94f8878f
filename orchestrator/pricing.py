"""What a plan costs: forward passes, FLOPs, device time, memory and disk, per cell, per variant and in sum.

Time rests on one of two things, and every price says on which: `measured`, on seconds of this study's own finished
cells and variants; else `modelled`, on FLOPs over a speed. That speed is what finished cells of the model, or of
one of its size, reached, or, as long as there are none, an assumed share of the device's peak (facts/devices.yaml).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import yaml

from grids import Cell, Model, Variant
from grids.schemes import FULL_PRECISION_BITS
from orchestrator.devices import Device
from orchestrator.rates import Rates
from orchestrator.task_sizes import TaskSize, task_size
from orchestrator.workload import Work, cell_work, quantization_work
from workers.models.info import ModelInfo
from workers.units import QuantizeUnit, Unit

Basis = Literal["measured", "modelled"]

_METHODS = Path(__file__).parent / "facts" / "methods.yaml"
_DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# Tokens of one batch on a GPU: of an evaluation, and of a method's walk over the blocks (8 samples).
_BATCH_TOKENS, _WALK_SAMPLES = 16_384, 8
_SCALE_BYTES = 2
# The speed of one model says something about another whose blocks are at most so many times as large or small.
_ALIKE = 4


@dataclass(frozen=True, slots=True)
class Price:
    """What something costs. `seconds` are of one device; `measured_seconds` of them rest on measurements.

    num_forwards: sequences through the model.  memory_bytes: peak on the device.  disk_bytes: of an artifact.
    """

    num_forwards: float = 0
    flops: float = 0
    seconds: float = 0
    measured_seconds: float = 0
    memory_bytes: float = 0
    disk_bytes: float = 0

    @property
    def basis(self) -> Basis:
        """`measured` where at least half of the time is."""
        return "measured" if self.seconds and 2 * self.measured_seconds >= self.seconds else "modelled"

    def to_json(self) -> dict[str, Any]:
        return {
            "num_forwards": round(self.num_forwards),
            "flops": self.flops,
            "seconds": round(self.seconds, 3),
            "measured_seconds": round(self.measured_seconds, 3),
            "memory_bytes": round(self.memory_bytes),
            "disk_bytes": round(self.disk_bytes),
            "basis": self.basis,
        }


def total_price(prices: Iterable[Price]) -> Price:
    """Sums; of memory the most."""
    num_forwards = flops = seconds = measured = memory = disk = 0.0
    for price in prices:
        num_forwards += price.num_forwards
        flops += price.flops
        seconds += price.seconds
        measured += price.measured_seconds
        memory = max(memory, price.memory_bytes)
        disk += price.disk_bytes
    return Price(num_forwards, flops, seconds, measured, memory, disk)


class Pricer:
    """Prices of one study's cells and variants on one kind of device.

    Cells that ask the same of the same model share a price, so that a large grid is priced in little time.
    """

    def __init__(self, cells: Iterable[Cell], rates: Rates, device: Device, shape_of: Callable[[Model], ModelInfo]):
        self.device = device
        self._rates = rates
        self._shape_of = shape_of
        self._shapes: dict[str, ModelInfo] = {}
        self._sizes: dict[str, TaskSize] = {}
        self._work: dict[tuple[str, str], Work] = {}
        self._prices: dict[tuple[str, str, bool, float | None], Price] = {}
        self._quantizations: dict[str, Price] = {}
        self._method_costs: Mapping[str, dict[str, Any]] = yaml.safe_load(_METHODS.read_text(encoding="utf-8"))
        self._speeds = self._measured_speeds(cells)

    def speed(self, model: Model) -> float:
        """Operations per second that unmeasured cells of a model are priced with."""
        alike = self._measured_like(model)
        return self.device.flops(model.dtype) if alike is None else self._speeds[alike]

    def has_measured_speed(self, model: Model) -> bool:
        return self._measured_like(model) is not None

    def guessed_tasks(self) -> list[str]:
        """Tasks whose size is neither in a file nor in the table."""
        return [name for name, size in self._sizes.items() if size.source == "guess"]

    def cell(self, cell: Cell) -> Price:
        """Evaluating a cell, loading of the model not counted."""
        model, per_item = cell.variant.model, self._rates.seconds_per_item(cell)
        key = (model.label, cell.task.info.name, _has_codes(cell.variant), per_item)
        if key not in self._prices:
            self._prices[key] = self._cell(cell, per_item)
        return self._prices[key]

    def quantization(self, variant: Variant) -> Price:
        """Quantizing a variant, from loading the model to the saved artifact."""
        if variant.variant_id not in self._quantizations:
            self._quantizations[variant.variant_id] = self._quantization(variant)
        return self._quantizations[variant.variant_id]

    def unit_seconds(self, unit: Unit) -> float:
        """What the scheduler orders units by."""
        if isinstance(unit, QuantizeUnit):
            return self.quantization(unit.variant).seconds
        return self.cell(unit.cell).seconds / unit.shard[1]

    def load_seconds(self, variant: Variant) -> float:
        """Reading a model's weights; modelled."""
        return model_bytes(self._shape(variant.model), variant.model.dtype) / self.device.read_bytes_per_second

    def _quantization(self, variant: Variant) -> Price:
        model, shape = variant.model, self._shape(variant.model)
        costs = self._method_costs.get(variant.method, self._method_costs["default"])
        work = quantization_work(shape, variant.calibration, costs)
        disk_bytes = artifact_bytes(shape, variant)
        measured = self._rates.quantize_seconds(variant)
        if measured is None:
            seconds = work.flops / self.device.flops(model.dtype)
            seconds += work.single_precision_flops / self.device.single_flops
            seconds += costs["seconds_per_billion"] * shape.num_block_parameters / 1e9
            seconds += (model_bytes(shape, model.dtype) + disk_bytes) / self.device.read_bytes_per_second
        return Price(
            num_forwards=work.num_forwards,
            flops=work.flops + work.single_precision_flops,
            seconds=seconds if measured is None else measured,
            measured_seconds=measured or 0.0,
            memory_bytes=_quantization_memory(shape, variant),
            disk_bytes=disk_bytes,
        )

    def _cell(self, cell: Cell, per_item: float | None) -> Price:
        work = self._cell_work(cell)
        seconds = work.flops / self.speed(cell.variant.model) if per_item is None else per_item * self._num_items(cell)
        return Price(
            num_forwards=work.num_forwards,
            flops=work.flops,
            seconds=seconds,
            measured_seconds=0.0 if per_item is None else seconds,
            memory_bytes=_evaluation_memory(self._shape(cell.variant.model), cell.variant, work),
        )

    def _cell_work(self, cell: Cell) -> Work:
        key = cell.variant.model.label, cell.task.info.name
        if key not in self._work:
            self._work[key] = cell_work(self._shape(cell.variant.model), cell.task, self._size(cell))
        return self._work[key]

    def _num_items(self, cell: Cell) -> int:
        num_items, limit = self._size(cell).num_items, cell.task.limit
        return num_items if limit is None else min(limit, num_items)

    def _size(self, cell: Cell) -> TaskSize:
        info = cell.task.info
        if info.name not in self._sizes:
            self._sizes[info.name] = task_size(info)
        return self._sizes[info.name]

    def _shape(self, model: Model) -> ModelInfo:
        if model.label not in self._shapes:
            self._shapes[model.label] = self._shape_of(model)
        return self._shapes[model.label]

    def _measured_like(self, model: Model) -> str | None:
        """The measured model that is nearest in size: the model itself, or none if all are of quite another size."""
        size = self._shape(model).num_block_parameters
        ratios = {label: abs(math.log(size / self._shapes[label].num_block_parameters)) for label in self._speeds}
        nearest = min(ratios, key=lambda label: (label != model.label, ratios[label]), default=None)
        return nearest if nearest is not None and ratios[nearest] <= math.log(_ALIKE) else None

    def _measured_speeds(self, cells: Iterable[Cell]) -> dict[str, float]:
        """FLOPs per second by model: the median over tasks that were measured."""
        if not self._rates.num_cells:
            return {}
        speeds: dict[str, dict[str, float]] = defaultdict(dict)
        for cell in cells:
            model, task = cell.variant.model.label, cell.task.info.name
            if task in speeds[model] or cell.not_applicable is not None:
                continue
            per_item = self._rates.seconds_per_item(cell)
            if per_item:
                speeds[model][task] = self._cell_work(cell).flops / (per_item * self._num_items(cell))
        return {model: median(by_task.values()) for model, by_task in speeds.items() if by_task}


def model_bytes(shape: ModelInfo, dtype: str) -> float:
    """Weights of the full-precision model."""
    return (shape.num_block_parameters + shape.num_embedding_parameters) * _DTYPE_BYTES[dtype]


def artifact_bytes(shape: ModelInfo, variant: Variant) -> float:
    """Codes packed to their bits, scales and zeros of every group, and what a rotation changes beside the blocks."""
    if variant.is_full_precision:
        return 0
    scheme, weights = variant.scheme, shape.num_block_parameters
    size = _DTYPE_BYTES[variant.model.dtype]
    if not _has_codes(variant):
        stored: float = weights * size
    else:
        # Without groups, the mean number of inputs of a linear stands for the length of a row.
        group_size = scheme.group_size or shape.hidden_size
        stored = weights * scheme.weight_bits / 8 + weights / group_size * (_SCALE_BYTES + scheme.weight_bits / 8)
    rotated = shape.num_embedding_parameters * size if variant.method == "quarot" else 0
    return stored + rotated


def _has_codes(variant: Variant) -> bool:
    return variant.scheme.weight_bits != FULL_PRECISION_BITS


def _resident_bytes(shape: ModelInfo, variant: Variant) -> float:
    """A loaded variant: dense weights, and beside them a byte per code of what is quantized."""
    return model_bytes(shape, variant.model.dtype) + (shape.num_block_parameters if _has_codes(variant) else 0)


def _evaluation_memory(shape: ModelInfo, variant: Variant, work: Work) -> float:
    """The variant, one batch's activations of one block, and its logits in float32 with their softmax."""
    num_tokens = max(_BATCH_TOKENS, work.length)
    num_logits = num_tokens / work.length * work.num_logits
    return (
        _resident_bytes(shape, variant)
        + _activation_bytes(shape, num_tokens, variant.model.dtype)
        + num_logits * shape.vocab_size * 8
    )


def _quantization_memory(shape: ModelInfo, variant: Variant) -> float:
    """The variant beside the original weights that the audit compares with, hidden states that wait, and a Hessian."""
    size = _DTYPE_BYTES[variant.model.dtype]
    memory = _resident_bytes(shape, variant) + shape.num_block_parameters * size
    calibration = variant.calibration
    if calibration is not None:
        memory += 2 * calibration.num_samples * calibration.length * shape.hidden_size * size
        num_tokens = min(_WALK_SAMPLES, calibration.num_samples) * calibration.length
        memory += _activation_bytes(shape, num_tokens, variant.model.dtype)
        # The Hessian, its factor, and the work space of the factorisation, in float32.
        memory += 3 * 4 * shape.intermediate_size**2
    return memory


def _activation_bytes(shape: ModelInfo, num_tokens: float, dtype: str) -> float:
    """The widest moment of a block: residual, normed input, queries, keys, values; or gate, up and their product."""
    width = 2 * shape.hidden_size + max(
        (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim, 3 * shape.intermediate_size
    )
    return num_tokens * width * _DTYPE_BYTES[dtype]
