"""The autoregressive baseline: token by token, from left to right."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from grids.protocol import GenerationSettings
from workers.models.loading import LoadedModel
from workers.randomness import gumbel_rows
from workers.samplers.canvas import make_canvas


def generate(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    settings: GenerationSettings,
    keys: Sequence[str],
    seed: int,
) -> list[list[int]]:
    """The new tokens of each prompt, greedy or drawn at `settings.temperature`.

    A row that has ended is filled up with the EOS token. Raises ValueError for an empty prompt: nothing predicts its
    first token.
    """
    if not all(prompts):
        raise ValueError("a causal model needs a prompt of at least one token")
    canvas = make_canvas(loaded, prompts, settings.gen_length, fill=loaded.eos_token_id)
    ends = torch.tensor(sorted(loaded.end_token_ids | {loaded.eos_token_id}), device=canvas.tokens.device)
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=canvas.tokens.device)
    for index in range(settings.gen_length):
        # The row at the end of the input predicts the token there; what the input holds at that place is not seen.
        stop = canvas.start + index + 1
        mask = None if canvas.attention_mask is None else canvas.attention_mask[:, :stop]
        logits = loaded.logits(canvas.tokens[:, :stop], mask)[:, -1]
        if settings.temperature > 0:
            noise = gumbel_rows(seed, keys, "tokens", index, (logits.shape[-1],))
            logits = logits.double() / settings.temperature + noise.to(logits.device)
        tokens = logits.argmax(-1)
        canvas.answers[:, index] = torch.where(ended, canvas.answers[:, index], tokens)
        if settings.eos_ends_answer:
            ended |= torch.isin(tokens, ends)
            if ended.all():
                break
    answers: list[list[int]] = canvas.answers.tolist()
    return answers
