"""Quantizers that run in the forward pass and can prove that they did."""

from __future__ import annotations

from torch import Tensor, nn

from methods.quantizer import Quantizer


class DynamicQuantizer(nn.Module):
    """Rounds what passes through, fitting the grid anew each time; `exercised` turns true when it has run."""

    def __init__(self, quantizer: Quantizer) -> None:
        super().__init__()
        self.quantizer = quantizer
        self.exercised = False

    @property
    def num_bits(self) -> int:
        return self.quantizer.num_bits

    def forward(self, values: Tensor) -> Tensor:
        self.exercised = True
        return self.quantizer(values)

    def extra_repr(self) -> str:
        return f"num_bits={self.num_bits}, granularity={self.quantizer.granularity}"
