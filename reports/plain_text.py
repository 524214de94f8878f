"""Text from outside (names, error messages, a model's words) made fit for one line of any printer."""

from __future__ import annotations

import json
import unicodedata
from typing import Any, Literal

# Marks that reorder the text around them; a table could be made to read other than it is.
REORDERING = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_REPLACEMENT = "\ufffd"
NOTE_LENGTH = 300


def one_line(text: str, max_length: int | None = None) -> str:
    """The text on one line: white space runs become a space, control and reordering characters U+FFFD.

    A text longer than `max_length` characters is cut, which it then says.
    """
    if max_length is not None and len(text) > max_length:
        text = f"{text[:max_length]} ... (cut, {len(text)} characters)"
    return "".join(map(_shown, " ".join(text.split())))


def text_lines(text: str, max_length: int, *, keep: Literal["first", "last"] = "first") -> list[str]:
    """The text's lines for a terminal: no tabs, control or reordering characters; of a long text so many characters.

    Where it is cut, at the end or at the beginning, a line of its own says so.
    """
    kept = text if len(text) <= max_length else text[:max_length] if keep == "first" else text[-max_length:]
    lines = ["".join(_shown(character) for character in line) for line in kept.expandtabs(4).split("\n")]
    if kept == text:
        return lines
    told = f"({keep} {max_length} of {len(text)} characters)"
    return [*lines, told] if keep == "first" else [told, *lines]


def words_of_json(text: str) -> str:
    """A small JSON value for a reader: the names and values of an object without its punctuation."""
    content: Any = json.loads(text)
    if isinstance(content, dict):
        return ", ".join(f"{name} {value}" for name, value in content.items())
    return str(content)


def _shown(character: str) -> str:
    return _REPLACEMENT if _is_hidden(character) else character


def _is_hidden(character: str) -> bool:
    return character in REORDERING or unicodedata.category(character) in ("Cc", "Cs")
