"""Heat map of variants and tasks: what became of each task's score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from reports.figures.row_chart import Block, ChartColumn, ChartRow, RowChart
from reports.figures.source import FigureSource, NoFigure
from reports.figures.style import GREY, LIGHT_GREY, SMALL_SIZE, LegendEntry
from reports.statistics import SIGNIFICANCE

TITLE = "Change of each task's score against full precision"
_COLUMN_WIDTH = (0.42, 0.62)
# Borders of the colours in percent, from the paper's levels of severity downward; darker is worse, blue is a gain.
_LEVELS: tuple[tuple[float, str, str], ...] = (
    (-32.0, "#7f2704", "below -32"),
    (-16.0, "#c44103", "-32 to -16"),
    (-8.0, "#f16913", "-16 to -8"),
    (-4.0, "#fdae6b", "-8 to -4"),
    (-1.0, "#fee6ce", "-4 to -1"),
    (1.0, "#ffffff", "-1 to 1"),
    (4.0, "#c6dbef", "1 to 4"),
    (float("inf"), "#6baed6", "above 4"),
)
_DARK = ("#7f2704", "#c44103")


@dataclass(frozen=True)
class TaskChange:
    """A crossing: the change in percent of full precision, negative is worse; without one, `word` says why."""

    change: float | None
    is_significant: bool
    word: str


@dataclass(frozen=True)
class DropByTask:
    columns: tuple[ChartColumn, ...]
    blocks: tuple[Block[TaskChange], ...]

    @property
    def caption(self) -> str:
        return (
            "Change of each task's score in percent of the same model's full precision; negative is worse. "
            "*: the paired difference is significant at 5 % after Holm's correction over all tests of the figure. "
            "Hatched: no number, for the reason that is given."
        )


def drop_by_task(source: FigureSource) -> DropByTask | NoFigure:
    """The data of the figure; NoFigure where no variant can be compared with full precision."""
    places = source.columns("task")
    # The difference of a task stands right after its score.
    tested = {column.tasks: place for place, column in source.columns("difference")}
    blocks = []
    for model in source.models:
        rows = []
        for row in source.rows:
            if row.labels[0] != model:
                continue
            changes = []
            for place, column in places:
                cell = row.cells[place]
                comparison = row.cells[tested[column.tasks]].comparison
                adjusted = comparison.adjusted_p if comparison else None
                is_significant = adjusted is not None and adjusted < SIGNIFICANCE
                word = "" if cell.drop is not None else source.word(row, column, cell) or "no reference"
                changes.append(TaskChange(cell.drop, is_significant, word))
            rows.append(ChartRow(row.labels[1], row.labels[2], tuple(changes)))
        if rows:
            blocks.append(Block(model, tuple(rows)))
    if not any(change.change is not None for block in blocks for row in block.rows for change in row.contents):
        return NoFigure("no quantized variant has a task in common with its model's full precision")
    columns = tuple(ChartColumn(column.title, column.group) for _, column in places)
    return DropByTask(columns, tuple(blocks))


# ---- drawing


def draw(data: DropByTask) -> list[Figure]:
    """Pages of models' variants below each other."""
    chart = RowChart(
        data.columns,
        data.blocks,
        column_width=_COLUMN_WIDTH,
        draw_panel=_draw_panel,
        x_label="Change in % of full precision",
        legend=_legend(),
    )
    return list(chart.pages())


def level_colour(change: float) -> str:
    """The colour of a change in percent; a border belongs to the level beside zero."""
    for border, colour, _ in _LEVELS:
        if change < border or (change == border and border > 0):
            return colour
    return _LEVELS[-1][1]


def _draw_panel(axes: Any, rows: Sequence[ChartRow[TaskChange]], column: int) -> None:
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    cells = [(index, row.contents[column]) for index, row in enumerate(rows)]
    known = [(index, found.change) for index, found in cells if found.change is not None]
    unknown = [index for index, found in cells if found.change is None]
    colours = [level_colour(change) for _, change in known]
    # One artist for all: thousands of rectangles take longer than everything else.
    fields = [_field(index) for index, _ in known]
    axes.add_collection(PolyCollection(fields, facecolors=colours, edgecolors="white", linewidths=0.6))
    hatched = {"facecolors": "white", "edgecolors": LIGHT_GREY, "linewidths": 0.6, "hatch": "////"}
    axes.add_collection(PolyCollection([_field(index) for index in unknown], **hatched))
    for index, found in cells:
        place = {"ha": "center", "va": "center_baseline", "size": SMALL_SIZE}
        if found.change is None:
            box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
            axes.text(0.5, index + 0.5, found.word, bbox=box, **place)
        else:
            colour = "white" if level_colour(found.change) in _DARK else "black"
            axes.text(0.5, index + 0.5, _number(found), color=colour, **place)


def _field(row: int) -> list[tuple[float, float]]:
    return [(0, row), (1, row), (1, row + 1), (0, row + 1)]


def _number(found: TaskChange) -> str:
    assert found.change is not None
    text = f"{found.change:+.1f}".replace("-", "\u2212")
    return ("0.0" if text[1:] == "0.0" else text) + ("*" if found.is_significant else "")


def _legend() -> list[LegendEntry]:
    return [
        (Patch(facecolor=colour, edgecolor=GREY, linewidth=0.4), text.replace("-", "\u2212"))
        for _, colour, text in _LEVELS
    ]
