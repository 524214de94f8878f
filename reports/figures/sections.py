"""Figures as parts of the report's documents."""

from __future__ import annotations

from collections.abc import Sequence

from reports.figures.pages import FigurePage
from reports.html import Section, element, join, paragraphs, picture
from reports.markdown import escape_markdown

# Of all figures of a page that holds them within itself.
MAX_PICTURE_BYTES = 3 << 20


def markdown_figures(pages: Sequence[FigurePage]) -> list[str]:
    """The parts of a Markdown document that show the figures' files, which lie beside it."""
    parts = ["## Figures"] if pages else []
    for page in pages:
        heading = escape_markdown(page.heading)
        links = ", ".join(f"[{path.rpartition('.')[2]}]({path})" for path in page.files)
        parts.append(f"### {heading}")
        parts += [f"![{heading}]({page.shown_file})"] if page.shown_file else []
        parts.append(f"{escape_markdown(page.caption)} Files: {links}.")
    return parts


def html_figures(pages: Sequence[FigurePage], *, max_bytes: int = MAX_PICTURE_BYTES) -> list[Section]:
    """A section with the figures that were drawn as SVG, in order as far as they fit into `max_bytes`."""
    drawn = [(page, svg) for page in pages if (svg := page.contents.get("svg")) is not None]
    parts, left_out = [], []
    for page, svg in drawn:
        max_bytes -= len(svg)
        if max_bytes < 0:
            left_out.append(page.heading)
            continue
        parts += [picture(svg.decode(), title=page.heading), element("p", page.caption)]
    told = [f"Too large for this page; see the folder of figures: {', '.join(left_out)}."] if left_out else []
    body = join([*parts, paragraphs(told)])
    return [Section(name="figures", title="Figures", body=body)] if drawn else []
