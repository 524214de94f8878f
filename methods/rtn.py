"""Round to nearest: every weight goes to the nearest level of its grid. The floor that other methods stand on."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from grids.schemes import FULL_PRECISION_BITS, Scheme
from methods.blocks import Stage, block_linears, replace_module
from methods.contract import LinearReport, Method, MethodParameters, QuantizationJob, refuse_full_precision
from methods.linear import QuantLinear
from methods.operands import OperandParameters, SkipParameters
from methods.quantized_weight import quantize_weight, relative_error
from methods.quantizer import Quantizer


class RtnParameters(SkipParameters, OperandParameters):
    """Parameters of RTN: how operands are rounded, and what is left out."""


class Rtn(Method[RtnParameters]):
    """Weights to their nearest level; activations, keys, values and queries per token, in the forward pass."""

    name: ClassVar[str] = "rtn"
    version: ClassVar[int] = 1
    Parameters: ClassVar[type[MethodParameters]] = RtnParameters
    needs_calibration: ClassVar[bool] = False

    def refusal(self, scheme: Scheme) -> str | None:
        return refuse_full_precision(scheme)

    def quantize_blocks(self, job: QuantizationJob) -> None:
        self.parameters.quantize_attention(job.model, job.scheme)
        self.round_linears(job)

    def round_linears(self, job: QuantizationJob) -> None:
        """Rounds every linear of every block, each on the compute device, and brings it back to where it was."""
        for name, linear in block_linears(job.model).items():
            assert isinstance(linear, nn.Linear)
            home = linear.weight.device
            linear.to(job.compute.device or home)
            replace_module(job.model, name, self._round(name, linear, job).to(home))

    def round_stage(self, stage: Stage, job: QuantizationJob) -> None:
        """Rounds the linears of one stage of a walk."""
        for name, linear in stage.linears.items():
            stage.replace(name, self._round(name, linear, job))

    def _round(self, name: str, linear: nn.Linear, job: QuantizationJob) -> QuantLinear:
        weight_quantizer = self.parameters.weight_quantizer(job.scheme)
        activation = self.parameters.activation_quantizer(job.scheme)
        if weight_quantizer is None or self.parameters.skips(name):
            return keep_weight(name, linear, activation, job)
        weight = quantize_weight(linear.weight, weight_quantizer, name)
        quantized = QuantLinear.from_linear(linear, weight, activation=activation)
        error = relative_error(linear.weight, quantized.weight)
        job.report(LinearReport(name=name, effective_bits=quantized.effective_bits, weight_error=error))
        return quantized


def keep_weight(name: str, linear: nn.Linear, activation: Quantizer | None, job: QuantizationJob) -> QuantLinear:
    """The linear with its weight as it is, and a note where the scheme says otherwise."""
    if job.scheme.weight_bits < FULL_PRECISION_BITS:
        job.left_out.append(name)
    kept = QuantLinear.from_linear(linear, linear.weight, activation=activation)
    job.report(LinearReport(name=name, effective_bits=kept.effective_bits, weight_error=0.0))
    return kept
