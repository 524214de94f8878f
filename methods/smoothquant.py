"""SmoothQuant: outliers of activations move into the weights before both are rounded.

Xiao et al., arXiv 2211.10438. The model is transformed so that channel j of an activation is divided by s_j and column
j of the weights that take it in is multiplied; RTN or GPTQ then rounds what came of it.
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from grids.schemes import Scheme
from methods.blocks import BlockStep, BlockWalk
from methods.contract import (
    Method,
    MethodParameters,
    QuantizationJob,
    refuse_full_precision,
    refuse_full_precision_activations,
)
from methods.quantizer import compute_dtype
from methods.rounding import RoundingParameters
from methods.scaling import PLACES, Place, fold_block, largest_per_channel, place_linears

_LEAST_WEIGHT_MAXIMUM = 1e-5


class SmoothingParameters(MethodParameters):
    """What is smoothed, and how far; the defaults are SmoothQuant's."""

    alpha: float = Field(0.5, ge=0, le=1, description="migration strength: 0 spares weights, 1 spares activations")
    smooth: list[Place] = Field(
        ["qkv", "gate_up"],
        min_length=1,
        description="activations that are smoothed: qkv and gate_up follow a norm (`norms`, the authors' choice), v_o "
        "and up_down a linear, whose rows then shrink unevenly (with them it is `all`, the study's public code); with "
        "grouped-query attention the query heads of a group share the scales of v_o",
    )
    anchor_only: bool = Field(
        False,
        description="weight maxima of q_proj and up_proj alone (the study's public code): large columns of k, v or "
        "gate are not seen, and grow further",
    )
    min_scale: float = Field(
        1e-5,
        gt=0,
        description="least s_j; at 0.01 (the study's public code) quiet channels are amplified 100 times at most",
    )

    @field_validator("smooth", mode="before")
    @classmethod
    def _named_sets(cls, value: Any) -> Any:
        if value == "all":
            return list(PLACES)
        if value == "norms":
            return [place for place in PLACES if PLACES[place].after_norm]
        return value

    @field_validator("smooth")
    @classmethod
    def _places_in_dataflow_order(cls, value: list[Place]) -> list[Place]:
        # One spelling for one meaning: parameters are part of a variant's identity.
        return [place for place in PLACES if place in value]

    def scales(self, step: BlockStep) -> dict[Place, Tensor]:
        """The scale of each place of a block, one per producer channel, from all its calibration inputs."""
        maxima = activation_maxima(step, self.smooth)
        return {place: self._scale(step.block, place, maxima[place]) for place in maxima}

    def _scale(self, block: nn.Module, place: Place, activation_max: Tensor) -> Tensor:
        """The scale of a place, one per producer channel."""
        anchor_only = self.anchor_only
        weight_max = torch.stack(
            [
                linear.weight.abs().amax(0).to(activation_max.dtype)
                for name, linear in place_linears(block, place).items()
                if not anchor_only or name == PLACES[place].anchor
            ]
        ).amax(0)
        return smoothing_scale(
            largest_per_channel(block, place, activation_max),
            largest_per_channel(block, place, weight_max),
            alpha=self.alpha,
            min_scale=self.min_scale,
        )


class SmoothQuantParameters(SmoothingParameters, RoundingParameters):
    """Parameters of SmoothQuant; the defaults are the paper's and its authors' code's, with asymmetric grids.

    The study's public code is `smooth: all`, `anchor_only: true` and `min_scale: 0.01`, on a scheme that also rounds
    keys, values and queries to the bits of activations (w4a4kv4q4 where its label says w4a4).
    """


class SmoothQuant(Method[SmoothQuantParameters]):
    """Smooths activations by their calibrated maxima, then rounds weights per channel and activations per token."""

    name: ClassVar[str] = "smoothquant"
    version: ClassVar[int] = 1
    Parameters: ClassVar[type[MethodParameters]] = SmoothQuantParameters
    needs_calibration: ClassVar[bool] = True

    def refusal(self, scheme: Scheme) -> str | None:
        return (
            refuse_full_precision_activations(scheme, "smooths activations")
            or refuse_full_precision(scheme)
            or self.parameters.rounding_refusal(scheme)
        )

    def quantize_blocks(self, job: QuantizationJob) -> None:
        assert job.calibration is not None
        for step in BlockWalk(job.model, job.calibration, compute=job.compute):
            fold_block(step, self.parameters.scales(step), job)
        self.parameters.round_blocks(job)


def smoothing_scale(activation_max: Tensor, weight_max: Tensor, *, alpha: float, min_scale: float) -> Tensor:
    """s_j = max|X_j|^alpha / max|W_j|^(1 - alpha), at least min_scale (equation 4)."""
    weight_max = weight_max.clamp_min(_LEAST_WEIGHT_MAXIMUM)
    return (activation_max.pow(alpha) / weight_max.pow(1 - alpha)).clamp_min(min_scale)


def activation_maxima(step: BlockStep, places: list[Place]) -> dict[Place, Tensor]:
    """max|X_j| over all calibration tokens of what enters each place's consumers, [in], in one pass of the block."""
    maxima: dict[Place, Tensor] = {}

    def watch(place: Place, _: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        (inputs,) = arguments
        largest = inputs.abs().flatten(0, -2).amax(0).to(compute_dtype(inputs))
        maxima[place] = torch.maximum(maxima.get(place, largest), largest)

    handles = []
    for place in places:
        linear = next(iter(place_linears(step.block, place).values()))
        handles.append(linear.register_forward_pre_hook(partial(watch, place)))
    try:
        for _ in step.outputs():
            pass
    finally:
        for handle in handles:
            handle.remove()
    return maxima
