"""A table of the report as HTML, and the numbers behind it for the page's script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from reports.html.markup import Html, element, join
from reports.html.page import Section, paragraphs
from reports.plain_text import NOTE_LENGTH, one_line
from reports.tables import Column, ShownCell, Table, TableCell, TableRow, show_cell
from reports.tidy import comparison_values

AXES = {"model": "Model", "scheme": "Scheme", "method": "Method"}
# What the script knows of each number, in this order; what is not there is null.
FIELDS = (
    "value",
    "stderr",
    "low",
    "high",
    "num_items",
    "status",
    "cells",
    "metric",
    "notes",
    "reference_cells",
    "drop",
    "recovery",
    "severity",
    "difference",
    "difference_low",
    "difference_high",
    "test",
    "p_value",
    "adjusted_p",
    "minimum_detectable",
    "num_higher",
    "num_lower",
    "covered",
    "parts",
    "spread",
    "num_seeds",
)
_SIGNIFICANT_DIGITS = 6
# Of a footnote's cells so many are named on the page.
_MAX_NOTE_CELLS = 8


def filter_names(tables: Sequence[Table]) -> dict[str, list[str]]:
    """The names that rows are chosen by, for each axis; full precision is chosen by itself."""
    rows = [row for table in tables for row in table.rows]
    return {
        axis: list(dict.fromkeys(row.names[axis] for row in rows if axis == "model" or not row.is_reference))
        for axis in AXES
    }


def filters(tables: Sequence[Table]) -> Html:
    """The form that chooses rows in all tables; it appears when the script runs."""
    groups = [_choices(axis, AXES[axis], names) for axis, names in filter_names(tables).items()]
    search = element("label", "Search ", element("input", type="search", id="search", placeholder="any of the names"))
    keep = _choice("reference", "yes", "full precision", checked=True)
    reset = element("button", "Show all", type="button", id="show-all")
    shown = element("output", id="shown", aria_live="polite")
    return element(
        "form", *groups, element("p", search, keep, reset, shown), id="filters", hidden=True, aria_label="Rows"
    )


def _choices(axis: str, title: str, names: Sequence[str]) -> Html:
    choices = (_choice(axis, str(index), name) for index, name in enumerate(names))
    return element("fieldset", element("legend", title), *choices)


def _choice(name: str, value: str, label: str, *, checked: bool = False) -> Html:
    box = element("input", type="checkbox", name=name, value=value, checked=checked)
    return element("label", box, element("span", element("bdi", label)), class_="choice")


def table_section(table: Table) -> Section:
    """The table with its legend, remarks and footnotes."""
    body = element(
        "table",
        element("caption", table.title),
        element("thead", *_header(table)),
        element("tbody", *(_row(table, index) for index in range(len(table.rows)))),
        id=f"table-{table.name}",
    )
    notes = [
        paragraphs([*table.legend, *_shading(table), *table.remarks]),
        *(_footnote(table, index) for index in range(len(table.footnotes))),
    ]
    scroller = element("div", body, class_="scroller", role="region", aria_label=table.title, tabindex=0)
    return Section(
        name=f"section-{table.name}",
        title=table.title,
        body=join([scroller, element("details", element("summary", "How to read it"), *notes, open=True)]),
    )


def _shading(table: Table) -> list[str]:
    if not any(column.is_shaded for column in table.columns):
        return []
    return ["Shaded: light where the drop is moderate, dark where it is significant."]


def _header(table: Table) -> list[Html]:
    """Two lines: the groups over their columns, then the columns; labels stand over both."""
    labels = [
        element("th", _title(title), scope="col", rowspan=2, class_=_label_class(table, place))
        for place, title in enumerate(table.label_titles)
    ]
    groups = []
    for group, members in groupby(table.columns, key=lambda column: column.group):
        count = len(list(members))
        groups.append(element("th", group, scope="colgroup", colspan=count, class_="group first"))
    titles = [
        element("th", _title(column.title), scope="col", class_="first" if _is_first(table, index) else None)
        for index, column in enumerate(table.columns)
    ]
    return [element("tr", *labels, *groups), element("tr", *titles)]


def _title(title: str) -> Html:
    return element("span", title, class_="title")


def _label_class(table: Table, place: int) -> str:
    return "label last" if place == len(table.label_titles) - 1 else "label"


def _is_first(table: Table, index: int) -> bool:
    """Whether a column is the first of its group."""
    return index == 0 or table.columns[index - 1].group != table.columns[index].group


def _row(table: Table, index: int) -> Html:
    row = table.rows[index]
    labels = [
        element("th", *_label(row, place), scope="row", class_=_label_class(table, place))
        for place in range(len(table.label_titles))
    ]
    cells = (
        _cell(cell, column, is_first=_is_first(table, place))
        for place, (cell, column) in enumerate(zip(row.cells, table.columns, strict=True))
    )
    return element("tr", *labels, *cells, class_=" ".join(_row_classes(table, index)) or None)


def _row_classes(table: Table, index: int) -> list[str]:
    row = table.rows[index]
    above = table.rows[index - 1] if index else None
    return [
        *(["reference"] if row.is_reference else []),
        *(["new"] if above is None or above.labels[0] != row.labels[0] else []),
        *(["block"] if above is None or above.block != row.block else []),
    ]


def _label(row: TableRow, place: int) -> list[Html]:
    """A label; the last one also has those before it, for screens that have no room for their columns."""
    label = element("bdi", row.labels[place])
    if place < len(row.labels) - 1 or len(row.labels) == 1:
        return [label]
    return [element("span", element("bdi", " ".join(row.labels[:-1])), class_="context", aria_hidden="true"), label]


def _cell(cell: TableCell, column: Column, *, is_first: bool) -> Html:
    shown = show_cell(cell, column)
    classes = [
        *(["first"] if is_first else []),
        *([] if shown.is_number else ["word"]),
        *([cell.status] if cell.status in ("failed", "missing") else []),
        *(["best"] if shown.is_best else []),
        *([str(cell.severity)] if column.is_shaded and cell.severity not in (None, "negligible") else []),
    ]
    return element(
        "td",
        *_parts(shown, has_mark=column.is_shaded or column.kind not in ("task", "average")),
        class_=" ".join(classes) or None,
    )


def _parts(shown: ShownCell, *, has_mark: bool) -> list[Html | str]:
    parts: list[Html | str] = [element("b", shown.number) if shown.is_best else shown.number]
    beside = shown.text[len(shown.number) :]
    if beside:
        parts.append(element("small", beside))
    if shown.is_number and has_mark:
        # Also an empty one has its width, so that the decimal points of a column stay in line.
        parts.append(element("span", shown.mark, class_="mark"))
    if shown.notes:
        parts.append(element("sup", shown.notes))
    return parts


def _footnote(table: Table, index: int) -> Html:
    footnote = table.footnotes[index]
    cells = ", ".join(footnote.cell_ids[:_MAX_NOTE_CELLS])
    more = len(footnote.cell_ids) - _MAX_NOTE_CELLS
    told = f" (cell {cells}{f' and {more} more' if more > 0 else ''})" if cells else ""
    text = element("bdi", one_line(footnote.text, NOTE_LENGTH))
    return element("p", element("sup", str(footnote.number)), " ", text, told, class_="footnote")


def numbers_of(
    table: Table, cell_places: Mapping[str, int], metrics: dict[str, int], names: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """The table for the script.

    `cell_places`: cell ids to their places in the page's list of cells; `metrics` is filled with the metrics that
    occur, by their place; `names` as of `filter_names`.
    """
    return {
        "name": table.name,
        "columns": [
            {
                "title": column.title if column.is_task else f"{column.group} {column.title}",
                "kind": column.kind,
                "percent": column.is_percentage,
            }
            for column in table.columns
        ],
        "notes": {footnote.number: one_line(footnote.text, NOTE_LENGTH) for footnote in table.footnotes},
        "rows": [
            {
                "labels": [one_line(label) for label in row.labels],
                "names": [_place(names[axis], row.names[axis]) for axis in AXES],
                "reference": row.is_reference,
                "cells": [_numbers(cell, cell_places, metrics) for cell in row.cells],
            }
            for row in table.rows
        ],
    }


def _place(names: Sequence[str], name: str) -> int:
    return names.index(name) if name in names else -1


def _numbers(cell: TableCell, cell_places: Mapping[str, int], metrics: dict[str, int]) -> list[Any]:
    """What FIELDS names, up to the last that is there."""
    low, high = cell.interval or (None, None)
    covered, parts = cell.coverage or (None, None)
    known: dict[str, Any] = comparison_values(cell) | {
        "value": cell.value,
        "stderr": cell.stderr,
        "low": low,
        "high": high,
        "num_items": cell.num_items,
        "status": cell.status,
        "cells": [cell_places[cell_id] for cell_id in cell.cell_ids] or None,
        "metric": None if cell.metric is None else metrics.setdefault(cell.metric, len(metrics)),
        "notes": list(cell.notes) or None,
        "reference_cells": [cell_places[cell_id] for cell_id in cell.reference_cell_ids] or None,
        "drop": cell.drop,
        "recovery": cell.recovery,
        "severity": cell.severity,
        "covered": covered,
        "parts": parts,
        "spread": cell.spread,
        "num_seeds": cell.num_seeds,
    }
    values = [_rounded(known[name]) for name in FIELDS]
    while values and values[-1] is None:
        values.pop()
    return values


def _rounded(value: Any) -> Any:
    return float(f"{value:.{_SIGNIFICANT_DIGITS}g}") if isinstance(value, float) else value
