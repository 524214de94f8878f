"""Figures of a study: each a pure function from the study's table to what is shown, and a drawing of that.

What needs matplotlib is imported when a figure is drawn, and not before.
"""

from reports.figures.pages import FIGURE_FORMATS, FIGURE_NAMES, FigurePage, stale_files
from reports.figures.source import FIGURE_TABLE, FigureSource, NoFigure

__all__ = [
    "FIGURE_FORMATS",
    "FIGURE_NAMES",
    "FIGURE_TABLE",
    "FigurePage",
    "FigureSource",
    "NoFigure",
    "stale_files",
]
