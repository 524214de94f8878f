"""What a LaTeX paper says of a study's numbers: the macros it uses, what its files define, and numbers typed by hand.

Nothing is run or expanded: files are read as text, also those that the paper takes in, where they lie in its folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from reports.latex_numbers import COMMANDS, SETTER

MAX_FILE_BYTES = 16 << 20
MAX_FILES = 500

_QUANTITIES = {command: quantity for quantity, command in COMMANDS.items()}
_COMMAND = "|".join(sorted(_QUANTITIES, key=len, reverse=True))
_USE = re.compile(rf"\\({_COMMAND})(?![A-Za-z@])\s*\{{([^{{}}]*)([{{}}])")
_SET = re.compile(rf"\\{SETTER}\{{([a-z]+)\}}\{{([^{{}}]*)\}}\{{([^{{}}]*)\}}")
_INCLUDE = re.compile(r"\\(?:input|include|subfile)\s*\{([^{}]*)\}|\\input\s+([^\s\\{}%]+)")
_VERBATIM = re.compile(r"\\begin\{(verbatim\*?|lstlisting|Verbatim|comment)\}.*?(?:\\end\{\1\}|\Z)", re.DOTALL)
_INLINE_VERBATIM = re.compile(r"\\(?:verb\*?|lstinline)([^A-Za-z0-9\s{*])[^\n]*?\1")
_COMMENT = re.compile(r"(?<!\\)((?:\\\\)*)%(.*)")
_END = re.compile(r"\\(?:end\{document\}|endinput(?![A-Za-z@]))")
_IDS = re.compile(r"\s*cells?:?\s+((?:[0-9a-f]{16}[\s,]*)+)$")
_TYPED = re.compile(r"(?<![\w.\\])[-+]?\d+(?:\.\d+)?(?![\w.]*\w)")

_UNCERTAINTY = re.compile(r"(?:\\pm|±)[\s$\\,{}]*[\d.]+")


@dataclass(frozen=True)
class Place:
    """A line of a file."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Use:
    """A number that the paper's text names."""

    quantity: str
    key: str
    place: Place


@dataclass(frozen=True)
class Definition:
    """What a file of the paper says that a number is, and of which cells, where it says so."""

    text: str
    source: str
    place: Place


@dataclass(frozen=True)
class TypedNumber:
    """A number typed by hand, with the cell that the comment on its line gives for it."""

    text: str
    cell_id: str
    place: Place


@dataclass
class Paper:
    """`definitions` by quantity and key; `unreadable` uses have a key that only TeX can put together; `notes` are about
    files that were not read.
    """

    uses: list[Use] = field(default_factory=list)
    definitions: dict[tuple[str, str], list[Definition]] = field(default_factory=dict)
    typed: list[TypedNumber] = field(default_factory=list)
    unreadable: list[tuple[str, Place]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_paper(file: Path) -> Paper:
    """Read a paper and the files of its folder that it takes in. Raises OSError for a file that cannot be read."""
    paper = Paper()
    _Reader(file.resolve().parent, paper).read(file.resolve())
    return paper


class _Reader:
    def __init__(self, folder: Path, paper: Paper) -> None:
        self._folder = folder
        self._paper = paper
        self._seen: set[Path] = set()

    def read(self, file: Path) -> None:
        self._seen.add(file)
        name = str(file.relative_to(self._folder))
        if file.stat().st_size > MAX_FILE_BYTES:
            self._paper.notes.append(f"{name} is not read: it is larger than {MAX_FILE_BYTES >> 20} MiB")
            return
        text = _without_verbatim(file.read_text(encoding="utf-8", errors="replace"))
        code, comments = _split_comments(text)
        if end := _END.search(code):
            code = code[: end.start()]
        for line, content in enumerate(code.split("\n"), start=1):
            self._read_line(content, comments.get(line, ""), Place(name, line))
        for match in _USE.finditer(code):
            place = Place(name, code.count("\n", 0, match.start()) + 1)
            key = match[2].strip()
            # A parameter or a command in a key is known when TeX runs, not before.
            if match[3] == "{" or re.search(r"[\\#]", key):
                self._paper.unreadable.append((match[0].rstrip("{}"), place))
            else:
                self._paper.uses.append(Use(_QUANTITIES[match[1]], key, place))
        for match in _INCLUDE.finditer(code):
            self._include((match[1] or match[2]).strip(), Place(name, code.count("\n", 0, match.start()) + 1))

    def _read_line(self, code: str, comment: str, place: Place) -> None:
        definitions = list(_SET.finditer(code))
        for match in definitions:
            found = Definition(match[3], comment.strip(), place)
            self._paper.definitions.setdefault((match[1], match[2]), []).append(found)
        ids = _IDS.match(comment)
        if ids and not definitions:
            wanted = re.findall(r"[0-9a-f]{16}", ids[1])
            # Labels come first in a row of a table, and may hold numbers too.
            numbers = _TYPED.findall(_UNCERTAINTY.sub("", code))[-len(wanted) :]
            if len(numbers) < len(wanted):
                self._paper.notes.append(f"{place}: {len(wanted)} cells and {len(numbers)} numbers; not checked")
                return
            self._paper.typed += [TypedNumber(text, cell, place) for text, cell in zip(numbers, wanted, strict=True)]

    def _include(self, name: str, place: Place) -> None:
        if not name or re.search(r"[\\#\x00]", name):
            return
        candidates = [self._folder / f"{name}.tex", self._folder / name]
        found = next((path.resolve() for path in candidates if path.is_file()), None)
        if found is None:
            self._paper.notes.append(f"{place}: {name} is not read: there is no such file")
        elif not found.is_relative_to(self._folder):
            self._paper.notes.append(f"{place}: {name} is not read: it lies outside the paper's folder")
        elif len(self._seen) >= MAX_FILES:
            self._paper.notes.append(f"{place}: {name} is not read: the paper has more than {MAX_FILES} files")
        elif found not in self._seen:
            self.read(found)


def _without_verbatim(text: str) -> str:
    """Text that TeX prints as it stands is blanked; line numbers stay."""
    text = _VERBATIM.sub(lambda match: "\n" * match[0].count("\n"), text)
    return _INLINE_VERBATIM.sub("", text)


def _split_comments(text: str) -> tuple[str, dict[int, str]]:
    """The text without comments, and the comment of each line that has one."""
    comments: dict[int, str] = {}

    def lines() -> Iterator[str]:
        for number, line in enumerate(text.split("\n"), start=1):
            match = _COMMENT.search(line)
            if match is not None:
                comments[number] = match[2].rstrip("\r")
            yield line if match is None else line[: match.end(1)]

    return "\n".join(lines()), comments
