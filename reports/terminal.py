"""Tables in a terminal, for the end of a run."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from reports.plain_text import NOTE_LENGTH, one_line
from reports.statistics import Severity
from reports.tables import Column, Table, TableCell, show_cell

_STYLES: dict[Severity, str] = {"negligible": "green", "moderate": "yellow", "significant": "red"}
# A column's own room, beside its text: a space at either side and one between columns.
_PADDING = 3


def terminal_table(table: Table, *, max_width: int | None = None) -> RichTable:
    """The table for a rich console, made to fit `max_width` characters.

    What does not fit is left out, standard errors first, then columns (tasks that an average sums up, then drops); the
    caption says so.
    """
    with_stderr = max_width is None or _width(table, range(len(table.columns)), with_stderr=True) <= max_width
    shown = _fitting(table, max_width, with_stderr=with_stderr)
    grid = RichTable(
        title=Text(one_line(table.title)), caption=_caption(table, shown, with_stderr), box=box.SIMPLE_HEAD
    )
    for title in table.label_titles:
        grid.add_column(Text(one_line(title)), no_wrap=True, vertical="bottom")
    for index in shown:
        grid.add_column(Text(_header(table.columns[index])), justify="right", no_wrap=True)
    above: tuple[str, ...] = ()
    for place, row in enumerate(table.rows):
        cells = (_styled(row.cells[index], table.columns[index], with_stderr=with_stderr) for index in shown)
        ends_model = place + 1 < len(table.rows) and table.rows[place + 1].labels[0] != row.labels[0]
        grid.add_row(*_labels(row.labels, above), *cells, end_section=ends_model)
        above = row.labels
    return grid


def terminal_notes(table: Table) -> str:
    """Remarks and footnotes as plain lines; the legend stands in the report."""
    lines = [one_line(remark, NOTE_LENGTH) for remark in table.remarks]
    lines += [f"[{footnote.number}] {one_line(footnote.text, NOTE_LENGTH)}" for footnote in table.footnotes]
    return "\n".join(lines)


def _labels(labels: tuple[str, ...], above: tuple[str, ...]) -> list[Text]:
    """A row's labels, those that repeat the row above blank; the last one always stands."""
    repeated = [labels[: index + 1] == above[: index + 1] for index in range(len(labels) - 1)] + [False]
    return [Text("" if blank else one_line(label)) for label, blank in zip(labels, repeated, strict=True)]


def _header(column: Column) -> str:
    return one_line(column.title) if column.kind == "task" else f"{one_line(column.group)}\n{column.title}"


def _plain(cell: TableCell, column: Column, *, with_stderr: bool) -> str:
    shown = show_cell(cell, column)
    text = f"{shown.number} ± {shown.stderr}" if shown.stderr and with_stderr else shown.number
    text += f" ({shown.coverage})" if shown.coverage else ""
    return text + shown.mark + (f" [{shown.notes}]" if shown.notes else "")


def _styled(cell: TableCell, column: Column, *, with_stderr: bool) -> Text:
    text = _plain(cell, column, with_stderr=with_stderr)
    if cell.status == "failed":
        return Text(text, style="bold red", no_wrap=True)
    if column.kind == "drop" and cell.severity:
        return Text(text, style=_STYLES[cell.severity], no_wrap=True)
    return Text(text, no_wrap=True)


def _fitting(table: Table, max_width: int | None, *, with_stderr: bool) -> list[int]:
    """The columns to show: all that fit, the more summary ones first; at least one."""
    columns = table.columns
    averaged = {column.group for column in columns if column.kind == "average"}

    def rank(index: int) -> tuple[bool, int, bool]:
        # A task that no average of its group sums up is a summary itself; a drop says less than its score.
        column = columns[index]
        return column.kind == "task" and column.group in averaged, -len(column.tasks), column.kind == "drop"

    order = sorted(range(len(columns)), key=rank)
    shown: list[int] = []
    for index in order:
        if not shown or max_width is None or _width(table, [*shown, index], with_stderr=with_stderr) <= max_width:
            shown.append(index)
    return sorted(shown)


def _caption(table: Table, shown: Sequence[int], with_stderr: bool) -> Text | None:
    if len(shown) < len(table.columns):
        return Text(f"{len(shown)} of {len(table.columns)} columns, for want of width; the report has all of them")
    return None if with_stderr else Text("without standard errors, for want of width; the report has them")


def _width(table: Table, shown: Sequence[int], *, with_stderr: bool) -> int:
    """How wide the table is with these columns, when no text is wrapped."""
    widths = [
        max([len(title), *(len(one_line(row.labels[place])) for row in table.rows)])
        for place, title in enumerate(table.label_titles)
    ]
    for index in shown:
        column = table.columns[index]
        cells = [len(_plain(row.cells[index], column, with_stderr=with_stderr)) for row in table.rows]
        widths.append(max([*map(len, _header(column).splitlines()), *cells]))
    return sum(width + _PADDING for width in widths) + 1
