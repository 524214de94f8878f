"""Dream's sampler: at each step the surest positions of the whole answer are committed (arXiv 2508.15487)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from grids.protocol import DreamSampler, GenerationSettings
from workers.models.loading import LoadedModel
from workers.randomness import gumbel, uniforms
from workers.samplers.steps import DiffusionSampler, Draws, Step, drawable_logits

# Time runs from 1 to this, in equal steps.
_LAST_TIME = 1e-3


class DreamAnswers(DiffusionSampler):
    """Dream's plan and predictions."""

    def __init__(self, loaded: LoadedModel, settings: GenerationSettings, seed: int) -> None:
        super().__init__(loaded, settings, seed)
        counts = commit_counts(settings.gen_length, settings.steps)
        self._plan = [Step(draw, 0, settings.gen_length, count) for draw, count in enumerate(counts)]

    def plan(self, key: str) -> Sequence[Step]:
        return plan_origin(self.settings, key, self.seed) if self.settings.dream.algorithm == "origin" else self._plan

    def predict(self, logits: Tensor, draws: Sequence[Draws]) -> tuple[Tensor, Tensor]:
        options = self.settings.dream
        probs = filtered_probs(drawable_logits(logits, self.loaded), self.settings.temperature, options)
        tokens = self._draw_tokens(probs, draws)
        if options.algorithm == "origin":
            return tokens.cpu(), torch.zeros(len(tokens))
        confidence = confidences(probs, tokens, options).cpu()
        if options.alg_temp:
            # Perturbed by Gumbel noise, the top k are k draws without replacement from the softmax.
            noise = torch.cat([gumbel(each.uniforms("positions")) for each in draws])
            confidence = confidence.double() / options.alg_temp + noise
        return tokens.cpu(), confidence

    def _draw_tokens(self, probs: Tensor, draws: Sequence[Draws]) -> Tensor:
        """The most probable token of each place, or one drawn by inverting the distribution function."""
        if self.settings.temperature == 0:
            return probs.argmax(-1)
        uniform = torch.cat([each.uniforms("tokens", 1) for each in draws]).to(probs.device)
        cumulative = probs.double().cumsum(-1)
        tokens = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
        return tokens[:, 0].clamp(max=probs.shape[-1] - 1)


def plan_origin(settings: GenerationSettings, key: str, seed: int) -> list[Step]:
    """The steps of algorithm `origin`, which asks no model: each masked token is committed with the step's chance."""
    steps, masked = [], torch.ones(settings.gen_length, dtype=torch.bool)
    for draw, fraction in enumerate(commit_fractions(settings.steps)):
        places = masked & (uniforms(seed, key, "positions", draw, (settings.gen_length,)) < fraction)
        steps.append(Step(draw, 0, settings.gen_length, int(places.sum()), places))
        masked = masked & ~places
    return steps


def commit_fractions(num_steps: int) -> list[float]:
    """The share of the masked tokens that each step commits: 1 - s / t for the step from time t to s; 1 at the last."""
    times = torch.linspace(1, _LAST_TIME, num_steps + 1)
    fractions: list[float] = (1 - times[1:] / times[:-1]).tolist()
    return [*fractions[:-1], 1.0]


def commit_counts(num_masked: int, num_steps: int) -> list[int]:
    """How many of `num_masked` tokens each step commits: rounded down, so that many commit none; the last, the rest."""
    counts = []
    for fraction in commit_fractions(num_steps):
        counts.append(int(num_masked * fraction))
        num_masked -= counts[-1]
    return counts


def filtered_probs(logits: Tensor, temperature: float, sampler: DreamSampler) -> Tensor:
    """softmax of [..., V] logits after temperature, top-p and top-k; the filters act at temperature 0 too."""
    if temperature > 0:
        logits = logits / temperature
    if sampler.top_p is not None and sampler.top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True, stable=True)
        before = ordered.softmax(-1).cumsum(-1).roll(1, dims=-1)
        before[..., 0] = 0
        # The token that crosses top_p stays.
        removed = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, before > sampler.top_p)
        logits = logits.masked_fill(removed, -torch.inf)
    if sampler.top_k is not None:
        smallest = logits.topk(min(sampler.top_k, logits.shape[-1]), dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    return logits.softmax(-1)


def confidences(probs: Tensor, tokens: Tensor, sampler: DreamSampler) -> Tensor:
    """How sure each position is, [n]: of the drawn token, of the best over the second, or by negative entropy."""
    if sampler.algorithm == "topk_margin":
        best = probs.topk(2, dim=-1).values
        return best[..., 0] - best[..., 1]
    if sampler.algorithm == "entropy":
        entropy: Tensor = torch.special.entr(probs).sum(-1)
        return -entropy
    assert sampler.algorithm == "maskgit_plus"
    return probs.gather(-1, tokens[..., None])[..., 0]
