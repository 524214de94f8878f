"""One door to the three samplers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from grids.protocol import Family, GenerationSettings
from workers.models.loading import LoadedModel
from workers.samplers import causal, dream, llada

Sampler = Callable[
    [LoadedModel, Sequence[Sequence[int]], GenerationSettings, Sequence[str], int],
    list[list[int]],
]
_SAMPLERS: dict[Family, Sampler] = {"llada": llada.generate, "dream": dream.generate, "causal": causal.generate}


def generate(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    settings: GenerationSettings,
    keys: Sequence[str],
    seed: int,
) -> list[list[int]]:
    """The `settings.gen_length` new tokens of each prompt, with the sampler of the model's family.

    All prompts run as one batch, padded on the left. A row depends on its prompt, its key and the seed; on the other
    rows only through float rounding. Raises ValueError for settings that the family's sampler cannot run.
    """
    if not prompts:
        return []
    assert len(prompts) == len(keys)
    return _SAMPLERS[loaded.family](loaded, prompts, settings, keys, seed)
