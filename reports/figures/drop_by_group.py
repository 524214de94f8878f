"""Drop of each group of tasks against full precision, variant by variant, with intervals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from reports.figures.row_chart import Block, ChartColumn, ChartRow, RowChart
from reports.figures.source import FigureSource, Measured, NoFigure
from reports.figures.style import GREY, SMALL_SIZE, Mark, marks_of

TITLE = "Change of each group of tasks against full precision"
_COLUMN_WIDTH = (0.9, 2.2)
_ALL = "all tasks"


@dataclass(frozen=True)
class GroupChange:
    """The relative change in percent, negative is worse, with its interval; without one, `word` says why."""

    series: str
    change: Measured | None
    word: str


@dataclass(frozen=True)
class DropByGroup:
    groups: tuple[str, ...]
    blocks: tuple[Block[GroupChange], ...]
    series: tuple[str, ...]

    @property
    def caption(self) -> str:
        return (
            "Change of the mean score of each group of tasks, and of all tasks, in percent of the same model's full "
            "precision; negative is worse. Bars are 95 % intervals (paired bootstrap over items)."
        )


def drop_by_group(source: FigureSource) -> DropByGroup | NoFigure:
    """The data of the figure; NoFigure where no group can be compared with full precision."""
    places = source.columns("drop")
    blocks = []
    for model in source.models:
        rows = []
        for row in source.rows:
            if row.labels[0] == model:
                found = []
                for place, column in places:
                    cell = row.cells[place]
                    change = None if cell.value is None else Measured(cell.value, cell.interval)
                    word = "" if change else source.word(row, column, cell)
                    found.append(GroupChange(source.series_of(row), change, word))
                rows.append(ChartRow(row.labels[1], row.labels[2], tuple(found)))
        if rows:
            blocks.append(Block(model, tuple(rows)))
    if not any(found.change for block in blocks for row in block.rows for found in row.contents):
        return NoFigure("no quantized variant has all tasks of a group in common with its model's full precision")
    return DropByGroup(tuple(column.group for _, column in places), tuple(blocks), source.series)


# ---- drawing


def draw(data: DropByGroup) -> list[Figure]:
    """Pages of models' variants below each other; all panels have one scale."""
    marks = marks_of(data.series)
    changes = [found.change for block in data.blocks for row in block.rows for found in row.contents if found.change]
    reach = [0.0, *(border for change in changes for border in (change.interval or (change.value,) * 2))]
    room = 0.06 * (max(reach) - min(reach)) or 1.0
    limits = (min(reach) - room, max(reach) + room)

    def draw_panel(axes: Any, rows: Sequence[ChartRow[GroupChange]], column: int) -> None:
        axes.set_xlim(limits)
        _draw_panel(axes, rows, column, marks)

    chart = RowChart(
        [ChartColumn(_ALL if group == "all" else group) for group in data.groups],
        data.blocks,
        column_width=_COLUMN_WIDTH,
        gap=0.12,
        draw_panel=draw_panel,
        x_label="Change in % of full precision",
        has_ticks=True,
    )
    return list(chart.pages())


def _draw_panel(axes: Any, rows: Sequence[ChartRow[GroupChange]], column: int, marks: dict[str, Mark]) -> None:
    axes.axvline(0, color=GREY, linewidth=0.6)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.spines["left"].set_visible(False)
    alike: dict[str, list[tuple[Measured, float]]] = defaultdict(list)
    for index, row in enumerate(rows):
        found, middle = row.contents[column], index + 0.5
        if found.change is None:
            axes.text(
                0.03,
                middle,
                found.word,
                transform=axes.get_yaxis_transform(),
                va="center_baseline",
                size=SMALL_SIZE,
                color=GREY,
                style="italic",
            )
            continue
        alike[found.series].append((found.change, middle))
    for series, placed in alike.items():
        mark = marks[series]
        axes.errorbar(
            [change.value for change, _ in placed],
            [middle for _, middle in placed],
            xerr=list(zip(*(change.errors for change, _ in placed), strict=True)),
            fmt=mark.marker,
            color=mark.colour,
            elinewidth=0.8,
        )
