"""The logs of a cell: what its attempts did, and those of quantizing its variant."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from orchestrator.selection import select_cell
from orchestrator.study_directory import StudyDirectory
from orchestrator.study_lock import read_lock

FOLLOW_SECONDS = 1.0


def unit_logs(directory: StudyDirectory, variant_id: str, cell_id: str) -> list[Path]:
    """The log files that exist: of the variant's quantization, then of the cell and its shards."""
    return [
        *sorted(directory.log_dir.glob(f"{variant_id}*.log")),
        *sorted(directory.log_dir.glob(f"{cell_id}*.log")),
    ]


def cell_log(folder: Path, text: str) -> Iterator[str]:
    """The logs of the cell that `text` names, piece by piece.

    Raises GridError if the folder is not a study, or `text` does not name one cell of it.
    """
    find = _find_logs(folder, text)
    yield from _Reader(find).news() or ["nothing was logged yet\n"]


def follow_cell_log(folder: Path, text: str, *, wait: Callable[[float], None] = time.sleep) -> Iterator[str]:
    """The same, and what is added, until the study's run ends."""
    reader = _Reader(_find_logs(folder, text))
    while True:
        # Asked before reading, so that the last words of a run are read.
        lock = read_lock(folder)
        yield from reader.news()
        if lock is None or not lock.is_alive:
            return
        wait(FOLLOW_SECONDS)


def _find_logs(folder: Path, text: str) -> Callable[[], Sequence[Path]]:
    directory = StudyDirectory.existing(folder)
    cell = select_cell(directory.description()["cells"], text)
    return lambda: unit_logs(directory, cell["variant_id"], cell["cell_id"])


class _Reader:
    """Files that grow, and new ones among them: what is new since the last look."""

    def __init__(self, find: Callable[[], Sequence[Path]]) -> None:
        self._find = find
        self._read: dict[Path, int] = {}

    def news(self) -> list[str]:
        found = []
        for path in self._find():
            if path not in self._read:
                found.append(f"# {path}\n")
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                content = file.read()
            self._read[path] = self._read.get(path, 0) + len(content)
            if content:
                found.append(content.decode("utf-8", errors="replace"))
        return found
