"""A linear layer with quantized weight and input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grids.schemes import FULL_PRECISION_BITS
from methods.dynamic import DynamicQuantizer
from methods.quantized_weight import QuantizedWeight
from methods.quantizer import Quantizer
from methods.transforms import OnlineTransform, online_transform


class QuantLinear(nn.Module):
    """y = Q(T(x)) W^T + b, with W on the grid of its codes.

    The codes are the truth; `weight` is their dequantized copy in the model's dtype, made once, so that a forward costs
    one ordinary matrix product. Inputs go through `transform`, then are rounded per token by `activation`; None leaves
    them alone. A weight that the scheme leaves at 16 bits has no codes and is kept as it is.
    """

    codes: Tensor | None
    scale: Tensor | None
    zero: Tensor | None
    group_index: Tensor | None
    weight: Tensor
    bias: Tensor | None

    def __init__(
        self,
        weight: QuantizedWeight | Tensor,
        *,
        bias: Tensor | None,
        activation: Quantizer | None,
        dtype: torch.dtype,
        transform: OnlineTransform | None = None,
    ) -> None:
        super().__init__()
        stored = weight if isinstance(weight, QuantizedWeight) else None
        dense = weight.dequantize() if isinstance(weight, QuantizedWeight) else weight.detach()
        self.out_features, self.in_features = dense.shape
        self.weight_bits = FULL_PRECISION_BITS if stored is None else stored.num_bits
        self.group_size = None if stored is None else stored.group_size
        self.register_buffer("codes", None if stored is None else stored.codes)
        self.register_buffer("scale", None if stored is None else stored.scale)
        self.register_buffer("zero", None if stored is None else stored.zero)
        self.register_buffer("group_index", None if stored is None else stored.group_index)
        self.register_buffer("weight", dense.to(dtype), persistent=stored is None)
        self.register_buffer("bias", None if bias is None else bias.detach().to(dtype))
        self.activation = None if activation is None else DynamicQuantizer(activation)
        self.transform = transform

    @classmethod
    def from_linear(
        cls, linear: nn.Linear, weight: QuantizedWeight | Tensor, *, activation: Quantizer | None = None
    ) -> Self:
        """Takes the place of `linear`, with its bias, dtype and transform. Raises ValueError if the shapes differ."""
        shape = weight.codes.shape if isinstance(weight, QuantizedWeight) else weight.shape
        if shape != linear.weight.shape:
            raise ValueError(f"a weight of shape {tuple(shape)} for a linear of shape {tuple(linear.weight.shape)}")
        return cls(
            weight,
            bias=linear.bias,
            activation=activation,
            dtype=linear.weight.dtype,
            transform=online_transform(linear),
        )

    @property
    def quantized_weight(self) -> QuantizedWeight | None:
        """The stored weight, sharing memory; None where the weight is left at 16 bits."""
        if self.codes is None:
            return None
        assert self.scale is not None
        return QuantizedWeight(
            codes=self.codes,
            scale=self.scale,
            zero=self.zero,
            num_bits=self.weight_bits,
            group_size=self.group_size,
            group_index=self.group_index,
        )

    @property
    def activation_bits(self) -> int:
        return FULL_PRECISION_BITS if self.activation is None else self.activation.num_bits

    @property
    def effective_bits(self) -> float:
        """Stored bits per weight: codes, scales and zeros; the bias is not counted."""
        stored = self.quantized_weight
        return float(FULL_PRECISION_BITS) if stored is None else stored.bits_per_weight

    def forward(self, inputs: Tensor) -> Tensor:
        if self.transform is not None:
            inputs = self.transform(inputs)
        if self.activation is not None:
            inputs = self.activation(inputs)
        return F.linear(inputs, self.weight, self.bias)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"weight_bits={self.weight_bits}, group_size={self.group_size}"
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # model.to(dtype) casts every floating buffer; the stored scale must stay float16, and the weight follow it.
        scale, dtype = self.scale, self.weight.dtype
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if scale is not None:
            self.scale = scale.to(self.weight.device)
            stored = self.quantized_weight
            if stored is not None and self.weight.dtype != dtype:
                self.weight = stored.dequantize().to(self.weight.dtype)
        return self
