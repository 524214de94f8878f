"""From a scheme's bits and a method's parameters to the quantizers of each operand."""

from __future__ import annotations

from typing import Literal, Self, get_args

from pydantic import Field, field_validator, model_validator
from torch import nn

from grids.schemes import FULL_PRECISION_BITS, Scheme
from methods.attention import OperandQuantizers, quantize_attention
from methods.contract import MethodParameters
from methods.quantizer import Quantizer

LinearName = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class SkipParameters(MethodParameters):
    """Which linears' weights a method does not round, whatever the scheme says."""

    skip: list[LinearName] = Field(
        [],
        description="linears whose weights stay at 16 bits in every block, as in the study's public code (q_proj, "
        "k_proj, v_proj by GPTQ on LLaDA; down_proj by QuaRot with RTN): the label is then true but for these, the "
        "audit lists them, and effective bits count them",
    )

    @field_validator("skip")
    @classmethod
    def _in_dataflow_order(cls, value: list[LinearName]) -> list[LinearName]:
        # One spelling for one meaning: parameters are part of a variant's identity.
        return [name for name in get_args(LinearName) if name in value]

    def skips(self, name: str) -> bool:
        """Whether the linear of that full name is left out."""
        return name.rpartition(".")[2] in self.skip


class OperandParameters(MethodParameters):
    """How weights, activations, keys, values and queries are rounded; the scheme says to how many bits."""

    symmetric: bool = Field(False, description="weight grids are symmetric around zero")
    clip_search: bool = Field(False, description="shrink each weight group's range to the least |error|^2.4")
    clip_ratio: float = Field(1.0, gt=0, le=1, description="fixed share of each weight group's range")
    activation_symmetric: bool = False
    activation_clip_ratio: float = Field(1.0, gt=0, le=1)
    kv_clip_ratio: float = Field(1.0, gt=0, le=1)
    query_clip_ratio: float = Field(1.0, gt=0, le=1)

    @model_validator(mode="after")
    def _one_way_to_clip(self) -> Self:
        if self.clip_search and self.clip_ratio != 1:
            raise ValueError("clip_search finds its own ratio: give clip_search or clip_ratio, not both")
        return self

    def weight_quantizer(self, scheme: Scheme) -> Quantizer | None:
        """Per output channel, or per group of input channels where the scheme has groups; scales are float16."""
        if scheme.weight_bits == FULL_PRECISION_BITS:
            return None
        return Quantizer(
            num_bits=scheme.weight_bits,
            granularity="channel" if scheme.group_size is None else "group",
            group_size=scheme.group_size,
            symmetric=self.symmetric,
            clip_ratio=self.clip_ratio,
            clip_search=self.clip_search,
            half_scale=True,
        )

    def activation_quantizer(self, scheme: Scheme) -> Quantizer | None:
        """Per token, fitted anew for each token."""
        return per_token(scheme.activation_bits, self.activation_clip_ratio, symmetric=self.activation_symmetric)

    def operand_quantizers(self, scheme: Scheme) -> OperandQuantizers:
        """Keys, values and queries per token and head, fitted anew each time."""
        kv = per_token(scheme.kv_bits, self.kv_clip_ratio)
        return OperandQuantizers(key=kv, value=kv, query=per_token(scheme.query_bits, self.query_clip_ratio))

    def quantize_attention(self, model: nn.Module, scheme: Scheme) -> None:
        """Makes the model round its attention operands where the scheme says so."""
        quantize_attention(model, self.operand_quantizers(scheme))


def per_token(num_bits: int, clip_ratio: float, *, symmetric: bool = False) -> Quantizer | None:
    """A quantizer of activations or attention operands, None where they have 16 bits."""
    if num_bits == FULL_PRECISION_BITS:
        return None
    return Quantizer(num_bits=num_bits, granularity="token", symmetric=symmetric, clip_ratio=clip_ratio)
