"""Tables in a terminal, for the end of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from reports.findings import Findings
from reports.plain_text import NOTE_LENGTH, one_line
from reports.statistics import Severity
from reports.tables import Column, Table, TableCell, show_cell

_STYLES: dict[Severity, str] = {"negligible": "green", "moderate": "yellow", "significant": "red"}
# A column's own room, beside its text: a space at either side and one between columns.
_PADDING = 3


def terminal_table(table: Table, *, max_width: int | None = None) -> RichTable:
    """The table for a rich console, made to fit `max_width` characters.

    What does not fit is left out, errors first, then columns (tasks that an average sums up, then drops); the
    caption says so.
    """
    with_errors = max_width is None or _width(table, range(len(table.columns)), with_errors=True) <= max_width
    shown = _fitting(table, max_width, with_errors=with_errors)
    grid = RichTable(
        title=Text(one_line(table.title)), caption=_caption(table, shown, with_errors), box=box.SIMPLE_HEAD
    )
    for title in table.label_titles:
        grid.add_column(Text(one_line(title)), no_wrap=True, vertical="bottom")
    for index in shown:
        grid.add_column(Text(_header(table.columns[index])), justify="right", no_wrap=True)
    above: tuple[str, ...] = ()
    for place, row in enumerate(table.rows):
        cells = (_styled(row.cells[index], table.columns[index], with_errors=with_errors) for index in shown)
        ends_model = place + 1 < len(table.rows) and table.rows[place + 1].labels[0] != row.labels[0]
        grid.add_row(*_labels(row.labels, above), *cells, end_section=ends_model)
        above = row.labels
    return grid


def terminal_notes(table: Table) -> str:
    """Remarks and footnotes as plain lines; the legend stands in the report."""
    lines = [one_line(remark, NOTE_LENGTH) for remark in table.remarks]
    lines += [f"[{footnote.number}] {one_line(footnote.text, NOTE_LENGTH)}" for footnote in table.footnotes]
    return "\n".join(lines)


def terminal_findings(findings: Findings) -> str:
    """The findings that a claim of the paper can be held against, a line each; the report has all."""
    told = [(finding.claim, finding.sentence) for finding in findings.findings if finding.claim and finding.estimate]
    if not told:
        return ""
    lines = ["What the paper (arXiv 2508.14896) claims, on these models:"]
    lines += [f"- {claim.verdict}: {one_line(sentence)}" for claim, sentence in told]
    num_more = len(findings.findings) - len(told)
    return "\n".join([*lines, f"The report has {num_more} more findings."] if num_more else lines)


def _labels(labels: tuple[str, ...], above: tuple[str, ...]) -> list[Text]:
    """A row's labels, those that repeat the row above blank; the last one always stands."""
    repeated = [labels[: index + 1] == above[: index + 1] for index in range(len(labels) - 1)] + [False]
    return [Text("" if blank else one_line(label)) for label, blank in zip(labels, repeated, strict=True)]


def _header(column: Column) -> str:
    return one_line(column.title) if column.is_task else f"{one_line(column.group)}\n{column.title}"


def _plain(cell: TableCell, column: Column, *, with_errors: bool) -> str:
    shown = show_cell(cell, column)
    if not with_errors:
        shown = replace(shown, stderr="", interval=None)
    return shown.text + shown.mark + (f" [{shown.notes}]" if shown.notes else "")


def _styled(cell: TableCell, column: Column, *, with_errors: bool) -> Text:
    text = _plain(cell, column, with_errors=with_errors)
    if cell.status == "failed":
        return Text(text, style="bold red", no_wrap=True)
    styles = ["bold"] if cell.is_best else []
    styles += [_STYLES[cell.severity]] if column.is_shaded and cell.severity else []
    return Text(text, style=" ".join(styles), no_wrap=True)


def _fitting(table: Table, max_width: int | None, *, with_errors: bool) -> list[int]:
    """The columns to show: all that fit, the more summary ones first; at least one."""
    columns = table.columns
    averaged = {column.group for column in columns if not column.is_task and len(column.tasks) > 1}

    def rank(index: int) -> tuple[bool, int, bool]:
        # A task that no average of its group sums up is a summary itself; a drop says less than its score.
        column = columns[index]
        return column.is_task and column.group in averaged, -len(column.tasks), column.kind in ("drop", "recovery")

    order = sorted(range(len(columns)), key=rank)
    shown: list[int] = []
    for index in order:
        if not shown or max_width is None or _width(table, [*shown, index], with_errors=with_errors) <= max_width:
            shown.append(index)
    return sorted(shown)


def _caption(table: Table, shown: Sequence[int], with_errors: bool) -> Text | None:
    if len(shown) < len(table.columns):
        return Text(f"{len(shown)} of {len(table.columns)} columns, for want of width; the report has all of them")
    return None if with_errors else Text("without errors, for want of width; the report has them")


def _width(table: Table, shown: Sequence[int], *, with_errors: bool) -> int:
    """How wide the table is with these columns, when no text is wrapped."""
    widths = [
        max([len(title), *(len(one_line(row.labels[place])) for row in table.rows)])
        for place, title in enumerate(table.label_titles)
    ]
    for index in shown:
        column = table.columns[index]
        cells = [len(_plain(row.cells[index], column, with_errors=with_errors)) for row in table.rows]
        widths.append(max([*map(len, _header(column).splitlines()), *cells]))
    return sum(width + _PADDING for width in widths) + 1
