"""The items behind a number, from the store: which were lost, gained and failed, and what was asked and answered."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reports.html.markup import visible_text
from reports.schemas import Row, to_rows
from reports.statistics import FloatArray, IntArray

Kind = Literal["lost", "gained", "failing"]
KINDS: tuple[Kind, ...] = ("lost", "gained", "failing")
# Characters of a prompt or of a response.
MAX_TEXT = 2000


class SampleStore(Protocol):
    """What is read of a results store."""

    def score_table(self, cell_id: str) -> pa.Table | None: ...

    def sample_table(self, cell_id: str) -> pa.Table | None: ...


@dataclass(frozen=True, kw_only=True)
class NumberSource:
    """A number of a table: one metric of one cell, on `num_lost` items worse than that of `reference_id`."""

    cell_id: str
    metric: str
    reference_id: str | None
    num_items: int
    num_lost: int
    higher_is_better: bool

    @property
    def name(self) -> str:
        """What the page's script calls it."""
        return f"{self.cell_id} {self.metric}"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A response, or the likelihood of a continuation, and what full precision gave."""

    choice: str | None
    own: str | float | None
    base: str | float | None


@dataclass(frozen=True, kw_only=True)
class Item:
    """One item: its score, that of full precision, and its texts as far as they are stored, fit to be shown."""

    doc_id: int
    score: float
    base_score: float | None
    prompt: str | None
    target: str | None
    answers: Sequence[Answer]


@dataclass(frozen=True, kw_only=True)
class FoundItems:
    """The items of a number: how many there are of each kind, and the first of them."""

    wanted: NumberSource
    totals: Mapping[Kind, int]
    items: Mapping[Kind, Sequence[Item]]


@dataclass(frozen=True)
class _Scores:
    """The scores of a cell's items, by item."""

    doc_ids: IntArray
    values: FloatArray


class ItemReader:
    """Reads items from the store; what is read of full precision is kept for the next number that needs the same."""

    def __init__(self, store: SampleStore, num_items: int) -> None:
        self._store = store
        self._num_items = num_items
        self._kept: dict[str, pa.Table | None] = {}
        self._kept_for: str | None = None

    def find(self, wanted: NumberSource) -> FoundItems | None:
        """The items of a number; None where its items' scores are not stored."""
        if wanted.reference_id != self._kept_for:
            self._kept, self._kept_for = {}, wanted.reference_id
        own = _scores(self._store.score_table(wanted.cell_id), wanted.metric)
        if own is None:
            return None
        base = None
        if wanted.reference_id is not None:
            base = _scores(self._of_reference("scores", wanted.reference_id), wanted.metric)
        kinds, base_values = _kinds(own, base, higher_is_better=wanted.higher_is_better)
        places = np.unique(np.concatenate([found[: self._num_items] for found in kinds.values()]))
        items = self._items(wanted, own, base_values, places)
        return FoundItems(
            wanted=wanted,
            totals={kind: len(found) for kind, found in kinds.items()},
            items={kind: [items[int(place)] for place in found[: self._num_items]] for kind, found in kinds.items()},
        )

    def _of_reference(self, name: Literal["scores", "samples"], cell_id: str) -> pa.Table | None:
        if name not in self._kept:
            read = self._store.score_table if name == "scores" else self._store.sample_table
            self._kept[name] = read(cell_id)
        return self._kept[name]

    def _items(
        self, wanted: NumberSource, own: _Scores, base_values: FloatArray | None, places: IntArray
    ) -> dict[int, Item]:
        """The items at some places, with their texts."""
        doc_ids = own.doc_ids[places]
        requests = _requests(self._store.sample_table(wanted.cell_id), doc_ids) if len(doc_ids) else {}
        base_requests: dict[int, list[dict[str, Any]]] = {}
        if wanted.reference_id is not None and len(doc_ids):
            base_requests = _requests(self._of_reference("samples", wanted.reference_id), doc_ids)
        items = {}
        for place, doc_id in zip(places.tolist(), doc_ids.tolist(), strict=True):
            base_score = None if base_values is None else float(base_values[place])
            texts = _texts(requests.get(doc_id, []), base_requests.get(doc_id, []))
            items[place] = Item(
                doc_id=doc_id,
                score=float(own.values[place]),
                base_score=None if base_score is None or math.isnan(base_score) else base_score,
                **texts,
            )
        return items


def _scores(table: pa.Table | None, metric: str) -> _Scores | None:
    if table is None:
        return None
    name, _, filter_ = metric.partition(",")
    table = table.filter(pc.and_(pc.equal(table["metric"], name), pc.equal(table["filter"], filter_)))
    doc_ids = table["doc_id"].to_numpy()
    order = np.argsort(doc_ids, kind="stable")
    return _Scores(doc_ids[order], table["value"].to_numpy()[order]) if len(doc_ids) else None


def _kinds(
    own: _Scores, base: _Scores | None, *, higher_is_better: bool
) -> tuple[dict[Kind, IntArray], FloatArray | None]:
    """The places of the items of each kind, and what full precision scores at every place (NaN: nothing).

    `failing` are items with a score of zero, where more is better; with full precision beside, those that it fails too.
    """
    is_zero = (own.values == 0) & higher_is_better
    if base is None:
        return {"failing": np.flatnonzero(is_zero)}, None
    places = np.searchsorted(base.doc_ids, own.doc_ids).clip(max=len(base.doc_ids) - 1)
    values = np.where(base.doc_ids[places] == own.doc_ids, base.values[places], np.nan)
    change = (own.values - values) * (1 if higher_is_better else -1)
    kinds: dict[Kind, IntArray] = {
        "lost": np.flatnonzero(change < 0),
        "gained": np.flatnonzero(change > 0),
        "failing": np.flatnonzero(is_zero & ~(change < 0)),
    }
    return kinds, values


def _requests(table: pa.Table | None, doc_ids: IntArray) -> dict[int, list[dict[str, Any]]]:
    """The samples of some items, by item, in the order of their requests."""
    if table is None:
        return {}
    rows = to_rows(table.filter(pc.is_in(table["doc_id"], value_set=pa.array(doc_ids, pa.int64()))))
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: (row["request_index"], row["request_key"])):
        found[row["doc_id"]].append(row)
    return found


def _texts(requests: Sequence[Row], base_requests: Sequence[Row]) -> dict[str, Any]:
    """An item's prompt, its right answer where it is known, and its answers."""
    base = {row["request_index"]: row for row in base_requests}
    arguments = [json.loads(row["arguments"] or "[]") for row in requests]
    prompts = [str(each[0]) if each else "" for each in arguments]
    is_shared = len(set(prompts)) == 1
    answers = []
    for row, prompt, each in zip(requests, prompts, arguments, strict=True):
        other = base.get(row["request_index"], {})
        choice = None
        if row["response"] is None and len(each) > 1:
            # Where the choices make contexts, the continuation alone says nothing.
            choice = _shown(str(each[1]) if is_shared else f"{prompt} {each[1]}")
        answers.append(Answer(choice=choice, own=_answer(row), base=_answer(other)))
    targets = [target for row in requests if (target := row.get("target")) is not None]
    return {
        "prompt": _shown(prompts[0]) if is_shared else None,
        "target": _shown(targets[0]) if targets else None,
        "answers": answers,
    }


def _answer(row: Row) -> str | float | None:
    response: str | None = row.get("response")
    return row.get("logprob") if response is None else _shown(response)


def _shown(text: str) -> str:
    return visible_text(text, MAX_TEXT)
