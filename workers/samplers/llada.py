"""LLaDA's sampler: blocks from left to right, in each the surest tokens first (arXiv 2502.09992)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from grids.protocol import GenerationSettings
from workers.models.loading import LoadedModel
from workers.randomness import gumbel
from workers.samplers.steps import DiffusionSampler, Draws, Step, drawable_logits


class LladaAnswers(DiffusionSampler):
    """LLaDA's plan and predictions. Raises ValueError where blocks and steps do not divide the length."""

    def __init__(self, loaded: LoadedModel, settings: GenerationSettings, seed: int) -> None:
        super().__init__(loaded, settings, seed)
        settings.check_blocks()
        self.guidance = settings.llada.cfg_scale
        self._end_token_ids = sorted(loaded.end_token_ids | {loaded.eos_token_id})
        self._plan = plan_blocks(settings)

    def plan(self, key: str) -> Sequence[Step]:
        return self._plan

    def predict(self, logits: Tensor, draws: Sequence[Draws]) -> tuple[Tensor, Tensor]:
        options = self.settings.llada
        logits = drawable_logits(logits, self.loaded)
        if options.logits_eos_inf:
            logits[:, self.loaded.eos_token_id] = -torch.inf
        tokens = self._draw_tokens(logits, draws)
        if options.remasking == "random":
            return tokens.cpu(), torch.cat([each.uniforms("positions") for each in draws])
        if options.confidence_eos_eot_inf:
            # An end of the answer stays the chosen token, and becomes the least sure of all.
            logits[:, self._end_token_ids] = -torch.inf
        return tokens.cpu(), logits.softmax(-1).gather(-1, tokens[:, None])[:, 0].cpu()

    def _draw_tokens(self, logits: Tensor, draws: Sequence[Draws]) -> Tensor:
        """The best token of each place, or one drawn from softmax(logits / temperature) by the Gumbel trick."""
        temperature = self.settings.temperature
        if temperature == 0:
            return logits.argmax(-1)
        noise = torch.cat([gumbel(each.uniforms("tokens", logits.shape[-1])) for each in draws])
        return (logits.double() / temperature + noise.to(logits.device)).argmax(-1)


def plan_blocks(settings: GenerationSettings) -> list[Step]:
    """The steps of every block, one block after the other."""
    block_length = settings.llada.block_length
    num_blocks = settings.gen_length // block_length
    counts = commit_counts(block_length, settings.steps // num_blocks)
    return [
        Step(block * len(counts) + step, block * block_length, (block + 1) * block_length, count)
        for block in range(num_blocks)
        for step, count in enumerate(counts)
    ]


def commit_counts(num_masked: int, num_steps: int) -> list[int]:
    """How many of `num_masked` tokens each step commits: evenly, with the remainder in the first steps."""
    return [num_masked // num_steps + (step < num_masked % num_steps) for step in range(num_steps)]
