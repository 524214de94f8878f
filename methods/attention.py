"""Quantized attention operands: keys and values as a quantized cache holds them, and queries where asked.

The operands are rounded inside an attention function that transformers' `AttentionInterface` knows by name, after the
rotary embedding; the model's own forward is untouched. What is rounded, to how many bits, and whether queries and keys
go through a Hadamard transform first, hangs on each attention module as `operands`; a module without it runs plain
scaled-dot-product attention.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import Tensor, nn

from methods.blocks import decoder_blocks
from methods.dynamic import DynamicQuantizer
from methods.quantizer import Quantizer
from methods.transforms import HadamardTransform

ATTENTION_NAME = "qstudy_quantized"


@dataclass(frozen=True, slots=True, kw_only=True)
class OperandQuantizers:
    """How keys, values and queries are rounded; None leaves an operand alone.

    rotate_keys: each head of keys and queries goes through a Hadamard transform first; their product stays the same.
    """

    key: Quantizer | None = None
    value: Quantizer | None = None
    query: Quantizer | None = None
    rotate_keys: bool = False

    @property
    def do_nothing(self) -> bool:
        return self.key is None and self.value is None and self.query is None and not self.rotate_keys


class AttentionOperands(nn.Module):
    """The quantizers of one attention module's operands at work."""

    def __init__(self, quantizers: OperandQuantizers) -> None:
        super().__init__()
        self.rotation = HadamardTransform() if quantizers.rotate_keys else None
        self.key = None if quantizers.key is None else DynamicQuantizer(quantizers.key)
        self.value = None if quantizers.value is None else DynamicQuantizer(quantizers.value)
        self.query = None if quantizers.query is None else DynamicQuantizer(quantizers.query)

    @property
    def quantizers(self) -> OperandQuantizers:
        key, value, query = (None if one is None else one.quantizer for one in (self.key, self.value, self.query))
        return OperandQuantizers(key=key, value=value, query=query, rotate_keys=self.rotation is not None)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rounds [batch, heads, tokens, head_dim] operands, one scale per token and head."""
        if self.rotation is not None:
            query, key = self.rotation(query), self.rotation(key)
        return (
            query if self.query is None else self.query(query),
            key if self.key is None else self.key(key),
            value if self.value is None else self.value(value),
        )


def quantize_attention(model: nn.Module, quantizers: OperandQuantizers) -> None:
    """Makes a transformers model round keys, values and queries in every block; nothing happens if there is nothing to.

    The attention is scaled-dot-product attention from then on, with the mask that the model makes for it.
    """
    if quantizers.do_nothing:
        return
    use_quantized_attention(model)
    for block in decoder_blocks(model):
        round_operands(block, quantizers)


def use_quantized_attention(model: nn.Module) -> None:
    """Sends a model's operands through the quantizing attention function, which rounds those of no block yet."""
    _register_attention()
    causal_lm: Any = model
    causal_lm.set_attn_implementation(ATTENTION_NAME)


def round_operands(block: nn.Module, quantizers: OperandQuantizers) -> None:
    """Makes one block of such a model round its operands, if there is anything to do."""
    if not quantizers.do_nothing:
        block.get_submodule("self_attn").add_module("operands", AttentionOperands(quantizers))


def attention_operands(block: nn.Module) -> AttentionOperands | None:
    """The operand quantizers of a decoder block, None where its attention is not quantized."""
    operands = getattr(block.get_submodule("self_attn"), "operands", None)
    assert operands is None or isinstance(operands, AttentionOperands)
    return operands


def uses_quantized_attention(model: nn.Module) -> bool:
    """Whether the model's configuration sends its operands through the quantizing attention function."""
    config: Any = model.config
    return bool(config._attn_implementation == ATTENTION_NAME)


@cache
def _register_attention() -> None:
    """Tells transformers of the attention function: on first use, for its import takes seconds that planning saves."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def quantized_attention(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
    ) -> tuple[Tensor, None]:
        operands = getattr(module, "operands", None)
        if operands is not None:
            query, key, value = operands(query, key, value)
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return output, None

    AttentionInterface.register(ATTENTION_NAME, quantized_attention)
    # Without a mask function of its own name, transformers would hand the attention no mask at all.
    AttentionMaskInterface.register(ATTENTION_NAME, sdpa_mask)
