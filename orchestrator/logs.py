"""What a study's log says of the whole study, or of one cell: its attempts, and those of quantizing its variant."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.selection import select_cell
from orchestrator.study_directory import StudyDirectory
from orchestrator.study_lock import read_lock
from orchestrator.study_log import LogReader

FOLLOW_SECONDS = 1.0


def study_log(folder: Path, cell: str | None = None) -> Iterator[str]:
    """The log of a study, line by line; of one cell, named by `cell`, if given.

    Raises GridError if the folder is not a study, or `cell` does not name one cell of it.
    """
    return _lines(_reader(folder, cell))


def follow_study_log(
    folder: Path, cell: str | None = None, *, wait: Callable[[float], None] = time.sleep
) -> Iterator[str]:
    """The same, and what is added, until the study's run ends."""
    return _followed(folder, _reader(folder, cell), wait)


def _reader(folder: Path, cell: str | None) -> LogReader:
    directory = StudyDirectory.existing(folder)
    if cell is None:
        return directory.log.read(lambda about: True)
    return cell_reader(directory, select_cell(directory.description()["cells"], cell))


def cell_reader(directory: StudyDirectory, cell: Mapping[str, Any]) -> LogReader:
    """Reads what is about a cell, a shard of it, or quantizing its variant."""
    cell_id, variant_id = cell["cell_id"], cell["variant_id"]
    return directory.log.read(lambda about: about.partition(".")[0] in (cell_id, variant_id))


def _lines(reader: LogReader) -> Iterator[str]:
    is_empty = True
    for line in reader.news():
        is_empty = False
        yield line
    if is_empty:
        yield "nothing was logged yet\n"


def _followed(folder: Path, reader: LogReader, wait: Callable[[float], None]) -> Iterator[str]:
    while True:
        # Asked before reading, so that the last words of a run are read.
        lock = read_lock(folder)
        yield from reader.news()
        if lock is None or not lock.is_alive:
            return
        wait(FOLLOW_SECONDS)
