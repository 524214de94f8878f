"""Error of each layer: how far each block's linears are from the original ones."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from reports.figures.panels import PanelGrid, PanelRow, chunks, set_log
from reports.figures.source import FigureSource, NoFigure
from reports.figures.style import Mark, legend_mark, marks_of
from reports.tables import TableRow

TITLE = "Output error of each block"
_MAX_COLUMNS, _MAX_ROWS = 4, 5
# The block's number in a linear's name, `model.layers.3.mlp.up_proj`.
_BLOCK = re.compile(r"(?:^|\.)(\d+)\.")


@dataclass(frozen=True)
class BlockErrors:
    """The relative output errors of a block's linears: their median, and the largest."""

    block: int
    middle: float
    largest: float


@dataclass(frozen=True)
class LayerLine:
    """A variant."""

    method: str
    series: str
    blocks: tuple[BlockErrors, ...]


@dataclass(frozen=True)
class LayerPanel:
    model: str
    scheme: str
    lines: tuple[LayerLine, ...]


@dataclass(frozen=True)
class LayerError:
    """`num_unknown` variants have no errors."""

    panels: tuple[LayerPanel, ...]
    series: tuple[str, ...]
    num_unknown: int

    @property
    def caption(self) -> str:
        said = (
            "Relative output error ||y - y'|| / ||y|| of the linears of each block on held-out text: the median "
            "(with marks), and the largest (thin)."
        )
        if self.num_unknown:
            said += f" Not shown: {self.num_unknown} variants without a measured error."
        return said


def layer_error(source: FigureSource) -> LayerError | NoFigure:
    """The data of the figure; NoFigure where no variant has errors of linears."""
    panels: dict[tuple[str, str], list[LayerLine]] = defaultdict(list)
    num_unknown = 0
    for row in source.rows:
        blocks = tuple(_blocks(_linears(source.variant_rows, row)))
        num_unknown += not blocks
        if blocks:
            line = LayerLine(row.labels[2], source.series_of(row), blocks)
            panels[row.labels[0], row.labels[1]].append(line)
    if not panels:
        return NoFigure("no variant has output errors of its linears")
    made = (LayerPanel(model, scheme, tuple(lines)) for (model, scheme), lines in panels.items())
    return LayerError(tuple(made), source.series, num_unknown)


def _linears(variants: Mapping[str, Any], row: TableRow) -> Iterator[Mapping[str, Any]]:
    """What the audits of a row's variants say about each linear."""
    for variant_id in row.variant_ids:
        audit = json.loads((variants.get(variant_id) or {}).get("audit") or "{}")
        yield from audit.get("linears", ()) if isinstance(audit, dict) else ()


def _blocks(linears: Iterable[Mapping[str, Any]]) -> Iterator[BlockErrors]:
    errors: dict[int, list[float]] = defaultdict(list)
    for linear in linears:
        place, error = _BLOCK.search(linear["name"]), linear.get("output_error")
        # A logarithmic axis has no place for an error of zero.
        if place and error is not None and error > 0:
            errors[int(place[1])].append(error)
    for block in sorted(errors):
        yield BlockErrors(block, median(errors[block]), max(errors[block]))


# ---- drawing


def draw(data: LayerError) -> list[Figure]:
    """A row of panels for each model, a panel for each of its schemes; models with many schemes take several rows."""
    by_model: dict[str, list[LayerPanel]] = defaultdict(list)
    for panel in data.panels:
        by_model[panel.model].append(panel)
    rows = [row for panels in by_model.values() for row in chunks(panels, _MAX_COLUMNS)]
    return [_page(data, page) for page in chunks(rows, _MAX_ROWS)]


def _page(data: LayerError, rows: Sequence[Sequence[LayerPanel]]) -> Figure:
    marks = marks_of(data.series)
    titles = [[f"{panel.model}, {panel.scheme}" for panel in row] for row in rows]
    grid = PanelGrid([PanelRow(row, "Block") for row in titles], y_label="Relative output error", panel_height=1.2)
    set_log(grid.first, "y")
    grid.first.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    panels = [panel for row in rows for panel in row]
    for axes, panel in zip(grid.axes, panels, strict=True):
        for line in panel.lines:
            _draw_line(axes, line, marks[line.series])
    shown = [name for name in data.series if any(line.series == name for panel in panels for line in panel.lines)]
    return grid.finish([(legend_mark(marks[name], with_line=True), name) for name in shown])


def _draw_line(axes: Any, line: LayerLine, mark: Mark) -> None:
    blocks = [found.block for found in line.blocks]
    largest, middle = [found.largest for found in line.blocks], [found.middle for found in line.blocks]
    axes.plot(blocks, largest, color=mark.colour, linestyle=mark.dashes, linewidth=0.5)
    every = max(1, len(blocks) // 8)
    axes.plot(
        blocks, middle, color=mark.colour, linestyle=mark.dashes, marker=mark.marker, markersize=2.6, markevery=every
    )
