"""A study's log: one file, to which the driver adds what happens in the order in which it does.

An entry is a line `2026-11-20 09:30:00 ABOUT text`, the time in UTC, and the further lines of its text, each indented.
ABOUT is the id of the unit that the entry is about, or RUN.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from pathlib import Path

from reports.files import storage_errors

RUN = "run"
_INDENT = "    "


class StudyLog:
    """The log of one study; nothing is written before the first entry."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._is_checked = False

    def add(self, text: str, *, about: str = RUN) -> None:
        """Raises StorageError."""
        now = datetime.datetime.now(datetime.UTC)
        lines = text.rstrip("\n").replace("\n", f"\n{_INDENT}")
        entry = f"{now:%Y-%m-%d %H:%M:%S} {about} {lines}\n"
        with storage_errors("write", self.path):
            if not self._is_checked:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                entry = _end_of_torn_line(self.path) + entry
                self._is_checked = True
            with self.path.open("a", encoding="utf-8") as file:
                file.write(entry)

    def read(self, wanted: Callable[[str], bool]) -> LogReader:
        """A reader of the entries whose ABOUT is wanted."""
        return LogReader(self.path, wanted)


class LogReader:
    """What is in a log that grows, and what is new since the last look."""

    def __init__(self, path: Path, wanted: Callable[[str], bool]) -> None:
        self._path, self._wanted = path, wanted
        self._position = 0
        self._is_shown = False

    def news(self) -> Iterator[str]:
        """The whole lines that came since, of entries that are wanted. Raises StorageError."""
        with storage_errors("read", self._path):
            try:
                file = self._path.open("rb")
            except FileNotFoundError:
                return
            with file:
                file.seek(self._position)
                for line in file:
                    if not line.endswith(b"\n"):
                        # It is being written, or a killed driver left it.
                        break
                    self._position += len(line)
                    text = line.decode("utf-8", errors="replace")
                    if not text.startswith(_INDENT):
                        self._is_shown = self._wanted(_about(text))
                    if self._is_shown:
                        yield text


def _about(line: str) -> str:
    """Of an entry's first line; empty for a line that a killed driver tore."""
    words = line.split(" ", 3)
    return words[2] if len(words) > 3 else ""


def _end_of_torn_line(path: Path) -> str:
    """What ends the last line, if a driver was killed while it wrote that."""
    try:
        with path.open("rb") as file:
            file.seek(-1, 2)
            return "" if file.read(1) == b"\n" else "\n"
    except OSError:
        # There is none, or an empty one. What cannot be read cannot be written either, and that is told.
        return ""
