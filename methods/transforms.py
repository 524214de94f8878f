"""Online transforms: what a linear does to its input before the input is rounded and meets the weight.

Each is orthogonal along the last dimension, so that a weight whose rows went through it once meets inputs that go
through it in every forward, and the product is the linear's own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.hadamard import core_order, hadamard_transform
from methods.quantizer import compute_dtype

_ROWS_AT_ONCE = 8192


class OnlineTransform(nn.Module, ABC):
    """An orthogonal map of the last dimension; `exercised` turns true when it has run.

    kind: how a saved state calls it. A transform is its options (JSON-able) and the buffers called `tensor_names`.
    """

    kind: ClassVar[str]
    tensor_names: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        super().__init__()
        self.exercised = False

    @abstractmethod
    def apply_to(self, values: Tensor) -> Tensor:
        """Transformed values [..., in_features]: arithmetic in float32 (float64 stays), dtype kept."""

    @abstractmethod
    def options(self) -> dict[str, Any]:
        """What, besides tensors, makes the transform."""

    @classmethod
    @abstractmethod
    def restore(cls, options: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """The transform of those options and tensors."""

    def forward(self, values: Tensor) -> Tensor:
        self.exercised = True
        return self.apply_to(values)

    def extra_repr(self) -> str:
        return ", ".join(f"{key}={value}" for key, value in self.options().items())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # model.to(dtype) casts every floating buffer; a rotation in 16 bits is no longer orthogonal.
        before = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in before.items():
            setattr(self, name, buffer.to(getattr(self, name).device))
        return self


class HadamardTransform(OnlineTransform):
    """The Hadamard transform of all features; or across `num_heads` heads, H (x) I on features laid out by head."""

    kind: ClassVar[str] = "hadamard"

    def __init__(self, num_heads: int | None = None) -> None:
        super().__init__()
        if num_heads is not None:
            core_order(num_heads)
        self.num_heads = num_heads

    def apply_to(self, values: Tensor) -> Tensor:
        if self.num_heads is None:
            return hadamard_transform(values)
        heads = values.reshape(*values.shape[:-1], self.num_heads, -1)
        return hadamard_transform(heads.transpose(-1, -2)).transpose(-1, -2).reshape(values.shape)

    def options(self) -> dict[str, Any]:
        return {"num_heads": self.num_heads}

    @classmethod
    def restore(cls, options: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        return cls(options["num_heads"])


class BlockRotation(OnlineTransform):
    """DuQuant's transform x -> ((x R1) P) R2, each R one rotation [block, block] for all blocks of features.

    permutation: int64 [in_features], the feature of x R1 that comes to each place.
    """

    kind: ClassVar[str] = "block_rotation"
    tensor_names: ClassVar[tuple[str, ...]] = ("first", "permutation", "second")
    first: Tensor
    permutation: Tensor
    second: Tensor

    def __init__(self, first: Tensor, permutation: Tensor, second: Tensor) -> None:
        super().__init__()
        assert first.shape == second.shape
        assert permutation.numel() % first.shape[0] == 0
        self.register_buffer("first", first)
        self.register_buffer("permutation", permutation)
        self.register_buffer("second", second)

    def apply_to(self, values: Tensor) -> Tensor:
        rotated = rotate_blocks(values.to(compute_dtype(values)), self.first)
        return rotate_blocks(rotated[..., self.permutation], self.second).to(values.dtype)

    def options(self) -> dict[str, Any]:
        return {"block_size": self.first.shape[0]}

    @classmethod
    def restore(cls, options: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        return cls(tensors["first"], tensors["permutation"], tensors["second"])


TRANSFORMS: dict[str, type[OnlineTransform]] = {kind.kind: kind for kind in (HadamardTransform, BlockRotation)}


def rotate_blocks(values: Tensor, rotation: Tensor) -> Tensor:
    """Values [..., n] with every run of `block` features times the rotation [block, block]."""
    blocks = values.reshape(*values.shape[:-1], -1, rotation.shape[0])
    return torch.matmul(blocks, rotation.to(values.dtype)).reshape(values.shape)


class TransformedLinear(nn.Linear):
    """y = T(x) W^T + b in full precision: what stands between a linear and its quantized form."""

    def __init__(self, linear: nn.Linear, transform: OnlineTransform) -> None:
        # On the meta device no weight is made that would be thrown away at once.
        super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        self.weight = linear.weight
        self.bias = linear.bias
        self.transform = transform

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(self.transform(input), self.weight, self.bias)


def online_transform(linear: nn.Module) -> OnlineTransform | None:
    """The transform of a linear's input, None for a linear that takes its input as it is."""
    transform = getattr(linear, "transform", None)
    assert transform is None or isinstance(transform, OnlineTransform)
    return transform


def with_transform(linear: nn.Linear, transform: OnlineTransform, *, device: torch.device | None) -> TransformedLinear:
    """The same function with a transformed input; the weight is changed in place. Computes on `device`."""
    map_rows_(linear.weight, transform.apply_to, device)
    return TransformedLinear(linear, transform)


@torch.no_grad()
def map_rows_(matrix: Tensor, transform: Callable[[Tensor], Tensor], device: torch.device | None = None) -> None:
    """Replaces each row of a matrix by its transform, in place: arithmetic in float64, on `device` a few at a time.

    In place, so that tensors that share the memory (`original_weights`) stay the full-precision form of the weights.
    """
    for start in range(0, matrix.shape[0], _ROWS_AT_ONCE):
        rows = matrix[start : start + _ROWS_AT_ONCE]
        rows.copy_(transform(rows.to(device=device or matrix.device, dtype=torch.float64)))
