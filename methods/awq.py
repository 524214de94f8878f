"""AWQ: weights that meet large activations are scaled up before they are rounded, and ranges clipped to what helps.

Lin et al., arXiv 2306.00978: s = s_x^alpha with s_x the mean |x| of each input channel (equation 4), alpha from a grid,
for the least change of the module that the weights belong to (equation 5); then each group's range is shrunk while that
lowers the error of its part of the output. W is a weight [out, in], Q the rounding, x an input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self, get_args

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from grids.schemes import Scheme
from methods.blocks import BlockStep, BlockWalk, Stage
from methods.contract import (
    LinearReport,
    Method,
    MethodParameters,
    QuantizationJob,
    refuse_full_precision,
    refuse_full_precision_weights,
)
from methods.linear import QuantLinear
from methods.operands import LinearName, OperandParameters
from methods.quantized_weight import quantize_weight, relative_error
from methods.quantizer import NonFiniteError, Quantizer, compute_dtype
from methods.scaling import PLACES, Place, fold_block, has_own_channels, place_linears

_LEAST_SCALE = 1e-4
_INSPECTED: dict[Place, str] = {
    "qkv": "self_attn",
    "v_o": "self_attn.o_proj",
    "gate_up": "mlp",
    "up_down": "mlp.down_proj",
}


class AwqParameters(OperandParameters):
    """Parameters of AWQ; the defaults are the authors' code's."""

    num_ratios: int = Field(20, ge=1, description="alpha is tried at 0, 1/n, .. (n - 1)/n")
    inspect: Literal["module", "block"] = Field(
        "module",
        description="whose output a scale before q, k, v or gate, up must keep: the attention's or MLP's; or the whole "
        "block's, fed with the already normalised input (the study's public code on LLaDA): a norm and residual paths "
        "come in that the weights never meet, so the scales are chosen on another signal",
    )
    clip: bool = Field(True, description="search the range of each weight group for the least output error")
    clip_skip: list[LinearName] = Field(
        ["q_proj", "k_proj"], description="linears that keep their ranges: attention scores are too sensitive"
    )
    clip_grid: int = Field(20, ge=1, description="a step of the clip search shrinks a range by 1/clip_grid of it")
    max_shrink: float = Field(0.5, ge=0, lt=1, description="ranges shrink by less than this share")
    num_clip_tokens: int = Field(512, ge=1, description="calibration tokens of the clip search, fewer than twice that")
    propagate_error: bool = Field(False, description="inputs come through the blocks that are already quantized")

    @field_validator("clip_skip")
    @classmethod
    def _skips_in_dataflow_order(cls, value: list[LinearName]) -> list[LinearName]:
        # One spelling for one meaning: parameters are part of a variant's identity.
        return [name for name in get_args(LinearName) if name in value]

    @model_validator(mode="after")
    def _one_clip_search(self) -> Self:
        if self.clip and (self.clip_search or self.clip_ratio != 1):
            raise ValueError("clip is AWQ's own search of ranges: set it to false to use clip_search or clip_ratio")
        return self


class Awq(Method[AwqParameters]):
    """Activation-aware weight rounding; activations and attention operands are rounded too where the scheme says so.

    The search itself is the paper's, on weights alone: it sees activations as they are.
    """

    name: ClassVar[str] = "awq"
    version: ClassVar[int] = 1
    Parameters: ClassVar[type[MethodParameters]] = AwqParameters
    needs_calibration: ClassVar[bool] = True

    def refusal(self, scheme: Scheme) -> str | None:
        return refuse_full_precision(scheme) or refuse_full_precision_weights(scheme)

    def quantize_blocks(self, job: QuantizationJob) -> None:
        assert job.calibration is not None
        walk = BlockWalk(
            job.model, job.calibration, compute=job.compute, propagate_error=self.parameters.propagate_error
        )
        for step in walk:
            found, samples = self._search_block(step, job.scheme)
            fold_block(step, {place: chosen.scale for place, chosen in found.items()}, job)
            for place, stage in zip(PLACES, step.stages(), strict=True):
                inputs = samples[place] / found[place].scale if place in found else samples[place]
                self._round_stage(stage, inputs, job, found[place].ratio if place in found else None)
        # Last, so that the search sees keys and values as they are, as it does activations.
        self.parameters.quantize_attention(job.model, job.scheme)

    def _search_block(self, step: BlockStep, scheme: Scheme) -> tuple[dict[Place, FoundScale], dict[Place, Tensor]]:
        """Scales and a sample of input tokens for each place of a block, which is left as it was."""
        quantizer = self.parameters.weight_quantizer(scheme)
        assert quantizer is not None
        found: dict[Place, FoundScale] = {}
        samples: dict[Place, Tensor] = {}
        for place in PLACES:
            linears = place_linears(step.block, place)
            inspection = self._inspection(step, place)
            samples[place] = sample_tokens(inspection.inputs, self.parameters.num_clip_tokens)
            # With grouped-query attention v and o differ in shape: the authors' code leaves that place alone.
            if has_own_channels(step.block, place):
                ratios = [index / self.parameters.num_ratios for index in range(self.parameters.num_ratios)]
                name = ", ".join(f"{step.name}.{linear}" for linear in linears)
                found[place] = search_scale(list(linears.values()), inspection, quantizer, ratios, name)
        return found, samples

    def _inspection(self, step: BlockStep, place: Place) -> Inspection:
        if self.parameters.inspect == "block" and PLACES[place].after_norm:
            linear = next(iter(place_linears(step.block, place).values()))
            entered = list(step.inputs_of(linear))
            return Inspection(entered, lambda index: step.forward(entered[index]))
        return Inspection.of_module(step, step.block.get_submodule(_INSPECTED[place]))

    def _round_stage(self, stage: Stage, inputs: Tensor, job: QuantizationJob, ratio: float | None) -> None:
        """Clips and rounds linears that share an input, of which tokens [num_tokens, in] are given.

        ratio: alpha of the scale that is in the input already, None where it has none.
        """
        parameters = self.parameters
        quantizer = parameters.weight_quantizer(job.scheme)
        assert quantizer is not None
        for name, linear in stage.linears.items():
            W = linear.weight.to(compute_dtype(linear.weight))
            if parameters.clip and name.rpartition(".")[2] not in parameters.clip_skip:
                W = clip_ranges(W, inputs, quantizer, clip_grid=parameters.clip_grid, max_shrink=parameters.max_shrink)
            quantized = QuantLinear.from_linear(
                linear,
                quantize_weight(W, quantizer, name),
                activation=parameters.activation_quantizer(job.scheme),
            )
            stage.replace(name, quantized)
            job.report(
                LinearReport(
                    name=name,
                    effective_bits=quantized.effective_bits,
                    weight_error=relative_error(linear.weight, quantized.weight),
                    output_error=_output_error(inputs, linear.weight, quantized.weight),
                    scale_ratio=ratio,
                )
            )


@dataclass(frozen=True, slots=True)
class Inspection:
    """A module whose output the search watches: what enters the scaled linears, and the module's output, by batch."""

    inputs: Sequence[Tensor]
    output: Callable[[int], Tensor]

    @classmethod
    def of_module(cls, step: BlockStep, module: nn.Module) -> Self:
        """A submodule of a block, called as the block calls it; its input must be the linears' own."""
        calls = list(step.calls_of(module))

        def output(index: int) -> Tensor:
            arguments, kwargs = calls[index]
            result = module(*arguments, **kwargs)
            # Attention also gives its weights.
            tensor = result[0] if isinstance(result, tuple) else result
            assert isinstance(tensor, Tensor)
            return tensor

        return cls([arguments[0] if arguments else kwargs["hidden_states"] for arguments, kwargs in calls], output)


@dataclass(frozen=True, slots=True)
class FoundScale:
    """The scale [in] of the best ratio alpha, and every ratio's mean squared output error [num_ratios]."""

    scale: Tensor
    ratio: float
    losses: Tensor


@torch.no_grad()
def search_scale(
    linears: Sequence[nn.Linear], inspection: Inspection, quantizer: Quantizer, ratios: Sequence[float], name: str
) -> FoundScale:
    """The scale for the inputs of linears that share them, with the least loss of Q(W diag(s)) diag(s)^-1.

    The linears' weights are put back as they were. Raises NonFiniteError that names the linears where no loss is
    finite.
    """
    mean = mean_magnitude(inspection.inputs)
    reference = [inspection.output(index) for index in range(len(inspection.inputs))]
    kept = [linear.weight.data for linear in linears]
    losses = []
    try:
        for ratio in ratios:
            scale = scale_of_ratio(mean, ratio)
            for linear, weight in zip(linears, kept, strict=True):
                linear.weight.data = (quantizer(weight.to(scale.dtype) * scale) / scale).to(weight.dtype)
            losses.append(_mean_squared_error(inspection, reference))
    finally:
        for linear, weight in zip(linears, kept, strict=True):
            linear.weight.data = weight
    all_losses = torch.stack(losses).nan_to_num(nan=torch.inf)
    best = int(all_losses.argmin())
    if not torch.isfinite(all_losses[best]):
        raise NonFiniteError(f"{name}: no scale gives finite outputs")
    return FoundScale(scale_of_ratio(mean, ratios[best]), ratios[best], all_losses)


def scale_of_ratio(mean: Tensor, ratio: float) -> Tensor:
    """s = s_x^alpha, at least 1e-4, divided by sqrt(max s * min s)."""
    scale = mean.pow(ratio).clamp_min(_LEAST_SCALE)
    return scale / (scale.amax() * scale.amin()).sqrt()


def mean_magnitude(batches: Sequence[Tensor]) -> Tensor:
    """s_x: mean |x| of each channel over the tokens of batches [..., in]."""
    total = torch.stack([inputs.abs().flatten(0, -2).sum(0, dtype=compute_dtype(inputs)) for inputs in batches]).sum(0)
    return total / sum(inputs.shape[:-1].numel() for inputs in batches)


def sample_tokens(batches: Sequence[Tensor], num_tokens: int) -> Tensor:
    """Every n-th token of batches [..., in], at least num_tokens of them where there are so many, as [tokens, in]."""
    total = sum(inputs.shape[:-1].numel() for inputs in batches)
    stride = max(1, total // num_tokens)
    taken, position = [], 0
    for inputs in batches:
        tokens = inputs.flatten(0, -2)
        taken.append(tokens[-position % stride :: stride])
        position += len(tokens)
    return torch.cat(taken)


def clip_ranges(W: Tensor, inputs: Tensor, quantizer: Quantizer, *, clip_grid: int, max_shrink: float) -> Tensor:
    """W [out, in] with each group clamped to the share of its largest magnitude that keeps its outputs best.

    inputs: [num_tokens, in]. Shares tried: 1, 1 - 1/clip_grid, .. down to, but without, 1 - max_shrink.  The error of a
    group is the mean over tokens of (x_g^T (Q(w) - w))^2.
    """
    groups = quantizer.grouped(W).reshape(W.shape[0], -1, quantizer.group_size or W.shape[1])
    X = inputs.to(W.dtype).reshape(-1, *groups.shape[1:])
    # One Gram matrix per group stands for many tokens: d^T (X^T X) d is the sum of squares of X d.
    gram = torch.einsum("tgi,tgj->gij", X, X) / len(X) if len(X) > groups.shape[-1] else None
    limit = groups.abs().amax(-1, keepdim=True)
    best, least_error = limit, torch.full_like(limit, torch.inf)
    for step in range(int(max_shrink * clip_grid)):
        bound = limit * (1 - step / clip_grid)
        clamped = groups.clamp(-bound, bound)
        D = quantizer.fit(clamped).quantize(clamped) - groups
        if gram is None:
            error = torch.einsum("ogi,tgi->ogt", D, X).square().mean(-1, keepdim=True)
        else:
            error = (torch.einsum("ogi,gij->ogj", D, gram) * D).sum(-1, keepdim=True)
        better = error < least_error
        best, least_error = torch.where(better, bound, best), torch.where(better, error, least_error)
    return groups.clamp(-best, best).reshape(W.shape)


def _mean_squared_error(inspection: Inspection, reference: Sequence[Tensor]) -> Tensor:
    dtype = compute_dtype(reference[0])
    squares = [
        (inspection.output(index).to(dtype) - expected.to(dtype)).square().sum()
        for index, expected in enumerate(reference)
    ]
    return torch.stack(squares).sum() / sum(expected.numel() for expected in reference)


def _output_error(inputs: Tensor, weight: Tensor, quantized: Tensor) -> float:
    X = inputs.to(compute_dtype(inputs))
    expected = F.linear(X, weight.to(X.dtype))
    return relative_error(expected, F.linear(X, quantized.to(X.dtype)))
