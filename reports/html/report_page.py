"""The page of a report: which sections it has, in which order, and the data behind them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from reports.html.items import SampleStore
from reports.html.markup import Html, element, join
from reports.html.origins import origins
from reports.html.page import Section, html_page, paragraphs
from reports.html.sample_sets import gather_samples
from reports.html.table_view import FIELDS, filter_names, filters, numbers_of, table_section
from reports.schemas import Row
from reports.tables import Table

# Of the whole page; the tables are whole in any case, the samples take what is left.
MAX_BYTES = 8_000_000


def report_page(
    *,
    study: str,
    folder: str,
    summary: Sequence[str],
    provenance: Sequence[str],
    tables: Sequence[Table],
    rows: Sequence[Row],
    store: SampleStore | None,
    before_tables: Sequence[Section] = (),
    after_tables: Sequence[Section] = (),
    max_bytes: int = MAX_BYTES,
) -> str:
    """A study's tables with what is behind each number, in about `max_bytes` unless the tables alone need more.

    `folder` is what commands for more call the study. `rows`: the store's rows of the cells that the tables show.
    Without `store`, no samples. The sections after the tables stand before the provenance.
    """
    parts: list[Section | Html] = [
        *before_tables,
        join([_directions(), filters(tables)]),
        *map(table_section, tables),
        *after_tables,
        Section(name="provenance", title="Provenance", body=paragraphs(provenance)),
    ]
    data = _data(folder, tables, rows)

    def page(told: Sequence[str], samples: Mapping[str, Any]) -> str:
        return html_page(
            f"Study {study}", [paragraphs([*summary, *told]), *parts], data={"data": data, "samples": samples}
        )

    frame = page([], {"texts": [], "sets": {}})
    if store is None:
        return frame
    room = max(0, max_bytes - len(frame.encode()))
    found = gather_samples(tables, store, rows, max_bytes=room, folder=folder)
    return page([found.sentence], found.content)


def _directions() -> Html:
    text = (
        "Point at a number to see its interval, its comparison with full precision and its origin; click or tap it for "
        "its samples. A column's title sorts by it. By keyboard: Tab to a table, arrows in it, Enter opens a number."
    )
    return element("p", text, id="directions", hidden=True)


def _data(folder: str, tables: Sequence[Table], rows: Sequence[Row]) -> dict[str, Any]:
    """What the script needs beside the samples."""
    cell_ids = sorted(frozenset().union(*(table.cell_ids for table in tables)))
    places = {cell_id: place for place, cell_id in enumerate(cell_ids)}
    names = filter_names(tables)
    metrics: dict[str, int] = {}
    return {
        "study": shlex.quote(folder),
        "fields": FIELDS,
        "tables": [numbers_of(table, places, metrics, names) for table in tables],
        "metrics": list(metrics),
        "origins": origins(cell_ids, rows),
    }
