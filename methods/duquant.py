"""DuQuant: outliers are smoothed, spread within blocks of features by rotations, and dealt over the blocks.

Lin et al., arXiv 2406.01721. Block by block: scales move outliers into the weights, a transform of each linear's input
is searched on calibration tokens and put into the weights, the block is proved to do what it did, and is rounded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache, partial
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from grids.schemes import Scheme
from methods.attention import OperandQuantizers, round_operands, use_quantized_attention
from methods.blocks import STAGES, BlockStep, BlockWalk, block_linears, decoder_blocks, replace_module
from methods.contract import (
    Method,
    MethodParameters,
    QuantizationJob,
    refuse_full_precision,
    refuse_full_precision_activations,
)
from methods.greedy_rotation import OutlierIndex, Peak, RotationSearch
from methods.hadamard import core_order
from methods.operands import per_token
from methods.preservation import block_preserved
from methods.rotation import head_size
from methods.rounding import RoundingParameters
from methods.scaling import PLACES, Place, fold_block
from methods.smoothquant import SmoothingParameters
from methods.transforms import BlockRotation, with_transform

_LARGEST_BLOCK = 128
_SearchOf = Callable[[int], RotationSearch]


class DuquantParameters(SmoothingParameters, RoundingParameters):
    """Parameters of DuQuant; the defaults are the paper's, and its authors' code's where the paper is silent.

    The study's public code is `outlier_index: row`, `peak: range`, `mean_sequence: true`, `anchor_only: true` and
    `min_scale: 0.01`, on a scheme that also rounds keys, values and queries to the bits of activations.
    """

    smooth: list[Place] = Field(list(PLACES), description="activations that are smoothed before they are rotated")
    clip_ratio: float = Field(0.8, gt=0, le=1, description="share of each output channel's range")
    activation_clip_ratio: float = Field(0.9, gt=0, le=1, description="share of each token's range")
    kv_clip_ratio: float = Field(0.9, gt=0, le=1, description="share of the range of each token's key heads")
    value_clip_ratio: float = Field(1.0, gt=0, le=1, description="the same for values, which are not rotated")
    query_clip_ratio: float = Field(0.9, gt=0, le=1, description="the same for queries, rotated with the keys")
    block_size: int | Literal["largest"] = Field(
        _LARGEST_BLOCK,
        description="features that are rotated together, a divisor of every linear's input; `largest` is, for each "
        f"input, the largest power of two up to {_LARGEST_BLOCK} that divides it",
    )
    num_steps: int = Field(256, ge=1, description="steps of each greedy search")
    outlier_index: OutlierIndex = Field(
        "column",
        description="the feature that a step spreads: the one that holds the largest |x|, or that of the same number "
        "as its row modulo the block (the study's public code), which is no outlier but by chance",
    )
    peak: Peak = Field(
        "absolute", description="the search minimises max |x| (the paper), or max x - min x (the public code)"
    )
    mean_sequence: bool = Field(
        False,
        description="search on the mean over calibration samples (the public code): outliers at places that differ "
        "from sample to sample are averaged away; false searches on tokens as they are",
    )
    num_search_tokens: int = Field(
        2048, ge=1, description="the tokens that the search sees, those with the largest |x|; no limit for the mean"
    )

    def operand_quantizers(self, scheme: Scheme) -> OperandQuantizers:
        """Asymmetric per token and head; queries and keys go through a Hadamard transform if either is rounded."""
        quantizers = super().operand_quantizers(scheme)
        rotate_keys = quantizers.key is not None or quantizers.query is not None
        value = per_token(scheme.kv_bits, self.value_clip_ratio)
        return dataclasses.replace(quantizers, value=value, rotate_keys=rotate_keys)

    def block_size_of(self, num_features: int) -> int:
        """The block size for an input of that many features; it may not divide them."""
        if self.block_size == "largest":
            return min(num_features & -num_features, _LARGEST_BLOCK)
        return self.block_size


class Duquant(Method[DuquantParameters]):
    """Smoothing, greedy rotation, zigzag permutation and a second rotation of the input of every linear."""

    name: ClassVar[str] = "duquant"
    version: ClassVar[int] = 1
    Parameters: ClassVar[type[MethodParameters]] = DuquantParameters
    needs_calibration: ClassVar[bool] = True

    def refusal(self, scheme: Scheme) -> str | None:
        return (
            refuse_full_precision_activations(scheme, "moves and spreads outliers of activations")
            or refuse_full_precision(scheme)
            or self.parameters.rounding_refusal(scheme)
        )

    def quantize_blocks(self, job: QuantizationJob) -> None:
        assert job.calibration is not None
        self._check_blocks(job.model)
        operands = self.parameters.operand_quantizers(job.scheme)
        if operands.rotate_keys:
            # Raises ValueError now rather than in the first forward.
            core_order(head_size(decoder_blocks(job.model)[0]))
        if not operands.do_nothing:
            use_quantized_attention(job.model)
        walk = BlockWalk(
            job.model, job.calibration, compute=job.compute, propagate_error=self.parameters.gptq.propagate_error
        )
        rounder = self.parameters.rounder()
        search_of = self._searches(job.seed, walk.device)
        for step in walk:
            fold_block(step, self.parameters.scales(step), job)
            with block_preserved(step, job.scheme, "its inputs are rotated"):
                self._transform(step, search_of)
            step.write_back()
            # Only now: rounded values would notice their scales.
            round_operands(step.block, operands)
            for stage in step.stages():
                rounder.round_stage(stage, job)

    def _check_blocks(self, model: nn.Module) -> None:
        for name, linear in block_linears(model).items():
            assert isinstance(linear, nn.Linear)
            size = self.parameters.block_size_of(linear.in_features)
            if size < 2 or linear.in_features % size:
                raise ValueError(
                    f"{name}: blocks of {size} features do not divide its {linear.in_features} input features; "
                    "set block_size to a divisor of all of them that is at least 2, or to 'largest'"
                )

    def _searches(self, seed: int, device: torch.device) -> _SearchOf:
        parameters = self.parameters

        @cache
        def search_of(num_features: int) -> RotationSearch:
            return RotationSearch.of_block(
                parameters.block_size_of(num_features),
                parameters.num_steps,
                seed,
                peak=parameters.peak,
                outlier_index=parameters.outlier_index,
            ).to(device)

        return search_of

    def _transform(self, step: BlockStep, search_of: _SearchOf) -> None:
        """Gives all linears of a stage one transform of their input, and puts it into their weights."""
        inputs = self._search_inputs(step)
        for names in STAGES:
            tokens = inputs.pop(names[0])
            transform: BlockRotation = search_of(tokens.shape[-1]).transform(tokens)
            for name in names:
                linear = step.block.get_submodule(name)
                assert isinstance(linear, nn.Linear)
                replace_module(step.block, name, with_transform(linear, transform, device=None))

    def _search_inputs(self, step: BlockStep) -> dict[str, Tensor]:
        """What the search sees of each stage's input, [tokens, in_features] by first linear, in one pass."""
        collect = (
            _add_to_mean if self.parameters.mean_sequence else partial(_keep_largest, self.parameters.num_search_tokens)
        )
        inputs: dict[str, Tensor] = {}

        def watch(name: str, _: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            inputs[name] = collect(inputs.get(name), arguments[0])

        handles = [
            step.block.get_submodule(names[0]).register_forward_pre_hook(partial(watch, names[0])) for names in STAGES
        ]
        try:
            for _ in step.outputs():
                pass
        finally:
            for handle in handles:
                handle.remove()
        return inputs


def _add_to_mean(total: Tensor | None, batch: Tensor) -> Tensor:
    """A sum over samples, [length, in_features]: as good as their mean, for a search that no factor changes."""
    added = batch.float().sum(0)
    return added if total is None else total + added


def _keep_largest(num_tokens: int, kept: Tensor | None, batch: Tensor) -> Tensor:
    """The tokens with the largest |x| so far, [num_tokens, in_features], in the order in which they came."""
    tokens = batch.flatten(0, -2)
    tokens = tokens if kept is None else torch.cat([kept, tokens])
    if tokens.shape[0] <= num_tokens:
        return tokens
    chosen = tokens.abs().amax(1).topk(num_tokens).indices
    return tokens[chosen.sort().values]
