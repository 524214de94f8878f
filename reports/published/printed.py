"""A table of the paper's own scores, with footnotes where what the paper prints does not follow from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from reports.published.errata import Erratum, find_errata
from reports.published.results import PublishedAverage, erratum_notes, paper_averages, paper_tables
from reports.tables.model import Column, ColumnKind, Footnote, Table, TableRow, show_cell

# What the paper calls a change against full precision is a drop here.
_KINDS: Mapping[str, tuple[ColumnKind, ...]] = {"average": ("average", "drop"), "change": ("drop",)}
_TOLERANCE = 0.1 + 1e-9


def with_errata(table: Table) -> Table:
    """The table with a footnote for each erratum of the paper, at the numbers that it is about.

    A wrong average also stands behind the row's drop, where that differs from the printed one. Of an erratum in several
    rows, a remark gives what is printed in each.
    """
    notes = {(note["table"], note["quantity"]): note["note"] for note in erratum_notes()}
    for erratum in find_errata():
        told = "; ".join(f"printed as {row.printed:.1f}, {row.recomputed:.2f} follows" for row in erratum.rows)
        table = _annotated(table, erratum, notes.get((erratum.table, erratum.quantity), told))
    return table


def _annotated(table: Table, erratum: Erratum, note: str) -> Table:
    printed = {
        (average.model, average.method, average.scheme): average
        for average in paper_averages()
        if average.table == erratum.table
    }
    wrong = {(row.model, row.method, row.scheme) for row in erratum.rows}
    number = len(table.footnotes) + 1
    rows: list[TableRow] = []
    cell_ids: list[str] = []
    texts: list[str] = []
    for row in table.rows:
        average = printed.get((row.names["model"], row.names["method"], row.names["scheme"]))
        places = []
        if average is not None and (average.model, average.method, average.scheme) in wrong:
            places = _wrong_places(row, table.columns, erratum, average)
        cells = list(row.cells)
        for place in places:
            cells[place] = replace(cells[place], notes=(*cells[place].notes, number))
            cell_ids += cells[place].cell_ids
        if places and average is not None:
            texts.append(_as_printed(average))
        rows.append(replace(row, cells=tuple(cells)))
    if not texts:
        return table
    return replace(
        table,
        rows=tuple(rows),
        footnotes=(*table.footnotes, _footnote(number, note, cell_ids)),
        remarks=(
            *table.remarks,
            *([f"Averages and drops as printed, from top to bottom: {'; '.join(texts)}."] if len(texts) > 1 else []),
        ),
    )


def _wrong_places(row: TableRow, columns: tuple[Column, ...], erratum: Erratum, average: PublishedAverage) -> list[int]:
    """The columns of a row that show the erratum's quantity over its table's tasks, or what follows from it."""
    tasks = set(paper_tables()[erratum.table])
    places = []
    for place, (column, cell) in enumerate(zip(columns, row.cells, strict=True)):
        printed = average.average if column.kind == "average" else average.change
        if column.kind not in _KINDS[erratum.quantity] or set(column.tasks) != tasks or cell.value is None:
            continue
        if printed is not None and abs(float(show_cell(cell, column).number) - printed) > _TOLERANCE:
            places.append(place)
    return places


def _as_printed(average: PublishedAverage) -> str:
    return f"{average.average:.1f}" + ("" if average.change is None else f", {average.change:+.1f} %")


def _footnote(number: int, note: str, cell_ids: Sequence[str]) -> Footnote:
    return Footnote(number=number, text=f"Erratum: {note}", cell_ids=tuple(dict.fromkeys(cell_ids)))
