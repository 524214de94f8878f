"""A column of a LaTeX table: cells with their decimal points in one line, and how wide it gets."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from reports.latex_text import escape_latex
from reports.plain_text import one_line
from reports.statistics import Severity
from reports.tables import Column, Table, TableCell, show_cell

# Tints that differ in lightness, so that they stay apart in grey and for any colour vision.
TINTS: dict[Severity, str] = {"moderate": "1.000,0.925,0.750", "significant": "0.960,0.720,0.530"}
_MARKS = {"": "", "†": r"$\dagger$", "‡": r"$\ddagger$", "*": r"$\ast$"}
_NUMBER = re.compile(r"[+-]?(\d+)(?:\.(\d+))?")
# Points that a character takes, about: in \small, and in \scriptsize.
_CHARACTER, _SMALL_CHARACTER = 4.7, 3.8
_COLUMN_GAP = 8.0
# A longer name is cut here, and whole in CSV and JSON.
_MAX_LENGTH = 60


@dataclass(frozen=True)
class ColumnLayout:
    """What the cells of a column need room for, so that right-aligned cells have their decimal points in one line.

    `word_width` is that of the widest title or word in the column, in points.
    """

    number_format: str
    stderr: str
    bounds: tuple[str, str]
    extra: str
    has_marks: bool
    notes: str
    word_width: float

    @classmethod
    def of(cls, table: Table, index: int) -> ColumnLayout:
        """The layout of a column of the whole table, whatever pages it is cut into."""
        column = table.columns[index]
        all_shown = [show_cell(row.cells[index], column) for row in table.rows]
        shown = [cell for cell in all_shown if cell.is_number]
        numbers = [match for cell in shown if (match := _NUMBER.fullmatch(cell.number))]
        sign = "-" if any(match[0][0] in "+-" for match in numbers) else ""
        whole = max((len(match[1]) for match in numbers), default=1)
        fraction = max((len(match[2] or "") for match in numbers), default=0)
        intervals = [cell.interval for cell in shown if cell.interval]
        words = [column.title, *(cell.number for cell in all_shown if not _NUMBER.fullmatch(cell.number))]
        return cls(
            number_format=f"{sign}{whole}.{fraction}",
            stderr=_widest(cell.stderr for cell in shown),
            bounds=(_widest(low for low, _ in intervals), _widest(high for _, high in intervals)),
            extra=_widest(cell.extra for cell in shown),
            has_marks=any(cell.mark for cell in shown),
            notes=max((cell.notes for cell in shown), key=len, default=""),
            word_width=text_width(words),
        )

    @property
    def width(self) -> float:
        """About how wide the column is, in points."""
        beside = sum(len(text) + 3 for text in (self.stderr, *self.bounds, self.extra) if text) + len(self.notes)
        numbers = (
            sum(map(int, self.number_format.removeprefix("-").split("."))) + 1 + self.number_format.startswith("-")
        )
        body = _CHARACTER * (numbers + self.has_marks) + _SMALL_CHARACTER * beside
        return max(body, self.word_width) + _COLUMN_GAP

    def text(self, cell: TableCell, column: Column) -> str:
        """A cell of the column."""
        shown = show_cell(cell, column)
        if not shown.is_number:
            word = cell_text(shown.number) + _raised(shown.notes)
            return rf"\multicolumn{{1}}{{c}}{{{word}}}" if word else ""
        number = self._number(shown.number, is_best=shown.is_best)
        beside = self._stderr(shown.stderr) + self._interval(shown.interval) + self._extra(shown.extra)
        number += rf"{{\scriptsize{beside}}}" if beside else ""
        number += rf"\qstudymark{{{_MARKS[shown.mark]}}}" if self.has_marks else ""
        if self.notes:
            number += rf"\rlap{{{_raised(shown.notes)}}}\phantom{{{_raised(self.notes)}}}"
        shade = cell.severity if column.is_shaded and cell.severity in TINTS else None
        return rf"\qstudyshade{{{shade}}}{number}" if shade else number

    def _number(self, text: str, *, is_best: bool) -> str:
        if not _NUMBER.fullmatch(text):
            return escape_latex(text)
        number = rf"\qstudynumber{{{self.number_format}}}{{{text}}}"
        return rf"\qstudybest{{{number}}}" if is_best else number

    def _stderr(self, stderr: str) -> str:
        if not self.stderr:
            return ""
        text = rf"\,$\pm$\,{stderr}"
        return text + _missing(stderr, self.stderr) if stderr else rf"\phantom{{\,$\pm$\,{self.stderr}}}"

    def _interval(self, interval: tuple[str, str] | None) -> str:
        if not self.bounds[0]:
            return ""
        if not interval:
            return rf"\phantom{{\ [{_minus(self.bounds[0])}, {_minus(self.bounds[1])}]}}"
        (low, high), (widest_low, widest_high) = interval, self.bounds
        before, after = _missing(low, widest_low), _missing(high, widest_high)
        return rf"\ {before}[{_minus(low)}, {_minus(high)}]{after}"

    def _extra(self, extra: str) -> str:
        if not self.extra:
            return ""
        text = rf"\rlap{{\ ({extra})}}" if extra else ""
        return text + rf"\phantom{{\ ({self.extra})}}"


def cell_text(text: str) -> str:
    """A label, a heading or a word, cut where it would take all of the page; a lone hyphen is set as a dash."""
    return "--" if text == "-" else escape_latex(one_line(text, _MAX_LENGTH))


def text_width(texts: Iterable[str]) -> float:
    """About how wide the widest of some labels, headings or words is, in points."""
    return _CHARACTER * max((min(len(text), _MAX_LENGTH) for text in texts), default=0)


def _raised(notes: str) -> str:
    return rf"\textsuperscript{{{notes}}}" if notes else ""


def _widest(texts: Iterable[str]) -> str:
    """A text as wide as any of these: the most digits, with a minus if one has it."""
    found = [text for text in texts if text]
    sign = "-" if any(text.startswith("-") for text in found) else ""
    return sign + max((text.removeprefix("-") for text in found), key=len, default="")


def _missing(text: str, widest: str) -> str:
    """Invisible characters that make a number as wide as the widest."""
    sign = r"\phantom{$-$}" if widest.startswith("-") and not text.startswith("-") else ""
    return sign + r"\phantom{0}" * (len(widest.removeprefix("-")) - len(text.removeprefix("-")))


def _minus(text: str) -> str:
    return text.replace("-", "$-$")
