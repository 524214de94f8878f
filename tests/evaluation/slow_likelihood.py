"""The likelihood estimate in its plainest form: one forward per draw or pattern, one question at a time."""

from __future__ import annotations

import itertools
import math

import torch

from grids.protocol import LikelihoodSettings
from workers.likelihood.masks import draw_masks
from workers.models import LoadedModel


def enumerated_log_likelihood(loaded: LoadedModel, context: list[int], target: list[int]) -> float:
    """The estimator's expectation, by all 2^L - 1 patterns of masks: P(l) = 1/L, each of the C(L, l) patterns alike.

    Float64, one forward per pattern, and nothing of the estimator's code.
    """
    length = len(target)
    expected = 0.0
    loaded.model.double()
    for pattern in itertools.product([False, True], repeat=length):
        num_masked = sum(pattern)
        if num_masked:
            nll = _masked_cross_entropy(loaded, context, target, list(pattern))
            expected += nll * (length / num_masked) / (length * math.comb(length, num_masked))
    loaded.model.float()
    return -expected


def drawn_log_likelihood(
    loaded: LoadedModel, context: list[int], target: list[int], settings: LikelihoodSettings, key: str, seed: int
) -> float:
    """The mean over all draws, each with a forward of its own."""
    losses = [
        _masked_cross_entropy(loaded, context, target, mask) * len(target) / sum(mask)
        for mask in draw_masks(len(target), settings, key, seed).tolist()
    ]
    return -sum(losses) / len(losses)


def greedy_target(loaded: LoadedModel, context: list[int], length: int) -> list[int]:
    """What greedy decoding gives, the most confident token first."""
    assert loaded.mask_token_id is not None
    tokens, is_open = [loaded.mask_token_id] * length, [True] * length
    for _ in range(length):
        confidence, best = loaded.logits(torch.tensor([context + tokens]))[0, len(context) :].softmax(-1).max(-1)
        place = max((i for i in range(length) if is_open[i]), key=lambda i: float(confidence[i]))
        tokens[place], is_open[place] = int(best[place]), False
    return tokens


def _masked_cross_entropy(loaded: LoadedModel, context: list[int], target: list[int], mask: list[bool]) -> float:
    """The sum over the masked tokens, in nats."""
    assert loaded.mask_token_id is not None
    hidden = [loaded.mask_token_id if masked else token for token, masked in zip(target, mask, strict=True)]
    with torch.no_grad():
        logits = loaded.model(input_ids=torch.tensor([context + hidden])).logits[0]
    # Dream's own row i predicts token i + 1.
    first = len(context) - (1 if loaded.family == "dream" else 0)
    return -sum(float(logits[first + i].double().log_softmax(-1)[target[i]]) for i, masked in enumerate(mask) if masked)
