"""Score against bits per weight: what each variant keeps of the score, for what it stores."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from reports.figures.panels import (
    PanelGrid,
    PanelRow,
    ScorePoint,
    chunks,
    draw_band,
    draw_cross,
    draw_scores,
    set_limits,
)
from reports.figures.source import FigureSource, Measured, NoFigure, VariantScore
from reports.figures.style import GREY, LIGHT_GREY, Mark, legend_mark, marks_of
from reports.statistics import mean

TITLE = "Score against bits per weight"
_MAX_COLUMNS, _MAX_PANELS = 3, 9
_X_LABEL = "Bits per weight, with scales"


@dataclass(frozen=True)
class BitsPanel:
    """One model. A point's x is its bits per weight with scales, its front that of those that treat activations alike.

    `unscored`: the bits and series of variants without a whole score.
    """

    model: str
    points: tuple[ScorePoint, ...]
    full_precision: Measured | None
    unscored: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class ScoreAndBits:
    """`num_unplaced` variants have no known bits: they failed while quantizing."""

    panels: tuple[BitsPanel, ...]
    y_title: str
    series: tuple[str, ...]
    num_unplaced: int

    @property
    def caption(self) -> str:
        said = (
            "Error bars and the band of full precision are 95 % intervals. Bits count scales and zero points; marks "
            "that would hide others are set beside them. Lines join the variants that no other of their kind beats in "
            "both score and bits."
        )
        if num := sum(len(panel.unscored) for panel in self.panels):
            said += f" Crosses at the lower edge: {num} variants without a score on every task."
        if self.num_unplaced:
            said += f" Not shown: {self.num_unplaced} variants whose bits are not known, for quantizing them failed."
        return said


def pareto_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which of (cost, score) no other point beats: costs no more and scores no less, and differs in one of them."""
    is_on_front = [False] * len(points)
    best = float("-inf")
    at_best: float | None = None
    for index in sorted(range(len(points)), key=lambda index: (points[index][0], -points[index][1])):
        cost, score = points[index]
        if score > best or (score == best and cost == at_best):
            is_on_front[index], best, at_best = True, score, cost
    return is_on_front


def score_and_bits(source: FigureSource) -> ScoreAndBits | NoFigure:
    """The data of the figure; NoFigure where nothing has both."""
    if source.overall is None:
        return NoFigure("no task is scored in percent, so there is no average")
    scores = source.scores()
    bits = [_bits(source, score) for score in scores]
    panels = []
    for model in source.models:
        placed = [
            (score, each) for score, each in zip(scores, bits, strict=True) if score.model == model and each is not None
        ]
        if placed:
            unscored = tuple((each, score.series) for score, each in placed if score.score is None)
            panels.append(BitsPanel(model, tuple(_points(placed)), source.full_precision(model), unscored))
    if not any(panel.points for panel in panels):
        return NoFigure("no quantized variant has a score on every task and known bits per weight")
    return ScoreAndBits(
        panels=tuple(panels),
        y_title=source.overall_title,
        series=source.series,
        num_unplaced=sum(each is None for each in bits),
    )


def _bits(source: FigureSource, score: VariantScore) -> float | None:
    """Bits per weight; of several seeds the mean."""
    rows = [source.variant_rows.get(variant_id, {}) for variant_id in score.row.variant_ids]
    known = [row["effective_bits"] for row in rows if row.get("effective_bits") is not None]
    return mean(known) if len(known) == len(rows) else None


def _points(placed: Sequence[tuple[VariantScore, float]]) -> Iterator[ScorePoint]:
    for quantizes_activations in (False, True):
        alike = [
            (score, score.score, bits)
            for score, bits in placed
            if score.score is not None and score.quantizes_activations == quantizes_activations
        ]
        front = pareto_front([(bits, found.value) for _, found, bits in alike])
        for (score, found, bits), is_on_front in zip(alike, front, strict=True):
            yield ScorePoint(score.series, score.scheme, bits, found, quantizes_activations, is_on_front)


# ---- drawing


def draw(data: ScoreAndBits) -> list[Figure]:
    """A page for every nine models."""
    return [_page(data, page) for page in chunks(data.panels, _MAX_PANELS)]


def _page(data: ScoreAndBits, panels: Sequence[BitsPanel]) -> Figure:
    marks = marks_of(data.series)
    rows = [PanelRow([panel.model for panel in row], _X_LABEL) for row in chunks(panels, _MAX_COLUMNS)]
    grid = PanelGrid(rows, y_label=data.y_title, panel_height=1.7)
    full = [panel.full_precision for panel in panels if panel.full_precision]
    points = [point for panel in panels for point in panel.points]
    set_limits(grid.first, [point.score for point in points] + full)
    bits = [point.x for point in points] + [bits for panel in panels for bits, _ in panel.unscored]
    grid.first.set_xlim(math.floor(min(bits)) - 0.5, math.ceil(max(bits)) + 0.5)
    grid.first.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    for axes, panel in zip(grid.axes, panels, strict=True):
        _draw_panel(axes, panel, marks, grid.panel_size)
    shown = [name for name in data.series if any(point.series == name for point in points)]
    return grid.finish([(legend_mark(marks[name]), name) for name in shown] + _kinds(panels))


def _kinds(panels: Sequence[BitsPanel]) -> list[tuple[Any, str]]:
    points = [point for panel in panels for point in panel.points]
    entries: list[tuple[Any, str]] = []
    grey = Mark(GREY, "o", "-")
    for is_open, name in ((False, "16-bit activations"), (True, "quantized activations")):
        if any(point.is_open == is_open for point in points):
            line = legend_mark(grey, is_open=is_open)
            line.set_linestyle(_front_dashes(is_open))
            entries.append((line, f"{name} and their front"))
    if any(panel.full_precision for panel in panels):
        entries.append((Patch(facecolor=LIGHT_GREY, alpha=0.5, edgecolor=GREY, linewidth=0.6), "full precision"))
    if any(panel.unscored for panel in panels):
        entries.append((Line2D([], [], color=GREY, marker="x", linestyle="none"), "no score on every task"))
    return entries


def _front_dashes(quantizes_activations: bool) -> Any:
    return (0, (3, 1.5)) if quantizes_activations else "-"


def _draw_panel(axes: Any, panel: BitsPanel, marks: dict[str, Mark], size: tuple[float, float]) -> None:
    draw_band(axes, panel.full_precision)
    for is_open in (False, True):
        front = sorted(
            (point.x, point.score.value) for point in panel.points if point.is_on_front and point.is_open == is_open
        )
        xs, scores = [point[0] for point in front], [point[1] for point in front]
        axes.plot(xs, scores, color=GREY, linewidth=0.7, linestyle=_front_dashes(is_open), drawstyle="steps-post")
    draw_scores(axes, panel.points, marks, size)
    for bits, series in panel.unscored:
        draw_cross(axes, bits, marks[series])
