"""The canvas that a causal model writes on: prompts, padded on the left, and the answers after them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.models.loading import LoadedModel


@dataclass
class Canvas:
    """Prompts, padded on the left, and after column `start` the answers that are being written.

    `tokens` is [B, start + gen_length]; `attention_mask` has its shape, or is None where nothing is padded.
    """

    tokens: Tensor
    attention_mask: Tensor | None
    start: int

    @property
    def answers(self) -> Tensor:
        """The answers' columns, [B, gen_length]: a view, to be written to."""
        return self.tokens[:, self.start :]


def make_canvas(loaded: LoadedModel, prompts: Sequence[Sequence[int]], gen_length: int, fill: int) -> Canvas:
    """Prompts padded on the left to the longest, followed by `gen_length` tokens `fill`, on the model's device."""
    start = max(len(prompt) for prompt in prompts)
    rows = [[loaded.pad_token_id] * (start - len(prompt)) + [*prompt] + [fill] * gen_length for prompt in prompts]
    tokens = torch.tensor(rows, dtype=torch.long, device=loaded.device)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=loaded.device)
    if int(lengths.min()) == start:
        return Canvas(tokens, None, start)
    real = torch.arange(tokens.shape[1], device=loaded.device) >= start - lengths[:, None]
    return Canvas(tokens, real.long(), start)
