"""The page's frame: head, contents, sections, and what the script needs, all in one file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from reports.html.markup import Html, element, join, json_island

_FOLDER = Path(__file__).parent
_SCRIPTS = ("numbers.js", "tables.js", "panel.js")


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page under a heading of its own: `name` is its anchor, unlike any other's."""

    name: str
    title: str
    body: Html


def html_page(title: str, parts: Sequence[Section | Html], *, data: Mapping[str, Any]) -> str:
    """The page, its parts in order. `data` is JSON for the script, by the ids it looks for."""
    style, script = _text("page.css"), "\n".join(map(_text, _SCRIPTS))
    contents = [element("a", part.title, href=f"#{part.name}") for part in parts if isinstance(part, Section)]
    body = element(
        "body",
        element(
            "header",
            element("h1", element("bdi", title)),
            element("button", "Theme: system", id="theme", type="button", hidden=True),
            element("nav", *contents, aria_label="Contents"),
        ),
        element("main", *(_section(part) if isinstance(part, Section) else part for part in parts)),
        element("div", id="popover", role="tooltip", hidden=True),
        element("dialog", id="panel", aria_labelledby="panel-title"),
        *(json_island(name, content) for name, content in data.items()),
        Html(f'<script type="module">{script}</script>'),
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_policy(style, script)),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", title),
        Html(f"<style>{style}</style>"),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def picture(svg: str, *, title: str) -> Html:
    """An SVG drawing as an image of the page: its styles stay its own, and no script in it runs."""
    data = base64.b64encode(svg.encode()).decode()
    caption = element("figcaption", title)
    return element("figure", element("img", src=f"data:image/svg+xml;base64,{data}", alt=title), caption)


def _section(section: Section) -> Html:
    heading = element("h2", section.title, id=f"{section.name}-title")
    return element(
        "section", heading, section.body, id=section.name, aria_labelledby=f"{section.name}-title", tabindex=-1
    )


def paragraphs(lines: Sequence[str]) -> Html:
    """A list of sentences."""
    return element("ul", *(element("li", element("bdi", line)) for line in lines)) if lines else join(())


def _policy(style: str, script: str) -> str:
    """Nothing may be loaded, sent or run but the page's own style and script."""
    return (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@cache
def _text(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")
