"""Quantized attention operands: keys and values as a quantized cache holds them, and queries where asked.

The operands are rounded inside an attention function that transformers' `AttentionInterface` knows by name, after the
rotary embedding; the model's own forward is untouched. What is rounded, and to how many bits, hangs on each attention
module as `operands`; a module without it runs plain scaled-dot-product attention.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from methods.blocks import decoder_blocks
from methods.dynamic import DynamicQuantizer
from methods.quantizer import Quantizer

ATTENTION_NAME = "qstudy_quantized"


class AttentionOperands(nn.Module):
    """The quantizers of one attention module's operands; None leaves an operand alone."""

    def __init__(self, *, kv: Quantizer | None, query: Quantizer | None) -> None:
        super().__init__()
        self.key = None if kv is None else DynamicQuantizer(kv)
        self.value = None if kv is None else DynamicQuantizer(kv)
        self.query = None if query is None else DynamicQuantizer(query)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rounds [batch, heads, tokens, head_dim] operands, one scale per token and head."""
        return (
            query if self.query is None else self.query(query),
            key if self.key is None else self.key(key),
            value if self.value is None else self.value(value),
        )


def quantize_attention(model: nn.Module, *, kv: Quantizer | None, query: Quantizer | None) -> None:
    """Makes a transformers model round keys, values and queries in every block; nothing happens if both are None.

    The attention is scaled-dot-product attention from then on, with the mask that the model makes for it.
    """
    if kv is None and query is None:
        return
    for block in decoder_blocks(model):
        attention = block.get_submodule("self_attn")
        attention.add_module("operands", AttentionOperands(kv=kv, query=query))
    causal_lm: Any = model
    causal_lm.set_attn_implementation(ATTENTION_NAME)


def attention_operands(block: nn.Module) -> AttentionOperands | None:
    """The operand quantizers of a decoder block, None where its attention is not quantized."""
    operands = getattr(block.get_submodule("self_attn"), "operands", None)
    assert operands is None or isinstance(operands, AttentionOperands)
    return operands


def uses_quantized_attention(model: nn.Module) -> bool:
    """Whether the model's configuration sends its operands through the quantizing attention function."""
    config: Any = model.config
    return bool(config._attn_implementation == ATTENTION_NAME)


def _quantized_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    operands = getattr(module, "operands", None)
    if operands is not None:
        query, key, value = operands(query, key, value)
    output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    return output, None


AttentionInterface.register(ATTENTION_NAME, _quantized_attention)
# Without a mask function of its own name, transformers would hand the attention no mask at all.
AttentionMaskInterface.register(ATTENTION_NAME, sdpa_mask)
