"""Per-channel scales, folded into what makes an activation and into the linears that take it in.

The producer's channels are divided by s and the consumers' input columns multiplied by it: the activation changes, the
model's function does not. SmoothQuant (arXiv 2211.10438, section 4) and AWQ (arXiv 2306.00978, section 3.2) both rest
on it, and differ in how they choose s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from methods.blocks import STAGES, BlockStep
from methods.contract import QuantizationJob
from methods.preservation import block_preserved
from methods.quantizer import NonFiniteError, compute_dtype

Place = Literal["qkv", "v_o", "gate_up", "up_down"]


@dataclass(frozen=True, slots=True)
class ScalePlace:
    """An activation that can be rescaled: the norm or linear that makes it, and the linears that take it in.

    anchor: the one consumer whose weight the study's public code looks at.
    """

    producer: str
    consumers: tuple[str, ...]
    anchor: str

    @property
    def after_norm(self) -> bool:
        return self.producer.endswith("layernorm")


# In dataflow order. Attention mixes tokens and the gate multiplies, both channel by channel, so a scale passes through.
PLACES: dict[Place, ScalePlace] = {
    "qkv": ScalePlace("input_layernorm", STAGES[0], "self_attn.q_proj"),
    "v_o": ScalePlace("self_attn.v_proj", STAGES[1], "self_attn.o_proj"),
    "gate_up": ScalePlace("post_attention_layernorm", STAGES[2], "mlp.up_proj"),
    "up_down": ScalePlace("mlp.up_proj", STAGES[3], "mlp.down_proj"),
}


def place_linears(block: nn.Module, place: Place) -> dict[str, nn.Linear]:
    """The consumers of a place by their names in the block."""
    return {name: _linear(block, name) for name in PLACES[place].consumers}


def has_own_channels(block: nn.Module, place: Place) -> bool:
    """Whether every input channel of the consumers has a producer channel of its own: not so for v -> o with GQA."""
    return _num_producer_channels(block, place) == _linear(block, PLACES[place].consumers[0]).in_features


def largest_per_channel(block: nn.Module, place: Place, values: Tensor) -> Tensor:
    """Values of the consumers' input channels [in] as one per producer channel, the largest where it feeds several.

    With grouped-query attention a channel of v feeds the same channel of each query head of its group.
    """
    return _by_head(block, place, values).amax(1).flatten()


def spread_to_inputs(block: nn.Module, place: Place, scale: Tensor) -> Tensor:
    """A scale per producer channel as one per input channel [in] of the consumers."""
    if has_own_channels(block, place):
        return scale
    num_inputs = _linear(block, PLACES[place].consumers[0]).in_features
    by_head = scale.view(-1, 1, _head_dim(block))
    return by_head.expand(-1, num_inputs // scale.numel(), -1).flatten()


@torch.no_grad()
def fold(block: nn.Module, place: Place, scale: Tensor) -> None:
    """Divides the producer by a positive scale, one per producer channel, and multiplies the consumers' columns.

    Weights are written in place: who holds one (the audit's `original_weights`) sees what the rounding starts from.
    """
    inputs_scale = spread_to_inputs(block, place, scale)
    for linear in place_linears(block, place).values():
        _multiply_(linear.weight, inputs_scale)
    _divide_producer(block.get_submodule(PLACES[place].producer), scale)


@torch.no_grad()
def fold_block(step: BlockStep, scales: Mapping[Place, Tensor], job: QuantizationJob) -> None:
    """Folds scales, one per producer channel of each place, into a block of full-precision linears during a walk.

    Notes the norms that change in the job. Raises NonFiniteError for a scale that is not positive and finite, and
    AuditError where the block's output changes by more than rounding in its dtype.
    """
    for place, scale in scales.items():
        if not (torch.isfinite(scale) & (scale > 0)).all():
            raise NonFiniteError(f"{step.name}: the scales of {place} are not positive and finite")
    with block_preserved(step, job.scheme, "its inputs are scaled"):
        for place, scale in scales.items():
            fold(step.block, place, scale)
    step.write_back()
    job.changed_parameters += [
        f"{step.name}.{PLACES[place].producer}.weight" for place in scales if PLACES[place].after_norm
    ]


def _divide_producer(producer: nn.Module, scale: Tensor) -> None:
    if isinstance(producer, nn.Linear):
        _multiply_(producer.weight, 1 / scale[:, None])
        if producer.bias is not None:
            _multiply_(producer.bias, 1 / scale)
    else:
        _multiply_(producer.get_parameter("weight"), 1 / scale)


def _multiply_(parameter: Tensor, factor: Tensor) -> None:
    # Rounded to the parameter's dtype once, not the factor first.
    parameter.copy_(parameter.to(compute_dtype(parameter)) * factor)


def _by_head(block: nn.Module, place: Place, values: Tensor) -> Tensor:
    """[in] as [heads of the producer, consumer heads per producer head, channels]."""
    if has_own_channels(block, place):
        return values.view(1, 1, -1)
    num_channels, head_dim = _num_producer_channels(block, place), _head_dim(block)
    return values.view(num_channels // head_dim, -1, head_dim)


def _num_producer_channels(block: nn.Module, place: Place) -> int:
    return block.get_submodule(PLACES[place].producer).get_parameter("weight").shape[0]


def _head_dim(block: nn.Module) -> int:
    attention: Any = block.get_submodule("self_attn")
    return int(attention.head_dim)


def _linear(block: nn.Module, name: str) -> nn.Linear:
    linear = block.get_submodule(name)
    assert isinstance(linear, nn.Linear), f"{name} has been replaced already"
    return linear
