"""log p(target | context): a Monte-Carlo estimate for masked diffusion models, the exact value for causal ones.

The estimate (LLaDA, arXiv 2502.09992) for a target of L tokens: l ~ U{1..L}, exactly l target tokens are masked,
uniformly at random, and -log p is the mean over draws of (L / l) * sum of the cross entropies at the masked tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from grids.protocol import LikelihoodSettings
from workers.models.loading import LoadedModel
from workers.randomness import generator


def conditional_log_likelihood(
    loaded: LoadedModel,
    context_ids: Sequence[int],
    target_ids: Sequence[int],
    settings: LikelihoodSettings,
    key: str,
    seed: int,
    *,
    batch_size: int = 16,
) -> float:
    """log p(target | context) in nats, by `settings.mc_num` draws keyed with (seed, key); exact for a causal model.

    `batch_size` is how many different draws share a forward; it changes no mask. Raises ValueError for an empty target.
    """
    if not target_ids:
        raise ValueError("the target has no tokens of its own: log p(target | context) is not defined")
    if loaded.family == "causal":
        return float(_target_log_probs(loaded, _row(context_ids, target_ids), len(target_ids)).double().sum())
    # Draws that mask the same tokens ask the model the same: a target of L tokens has at most 2^L - 1 questions.
    draws = draw_masks(len(target_ids), settings, key, seed)
    masks, question_of_draw = torch.unique(draws, dim=0, return_inverse=True)
    chunks = [
        _masked_losses(loaded, context_ids, target_ids, masks[start : start + batch_size])
        for start in range(0, len(masks), batch_size)
    ]
    return -float(torch.cat(chunks)[question_of_draw].mean())


def mask_counts(length: int, settings: LikelihoodSettings, key: str, seed: int) -> list[int]:
    """How many of `length` target tokens each draw masks.

    A group of b = `settings.strata` draws spreads its counts evenly: k ~ U{1..L} and
    x_j = ((k + floor(j L / b) - 1) mod L) + 1. The floor keeps each x_j uniform on {1..L}; rounding half to even, as
    published code does, would not.
    """
    counts: list[int] = []
    for group in range(settings.mc_num // settings.strata):
        first = int(torch.randint(1, length + 1, (), generator=generator(seed, f"{key}/count", group)))
        counts += [(first + j * length // settings.strata - 1) % length + 1 for j in range(settings.strata)]
    return counts


def draw_masks(length: int, settings: LikelihoodSettings, key: str, seed: int) -> Tensor:
    """Which target tokens each draw masks: bool [mc_num, length]; a function of the arguments alone."""
    masks = torch.zeros(settings.mc_num, length, dtype=torch.bool)
    for draw, count in enumerate(mask_counts(length, settings, key, seed)):
        masks[draw, torch.randperm(length, generator=generator(seed, key, draw))[:count]] = True
    return masks


def is_greedy(loaded: LoadedModel, context_ids: Sequence[int], target_ids: Sequence[int]) -> bool:
    """Whether greedy decoding gives the target.

    A diffusion model starts from a fully masked target and commits its most confident token, one per forward.
    """
    start, row = len(context_ids), _row(context_ids, target_ids)
    if loaded.family == "causal":
        return bool((loaded.logits(row)[0, start:].argmax(-1).cpu() == row[0, start:]).all())
    assert loaded.mask_token_id is not None
    masked = torch.ones(len(target_ids), dtype=torch.bool)
    while masked.any():
        tokens = row.clone()
        tokens[0, start:][masked] = loaded.mask_token_id
        confidence, best = loaded.logits(tokens)[0, start:].softmax(-1).max(-1)
        position = int(confidence.cpu().masked_fill(~masked, -1.0).argmax())
        if int(best[position]) != target_ids[position]:
            return False
        masked[position] = False
    return True


def _row(context_ids: Sequence[int], target_ids: Sequence[int]) -> Tensor:
    return torch.tensor([[*context_ids, *target_ids]], dtype=torch.long)


def _masked_losses(loaded: LoadedModel, context_ids: Sequence[int], target_ids: Sequence[int], masks: Tensor) -> Tensor:
    """(L / x_j) * sum of cross entropies at the masked tokens, float64 [num_draws] on the CPU."""
    assert loaded.mask_token_id is not None
    length = len(target_ids)
    tokens = _row(context_ids, target_ids).repeat(len(masks), 1)
    tokens[:, len(context_ids) :].masked_fill_(masks, loaded.mask_token_id)
    log_probs = _target_log_probs(loaded, tokens, length, torch.tensor(target_ids).expand(len(masks), -1))
    return (log_probs.double() * masks).sum(-1) * (-length / masks.sum(-1).double())


def _target_log_probs(loaded: LoadedModel, tokens: Tensor, length: int, targets: Tensor | None = None) -> Tensor:
    """log p of the last `length` tokens of each row, or of `targets` where the row hides them: [B, length], CPU."""
    targets = tokens[:, -length:] if targets is None else targets
    log_probs = loaded.logits(tokens)[:, -length:].log_softmax(-1)
    return log_probs.gather(-1, targets.to(log_probs.device)[..., None])[..., 0].cpu()
