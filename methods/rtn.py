"""Round to nearest: every weight goes to the nearest level of its grid. The floor that other methods stand on."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from grids.schemes import Scheme
from methods.blocks import block_linears, replace_module
from methods.contract import LinearReport, Method, MethodParameters, QuantizationJob, refuse_full_precision
from methods.linear import QuantLinear
from methods.operands import OperandParameters
from methods.quantized_weight import quantize_weight, relative_error
from methods.quantizer import Quantizer


class RtnParameters(OperandParameters):
    """Parameters of RTN: none beyond how operands are rounded."""


class Rtn(Method[RtnParameters]):
    """Weights to their nearest level; activations, keys, values and queries per token, in the forward pass."""

    name: ClassVar[str] = "rtn"
    version: ClassVar[int] = 1
    Parameters: ClassVar[type[MethodParameters]] = RtnParameters
    needs_calibration: ClassVar[bool] = False

    def refusal(self, scheme: Scheme) -> str | None:
        return refuse_full_precision(scheme)

    def quantize_blocks(self, job: QuantizationJob) -> None:
        weight_quantizer = self.parameters.weight_quantizer(job.scheme)
        activation = self.parameters.activation_quantizer(job.scheme)
        self.parameters.quantize_attention(job.model, job.scheme)
        for name, linear in block_linears(job.model).items():
            assert isinstance(linear, nn.Linear)
            quantized = _round(linear, weight_quantizer, activation, name, job.compute.device)
            replace_module(job.model, name, quantized)
            error = relative_error(linear.weight, quantized.weight)
            job.report(LinearReport(name=name, effective_bits=quantized.effective_bits, weight_error=error))


def _round(
    linear: nn.Linear,
    weight_quantizer: Quantizer | None,
    activation: Quantizer | None,
    name: str,
    device: torch.device | None,
) -> QuantLinear:
    """The linear rounded on `device`, then brought back to where it was."""
    if weight_quantizer is None:
        return QuantLinear.from_linear(linear, linear.weight, activation=activation)
    weight = quantize_weight(linear.weight.to(device or linear.weight.device), weight_quantizer, name)
    return QuantLinear.from_linear(linear, weight, activation=activation).to(linear.weight.device)
