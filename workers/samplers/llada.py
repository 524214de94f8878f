"""LLaDA's sampler: blocks from left to right, in each the surest tokens first (arXiv 2502.09992)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from grids.protocol import GenerationSettings
from workers.models.loading import LoadedModel
from workers.randomness import gumbel_rows, uniform_rows
from workers.samplers.canvas import drawable_logits, make_canvas, top_positions


def generate(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    settings: GenerationSettings,
    keys: Sequence[str],
    seed: int,
) -> list[list[int]]:
    """The new tokens of each prompt. Raises ValueError where blocks and steps do not divide the length."""
    settings.check_blocks()
    assert loaded.mask_token_id is not None
    block_length = settings.llada.block_length
    num_blocks = settings.gen_length // block_length
    schedule = commit_counts(block_length, settings.steps // num_blocks)
    canvas = make_canvas(loaded, prompts, settings.gen_length, fill=loaded.mask_token_id)
    for block in range(num_blocks):
        begin = canvas.start + block * block_length
        tokens = canvas.tokens[:, begin : begin + block_length]
        masked = torch.ones_like(tokens, dtype=torch.bool)
        for step, count in enumerate(schedule):
            # A step that commits nothing changes nothing.
            if count == 0:
                continue
            draw = block * len(schedule) + step
            logits = loaded.logits(canvas.tokens, canvas.attention_mask)[:, begin : begin + block_length]
            logits = drawable_logits(logits, loaded)
            best = _draw_tokens(logits, settings.temperature, keys, seed, draw)
            if settings.llada.remasking == "random":
                confidence = uniform_rows(seed, keys, "positions", draw, (block_length,)).to(logits.device)
            else:
                confidence = logits.softmax(-1).gather(-1, best[..., None])[..., 0]
            commit = top_positions(confidence, masked, count)
            tokens[commit] = best[commit]
            masked &= ~commit
        assert not masked.any()
    answers: list[list[int]] = canvas.answers.tolist()
    return answers


def commit_counts(num_masked: int, num_steps: int) -> list[int]:
    """How many of `num_masked` tokens each step commits: evenly, with the remainder in the first steps."""
    return [num_masked // num_steps + (step < num_masked % num_steps) for step in range(num_steps)]


def _draw_tokens(logits: Tensor, temperature: float, keys: Sequence[str], seed: int, draw: int) -> Tensor:
    """The best token of each position [B, N], or one drawn from softmax(logits / temperature) by the Gumbel trick."""
    if temperature == 0:
        return logits.argmax(-1)
    noise = gumbel_rows(seed, keys, "tokens", draw, tuple(logits.shape[1:])).to(logits.device)
    return (logits.double() / temperature + noise).argmax(-1)
