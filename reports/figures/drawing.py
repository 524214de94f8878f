"""All figures of a study, drawn. This is where matplotlib comes in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from reports.figures import agreement, cost_and_score, drop_by_group, drop_by_task, layer_error, score_and_bits
from reports.figures.pages import FigurePage
from reports.figures.source import FigureSource, NoFigure
from reports.figures.style import figure_bytes, house_style


@dataclass(frozen=True)
class _Kind:
    """A figure: its data from a study, its pages from the data."""

    title: str
    data: Callable[[FigureSource], Any]
    draw: Callable[[Any], Sequence[Any]]


_FIGURES = {
    "score-and-bits": _Kind(score_and_bits.TITLE, score_and_bits.score_and_bits, score_and_bits.draw),
    "drop-by-group": _Kind(drop_by_group.TITLE, drop_by_group.drop_by_group, drop_by_group.draw),
    "drop-by-task": _Kind(drop_by_task.TITLE, drop_by_task.drop_by_task, drop_by_task.draw),
    "layer-error": _Kind(layer_error.TITLE, layer_error.layer_error, layer_error.draw),
    "cost-and-score": _Kind(cost_and_score.TITLE, cost_and_score.cost_and_score, cost_and_score.draw),
    "agreement": _Kind(agreement.TITLE, agreement.agreement, agreement.draw),
}


def draw_figure(name: str, source: FigureSource, formats: Sequence[str]) -> list[FigurePage] | NoFigure:
    """The pages of one figure in each of `formats`; NoFigure where the study has no data for it."""
    kind = _FIGURES[name]
    data = kind.data(source)
    return data if isinstance(data, NoFigure) else list(_pages(name, kind, data, formats))


def _pages(name: str, kind: _Kind, data: Any, formats: Sequence[str]) -> Iterator[FigurePage]:
    with house_style():
        figures = kind.draw(data)
        for number, figure in enumerate(figures, start=1):
            yield FigurePage(
                name=name if number == 1 else f"{name}-{number}",
                title=kind.title,
                caption=data.caption,
                page=number,
                num_pages=len(figures),
                contents={each: figure_bytes(figure, each) for each in formats},
            )
