"""The uniform affine quantizer that weights, activations and attention operands share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from grids.schemes import FULL_PRECISION_BITS, MAX_BITS, MIN_BITS

Granularity = Literal["tensor", "channel", "group", "token"]

# The clip search of GPTQ and QuaRot: shrink the range by 0, 1, .. 79 hundredths, keep the least |error|^2.4.
CLIP_SEARCH_GRID = 100
CLIP_SEARCH_STEPS = 80
CLIP_SEARCH_NORM = 2.4

_HALF_MAX = torch.finfo(torch.float16).max
_HALF_SMALLEST_NORMAL = torch.finfo(torch.float16).smallest_normal
_HALF_SUBNORMAL_STEP = 2.0**-24


class NonFiniteError(ArithmeticError):
    """A NaN, an infinity, or a matrix that stays singular stopped the arithmetic."""


@dataclass(frozen=True, slots=True)
class QuantGrid:
    """The levels scale * (code - zero), code in [0, 2^num_bits - 1], of groups that were fitted together.

    `scale` and `zero` broadcast against the values they were fitted to; `zero` holds whole numbers.
    """

    scale: Tensor
    zero: Tensor
    num_bits: int

    def codes(self, values: Tensor) -> Tensor:
        """The nearest level's code of each value, as whole numbers in the values' dtype."""
        return (torch.round(values / self.scale) + self.zero).clamp_(0, 2**self.num_bits - 1)

    def dequantize(self, codes: Tensor) -> Tensor:
        return self.scale * (codes - self.zero)

    def quantize(self, values: Tensor) -> Tensor:
        """Each value moved to its nearest level."""
        return self.dequantize(self.codes(values))


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantizer:
    """Fits a grid to a tensor and rounds the tensor to it.

    Granularity is what shares a scale: the whole `tensor`; an output `channel` (a row of a weight [out, in]); a
    `group` of `group_size` neighbours in the last dimension; a `token` (the last dimension of an activation).

    Asymmetric: s = (max - min) / (2^b - 1) with min <= 0 <= max, z = round(-min / s).
    Symmetric: s = max|x| / (2^(b-1) - 1), signed codes in [-2^(b-1), 2^(b-1) - 1], stored with z = 2^(b-1). This is
    the common convention (QuaRot, SmoothQuant, integer kernels); GPTQ's own code divides 2 max|x| by 2^b - 1 instead.

    `clip_ratio` shrinks the range by a fixed factor, `clip_search` by the best of 80 factors per group.
    `half_scale` rounds scales to float16 before codes are computed, so that what is stored is what was used.
    16 bits leave every value as it is.
    """

    num_bits: int
    granularity: Granularity
    group_size: int | None = None
    symmetric: bool = False
    clip_ratio: float = 1.0
    clip_search: bool = False
    half_scale: bool = False

    def __post_init__(self) -> None:
        if self.num_bits != FULL_PRECISION_BITS and not MIN_BITS <= self.num_bits <= MAX_BITS:
            raise ValueError(f"num_bits {self.num_bits} is not one of {MIN_BITS} to {MAX_BITS}, or 16")
        if (self.granularity == "group") != (self.group_size is not None):
            raise ValueError(f"granularity {self.granularity!r} does not go with group_size {self.group_size}")
        if self.group_size is not None and self.group_size < 1:
            raise ValueError(f"group_size {self.group_size} is less than 1")
        if not 0 < self.clip_ratio <= 1:
            raise ValueError(f"clip_ratio {self.clip_ratio} is not in (0, 1]")
        if self.clip_search and self.clip_ratio != 1:
            raise ValueError(f"clip_search finds its own ratio; leave clip_ratio {self.clip_ratio} at 1")

    def fit(self, values: Tensor) -> QuantGrid:
        """The grid of already grouped values [..., n]: one scale [..., 1] per slice of the last dimension."""
        assert self.num_bits < FULL_PRECISION_BITS, "16 bits have no grid"
        low = values.amin(-1, keepdim=True).clamp_max(0) * self.clip_ratio
        high = values.amax(-1, keepdim=True).clamp_min(0) * self.clip_ratio
        grid = self._grid_of_range(low, high)
        return self._search_clip(values, low, high, grid) if self.clip_search else grid

    def grouped(self, values: Tensor) -> Tensor:
        """A view of `values` whose last dimension holds what shares a scale.

        Raises ValueError where the group size does not divide the last dimension.
        """
        if self.granularity == "tensor":
            return values.reshape(1, -1)
        if self.group_size is None:
            return values
        check_group_size(values.shape[-1], self.group_size, "tensor")
        return values.reshape(*values.shape[:-1], -1, self.group_size)

    def __call__(self, values: Tensor) -> Tensor:
        """Values [...] rounded to a grid fitted to them: float32 arithmetic (float64 stays), dtype kept."""
        if self.num_bits == FULL_PRECISION_BITS:
            return values
        groups = self.grouped(values.to(compute_dtype(values)))
        return self.fit(groups).quantize(groups).reshape(values.shape).to(values.dtype)

    def _grid_of_range(self, low: Tensor, high: Tensor) -> QuantGrid:
        max_code = 2**self.num_bits - 1
        if self.symmetric:
            scale = self._stored(torch.maximum(-low, high) / (2 ** (self.num_bits - 1) - 1))
            zero = torch.full_like(scale, 2 ** (self.num_bits - 1))
        else:
            scale = self._stored((high - low) / max_code)
            zero = torch.round(-low / scale).clamp_(0, max_code)
        return QuantGrid(scale, zero, self.num_bits)

    def _stored(self, scale: Tensor) -> Tensor:
        if self.half_scale:
            # Subnormal float16 is so coarse that rounding down would clip the largest values: round up there.
            steps = torch.ceil(scale / _HALF_SUBNORMAL_STEP) * _HALF_SUBNORMAL_STEP
            scale = torch.where(scale < _HALF_SMALLEST_NORMAL, steps, scale)
            scale = scale.clamp_max(_HALF_MAX).to(torch.float16).to(scale.dtype)
        # A group of zeros has no range; any scale gives it back exactly.
        return torch.where(scale == 0, torch.ones_like(scale), scale)

    def _search_clip(self, values: Tensor, low: Tensor, high: Tensor, grid: QuantGrid) -> QuantGrid:
        scale, zero = grid.scale, grid.zero
        least_error = torch.full_like(scale, torch.inf)
        for step in range(CLIP_SEARCH_STEPS):
            keep = 1 - step / CLIP_SEARCH_GRID
            candidate = self._grid_of_range(keep * low, keep * high)
            error = (candidate.quantize(values) - values).abs_().pow_(CLIP_SEARCH_NORM).sum(-1, keepdim=True)
            better = error < least_error
            least_error = torch.where(better, error, least_error)
            scale = torch.where(better, candidate.scale, scale)
            zero = torch.where(better, candidate.zero, zero)
        return QuantGrid(scale, zero, self.num_bits)


def compute_dtype(values: Tensor) -> torch.dtype:
    """The dtype quantization computes in: float32, or float64 for float64 values."""
    return torch.float64 if values.dtype == torch.float64 else torch.float32


def check_group_size(num_features: int, group_size: int, name: str) -> None:
    """Raises ValueError that names the linear where groups do not divide its input features."""
    if num_features % group_size:
        raise ValueError(f"{name}: group size {group_size} does not divide its {num_features} input features")
