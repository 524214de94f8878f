"""What LLaDA's and Dream's samplers have in common: a plan of steps, each of which commits the surest tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from grids.protocol import GenerationSettings
from methods import NonFiniteError
from workers.models.loading import LoadedModel
from workers.randomness import uniforms


@dataclass(frozen=True)
class Step:
    """One step of an answer: `count` of the masked tokens in its window [begin, end) are committed.

    draw: the index that the step's random numbers are keyed with.  places: the only candidates of the window, bool
    [end - begin]; None where all are.
    """

    draw: int
    begin: int
    end: int
    count: int
    places: Tensor | None = None


@dataclass(frozen=True)
class Draws:
    """The random numbers of one answer in one step, at those places (int64 [n]) of the window that are predicted."""

    seed: int
    key: str
    step: Step
    places: Tensor

    def uniforms(self, purpose: str, *shape: int) -> Tensor:
        """[n, *shape]; a place's numbers do not depend on which others are predicted."""
        width = self.step.end - self.step.begin
        return uniforms(self.seed, self.key, purpose, self.step.draw, (width, *shape))[self.places]


class DiffusionSampler(ABC):
    """How a family of models writes: which steps, and how sure which token is.

    guidance: the scale of classifier-free guidance; 0 for none.
    """

    guidance = 0.0

    def __init__(self, loaded: LoadedModel, settings: GenerationSettings, seed: int) -> None:
        self.loaded, self.settings, self.seed = loaded, settings, seed

    @abstractmethod
    def plan(self, key: str) -> Sequence[Step]:
        """Every step of the answer to the request of that key; together they commit each token once."""

    @abstractmethod
    def predict(self, logits: Tensor, draws: Sequence[Draws]) -> tuple[Tensor, Tensor]:
        """A token, int64 [n], and how sure it is [n], for each of the predicted places of several answers, on the CPU.

        `logits` is [n, V] and may be written into; the places of all `draws`, one after the other, are its n rows.
        """


def drawable_logits(logits: Tensor, loaded: LoadedModel) -> Tensor:
    """Logits in which the mask token cannot be drawn: a mask is not an answer, and would leave a hole in it.

    Raises NonFiniteError where the model gives no numbers: the arg-max of nan would look like an answer.
    """
    assert loaded.mask_token_id is not None
    if not torch.isfinite(logits).all():
        raise NonFiniteError("the model's logits are not finite")
    logits[..., loaded.mask_token_id] = -torch.inf
    return logits


def top_positions(confidence: Tensor, candidates: Tensor, counts: Tensor) -> Tensor:
    """The `counts` [B] most confident candidates of each row, bool [B, N]; equal confidences go from left to right.

    `confidence` is [B, N], `candidates` bool [B, N].
    """
    order = confidence.masked_fill(~candidates, -torch.inf).sort(dim=-1, descending=True, stable=True).indices
    is_top = (torch.arange(order.shape[-1], device=order.device) < counts[:, None]).expand_as(candidates)
    return torch.zeros_like(candidates).scatter(-1, order, is_top) & candidates
