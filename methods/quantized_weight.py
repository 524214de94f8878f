"""A weight as it is stored: integer codes with their scales and zeros."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from methods.quantizer import NonFiniteError, Quantizer, check_group_size, compute_dtype

SCALE_BITS = 16


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """The codes of a weight [out, in] and the grid of each (output row, input group).

    codes: uint8 [out, in].  scale: float16 [out, num_groups].  zero: uint8 like scale, None for symmetric grids, whose
    zero is 2^(num_bits - 1) everywhere.  group_size: None where a row is one group.  group_index: int32 [in], the group
    of each input feature, None where groups are runs of neighbours (GPTQ's act-order makes others).
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor | None
    num_bits: int
    group_size: int | None
    group_index: Tensor | None = None

    @property
    def symmetric(self) -> bool:
        return self.zero is None

    @property
    def bits_per_weight(self) -> float:
        """Codes, scales, zeros and group indices, divided by the number of weights."""
        num_bits = self.codes.numel() * self.num_bits + self.scale.numel() * SCALE_BITS
        if self.zero is not None:
            num_bits += self.zero.numel() * self.num_bits
        if self.group_index is not None:
            num_bits += self.group_index.numel() * self.group_index.element_size() * 8
        return num_bits / self.codes.numel()

    def column_groups(self) -> Tensor:
        """The group of each input feature, int64 [in]."""
        if self.group_index is not None:
            return self.group_index.long()
        num_features, num_groups = self.codes.shape[1], self.scale.shape[1]
        return torch.arange(num_features, device=self.codes.device) // (num_features // num_groups)

    def dequantize(self) -> Tensor:
        """The weight scale * (code - zero), float32 [out, in]."""
        groups = self.column_groups()
        zero: Tensor | int = 2 ** (self.num_bits - 1) if self.zero is None else self.zero.float()[:, groups]
        return self.scale.float()[:, groups] * (self.codes.float() - zero)

    def split(self, num_rows: list[int]) -> list[QuantizedWeight]:
        """The weight as several, with so many rows each; every one has memory of its own."""
        zeros = [None] * len(num_rows) if self.zero is None else torch.split(self.zero, num_rows)
        parts = zip(torch.split(self.codes, num_rows), torch.split(self.scale, num_rows), zeros, strict=True)
        return [
            replace(
                self,
                codes=codes.clone(),
                scale=scale.clone(),
                zero=None if zero is None else zero.clone(),
                group_index=None if self.group_index is None else self.group_index.clone(),
            )
            for codes, scale, zero in parts
        ]

    def num_levels(self) -> int:
        """The most distinct codes that any group uses."""
        num_rows, num_groups = self.codes.shape[0], self.scale.shape[1]
        rows = torch.arange(num_rows, device=self.codes.device)[:, None]
        group = rows * num_groups + self.column_groups()[None, :]
        used = torch.zeros(num_rows * num_groups, 256, dtype=torch.bool, device=self.codes.device)
        used[group, self.codes.long()] = True
        return int(used.sum(1).max())


def quantize_weight(weight: Tensor, quantizer: Quantizer, name: str) -> QuantizedWeight:
    """A weight [out, in] rounded to nearest. Raises ValueError (group size) and NonFiniteError, naming the linear."""
    check_weight(weight, quantizer.group_size, name)
    groups = quantizer.grouped(weight.to(compute_dtype(weight)))
    grid = quantizer.fit(groups)
    return QuantizedWeight(
        codes=grid.codes(groups).reshape(weight.shape).to(torch.uint8),
        scale=_table(grid.scale).to(torch.float16),
        zero=None if quantizer.symmetric else _table(grid.zero).to(torch.uint8),
        num_bits=quantizer.num_bits,
        group_size=quantizer.group_size,
    )


def check_weight(weight: Tensor, group_size: int | None, name: str) -> None:
    """Raises ValueError or NonFiniteError where a weight [out, in] cannot be quantized in groups of this size."""
    if group_size is not None:
        check_group_size(weight.shape[-1], group_size, name)
    if not torch.isfinite(weight).all():
        raise NonFiniteError(f"{name}: the weight holds NaN or infinite values")


def relative_error(original: Tensor, approximation: Tensor) -> float:
    """||original - approximation||_F / ||original||_F, and 0 for a tensor of zeros that is met exactly."""
    difference = torch.linalg.vector_norm(original.float() - approximation.float())
    norm = torch.linalg.vector_norm(original.float())
    return float(difference / norm.clamp_min(torch.finfo(norm.dtype).tiny))


def _table(per_group: Tensor) -> Tensor:
    """[out, 1] or [out, num_groups, 1] as [out, num_groups]."""
    return per_group.reshape(per_group.shape[0], -1)
