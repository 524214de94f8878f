"""Dream's sampler: at each step the surest positions of the whole answer are committed (arXiv 2508.15487)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from grids.protocol import DreamSampler, GenerationSettings
from workers.models.loading import LoadedModel
from workers.randomness import gumbel_rows, uniform_rows
from workers.samplers.canvas import drawable_logits, make_canvas, top_positions

# Time runs from 1 to this, in equal steps.
_LAST_TIME = 1e-3


def generate(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    settings: GenerationSettings,
    keys: Sequence[str],
    seed: int,
) -> list[list[int]]:
    """The new tokens of each prompt."""
    assert loaded.mask_token_id is not None
    canvas = make_canvas(loaded, prompts, settings.gen_length, fill=loaded.mask_token_id)
    masked = torch.ones_like(canvas.answers, dtype=torch.bool)
    is_origin = settings.dream.algorithm == "origin"
    counts = commit_counts(settings.gen_length, settings.steps)
    for step, fraction in enumerate(commit_fractions(settings.steps)):
        if is_origin:
            draws = uniform_rows(seed, keys, "positions", step, (settings.gen_length,)).to(masked.device)
            commit = masked & (draws < fraction)
        # A step that commits nothing changes nothing.
        if not (commit.any() if is_origin else counts[step]):
            continue
        logits = loaded.logits(canvas.tokens, canvas.attention_mask)[:, canvas.start :]
        probs = filtered_probs(drawable_logits(logits, loaded), settings.temperature, settings.dream)
        best = _draw_tokens(probs, settings.temperature, keys, seed, step)
        if not is_origin:
            confidence = confidences(probs, best, settings.dream)
            if settings.dream.alg_temp:
                # Perturbed by Gumbel noise, the top k are k draws without replacement from the softmax.
                noise = gumbel_rows(seed, keys, "positions", step, (settings.gen_length,)).to(masked.device)
                confidence = confidence.double() / settings.dream.alg_temp + noise
            commit = top_positions(confidence, masked, counts[step])
        canvas.answers[commit] = best[commit]
        masked &= ~commit
    assert not masked.any()
    answers: list[list[int]] = canvas.answers.tolist()
    return answers


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
    """How sure each position is, [B, N]: of the drawn token, of the best over the second, or by negative entropy."""
    if sampler.algorithm == "topk_margin":
        best = probs.topk(2, dim=-1).values
        return best[..., 0] - best[..., 1]
    if sampler.algorithm == "entropy":
        entropy: Tensor = torch.special.entr(probs).sum(-1)
        return -entropy
    assert sampler.algorithm == "maskgit_plus"
    return probs.gather(-1, tokens[..., None])[..., 0]


def _draw_tokens(probs: Tensor, temperature: float, keys: Sequence[str], seed: int, step: int) -> Tensor:
    """The most probable token of each position [B, N], or one drawn by inverting the distribution function."""
    if temperature == 0:
        return probs.argmax(-1)
    draws = uniform_rows(seed, keys, "tokens", step, (probs.shape[1], 1)).to(probs.device)
    cumulative = probs.double().cumsum(-1)
    tokens = torch.searchsorted(cumulative, draws * cumulative[..., -1:], right=True)
    return tokens[..., 0].clamp(max=probs.shape[-1] - 1)
