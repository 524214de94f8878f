"""A bidirectional forward without padding, whose last block works only for the tokens that are asked for.

Only attention needs a rectangle of rows. Everything else acts on each token alone, and is given the tokens of all rows
one after the other. Of the last block, keys and values are needed for every token; its queries, its output projection,
its feed-forward and the final norm only where a prediction is read. What is left out changes no number: up to rounding
(about 1e-6, relative, in float32) the result is that of the model's own forward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from methods.attention import ATTENTION_NAME
from methods.blocks import decoder_blocks
from workers.models.padding import MIN_ROWS, at_least, padded_length


@dataclass(frozen=True)
class Rectangle:
    """Where n tokens, row after row, lie in [num_rows, width]: `slots` int64 [n], ascending, of num_rows * width."""

    slots: Tensor
    num_rows: int
    width: int

    def spread(self, values: Tensor) -> Tensor:
        """[n, D] to [num_rows, width, D], zero where no token lies."""
        num_slots = self.num_rows * self.width
        if len(values) < num_slots:
            values = values.new_zeros(num_slots, values.shape[-1]).index_copy(0, self.slots, values)
        return values.view(self.num_rows, self.width, -1)

    def collect(self, values: Tensor) -> Tensor:
        """[num_rows, width, ...] to [n, D]."""
        flat = values.reshape(self.num_rows * self.width, -1)
        return flat if len(self.slots) == len(flat) else flat[self.slots]


class PackedBatch:
    """The real tokens of a batch, row after row: what `input_ids` [B, T] holds where `attention_mask` is not 0.

    ids, positions: int64 [N], a token's id and its place in its row.  keys: where tokens lie for attention.
    key_mask: bool [B, 1, 1, width], true where a token lies; None where everywhere.
    """

    def __init__(self, input_ids: Tensor, attention_mask: Tensor | None, device: torch.device) -> None:
        is_real = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        self._device = device
        self._numbers = is_real.flatten().cumsum(0).view(is_real.shape) - 1
        self._rows = is_real.nonzero()[:, 0]
        lengths = is_real.sum(-1)
        positions = (is_real.cumsum(-1) - 1)[is_real]
        self.ids, self.positions = input_ids[is_real].to(device), positions.to(device)
        self.keys = self._rectangle(self._rows, positions, padded_length(int(lengths.max())))
        is_full = int(lengths.min()) == self.keys.width
        self.key_mask = None if is_full else self._key_mask(lengths)

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, rows: Tensor, columns: Tensor) -> tuple[Tensor, Rectangle]:
        """The numbers of tokens by row (ascending) and column of `input_ids`, and where they lie for attention.

        There are at least `MIN_ROWS`, of which the last one is repeated, in a rectangle as wide as full vectors: the
        attention of few queries is summed in another order, see `padding`.
        """
        numbers = at_least(self._numbers[rows, columns], MIN_ROWS)
        rows = self._rows[numbers]
        _, counts = torch.unique_consecutive(rows, return_counts=True)
        starts: Tensor = counts.cumsum(0) - counts
        places = torch.arange(len(rows)) - starts.repeat_interleave(counts)
        return numbers.to(self._device), self._rectangle(rows, places, max(int(counts.max()), MIN_ROWS))

    def _rectangle(self, rows: Tensor, places: Tensor, width: int) -> Rectangle:
        return Rectangle((rows * width + places).to(self._device), len(self._numbers), width)

    def _key_mask(self, lengths: Tensor) -> Tensor:
        return (torch.arange(self.keys.width) < lengths[:, None])[:, None, None].to(self._device)


def hidden_states_at(model: nn.Module, batch: PackedBatch, selected: Tensor, queries: Rectangle) -> Tensor:
    """Hidden states [n, D] after the final norm of the selected tokens (`PackedBatch.select`).

    The model is Llama- or Qwen2-shaped and bidirectional; its linears may be quantized, and its attention may round its
    operands. Its blocks' modules are called, the blocks and the model themselves are not.
    """
    body: Any = model.get_submodule("model")
    *blocks, last = decoder_blocks(model)
    states = body.embed_tokens(batch.ids)
    # Cosines and sines of the rotary embedding, [N, head_dim] each.
    turns = tuple(part[0] for part in body.rotary_emb(states[None], batch.positions[None]))
    for block in blocks:
        states = _run_block(block, states, turns, batch, slice(None), batch.keys)
    normed: Tensor = body.norm(_run_block(last, states, turns, batch, selected, queries))
    return normed


def _run_block(
    block: Any,
    states: Tensor,
    turns: tuple[Tensor, ...],
    batch: PackedBatch,
    selected: Tensor | slice,
    queries: Rectangle,
) -> Tensor:
    """What leaves a block for the selected tokens [n, D], from what enters it for all [N, D]."""
    normed = block.input_layernorm(states)
    states = states[selected] + _run_attention(block.self_attn, normed, turns, batch, selected, queries)
    left: Tensor = states + block.mlp(block.post_attention_layernorm(states))
    return left


def _run_attention(
    attention: Any,
    normed: Tensor,
    turns: tuple[Tensor, ...],
    batch: PackedBatch,
    selected: Tensor | slice,
    queries: Rectangle,
) -> Tensor:
    cos, sin = turns
    query = _turned(attention.q_proj(normed[selected]), cos[selected], sin[selected])
    key, value = _turned(attention.k_proj(normed), cos, sin), attention.v_proj(normed)
    name = attention.config._attn_implementation
    assert name in ("sdpa", ATTENTION_NAME), f"attention {name!r} takes another kind of mask"
    mixed, _ = AttentionInterface()[name](
        attention,
        _by_head(queries.spread(query), attention.head_dim),
        _by_head(batch.keys.spread(key), attention.head_dim),
        _by_head(batch.keys.spread(value), attention.head_dim),
        batch.key_mask,
        dropout=0.0,
        scaling=attention.scaling,
        is_causal=False,
    )
    output: Tensor = attention.o_proj(queries.collect(mixed))
    return output


def _by_head(values: Tensor, head_dim: int) -> Tensor:
    """[B, T, heads * d] to [B, heads, T, d]."""
    return values.view(*values.shape[:2], -1, head_dim).transpose(1, 2)


def _turned(operand: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of all heads [n, heads * d] by [n, d]: channels of a head's two halves turn together."""
    heads = operand.view(len(operand), -1, cos.shape[-1])
    first, second = heads.chunk(2, dim=-1)
    turned = heads * cos[:, None] + torch.cat([-second, first], dim=-1) * sin[:, None]
    return turned.flatten(1)
