"""HTML from Python values: the only place where markup is made, so that no text can become markup by itself."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from html import escape
from typing import Any

from reports.plain_text import REORDERING, one_line

_VOID = frozenset({"meta", "img", "input", "br", "col"})
# What could end a script element or open a comment within it, and what old script engines took for the end of a line.
_IN_SCRIPT = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}
# Control characters but for new lines and tabs, halves of surrogate pairs, and marks that reorder the text around them.
_UNSEEN = re.compile(rf"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff{''.join(REORDERING)}]")
# A prompt says in its last lines what is asked, after the examples; most of the room is theirs.
_HEAD_SHARE = 0.25


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def element(name: str, /, *children: str | None, **attributes: str | int | bool | None) -> Html:
    """An element. Children that are not Html are text and are escaped, on one line; None is left out.

    Attribute names may end in an underscore (`class_`), and have hyphens where they are written with underscores; True
    stands for an attribute without a value, None and False for none.
    """
    words = [name]
    for key, value in attributes.items():
        attribute = key.rstrip("_").replace("_", "-")
        if value is True:
            words.append(attribute)
        elif value is not None and value is not False:
            words.append(f'{attribute}="{escape(one_line(str(value)), quote=True)}"')
    opening = f"<{' '.join(words)}>"
    return Html(opening) if name in _VOID else Html(f"{opening}{join(children)}</{name}>")


def join(children: Iterable[str | None]) -> Html:
    """Texts and markup one after the other; texts are escaped."""
    return Html("".join(_escaped(child) for child in children if child is not None))


def _escaped(text: str) -> str:
    if isinstance(text, Html):
        return text
    # A space at an edge parts the text from what stands beside it.
    before, after = (" " if edge == " " else "" for edge in (text[:1], text[1:][-1:]))
    return escape(f"{before}{one_line(text)}{after}", quote=False)


def json_island(name: str, content: Any) -> Html:
    """Data for the page's script, as an element that the browser does not run; no text in it can end it."""
    return Html(f'<script type="application/json" id="{escape(name)}">{script_json(content)}</script>')


def script_json(content: Any) -> str:
    """JSON that may stand in a script element."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.translate(_IN_SCRIPT)


def visible_text(text: str, max_length: int) -> str:
    """A model's text for the page's script: as it is, over several lines, with nothing in it that cannot be seen.

    Control characters are shown by their symbols, marks that reorder text by their code points. Of a text longer than
    `max_length` characters the beginning and the end are kept, and what is left out is told.
    """
    if len(text) > max_length:
        head = int(max_length * _HEAD_SHARE)
        left_out = len(text) - max_length
        gap = f"\n[... {left_out:,} of {len(text):,} characters left out ...]\n"
        text = text[:head] + gap + text[len(text) - (max_length - head) :]
    return _UNSEEN.sub(_symbol, text)


def _symbol(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else f"[U+{code:04X}]"
