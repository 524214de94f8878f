"""How much a model has computed: forwards, tokens, and floating-point operations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from methods.blocks import BLOCK_LINEARS, decoder_blocks
from workers.models.packed import Rectangle


class WorkCounter:
    """What a model has done so far.

    num_sequences: rows of its batches.  num_token_forwards: tokens that went through the blocks, with padding where
    padding went through them.  num_flops: operations of the matrix products (`ModelCost`).
    """

    def __init__(self) -> None:
        self.num_forwards = 0
        self.num_sequences = 0
        self.num_token_forwards = 0
        self.num_flops = 0

    def add_forward(self, num_sequences: int, num_tokens: int, num_flops: int) -> None:
        self.num_forwards += 1
        self.num_sequences += num_sequences
        self.num_token_forwards += num_tokens
        self.num_flops += num_flops


@dataclass(frozen=True)
class ModelCost:
    """Floating-point operations of a model's matrix products; a multiplication with its addition counts as two.

    Linears, attention scores, the product with the values, and the head are counted for the tokens that they really
    process. Norms, softmax, rotary embedding, rounding and online transforms are not.
    """

    num_blocks: int
    num_linear_weights: int
    num_kv_weights: int
    hidden_size: int
    vocab_size: int
    attention_width: int

    @classmethod
    def of(cls, model: nn.Module) -> ModelCost:
        """The cost of a Llama- or Qwen2-shaped causal LM, whose blocks are alike."""
        blocks = decoder_blocks(model)
        linears: dict[str, Any] = {name: blocks[0].get_submodule(name) for name in BLOCK_LINEARS}
        sizes = {name: linear.in_features * linear.out_features for name, linear in linears.items()}
        head: Any = model.get_submodule("lm_head")
        return cls(
            num_blocks=len(blocks),
            num_linear_weights=sum(sizes.values()),
            num_kv_weights=sizes["self_attn.k_proj"] + sizes["self_attn.v_proj"],
            hidden_size=head.in_features,
            vocab_size=head.out_features,
            attention_width=linears["self_attn.q_proj"].out_features,
        )

    def blocks(self, num_rows: int, length: int, num_keys: int) -> int:
        """All blocks on [num_rows, length] tokens, each of which meets `num_keys` keys of its row."""
        num_tokens = num_rows * length
        return self.num_blocks * (2 * self.num_linear_weights * num_tokens + self._attention(num_tokens, num_keys))

    def packed_blocks(self, num_tokens: int, keys: Rectangle, queries: Rectangle) -> int:
        """All blocks on the tokens of a packed batch, the last of them on those of `queries`.

        Attention works on whole rectangles.
        """
        last = 2 * self.num_kv_weights * num_tokens
        last += 2 * (self.num_linear_weights - self.num_kv_weights) * len(queries.slots)
        last += self._attention(queries.num_rows * queries.width, keys.width)
        block = 2 * self.num_linear_weights * num_tokens + self._attention(keys.num_rows * keys.width, keys.width)
        return (self.num_blocks - 1) * block + last

    def head(self, num_tokens: int) -> int:
        """The head's logits of `num_tokens` tokens."""
        return 2 * self.hidden_size * self.vocab_size * num_tokens

    def _attention(self, num_queries: int, num_keys: int) -> int:
        return 4 * self.attention_width * num_queries * num_keys
