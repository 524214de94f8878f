"""The items on which two cells differ, with their texts."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from reports.schemas import Row
from reports.store import ResultStore

Direction = Literal["gained", "lost"]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A choice of a likelihood task and its log-likelihood in nats."""

    text: str
    logprob: float


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a variant said to an item: a text, or its choices with the likeliest first; neither where it is not kept."""

    text: str | None = None
    choices: tuple[Choice, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Flip:
    """An item that B scores higher on than A (gained) or lower (lost). What was not kept is None."""

    doc_id: int
    direction: Direction
    scores: tuple[float, float]
    prompt: str | None
    target: str | None
    answers: tuple[Answer, Answer]


@dataclass(frozen=True, kw_only=True)
class Flips:
    """The first flips of a task in the order of its items, and how many there are in all."""

    shown: tuple[Flip, ...]
    num_gained: int
    num_lost: int


def find_flips(store: ResultStore, cell_ids: tuple[str, str], metric: tuple[str, str], *, limit: int) -> Flips:
    """The items on which the second cell scores higher or lower than the first; of each kind at most `limit`."""
    before, after = (_scores(store, cell_id, metric) for cell_id in cell_ids)
    gained = [item for item in sorted(before) if item in after and after[item] > before[item]]
    lost = [item for item in sorted(before) if item in after and after[item] < before[item]]
    wanted: dict[int, Direction] = dict.fromkeys(gained[:limit], "gained")
    wanted |= dict.fromkeys(lost[:limit], "lost")
    samples = [_samples(store, cell_id) for cell_id in cell_ids] if wanted else [{}, {}]
    shown = tuple(
        _flip(item, direction, (before[item], after[item]), [by_item.get(item, ()) for by_item in samples])
        for item, direction in wanted.items()
    )
    return Flips(shown=shown, num_gained=len(gained), num_lost=len(lost))


def _scores(store: ResultStore, cell_id: str, metric: tuple[str, str]) -> dict[int, float]:
    rows = store.scores(cell_id)
    return {row["doc_id"]: row["value"] for row in rows if (row["metric"], row["filter"]) == metric}


def _samples(store: ResultStore, cell_id: str) -> dict[int, list[Row]]:
    by_item: dict[int, list[Row]] = defaultdict(list)
    for row in store.samples(cell_id):
        by_item[row["doc_id"]].append(row)
    return by_item


def _flip(item: int, direction: Direction, scores: tuple[float, float], samples: Sequence[Sequence[Row]]) -> Flip:
    # Where each choice has a context of its own, what these share is the prompt.
    prompts = [_shared_beginning([_arguments(row)[0] for row in rows]) if rows else None for rows in samples]
    one, other = (_answer(rows, len(prompt or "")) for rows, prompt in zip(samples, prompts, strict=True))
    return Flip(
        doc_id=item,
        direction=direction,
        scores=scores,
        prompt=next((prompt for prompt in prompts if prompt is not None), None),
        target=next((row["target"] for rows in samples for row in rows if row["target"] is not None), None),
        answers=(one, other),
    )


def _shared_beginning(texts: Sequence[str]) -> str:
    alike = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*texts, strict=False))
    return "".join(letters[0] for letters in alike)


def _answer(rows: Sequence[Row], num_shared: int) -> Answer:
    if rows and rows[0]["logprob"] is None:
        return Answer(text=rows[0]["response"])
    choices = [Choice(text=_continuation(row, num_shared), logprob=row["logprob"]) for row in rows]
    return Answer(choices=tuple(sorted(choices, key=lambda choice: -choice.logprob)))


def _continuation(row: Row, num_shared: int) -> str:
    context, continuation = _arguments(row)
    return context[num_shared:] + continuation


def _arguments(row: Row) -> tuple[str, str]:
    """The context and what follows it; settings of a generation follow nothing."""
    content = json.loads(row["arguments"] or "[]")
    texts = [part for part in content if isinstance(part, str)]
    return (texts[0] if texts else "", texts[1] if len(texts) > 1 else "")


def flip_json(flip: Flip) -> Mapping[str, object]:
    """A flip as JSON values, its texts whole."""

    def answer(side: Answer) -> object:
        if side.choices:
            return [{"choice": choice.text, "logprob": choice.logprob} for choice in side.choices]
        return side.text

    return {
        "doc_id": flip.doc_id,
        "direction": flip.direction,
        "score_a": flip.scores[0],
        "score_b": flip.scores[1],
        "prompt": flip.prompt,
        "target": flip.target,
        "answer_a": answer(flip.answers[0]),
        "answer_b": answer(flip.answers[1]),
    }
