"""The look of all figures: print sizes, fonts, colours and marks that survive grey print, and bytes that repeat.

Everything is drawn within `house_style`: the settings of whoever runs it decide nothing, and pyplot is never used.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.ft2font import FT2Font
from matplotlib.lines import Line2D
from matplotlib.textpath import TextToPath

from reports.plain_text import one_line

# Widths of a journal's column and of its page, and the height that leaves room for a caption; inches.
SINGLE_COLUMN, DOUBLE_COLUMN, PAGE_HEIGHT = 3.3, 6.9, 8.6
FONT_SIZE, SMALL_SIZE = 7.0, 6.0
POINTS_PER_INCH = 72.0
GREY, LIGHT_GREY, PALE_GREY = "#555555", "#bbbbbb", "#f0f0f0"
# Okabe and Ito's colours without their yellow, which white paper swallows.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
_DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (4, 1.5, 1, 1.5)), (0, (1, 1)), (0, (6, 1, 1, 1, 1, 1)))
_LEGEND_LINE, _LEGEND_HANDLE, _MAX_LEGEND_TEXT = 0.135, 0.45, 2.2
LegendEntry = tuple[Any, str]
_FONT = "DejaVu Sans"
_REPLACEMENT = "\ufffd"
_MAX_CHARACTERS = 400
_ELLIPSIS = "…"
_SETTINGS: dict[str, Any] = {
    "font.family": _FONT,
    "font.size": FONT_SIZE,
    "axes.titlesize": FONT_SIZE,
    "axes.labelsize": FONT_SIZE,
    "xtick.labelsize": SMALL_SIZE,
    "ytick.labelsize": SMALL_SIZE,
    "legend.fontsize": SMALL_SIZE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 0.9,
    "lines.markersize": 3.6,
    "lines.markeredgewidth": 0.8,
    "hatch.linewidth": 0.4,
    "legend.frameon": False,
    "legend.handlelength": 2.2,
    # Names of users and models are text, not formulas.
    "text.parse_math": False,
    # Journals refuse the fonts that matplotlib embeds unless told otherwise.
    "pdf.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "qstudy",
    "savefig.dpi": 300,
}
# No date and no program's version: the same data gives the same bytes.
_METADATA: dict[str, dict[str, Any]] = {
    "pdf": {"CreationDate": None, "Producer": None, "Creator": "qstudy"},
    "svg": {"Date": None, "Creator": "qstudy"},
    "png": {"Software": None},
}


@contextmanager
def house_style() -> Iterator[None]:
    """Everything within is drawn and saved in the house's style; the caller's settings come back afterwards."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def figure_bytes(figure: Figure, kind: str) -> bytes:
    """A figure as pdf, svg or png."""
    file = io.BytesIO()
    figure.savefig(file, format=kind, metadata=_METADATA[kind])
    return file.getvalue()


@dataclass(frozen=True)
class Mark:
    """What tells one series from another, by colour and without it."""

    colour: str
    marker: str
    dashes: Any


def marks_of(names: Sequence[str]) -> dict[str, Mark]:
    """A mark for each name; 70 are different."""
    return {
        name: Mark(_COLOURS[index % len(_COLOURS)], _MARKERS[index % len(_MARKERS)], _DASHES[index % len(_DASHES)])
        for index, name in enumerate(dict.fromkeys(names))
    }


# ---- text


def shown_text(text: str, *, size: float = FONT_SIZE, max_width: float = DOUBLE_COLUMN) -> str:
    """Text from outside on one line, of characters that the font has, at most `max_width` inches wide.

    What is too wide loses its middle: names of variants differ at their ends.
    """
    known = _characters()
    # Nothing that long fits anywhere, and measuring a text of megabytes would take long.
    text = one_line(text[:_MAX_CHARACTERS])
    text = "".join(character if ord(character) in known else _REPLACEMENT for character in text)
    if text_width(text, size) <= max_width:
        return text
    low, high = 0, len(text)
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (middle, high) if text_width(_shortened(text, middle), size) <= max_width else (low, middle)
    return _shortened(text, low)


def distinct_texts(names: Sequence[str], *, size: float = FONT_SIZE, max_width: float) -> dict[str, str]:
    """The names as they are shown; those that look alike are numbered."""
    shown: dict[str, str] = {}
    for name in dict.fromkeys(names):
        text, number = shown_text(name, size=size, max_width=max_width), 1
        while text in shown.values():
            number += 1
            suffix = f" #{number}"
            text = shown_text(name, size=size, max_width=max_width - text_width(suffix, size)) + suffix
        shown[name] = text
    return shown


def text_width(text: str, size: float) -> float:
    """Inches."""
    width: float = _measure().get_text_width_height_descent(text, _font(size), ismath=False)[0] if text else 0.0
    return width / POINTS_PER_INCH


def _shortened(text: str, num_kept: int) -> str:
    front = math.ceil(num_kept / 2)
    back = num_kept - front
    return text[:front] + _ELLIPSIS + (text[-back:] if back else "")


@functools.cache
def _measure() -> Any:
    return TextToPath()


@functools.cache
def _font(size: float) -> Any:
    return FontProperties(family=_FONT, size=size)


@functools.cache
def _characters() -> frozenset[int]:
    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return frozenset(FT2Font(str(file)).get_charmap())


# ---- legends


def legend_height(entries: Sequence[LegendEntry], width: float) -> float:
    """The inches that a legend of this width takes."""
    num_rows = math.ceil(len(entries) / _num_legend_columns(entries, width)) if entries else 0
    return 0.05 + num_rows * _LEGEND_LINE


def draw_legend(figure: Figure, entries: Sequence[LegendEntry], *, width: float) -> None:
    """A legend at the lower edge, in as many columns as fit."""
    if not entries:
        return
    legend = figure.legend(
        [handle for handle, _ in entries],
        [" "] * len(entries),
        ncols=_num_legend_columns(entries, width),
        loc="lower center",
        bbox_to_anchor=(0.5, 0.0),
        borderpad=0.2,
        borderaxespad=0.2,
        labelspacing=_LEGEND_LINE * POINTS_PER_INCH / SMALL_SIZE - 1.0,
    )
    # matplotlib drops an entry whose text begins with an underscore, unless the text comes later.
    for artist, text in zip(legend.get_texts(), _legend_texts(entries), strict=True):
        artist.set_text(text)


def _legend_texts(entries: Sequence[LegendEntry]) -> list[str]:
    shown = distinct_texts([text for _, text in entries], size=SMALL_SIZE, max_width=_MAX_LEGEND_TEXT)
    return [shown[text] for _, text in entries]


def _num_legend_columns(entries: Sequence[LegendEntry], width: float) -> int:
    column = max(text_width(text, SMALL_SIZE) for text in _legend_texts(entries)) + _LEGEND_HANDLE
    num_fitting = max(1, int(width / column))
    # As many in each row.
    return math.ceil(len(entries) / math.ceil(len(entries) / num_fitting))


def legend_mark(mark: Mark, *, is_open: bool = False, with_line: bool = False) -> Line2D:
    """What stands for a series in a legend."""
    return Line2D(
        [],
        [],
        color=mark.colour,
        marker=mark.marker,
        linestyle=mark.dashes if with_line else "none",
        markerfacecolor="white" if is_open else mark.colour,
    )
