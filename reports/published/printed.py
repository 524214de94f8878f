"""A table of the paper's own scores, with footnotes where what the paper prints does not follow from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from reports.published.errata import Erratum, WrongNumber, find_errata
from reports.published.results import PublishedAverage, erratum_notes, paper_averages, paper_tables
from reports.tables.model import Column, Footnote, Table, TableRow, show_cell

# Drops of averages that differ only by rounding can differ by this.
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
    printed = {_key(average): average for average in paper_averages() if average.table == erratum.table}
    wrong = {_key(row): printed[_key(row)] for row in erratum.rows}
    number = len(table.footnotes) + 1
    rows: list[TableRow] = []
    cell_ids: list[str] = []
    texts: list[str] = []
    for row in table.rows:
        average = wrong.get((row.names["model"], row.names["method"], row.names["scheme"]))
        places = _wrong_places(row, table.columns, erratum, average) if average else []
        cells = list(row.cells)
        for place in places:
            cells[place] = replace(cells[place], notes=(*cells[place].notes, number))
            cell_ids += cells[place].cell_ids
        if places and average:
            texts.append(f"{average.average:.1f}" + ("" if average.change is None else f", {average.change:+.1f} %"))
        rows.append(replace(row, cells=tuple(cells)))
    if not texts:
        return table
    footnote = Footnote(number=number, text=f"Erratum: {note}", cell_ids=tuple(dict.fromkeys(cell_ids)))
    remark = f"Averages and drops as printed, from top to bottom: {'; '.join(texts)}."
    return replace(
        table,
        rows=tuple(rows),
        footnotes=(*table.footnotes, footnote),
        remarks=(*table.remarks, remark) if len(texts) > 1 else table.remarks,
    )


def _key(row: PublishedAverage | WrongNumber) -> tuple[str, str, str]:
    return row.model, row.method, row.scheme


def _wrong_places(row: TableRow, columns: Sequence[Column], erratum: Erratum, average: PublishedAverage) -> list[int]:
    """The columns of a row that show the erratum's quantity over its table's tasks, or a drop that goes with it."""
    tasks = set(paper_tables()[erratum.table])
    places = []
    for place, (column, cell) in enumerate(zip(columns, row.cells, strict=True)):
        if set(column.tasks) != tasks or cell.value is None:
            continue
        if column.kind == "average" and erratum.quantity == "average":
            places.append(place)
        elif column.kind == "drop" and average.change is not None:
            goes_with = abs(float(show_cell(cell, column).number) - average.change) > _TOLERANCE
            places += [place] if erratum.quantity == "change" or goes_with else []
    return places
