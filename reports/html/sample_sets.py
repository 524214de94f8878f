"""The samples behind a report's numbers, as many as fit into a page: what was lost, gained and failed.

Reading the samples of a large study takes minutes and gigabytes; a page takes some of them, and says how many.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from reports.html.items import KINDS, FoundItems, Item, ItemReader, Kind, NumberSource, SampleStore
from reports.html.markup import script_json
from reports.schemas import Row
from reports.statistics import Comparison
from reports.tables import Table

# Of each kind in a cell.
MAX_ITEMS = 50
# What may be read for a page: items, and for each cell what it takes to open it.
_MAX_READ = 1_000_000
_READ_PER_CELL = 1000
# What an item takes of a page, roughly; only for how many to read.
_BYTES_PER_ITEM = 250


@dataclass(frozen=True, kw_only=True)
class SampleSets:
    """Samples for the page's script, and a sentence that says how many of how many they are."""

    content: dict[str, Any]
    sentence: str


def gather_samples(
    tables: Sequence[Table], store: SampleStore, cells: Sequence[Row], *, max_bytes: int, folder: str
) -> SampleSets:
    """The samples behind the tables' numbers, in at most about `max_bytes` of the page.

    Cells that lost the most items come first, where not all can be read; of each kind and cell there are the first
    MAX_ITEMS at most, fewer of all where the room does not suffice.
    """
    wanted = _wanted(tables, cells)
    chosen = _affordable(wanted)
    num_items = max(1, min(MAX_ITEMS, max_bytes // (_BYTES_PER_ITEM * len(KINDS) * max(1, len(chosen)))))
    reader = ItemReader(store, num_items)
    # Those of one full precision together, so that this is read once.
    by_reference = sorted(chosen, key=lambda one: one.reference_id or one.cell_id)
    found = {one.name: reader.find(one) for one in by_reference}
    page = _Page(max_bytes)
    page.fill([known for one in chosen if (known := found[one.name]) is not None])
    return SampleSets(content=page.content(), sentence=page.sentence(len(chosen), len(wanted), folder))


def _wanted(tables: Sequence[Table], cells: Sequence[Row]) -> list[NumberSource]:
    """The single numbers of the tables, those that lost the most items first."""
    higher = {(row["cell_id"], f"{row['metric']},{row['filter']}"): row["higher_is_better"] for row in cells}
    found: dict[str, NumberSource] = {}
    for cell in (cell for table in tables for row in table.rows for cell in row.cells):
        if cell.metric is None or cell.num_items is None or len(cell.cell_ids) != 1:
            continue
        is_compared = cell.comparison is not None and len(cell.reference_cell_ids) == 1
        higher_is_better = higher.get((cell.cell_ids[0], cell.metric)) is not False
        one = NumberSource(
            cell_id=cell.cell_ids[0],
            metric=cell.metric,
            reference_id=cell.reference_cell_ids[0] if is_compared else None,
            num_items=cell.num_items,
            num_lost=0 if cell.comparison is None else _num_lost(cell.comparison, higher_is_better=higher_is_better),
            higher_is_better=higher_is_better,
        )
        if one.name not in found or (is_compared and found[one.name].reference_id is None):
            found[one.name] = one
    return sorted(found.values(), key=lambda one: -one.num_lost)


def _num_lost(comparison: Comparison, *, higher_is_better: bool) -> int:
    return comparison.num_lower if higher_is_better else comparison.num_higher


def _affordable(wanted: Sequence[NumberSource]) -> list[NumberSource]:
    """The first ones, as far as reading them is worth it."""
    chosen, num_read = [], 0
    for one in wanted:
        num_read += one.num_items + _READ_PER_CELL
        if num_read > _MAX_READ:
            break
        chosen.append(one)
    return chosen


class _Page:
    """What fits into the page: texts, each once, and the items that point at them."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._texts: dict[str, int] = {}
        self._sets: dict[str, dict[str, Any]] = {}
        self._num_items = 0
        self._num_shown = 0

    def fill(self, found: Sequence[FoundItems]) -> None:
        """Take in items in turn, the first of each number and kind before any second, until the room is full."""
        for known in found:
            self._num_items += sum(known.totals.values())
            content: dict[str, Any] = {"reference": known.wanted.reference_id}
            content |= {kind: [total, []] for kind, total in known.totals.items()}
            self._sets[known.wanted.name] = content
            self._num_bytes += len(script_json(content))
        for known, kind, item in _in_turn(found):
            new: dict[str, int] = {}
            entry = self._item(item, new)
            num_bytes = len(script_json([entry, list(new)]).encode())
            if self._num_bytes + num_bytes > self._max_bytes:
                return
            self._num_bytes += num_bytes
            self._num_shown += 1
            self._texts |= new
            self._sets[known.wanted.name][kind][1].append(entry)

    def content(self) -> dict[str, Any]:
        return {"texts": list(self._texts), "sets": self._sets}

    def sentence(self, num_chosen: int, num_wanted: int, folder: str) -> str:
        """How many of how many samples the page has."""
        num_cells = len(self._sets)
        if num_chosen and not num_cells:
            return "The page has no samples: no scores of single items are stored."
        if num_cells == num_wanted and self._num_shown == self._num_items:
            return f"The page has all {self._num_items:,} samples that were lost, gained or failed."
        where = ""
        if num_cells < num_wanted:
            why = "those that lost the most" if num_chosen < num_wanted else "the others have no scores of single items"
            where = f", of {num_cells} of {num_wanted} cells ({why})"
        return (
            f"The page has {self._num_shown:,} of {self._num_items:,} samples that were lost, gained or failed{where}: "
            f"at most {MAX_ITEMS} of a kind and cell, and what there is room for. "
            f"All of them: qstudy export {shlex.quote(folder)} --samples"
        )

    def _item(self, item: Item, new: dict[str, int]) -> dict[str, Any]:
        """An item for the script; texts that the page does not have yet are added to `new`."""

        def place(text: str | None) -> int | None:
            if text is None:
                return None
            return self._texts[text] if text in self._texts else new.setdefault(text, len(self._texts) + len(new))

        def given(answer: str | float | None) -> int | float | None:
            return place(answer) if isinstance(answer, str) else _finite(answer)

        content = {
            "doc": item.doc_id,
            "score": _finite(item.score),
            "base": _finite(item.base_score),
            "prompt": place(item.prompt),
            "target": place(item.target),
            "answers": [[place(each.choice), given(each.own), given(each.base)] for each in item.answers],
            "is_text": any(isinstance(text, str) for each in item.answers for text in (each.own, each.base)),
        }
        return {name: value for name, value in content.items() if value is not None and value is not False}


def _in_turn(found: Sequence[FoundItems]) -> Iterator[tuple[FoundItems, Kind, Item]]:
    for rank in range(MAX_ITEMS):
        for known in found:
            for kind, items in known.items.items():
                if rank < len(items):
                    yield known, kind, items[rank]


def _finite(number: float | None) -> float | None:
    return None if number is None or not math.isfinite(number) else float(f"{number:.6g}")
