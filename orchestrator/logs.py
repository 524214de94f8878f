"""What a study's log says of the whole study, or of one cell: its attempts, and those of quantizing its variant."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.log_file import LogReader
from orchestrator.selection import select_cell
from orchestrator.study_directory import StudyDirectory
from orchestrator.study_lock import read_lock

FOLLOW_SECONDS = 1.0


def study_log(
    study: str | Path, cell: str | None = None, *, follow: bool = False, wait: Callable[[float], None] = time.sleep
) -> Iterator[str]:
    """The log of a study, line by line; with `follow`, what is added, too, until the study's run ends.

    `cell` names one cell (as `select_cell` takes it): then what is about it and its variant. Raises GridError if the
    folder is not a study, or `cell` does not name one cell of it.
    """
    directory = StudyDirectory.existing(Path(study))
    if cell is None:
        reader = directory.log.read(lambda about: True)
    else:
        reader = cell_reader(directory, select_cell(directory.description()["cells"], cell))
    return _followed(directory.root, reader, wait) if follow else reader.news()


def cell_reader(directory: StudyDirectory, cell: Mapping[str, Any]) -> LogReader:
    """Reads what is about a cell, a shard of it, or quantizing its variant."""
    cell_id, variant_id = cell["cell_id"], cell["variant_id"]
    return directory.log.read(lambda about: about.partition(".")[0] in (cell_id, variant_id))


def _followed(folder: Path, reader: LogReader, wait: Callable[[float], None]) -> Iterator[str]:
    while True:
        # Asked before reading, so that the last words of a run are read.
        lock = read_lock(folder)
        yield from reader.news()
        if lock is None or not lock.is_alive:
            return
        wait(FOLLOW_SECONDS)
