"""A table as a folder of parts: files that are written once, never changed, and merged as they gather.

Every write makes a part under the next number, `00000042-TAG.parquet`. When enough have gathered, the newest are merged
into one, `00000001..00000064.parquet`, which holds what counts of the parts 1 to 64; they are removed then. At every
instant, two rules say what a folder means:

1. a part whose numbers lie within those of a merged part counts for nothing;
2. of two parts with the same key, the one with the higher numbers counts.

So a kill between the merged part's appearance and the removal of its sources neither loses nor doubles a row; the next
writer removes what counts for nothing. There is one writer; readers in other processes need no lock (`current_parts`).
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from reports.files import TEMPORARY_PREFIX, storage_errors

ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_NAME = re.compile(rf"(\d{{8,}})(?:-({ID.pattern})|\.\.(\d{{8,}}))\.parquet")


class Part(NamedTuple):
    """A file of the folder: the first and last number that it holds, and its tag; a merged part has none."""

    first: int
    last: int
    tag: str | None

    @property
    def name(self) -> str:
        rest = f"..{self.last:08d}" if self.tag is None else f"-{self.tag}"
        return f"{self.first:08d}{rest}.parquet"

    @property
    def is_merged(self) -> bool:
        return self.tag is None

    @property
    def num_writes(self) -> int:
        return self.last - self.first + 1


def current_parts(folder: Path) -> tuple[list[Part], list[str]]:
    """The parts that count, in order, and the names of Parquet files that are none. A missing folder has none of both.

    A listing that runs while files come and go can miss a merged part that came and also the sources that went. But
    sources go only after the merged part came, so a second listing, begun after the first ended, has it: the first
    one is sound if the second shows the same merged parts. Raises StorageError.
    """
    names = _names(folder)
    while True:
        again = _names(folder)
        if names == again or _merged(names) == _merged(again):
            counting, foreign = _counting(names)
            return list(counting), list(foreign)
        names = again


def list_parts(folder: Path) -> tuple[list[Part], list[str]]:
    """All parts as one listing finds them, those that count for nothing too, and foreign names."""
    return _parsed(_names(folder))


def _names(folder: Path) -> tuple[str, ...]:
    """The names of a folder's Parquet files, sorted."""
    with storage_errors("read", folder):
        try:
            return tuple(sorted(name for name in os.listdir(folder) if name.endswith(".parquet")))
        except FileNotFoundError:
            return ()


def _parsed(names: Iterable[str]) -> tuple[list[Part], list[str]]:
    found = {name: _NAME.fullmatch(name) for name in names if not name.startswith(TEMPORARY_PREFIX)}
    parts = [Part(int(match[1]), int(match[3] or match[1]), match[2]) for match in found.values() if match]
    return parts, [name for name, match in found.items() if match is None]


def _merged(names: Iterable[str]) -> set[Part]:
    return {part for part in _parsed(names)[0] if part.is_merged}


# A reader asks for one key after another while nothing changes; reading hundreds of names each time took longer than
# reading the rows.
@functools.lru_cache(maxsize=16)
def _counting(names: tuple[str, ...]) -> tuple[tuple[Part, ...], tuple[str, ...]]:
    parts, foreign = _parsed(names)
    return tuple(_not_covered(parts)), tuple(foreign)


def _not_covered(parts: Iterable[Part]) -> list[Part]:
    """Rule 1. The numbers of merged parts are nested or apart, never crossed."""
    kept, reach = [], 0
    for part in sorted(parts, key=lambda part: (part.first, -part.last, not part.is_merged, part.name)):
        if part.last > reach:
            kept.append(part)
            if part.is_merged:
                reach = part.last
    return kept
