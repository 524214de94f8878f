"""Footnotes of a table, numbered as they come up."""

from __future__ import annotations

from collections.abc import Sequence

from reports.tables.model import Footnote


class Notes:
    """Collects footnotes; the same text is one footnote with all of its cells."""

    def __init__(self) -> None:
        self._texts: dict[str, list[str]] = {}

    def add(self, text: str, cell_ids: Sequence[str] = ()) -> int:
        """The number of the footnote with this text."""
        self._texts.setdefault(text, []).extend(cell_ids)
        return list(self._texts).index(text) + 1

    def footnotes(self) -> tuple[Footnote, ...]:
        """All footnotes, in order."""
        return tuple(
            Footnote(number=number, text=text, cell_ids=tuple(dict.fromkeys(cell_ids)))
            for number, (text, cell_ids) in enumerate(self._texts.items(), start=1)
        )
