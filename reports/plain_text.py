"""Text from outside (names, error messages, a model's words) made fit for one line of any printer."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

# Marks that reorder the text around them; a table could be made to read other than it is.
_REORDERING = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_REPLACEMENT = "\ufffd"
NOTE_LENGTH = 300


def one_line(text: str, max_length: int | None = None) -> str:
    """The text on one line: white space runs become a space, control and reordering characters U+FFFD.

    A text longer than `max_length` characters is cut, which it then says.
    """
    if max_length is not None and len(text) > max_length:
        text = f"{text[:max_length]} ... (cut, {len(text)} characters)"
    return "".join(_REPLACEMENT if _is_hidden(character) else character for character in " ".join(text.split()))


def words_of_json(text: str) -> str:
    """A small JSON value for a reader: the names and values of an object without its punctuation."""
    content: Any = json.loads(text)
    if isinstance(content, dict):
        return ", ".join(f"{name} {value}" for name, value in content.items())
    return str(content)


def _is_hidden(character: str) -> bool:
    return character in _REORDERING or unicodedata.category(character) in ("Cc", "Cs")
