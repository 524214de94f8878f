"""One door to the samplers: prompts in, answers out as they are finished."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import torch

from grids.protocol import Family, GenerationSettings
from workers.models.loading import LoadedModel
from workers.samplers.budget import RowBudget
from workers.samplers.dream import DreamAnswers
from workers.samplers.llada import LladaAnswers
from workers.samplers.steps import DiffusionSampler
from workers.samplers.writing import OpenAnswer, Prompt, Savings, Writer

_SAMPLERS: dict[Family, type[DiffusionSampler]] = {"llada": LladaAnswers, "dream": DreamAnswers}


def generate(
    loaded: LoadedModel,
    prompts: Sequence[Prompt],
    settings: GenerationSettings,
    seed: int,
    *,
    savings: Savings | None = None,
    max_rows: int | None = None,
) -> Iterator[tuple[int, list[int]]]:
    """(index of the prompt, tokens of its answer) as answers are finished.

    An answer has `settings.gen_length` tokens, or fewer where it was decided earlier; it depends on its prompt, its key
    and the seed, and on what runs beside it through float rounding at most (on a CPU not even that: `models.padding`).
    Rows leave the batch when they are finished, and others enter. Raises ValueError for settings that the family's
    sampler cannot run, and torch.OutOfMemoryError where not even one row fits.
    """
    writer = Writer(loaded, _SAMPLERS[loaded.family](loaded, settings, seed), savings or Savings())
    budget = RowBudget(loaded.device, max_rows)
    # The longest first: neighbours are of similar length, and memory runs out early if it does.
    waiting = deque(sorted(range(len(prompts)), key=lambda index: -len(prompts[index].ids)))
    answers: list[OpenAnswer] = []
    while waiting or answers:
        if not answers:
            answers.append(writer.open(waiting[0], prompts[waiting.popleft()]))
        num_rows = budget.num_rows(answers[0].length)
        while waiting and len(answers) < num_rows:
            answers.append(writer.open(waiting[0], prompts[waiting.popleft()]))
        batch = answers[:num_rows]
        finished = _advance(writer, batch)
        if finished is None:
            budget.ran_out(len(batch), batch[0].length)
            continue
        if len(batch) == num_rows:
            budget.succeeded()
        for answer in finished:
            yield answer.index, answer.first_tokens()
        answers = [answer for answer in answers if answer not in finished]


def _advance(writer: Writer, batch: Sequence[OpenAnswer]) -> list[OpenAnswer] | None:
    """The answers that a step finishes; None where memory ran out, which leaves every answer as it was."""
    try:
        return writer.advance(batch)
    except torch.OutOfMemoryError:
        if len(batch) == 1:
            raise
    # After the handler, which holds what the failed forward had made.
    torch.cuda.empty_cache()
    return None
