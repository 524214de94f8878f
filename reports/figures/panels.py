"""A grid of panels of one size that share their axes, with titles above each and the legend below all."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from reports.figures.source import Measured
from reports.figures.style import (
    DOUBLE_COLUMN,
    GREY,
    LIGHT_GREY,
    POINTS_PER_INCH,
    SINGLE_COLUMN,
    SMALL_SIZE,
    LegendEntry,
    Mark,
    distinct_texts,
    draw_legend,
    legend_height,
    new_figure,
    shown_text,
    text_width,
)

Item = TypeVar("Item")

# Points: what a mark takes, and where one goes that would hide another.
_MARK_SIZE = 4.0
_SHIFTS = tuple(_MARK_SIZE * step for step in (0, 1, -1, 2, -2))
_EDGE, _LINE = 0.06, 0.14
# Half of the widest number may stand out at the end of an axis.
_RIGHT_EDGE = 0.2
_TITLE, _TICK_LABELS, _BETWEEN = 0.2, 0.2, 0.15


@dataclass(frozen=True)
class PanelRow:
    """Panels beside each other, by their titles; rows below each other with one `x_label` share it and their axis."""

    titles: Sequence[str]
    x_label: str


class PanelGrid:
    """Rows of panels, from the top; all share their y axis. Placed in inches, when their tick labels are known.

    `rows`: the axes. One column of panels is as wide as a column of text.
    """

    def __init__(self, rows: Sequence[PanelRow], *, y_label: str, panel_height: float = 1.4) -> None:
        self._plan, self._y_label, self._panel_height = rows, y_label, panel_height
        self._num_columns = max(len(row.titles) for row in rows)
        self.width = SINGLE_COLUMN if self._num_columns == 1 else DOUBLE_COLUMN
        self.figure = new_figure(self.width, panel_height)
        self.rows: list[list[Any]] = []
        first, of_label = None, dict[str, Any]()
        for row in rows:
            made = []
            for _ in row.titles:
                axes = self.figure.add_axes((0, 0, 1, 1), sharex=of_label.get(row.x_label), sharey=first)
                first = first or axes
                of_label.setdefault(row.x_label, axes)
                made.append(axes)
            self.rows.append(made)

    @property
    def axes(self) -> list[Any]:
        """All panels, row by row."""
        return [axes for row in self.rows for axes in row]

    @property
    def first(self) -> Any:
        return self.rows[0][0]

    @property
    def panel_size(self) -> tuple[float, float]:
        """Inches; where the y axis has its final limits."""
        return self._panel_width, self._panel_height

    @property
    def _panel_width(self) -> float:
        left = self._left()
        return (self.width - left - _RIGHT_EDGE - _BETWEEN * (self._num_columns - 1)) / self._num_columns

    def finish(self, legend: Sequence[LegendEntry]) -> Figure:
        """Put everything in its place, with the legend below."""
        left, panel_width = self._left(), self._panel_width
        below = legend_height(legend, self.width)
        ends = [self._ends_axis(number) for number in range(len(self._plan))]
        feet = [_TICK_LABELS + _LINE + 0.04 if is_end else 0.08 for is_end in ends]
        height = _EDGE + sum(_TITLE + self._panel_height + foot for foot in feet) + below
        self.figure.set_size_inches(self.width, height)
        titles = distinct_texts([title for row in self._plan for title in row.titles], max_width=panel_width)
        top = height - _EDGE
        for number, (row, plan) in enumerate(zip(self.rows, self._plan, strict=True)):
            top -= _TITLE + self._panel_height
            for place, axes in enumerate(row):
                x = left + place * (panel_width + _BETWEEN)
                axes.set_position((x / self.width, top / height, panel_width / self.width, self._panel_height / height))
                axes.set_title(titles[plan.titles[place]], loc="left", pad=4)
                axes.tick_params(labelleft=place == 0, labelbottom=self._is_lowest(number, place))
            if ends[number]:
                middle = (left + self.width - _RIGHT_EDGE) / 2
                place_text(self.figure, middle, top - _TICK_LABELS - 0.02, plan.x_label, ha="center", va="top")
            top -= feet[number]
        middle = (below + height) / 2
        name = shown_text(self._y_label, max_width=height - 2 * _EDGE)
        place_text(self.figure, _EDGE, middle, name, rotation=90, ha="left", va="center")
        draw_legend(self.figure, legend, width=self.width)
        return self.figure

    def _left(self) -> float:
        texts = [label.get_text() for label in self.first.get_yticklabels()]
        return _EDGE + _LINE + max((text_width(text, SMALL_SIZE) for text in texts), default=0.0) + 0.1

    def _ends_axis(self, number: int) -> bool:
        """Whether a row is the last of those that share an x axis."""
        return number + 1 == len(self._plan) or self._plan[number + 1].x_label != self._plan[number].x_label

    def _is_lowest(self, number: int, place: int) -> bool:
        """Whether no panel with the same x axis is below."""
        return self._ends_axis(number) or len(self.rows[number + 1]) <= place


def place_text(figure: Figure, x: float, y: float, text: str, **look: Any) -> None:
    """Text at a place in inches."""
    width, height = figure.get_size_inches()
    figure.text(x / width, y / height, text, **look)


def chunks(items: Iterable[Item], size: int) -> list[list[Item]]:
    """The items in lists of at most `size`, as even as they can be."""
    listed = list(items)
    num = -(-len(listed) // size)
    borders = [-(-index * len(listed) // max(num, 1)) for index in range(num + 1)]
    return [listed[start:stop] for start, stop in itertools.pairwise(borders)]


# ---- what stands in a panel


def _number(value: float, _: object = None) -> str:
    """A number on an axis without offset or power, and short."""
    for unit, sign in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= 10 * unit:
            return f"{value / unit:.10g}{sign}"
    return f"{value:.10g}"


@dataclass(frozen=True)
class ScorePoint:
    """A variant's score over what it takes: bits per weight, seconds, forward passes. Open marks round activations."""

    series: str
    scheme: str
    x: float
    score: Measured
    is_open: bool
    is_on_front: bool = False


def draw_scores(axes: Any, points: Sequence[ScorePoint], marks: Mapping[str, Mark], size: tuple[float, float]) -> None:
    """Points with their intervals on axes that have their final limits; `size` of the panel in inches.

    Marks that would hide another are set beside it. What is on the front stays in its place.
    """
    first = sorted(points, key=lambda point: not point.is_on_front)
    places = _apart(axes, [(point.x, point.score.value) for point in first], size)
    alike: dict[tuple[str, bool], list[tuple[float, Measured]]] = defaultdict(list)
    for place, point in zip(places, first, strict=True):
        alike[point.series, point.is_open].append((place, point.score))
    for (series, is_open), found in alike.items():
        draw_measured(axes, [x for x, _ in found], [score for _, score in found], marks[series], is_open=is_open)


def draw_measured(
    axes: Any,
    xs: Sequence[float],
    ys: Sequence[Measured],
    mark: Mark,
    *,
    x_errors: Sequence[tuple[float, float]] | None = None,
    is_open: bool = False,
) -> None:
    """Marks of one look with their intervals."""
    axes.errorbar(
        xs,
        [y.value for y in ys],
        yerr=list(zip(*(y.errors for y in ys), strict=True)),
        xerr=None if x_errors is None else list(zip(*x_errors, strict=True)),
        fmt=mark.marker,
        color=mark.colour,
        markerfacecolor="white" if is_open else mark.colour,
        elinewidth=0.7,
        zorder=3,
    )


def _apart(axes: Any, places: Sequence[tuple[float, float]], size: tuple[float, float]) -> list[float]:
    """The x of each place, moved beside marks before it that it would hide, if there is room."""
    to_axes = axes.transData + axes.transAxes.inverted()
    scale = [inches * POINTS_PER_INCH for inches in size]
    placed: list[tuple[float, float]] = []
    moved = []
    for place in places:
        across, up = (part * points for part, points in zip(to_axes.transform(place), scale, strict=True))
        free = (shift for shift in _SHIFTS if all(_are_apart((across + shift, up), other) for other in placed))
        across += next(free, 0.0)
        placed.append((across, up))
        moved.append(float(to_axes.inverted().transform((across / scale[0], up / scale[1]))[0]))
    return moved


def _are_apart(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return max(abs(one[0] - other[0]), abs(one[1] - other[1])) >= _MARK_SIZE


def draw_band(axes: Any, score: Measured | None) -> None:
    """Full precision: a line across, and its interval."""
    if score is None:
        return
    low, high = score.interval or (score.value, score.value)
    axes.axhspan(low, high, color=LIGHT_GREY, alpha=0.5, linewidth=0)
    axes.axhline(score.value, color=GREY, linewidth=0.6)


def draw_cross(axes: Any, x: float, mark: Mark) -> None:
    """A variant without a score, at the lower edge: no height would be true."""
    place = axes.get_xaxis_transform()
    axes.plot([x], [0.03], "x", color=mark.colour, markersize=3.2, transform=place, zorder=5)


def set_limits(axes: Any, scores: Iterable[Measured]) -> None:
    """The y axis from the lowest interval to the highest, with room for marks."""
    reach = [border for score in scores for border in (score.interval or (score.value, score.value))]
    low, high = min(reach), max(reach)
    room = 0.06 * (high - low) or 1.0
    axes.set_ylim(low - 1.5 * room, high + room)


def set_positive(axes: Any, costs: Sequence[float]) -> None:
    """The x axis for numbers above zero: logarithmic where they differ much."""
    low, high = min(costs), max(costs)
    if high > 4 * low:
        set_log(axes, "x")
        axes.set_xlim(low / 1.3, high * 1.3)
    else:
        room = 0.1 * (high - low) or 0.1 * high
        axes.set_xlim(low - room, high + room)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4, prune="both"))
        axes.xaxis.set_major_formatter(_number)


def set_log(axes: Any, name: str) -> None:
    """Make an axis ("x" or "y") logarithmic, its numbers written out: powers would need formulas."""
    getattr(axes, f"set_{name}scale")("log")
    axis = getattr(axes, f"{name}axis")
    axis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0), numticks=8))
    axis.set_major_formatter(_number)
    axis.set_minor_locator(NullLocator())
