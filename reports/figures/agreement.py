"""Our scores against published ones, where protocol and scheme agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports.figures.panels import PanelGrid, PanelRow, draw_measured
from reports.figures.source import FigureSource, Measured, NoFigure
from reports.figures.style import GREY, legend_mark, marks_of
from reports.published import PublishedComparison, compare_with_published
from reports.statistics import normal_interval

TITLE = "Agreement with published scores"


@dataclass(frozen=True)
class AgreementPoint:
    """A score of ours and a published one of the same task, variant and protocol, in percent."""

    task: str
    model: str
    method: str
    scheme: str
    ours: Measured
    published: Measured


@dataclass(frozen=True)
class Agreement:
    """`num_other` pairs of a score and a published one do not compare."""

    points: tuple[AgreementPoint, ...]
    tasks: tuple[str, ...]
    num_other: int

    @property
    def caption(self) -> str:
        said = (
            "Each mark is a score of ours and a published one of the same model, method, scheme, task and protocol; on "
            "the line they are equal. Bars are 95 % intervals; those of published scores are for independent items, "
            "for no source states one."
        )
        return said + (f" Left out: {self.num_other} pairs that do not compare." if self.num_other else "")


def agreement(source: FigureSource) -> Agreement | NoFigure:
    """The data of the figure, from the study's done cells."""
    # What no version of qstudy made was published itself.
    return from_comparisons(compare_with_published([row for row in source.cells if row["qstudy_version"]]))


def from_comparisons(comparisons: Sequence[PublishedComparison]) -> Agreement | NoFigure:
    """The data of the figure; NoFigure where nothing compares, with the most frequent reason."""
    pairs = [comparison for comparison in comparisons if comparison.published is not None]
    points = [
        AgreementPoint(
            task=pair.task,
            model=pair.model,
            method=pair.method,
            scheme=pair.scheme,
            ours=_measured(pair.value, pair.stderr),
            published=_measured(pair.published.value, pair.published.stderr),
        )
        for pair in pairs
        if pair.published is not None and pair.difference is not None
    ]
    if not points:
        reasons = Counter(reason for comparison in comparisons for reason in comparison.reasons)
        most = f" (most often: {reasons.most_common(1)[0][0]})" if reasons else ""
        return NoFigure(f"no published number to compare with{most}")
    tasks = tuple(dict.fromkeys(point.task for point in points))
    return Agreement(tuple(points), tasks, len(pairs) - len(points))


def _measured(value: float, stderr: float | None) -> Measured:
    return Measured(value, None if stderr is None else normal_interval(value, stderr))


# ---- drawing


def draw(data: Agreement) -> list[Figure]:
    """One square panel."""
    marks = marks_of(data.tasks)
    grid = PanelGrid([PanelRow([""], "Published score (%)")], y_label="Our score (%)", panel_height=2.6)
    axes = grid.first
    reach = [
        border
        for point in data.points
        for found in (point.ours, point.published)
        for border in (found.interval or (found.value, found.value))
    ]
    room = 0.05 * (max(reach) - min(reach)) or 1.0
    limits = (min(reach) - room, max(reach) + room)
    axes.plot(limits, limits, color=GREY, linewidth=0.7, zorder=1)
    for task in data.tasks:
        found = [point for point in data.points if point.task == task]
        published = [point.published for point in found]
        draw_measured(
            axes,
            [each.value for each in published],
            [point.ours for point in found],
            marks[task],
            x_errors=[each.errors for each in published],
        )
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    legend = [(legend_mark(marks[task]), task) for task in data.tasks]
    legend.append((Line2D([], [], color=GREY, linewidth=0.7), "equal"))
    return [grid.finish(legend)]
