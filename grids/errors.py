"""Messages for a user's mistake in a grid file: file, key, value, what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GridError(ValueError):
    """A grid that cannot be used. The text says where and what is allowed."""

    def __init__(self, message: str, *, file: str = "", key: str = "") -> None:
        self.file, self.key, self.message = file, key, message
        super().__init__(": ".join(part for part in (file, key, message) if part))


def unknown_name(kind: str, name: str, allowed: Iterable[str]) -> str:
    """Say that `name` is not a known `kind`, with the nearest name and the whole list."""
    names = sorted(allowed)
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    return f"unknown {kind} {name!r}{hint} (known: {', '.join(names) or 'none'})"
