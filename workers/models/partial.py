"""A forward whose last block works only for the tokens that are asked for.

Keys and values of the last block are needed for every token; its queries, its output projection, its feed-forward and
the final norm only where a prediction is read. What is left out changes no number: every one of these acts on each
token alone. Up to rounding (about 1e-6, relative, in float32) the result is the whole forward's; a matrix product of
another size may sum in another order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from methods.blocks import call_of, decoder_blocks
from workers.models.padding import MIN_ROWS, at_least


@dataclass(frozen=True)
class TokenSelection:
    """Tokens of a batch by row and column, int64 [n] on the CPU, rows ascending; a token may come twice."""

    rows: Tensor
    columns: Tensor

    @property
    def slots(self) -> Tensor:
        """Each token's number within its row, from 0."""
        _, counts = torch.unique_consecutive(self.rows, return_counts=True)
        starts: Tensor = counts.cumsum(0) - counts
        return torch.arange(len(self.rows)) - starts.repeat_interleave(counts)

    @property
    def width(self) -> int:
        """The most tokens of any row."""
        return int(self.slots.max()) + 1

    def filled(self) -> TokenSelection:
        """The same with the last token repeated, to at least `MIN_ROWS` tokens: see `padding`."""
        return TokenSelection(at_least(self.rows, MIN_ROWS), at_least(self.columns, MIN_ROWS))


def hidden_states_at(model: nn.Module, run: Callable[[], object], selection: TokenSelection) -> Tensor:
    """The hidden states [n, D] after the final norm of the selected tokens.

    `run` runs the model, Llama- or Qwen2-shaped and bidirectional, on the batch; it is left at the last block, whose
    linears may be quantized and whose attention may round its operands. Modules of that block are called with the
    selected tokens as [n, ...] instead of [B, T, ...].
    """
    block: Any = decoder_blocks(model)[-1]
    arguments, kwargs = call_of(block, run)
    hidden: Tensor = arguments[0]
    chosen = (selection.rows * hidden.shape[1] + selection.columns).to(hidden.device)
    attended = _attention(block.self_attn, block.input_layernorm(hidden), chosen, selection, kwargs)
    states = hidden.flatten(0, 1)[chosen] + attended
    states = states + block.mlp(block.post_attention_layernorm(states))
    normed: Tensor = model.get_submodule("model.norm")(states)
    return normed


def _attention(
    attention: Any, normed: Tensor, chosen: Tensor, selection: TokenSelection, kwargs: dict[str, Any]
) -> Tensor:
    """The attention's output [n, D] for the chosen tokens of [B, T, D] normed hidden states."""
    num_rows, width, head_dim = normed.shape[0], selection.width, attention.head_dim
    # Rows have different numbers of queries: each row is filled up to the widest, and what fills it is dropped again.
    padded = (selection.rows * width + selection.slots).to(normed.device)

    def by_row(values: Tensor) -> Tensor:
        filled = values.new_zeros(num_rows * width, values.shape[-1]).index_copy(0, padded, values)
        return filled.view(num_rows, width, -1)

    def by_head(values: Tensor) -> Tensor:
        return values.view(*values.shape[:2], -1, head_dim).transpose(1, 2)

    cos, sin = (part.expand(num_rows, -1, -1) for part in kwargs["position_embeddings"])
    query = by_head(by_row(attention.q_proj(normed.flatten(0, 1)[chosen])))
    query = _rotated(query, by_row(cos.flatten(0, 1)[chosen]), by_row(sin.flatten(0, 1)[chosen]))
    key = _rotated(by_head(attention.k_proj(normed)), cos, sin)
    value = by_head(attention.v_proj(normed))
    mask = kwargs["attention_mask"]
    attend = AttentionInterface()[attention.config._attn_implementation]
    # Without a causal mask every query sees the same keys: one row of the mask is all of it.
    mixed, _ = attend(
        attention,
        query,
        key,
        value,
        None if mask is None else mask[:, :, :1],
        dropout=0.0,
        scaling=attention.scaling,
        is_causal=False,
    )
    output: Tensor = attention.o_proj(mixed.reshape(num_rows * width, -1)[padded])
    return output


def _rotated(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of [B, heads, T, d] by [B, T, d]: channels of the two halves turn together."""
    first, second = heads.chunk(2, dim=-1)
    return heads * cos[:, None] + torch.cat([-second, first], dim=-1) * sin[:, None]
