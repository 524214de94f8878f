"""Drawn figures as files and as parts of other documents."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

FIGURE_FORMATS = ("pdf", "svg", "png")
FIGURE_NAMES = ("score-and-bits", "drop-by-group", "drop-by-task", "layer-error", "cost-and-score", "agreement")
FIGURE_FOLDER = "figures"
# What a document may show at once, in order of preference: Markdown's readers and browsers draw no PDF.
_SHOWN_FORMATS = ("svg", "png")
_FILE = re.compile(rf"({'|'.join(FIGURE_NAMES)})(-\d+)?\.({'|'.join(FIGURE_FORMATS)})")


@dataclass(frozen=True, kw_only=True)
class FigurePage:
    """A page of a figure in several formats. A figure of several pages has a number in their names from the second."""

    name: str
    title: str
    caption: str
    page: int
    num_pages: int
    contents: Mapping[str, bytes]

    @property
    def files(self) -> dict[str, bytes]:
        """The files below a report's folder."""
        return {f"{FIGURE_FOLDER}/{self.name}.{form}": content for form, content in self.contents.items()}

    @property
    def heading(self) -> str:
        """The title, with the page where there are several."""
        return self.title if self.num_pages == 1 else f"{self.title} ({self.page} of {self.num_pages})"

    @property
    def shown_file(self) -> str | None:
        """The file that a document beside the folder of figures refers to; None where there are only PDFs."""
        form = next((form for form in _SHOWN_FORMATS if form in self.contents), None)
        return f"{FIGURE_FOLDER}/{self.name}.{form}" if form else None


def stale_files(folder: Path, written: Collection[str]) -> list[Path]:
    """The figures of an earlier report below a report's folder that are not among those `written` now."""
    figures = folder / FIGURE_FOLDER
    if not figures.is_dir():
        return []
    return [
        path
        for path in sorted(figures.iterdir())
        if _FILE.fullmatch(path.name) and f"{FIGURE_FOLDER}/{path.name}" not in written
    ]
