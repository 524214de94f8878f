"""GPTQ: columns are rounded one after another, each one's error carried into those still to come.

Frantar et al., arXiv 2210.17323. The letters are the paper's: W a weight [out, in], H the Hessian [in, in] of the
layer's squared output error, U the upper Cholesky factor of H^-1, E the scaled errors of a block of columns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from grids.schemes import Scheme
from methods.blocks import BlockWalk, Stage
from methods.contract import (
    LinearReport,
    Method,
    MethodParameters,
    QuantizationJob,
    refuse_full_precision,
    refuse_full_precision_weights,
)
from methods.linear import QuantLinear
from methods.operands import OperandParameters, SkipParameters
from methods.quantized_weight import QuantizedWeight, check_weight, relative_error
from methods.quantizer import NonFiniteError, QuantGrid, Quantizer
from methods.rtn import keep_weight

_DTYPES = {"float32": torch.float32, "float64": torch.float64}
_DAMPING_STEPS = (1, 10, 100)


class GptqSettings(MethodParameters):
    """How GPTQ solves; the defaults are the authors' code's."""

    act_order: bool = Field(False, description="columns in falling order of the Hessian's diagonal")
    static_groups: bool = Field(False, description="group scales from the weights as they were given")
    damp_percent: float = Field(0.01, gt=0, le=1, description="share of the Hessian's mean diagonal added to it")
    block_size: int = Field(128, ge=1, description="columns between two updates of the rest of the weight")
    propagate_error: bool = Field(True, description="inputs come through what is already quantized")
    hessian_dtype: Literal["float32", "float64"] = "float32"


class GptqParameters(GptqSettings, SkipParameters, OperandParameters):
    """Parameters of GPTQ; the defaults are the authors' code's, with asymmetric grids."""


class Gptq(Method[GptqParameters]):
    """Second-order rounding of all seven linears of each block, in dataflow order."""

    name: ClassVar[str] = "gptq"
    version: ClassVar[int] = 1
    Parameters: ClassVar[type[MethodParameters]] = GptqParameters
    needs_calibration: ClassVar[bool] = True

    def refusal(self, scheme: Scheme) -> str | None:
        return refuse_full_precision(scheme) or refuse_full_precision_weights(scheme)

    def quantize_blocks(self, job: QuantizationJob) -> None:
        self.parameters.quantize_attention(job.model, job.scheme)
        self.round_linears(job)

    def round_linears(self, job: QuantizationJob) -> None:
        """Rounds every linear of every block, in a walk of its own."""
        assert job.calibration is not None
        walk = BlockWalk(
            job.model, job.calibration, compute=job.compute, propagate_error=self.parameters.propagate_error
        )
        for block in walk:
            for stage in block.stages():
                self.round_stage(stage, job)

    def round_stage(self, stage: Stage, job: QuantizationJob) -> None:
        """Rounds the linears of one stage of a walk, with one Hessian."""
        parameters = self.parameters
        quantizer = parameters.weight_quantizer(job.scheme)
        activation = parameters.activation_quantizer(job.scheme)
        assert quantizer is not None
        linears = stage.linears
        for name in [name for name in linears if parameters.skips(name)]:
            linear = linears.pop(name)
            stage.replace(name, keep_weight(name, linear, activation, job))
        if not linears:
            return
        hessian = accumulate_hessian(
            # The product that is approximated is Q(x) W^T where activations are quantized too.
            (inputs if activation is None else activation(inputs) for inputs in stage.inputs()),
            dtype=_DTYPES[parameters.hessian_dtype],
        )
        factor = factorize(
            hessian,
            damp_percent=parameters.damp_percent,
            act_order=parameters.act_order,
            name=", ".join(linears),
        )
        # A row is rounded by itself, so that linears with one Hessian are one matrix for the solver's loop.
        solved = gptq(
            torch.cat([linear.weight for linear in linears.values()]),
            factor,
            quantizer,
            static_groups=parameters.static_groups,
            block_size=parameters.block_size,
            name=", ".join(linears),
        )
        weights = solved.split([linear.out_features for linear in linears.values()])
        for (name, linear), weight in zip(linears.items(), weights, strict=True):
            quantized = QuantLinear.from_linear(linear, weight, activation=activation)
            stage.replace(name, quantized)
            job.report(
                LinearReport(
                    name=name,
                    effective_bits=quantized.effective_bits,
                    weight_error=relative_error(linear.weight, quantized.weight),
                    output_error=output_error(linear.weight, quantized.weight, hessian),
                    damp_percent=factor.damp_percent,
                )
            )


def accumulate_hessian(batches: Iterator[Tensor], *, dtype: torch.dtype = torch.float32) -> Tensor:
    """H = 2/n sum x x^T over the n input vectors of batches [..., in], as [in, in] of `dtype` (section 3.1)."""
    total: Tensor | None = None
    num_inputs = 0
    for inputs in batches:
        X = inputs.reshape(-1, inputs.shape[-1]).to(dtype)
        total = X.T @ X if total is None else total.addmm_(X.T, X)
        num_inputs += X.shape[0]
    assert total is not None, "no calibration batch"
    return total.mul_(2 / num_inputs)


@dataclass(frozen=True, slots=True)
class InverseFactor:
    """What the solver needs of a Hessian; linears that share an input share it.

    U: [in, in], H^-1 = U^T U, in the order in which columns are rounded.  order: int64 [in], the input feature that is
    rounded i-th; None for their own order.  dead: bool [in], features that are always zero.  damp_percent: as used.
    """

    U: Tensor
    order: Tensor | None
    dead: Tensor
    damp_percent: float


def factorize(hessian: Tensor, *, damp_percent: float, act_order: bool, name: str) -> InverseFactor:
    """U of a Hessian [in, in], damped by damp_percent of its mean diagonal, ten or a hundred times that if need be.

    Raises NonFiniteError that names the linears, for a Hessian that is not finite or stays indefinite.
    """
    if not torch.isfinite(hessian).all():
        raise NonFiniteError(f"{name}: the Hessian is not finite, so the calibration inputs were not")
    H = hessian.clone()
    dead = H.diagonal() == 0
    H.diagonal()[dead] = 1
    order = None
    if act_order:
        order = torch.argsort(H.diagonal(), descending=True, stable=True)
        H = H[order][:, order]
    mean_diagonal = H.diagonal().mean()
    for step in _DAMPING_STEPS:
        damped = H.clone()
        damped.diagonal().add_(step * damp_percent * mean_diagonal)
        U = _inverse_cholesky(damped)
        if U is not None:
            return InverseFactor(U, order, dead, step * damp_percent)
    raise NonFiniteError(
        f"{name}: the Hessian is not positive definite, even damped by {_DAMPING_STEPS[-1] * damp_percent:g} of its "
        "mean diagonal; calibrate on more samples, raise damp_percent, or set hessian_dtype to float64"
    )


def gptq(
    weight: Tensor,
    factor: InverseFactor,
    quantizer: Quantizer,
    *,
    static_groups: bool = False,
    block_size: int = 128,
    name: str,
) -> QuantizedWeight:
    """A weight [out, in] rounded by Algorithm 1 of the paper.

    Group scales are fitted to the weights as the errors carried so far have left them, when the group's first column
    comes up; with `static_groups`, to the weights as given. Scales per output channel are always fitted before the
    first step. Raises ValueError (group size) and NonFiniteError, naming the linear.
    """
    check_weight(weight, quantizer.group_size, name)
    U, order = factor.U, factor.order
    W = weight.to(U.dtype, copy=True)
    W[:, factor.dead] = 0
    num_columns = W.shape[1]
    group_size = quantizer.group_size
    moving_size = None if static_groups else group_size
    grids = _fixed_grids(W, quantizer) if moving_size is None else []
    group_of_step = _group_of_step(num_columns, group_size, order if static_groups else None)
    per_group = dataclasses.replace(quantizer, granularity="channel", group_size=None)

    # A column of the paper is a row here: what a step reads and writes is contiguous.
    W = (W if order is None else W[:, order]).T.contiguous()
    codes = torch.empty_like(W, dtype=torch.uint8)
    block_size = _aligned_block_size(block_size, moving_size)
    for start in range(0, num_columns, block_size):
        stop = min(start + block_size, num_columns)
        W1 = W[start:stop].clone()
        U1 = U[start:stop, start:stop]
        E = torch.empty_like(W1)
        for i in range(stop - start):
            if moving_size is not None and (start + i) % moving_size == 0:
                current = W1[i : i + moving_size] if moving_size <= block_size else W[start : start + moving_size]
                grids.append(_as_vectors(per_group.fit(current.T)))
            grid = grids[group_of_step[start + i]]
            w = W1[i]
            q = grid.codes(w)
            codes[start + i] = q.to(torch.uint8)
            E[i] = (w - grid.dequantize(q)) / U1[i, i]
            W1[i:] -= torch.outer(U1[i, i:], E[i])
        W[stop:] -= U[start:stop, stop:].T @ E

    group_index = None
    if order is not None:
        codes = torch.empty_like(codes).index_copy_(0, order, codes)
        if moving_size is not None:
            steps = torch.tensor(group_of_step, dtype=torch.int32, device=order.device)
            group_index = torch.empty_like(steps).index_copy_(0, order, steps)
    zero = None if quantizer.symmetric else torch.stack([grid.zero for grid in grids], dim=1).to(torch.uint8)
    return QuantizedWeight(
        codes=codes.T.contiguous(),
        scale=torch.stack([grid.scale for grid in grids], dim=1).to(torch.float16),
        zero=zero,
        num_bits=quantizer.num_bits,
        group_size=group_size,
        group_index=group_index,
    )


def output_error(weight: Tensor, quantized: Tensor, hessian: Tensor) -> float:
    """||X(W - Q)^T||_F / ||XW^T||_F for the inputs X whose Hessian is given."""
    W = weight.to(hessian.dtype)
    D = W - quantized.to(hessian.dtype)
    # tr(D H D^T) is twice the mean squared output error; rounding may leave it a little below zero.
    error = ((D @ hessian) * D).sum().clamp_min(0)
    norm = ((W @ hessian) * W).sum()
    return float(torch.sqrt(error / norm.clamp_min(torch.finfo(norm.dtype).tiny)))


def _inverse_cholesky(H: Tensor) -> Tensor | None:
    """U upper with H^-1 = U^T U; None where H is not positive definite in its dtype."""
    L, failed = torch.linalg.cholesky_ex(H)
    if failed:
        return None
    U, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(L), upper=True)
    return None if failed or not torch.isfinite(U).all() else U


def _fixed_grids(W: Tensor, quantizer: Quantizer) -> list[QuantGrid]:
    """The grids, one per group, of the weight as it is."""
    grid = quantizer.fit(quantizer.grouped(W))
    scale, zero = grid.scale.reshape(W.shape[0], -1), grid.zero.reshape(W.shape[0], -1)
    return [QuantGrid(scale[:, g], zero[:, g], grid.num_bits) for g in range(scale.shape[1])]


def _as_vectors(grid: QuantGrid) -> QuantGrid:
    return QuantGrid(grid.scale.squeeze(-1), grid.zero.squeeze(-1), grid.num_bits)


def _group_of_step(num_columns: int, group_size: int | None, order: Tensor | None) -> list[int]:
    """The group of the column that each step rounds: runs of neighbouring features, or of steps where order is None."""
    if group_size is None:
        return [0] * num_columns
    columns = range(num_columns) if order is None else order.tolist()
    return [column // group_size for column in columns]


def _aligned_block_size(block_size: int, group_size: int | None) -> int:
    """The nearest block size with which no group starts or ends inside a block that it is not wholly in.

    Then the weights that a group's scale is fitted to hold every error carried so far.
    """
    if group_size is None:
        return block_size
    if group_size <= block_size:
        return block_size // group_size * group_size
    return block_size if group_size % block_size == 0 else group_size
