"""Cost against score: what it takes to make a variant and to evaluate it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib.figure import Figure

from reports.figures.panels import (
    PanelGrid,
    PanelRow,
    ScorePoint,
    chunks,
    draw_band,
    draw_scores,
    set_limits,
    set_positive,
)
from reports.figures.source import FigureSource, Measured, NoFigure, VariantScore
from reports.figures.style import legend_mark, marks_of
from reports.statistics import mean

TITLE = "Cost against score"
_MAX_COLUMNS = 3
Cost = Literal["seconds to quantize", "forward passes to evaluate"]
COSTS: tuple[Cost, ...] = ("seconds to quantize", "forward passes to evaluate")


@dataclass(frozen=True)
class CostPanel:
    """One model and one cost."""

    model: str
    cost: Cost
    points: tuple[ScorePoint, ...]
    full_precision: Measured | None


@dataclass(frozen=True)
class CostAndScore:
    """`num_left_out` variants have no score on every task."""

    panels: tuple[CostPanel, ...]
    y_title: str
    series: tuple[str, ...]
    num_left_out: int

    @property
    def caption(self) -> str:
        said = (
            "Seconds are wall time on one worker, its audit included; forward passes are those of all tasks. Error "
            "bars and the band of full precision are 95 % intervals; open marks have quantized activations; marks that "
            "would hide others are set beside them."
        )
        if self.num_left_out:
            said += f" Not shown: {self.num_left_out} variants without a score on every task."
        return said


def cost_and_score(source: FigureSource) -> CostAndScore | NoFigure:
    """The data of the figure; NoFigure where no variant has both. Of several seeds the mean."""
    if source.overall is None:
        return NoFigure("no task is scored in percent, so there is no average")
    scores = source.scores()
    forwards = _forwards(source)
    panels = []
    for model in source.models:
        full_precision = source.full_precision(model)
        for cost in COSTS:
            points = []
            for found in scores:
                spent = _quantizing(source, found) if cost == COSTS[0] else _evaluating(found, forwards)
                if found.model == model and found.score is not None and spent:
                    points.append(
                        ScorePoint(found.series, found.scheme, spent, found.score, found.quantizes_activations)
                    )
            if points:
                panels.append(CostPanel(model, cost, tuple(points), full_precision))
    if not panels:
        return NoFigure("no quantized variant has a score on every task and a recorded cost")
    num_left_out = sum(found.score is None for found in scores)
    return CostAndScore(tuple(panels), source.overall_title, source.series, num_left_out)


def _quantizing(source: FigureSource, found: VariantScore) -> float | None:
    rows = [source.variant_rows.get(variant_id, {}) for variant_id in found.row.variant_ids]
    known = [row["quantize_seconds"] for row in rows if row.get("quantize_seconds") is not None]
    return mean(known) if len(known) == len(rows) else None


def _forwards(source: FigureSource) -> dict[str, int | None]:
    return {row["cell_id"]: row["num_forwards"] for row in source.cells if row["status"] == "done"}


def _evaluating(found: VariantScore, forwards: dict[str, int | None]) -> float | None:
    """The forward passes of the cells behind a score; None where one did not count them."""
    counted = [forwards.get(cell_id) for cell_id in found.cell_ids]
    known = [count for count in counted if count is not None]
    return sum(known) / len(found.row.variant_ids) if known and len(known) == len(counted) else None


# ---- drawing


def draw(data: CostAndScore) -> list[Figure]:
    """Pages of up to three models beside each other, below each other the costs."""
    models = list(dict.fromkeys(panel.model for panel in data.panels))
    return [_page(data, page) for page in chunks(models, _MAX_COLUMNS)]


def _page(data: CostAndScore, models: Sequence[str]) -> Figure:
    marks = marks_of(data.series)
    rows = [[panel for panel in data.panels if panel.cost == cost and panel.model in models] for cost in COSTS]
    rows = [row for row in rows if row]
    plan = [PanelRow([panel.model for panel in row], row[0].cost.capitalize()) for row in rows]
    grid = PanelGrid(plan, y_label=data.y_title)
    panels = [panel for row in rows for panel in row]
    full = [panel.full_precision for panel in panels if panel.full_precision]
    set_limits(grid.first, [point.score for panel in panels for point in panel.points] + full)
    for axes, row in zip([made[0] for made in grid.rows], rows, strict=True):
        set_positive(axes, [point.x for panel in row for point in panel.points])
    for axes, panel in zip(grid.axes, panels, strict=True):
        draw_band(axes, panel.full_precision)
        draw_scores(axes, panel.points, marks, grid.panel_size)
    shown = [name for name in data.series if any(point.series == name for panel in panels for point in panel.points)]
    return grid.finish([(legend_mark(marks[name]), name) for name in shown])
