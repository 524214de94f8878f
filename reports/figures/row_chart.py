"""Pages of rows, one for each variant: schemes and methods at the left, columns of panels at the right.

Placed by measured text, in inches: what a name needs is known before it is drawn, so nothing overlaps or is cut off.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports.figures.panels import chunks, place_text
from reports.figures.style import (
    DOUBLE_COLUMN,
    FONT_SIZE,
    LIGHT_GREY,
    PAGE_HEIGHT,
    SINGLE_COLUMN,
    SMALL_SIZE,
    LegendEntry,
    distinct_texts,
    draw_legend,
    legend_height,
    new_figure,
    shown_text,
    text_width,
)

Content = TypeVar("Content")

ROW_HEIGHT = 0.13
_TITLE_HEIGHT = 0.2
_EDGE = 0.06
_GAP = 0.1
_MAX_SCHEME_WIDTH, _MAX_METHOD_WIDTH = 0.9, 1.5
_MAX_TITLE_WIDTH = 0.9
_LINE, _TICK_LABELS = 0.13, 0.2
_GROUP_GAP = 0.08
_MAX_HEADING_HEIGHT = _EDGE + _MAX_TITLE_WIDTH + _LINE + 0.11


@dataclass(frozen=True)
class ChartRow(Generic[Content]):
    """A variant; `contents` has one entry per column."""

    scheme: str
    method: str
    contents: tuple[Content, ...]


@dataclass(frozen=True)
class Block(Generic[Content]):
    """The variants of one model."""

    model: str
    rows: tuple[ChartRow[Content], ...]


@dataclass(frozen=True)
class ChartColumn:
    """A column under the heading of its group; an empty `group` has none."""

    title: str
    group: str = ""


# Draws the rows of a block in one column: axes whose row i lies from i to i + 1, downward; the rows; the column.
DrawPanel = Callable[[Any, Sequence[ChartRow[Any]], int], None]


@dataclass(frozen=True)
class _Frame:
    """The columns of a page by number, the left edge of each, and how wide each is; inches."""

    columns: Sequence[int]
    lefts: Sequence[float]
    column_width: float

    @property
    def right(self) -> float:
        return self.lefts[-1] + self.column_width


class RowChart(Generic[Content]):
    """Lays out `blocks` on pages and draws each panel with `draw_panel`.

    `column_width`: the least and the most inches of a column; `gap`: the inches between two. Below the rows stand the
    tick labels of the lowest panels (`has_ticks`), the `x_label` and the `legend`.
    """

    def __init__(
        self,
        columns: Sequence[ChartColumn],
        blocks: Sequence[Block[Content]],
        *,
        column_width: tuple[float, float],
        draw_panel: DrawPanel,
        x_label: str,
        gap: float = 0.0,
        has_ticks: bool = False,
        legend: Sequence[LegendEntry] = (),
    ) -> None:
        self._columns, self._blocks = columns, blocks
        self._draw_panel, self._x_label, self._gap = draw_panel, x_label, gap
        self._has_ticks, self._legend = has_ticks, legend
        rows = [row for block in blocks for row in block.rows]
        self._schemes = _texts([row.scheme for row in rows], _MAX_SCHEME_WIDTH)
        self._methods = _texts([row.method for row in rows], _MAX_METHOD_WIDTH)
        self._scheme_width, self._method_width = (
            max(text_width(text, SMALL_SIZE) for text in texts.values()) for texts in (self._schemes, self._methods)
        )
        self._left = _EDGE + self._scheme_width + _GAP + self._method_width + _GAP
        self._widths = column_width

    def pages(self) -> Iterator[Figure]:
        """The pages: columns beside each other as far as they fit, then blocks below each other."""
        num_columns = max(1, int((DOUBLE_COLUMN - self._left - _EDGE) / (self._widths[0] + self._gap)))
        for columns in chunks(range(len(self._columns)), num_columns):
            for blocks in self._paged():
                yield self._page(columns, blocks)

    def _paged(self) -> Iterator[list[Block[Content]]]:
        """Blocks in pages; one that is larger than a page goes on, its rows spread evenly."""
        room = PAGE_HEIGHT - self._footer(SINGLE_COLUMN) - _MAX_HEADING_HEIGHT
        page: list[Block[Content]] = []
        used = 0.0
        for block in self._blocks:
            for rows in chunks(block.rows, int((room - _TITLE_HEIGHT) / ROW_HEIGHT)):
                height = _TITLE_HEIGHT + len(rows) * ROW_HEIGHT
                if page and used + height > room:
                    yield page
                    page, used = [], 0.0
                page.append(Block(block.model, tuple(rows)))
                used += height
        yield page

    def _page(self, columns: Sequence[int], blocks: Sequence[Block[Content]]) -> Figure:
        frame, width = self._frame(columns)
        heading = self._heading_height(frame)
        rows_height = sum(_TITLE_HEIGHT + len(block.rows) * ROW_HEIGHT for block in blocks)
        height = heading + rows_height + self._footer(width)
        figure = new_figure(width, height)
        top = height - heading
        self._draw_headings(figure, frame, top)
        models = distinct_texts([block.model for block in blocks], max_width=self._left + 1.0)
        for block in blocks:
            place_text(figure, _EDGE, top - 0.7 * _TITLE_HEIGHT, models[block.model])
            top -= _TITLE_HEIGHT
            self._draw_labels(figure, block, frame, top)
            for axes in self._draw_panels(figure, block, frame, top):
                axes.tick_params(labelbottom=self._has_ticks and block is blocks[-1])
            top -= len(block.rows) * ROW_HEIGHT
        top -= _TICK_LABELS if self._has_ticks else 0.06
        # A single narrow column is narrower than this label.
        middle = max((self._left + frame.right) / 2, _EDGE + text_width(self._x_label, FONT_SIZE) / 2)
        place_text(figure, middle, top, self._x_label, ha="center", va="top")
        draw_legend(figure, self._legend, width=width)
        return figure

    def _frame(self, columns: Sequence[int]) -> tuple[_Frame, float]:
        """Where columns stand, and how wide the figure is: a column of text if they fit into it."""
        gaps = [0.0, *(self._gap_before(columns, place) for place in range(1, len(columns)))]
        narrow, wide = (
            (width - self._left - _EDGE - sum(gaps)) / len(columns) for width in (SINGLE_COLUMN, DOUBLE_COLUMN)
        )
        is_narrow = narrow >= self._widths[0]
        column_width = min(self._widths[1], narrow if is_narrow else wide)
        lefts = [self._left + place * column_width + sum(gaps[: place + 1]) for place in range(len(columns))]
        return _Frame(columns, lefts, column_width), SINGLE_COLUMN if is_narrow else DOUBLE_COLUMN

    def _footer(self, width: float) -> float:
        ticks = _TICK_LABELS if self._has_ticks else 0.06
        return ticks + _LINE + 0.04 + (legend_height(self._legend, width) if self._legend else 0.0)

    def _gap_before(self, columns: Sequence[int], place: int) -> float:
        """Wider between groups than within."""
        before, here = self._columns[columns[place - 1]], self._columns[columns[place]]
        return max(self._gap, 0.0 if here.group == before.group else _GROUP_GAP)

    # ---- headings

    def _titles(self, frame: _Frame) -> list[str]:
        return [shown_text(self._columns[column].title, max_width=_MAX_TITLE_WIDTH) for column in frame.columns]

    def _turned_height(self, frame: _Frame) -> float | None:
        """The height of the titles where one of them is too wide and all are turned, else None."""
        widest = max(text_width(title, FONT_SIZE) for title in self._titles(frame))
        return widest + 0.05 if widest > frame.column_width - 0.04 else None

    def _heading_height(self, frame: _Frame) -> float:
        has_groups = any(self._columns[column].group for column in frame.columns)
        return _EDGE + (self._turned_height(frame) or _LINE) + (_LINE + 0.04 if has_groups else 0.0) + 0.02

    def _draw_headings(self, figure: Figure, frame: _Frame, bottom: float) -> None:
        angle = 0 if self._turned_height(frame) is None else 90
        for title, left in zip(self._titles(frame), frame.lefts, strict=True):
            middle = left + frame.column_width / 2
            place_text(figure, middle, bottom + 0.03, title, ha="center", va="bottom", rotation=angle)
        top = bottom + self._heading_height(frame) - _EDGE
        groups = [self._columns[column].group for column in frame.columns]
        for group, places in itertools.groupby(range(len(groups)), groups.__getitem__):
            spanned = list(places)
            start, stop = frame.lefts[spanned[0]], frame.lefts[spanned[-1]] + frame.column_width
            if group:
                name = shown_text(group, max_width=stop - start + _GROUP_GAP / 2)
                place_text(figure, (start + stop) / 2, top, name, ha="center", va="top")
                _line(figure, (start + 0.02, stop - 0.02), top - _LINE - 0.01)

    # ---- rows

    def _draw_labels(self, figure: Figure, block: Block[Content], frame: _Frame, top: float) -> None:
        """Each row's method, and its scheme where another begins."""
        above = None
        for index, row in enumerate(block.rows):
            middle = top - (index + 0.5) * ROW_HEIGHT
            if row.scheme != above:
                place_text(figure, _EDGE, middle, self._schemes[row.scheme], va="center_baseline", size=SMALL_SIZE)
                if above is not None:
                    _line(figure, (_EDGE, frame.right), top - index * ROW_HEIGHT)
            above = row.scheme
            left = _EDGE + self._scheme_width + _GAP
            place_text(figure, left, middle, self._methods[row.method], va="center_baseline", size=SMALL_SIZE)

    def _draw_panels(self, figure: Figure, block: Block[Content], frame: _Frame, top: float) -> Iterator[Any]:
        width, height = figure.get_size_inches()
        rows_height = len(block.rows) * ROW_HEIGHT
        for column, left in zip(frame.columns, frame.lefts, strict=True):
            place = (left / width, (top - rows_height) / height, frame.column_width / width, rows_height / height)
            axes = figure.add_axes(place)
            axes.set_ylim(len(block.rows), 0)
            axes.set_yticks([])
            self._draw_panel(axes, block.rows, column)
            yield axes


def _texts(names: Sequence[str], max_width: float) -> dict[str, str]:
    return distinct_texts(names, size=SMALL_SIZE, max_width=max_width)


def _line(figure: Figure, x: tuple[float, float], y: float) -> None:
    """A thin line across, inches."""
    width, height = figure.get_size_inches()
    figure.add_artist(Line2D([value / width for value in x], [y / height] * 2, color=LIGHT_GREY, linewidth=0.5))
