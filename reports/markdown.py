"""Tables in Markdown, as GitHub and others show it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from reports.findings import Finding, Findings
from reports.plain_text import NOTE_LENGTH, one_line
from reports.tables import Column, ShownCell, Table, show_cell

_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_SPECIAL = re.compile(r"[\\`*|\[\]~$#!]")
# An underscore within a word is itself; at a word's edge it opens or closes emphasis.
_EDGE_UNDERSCORE = re.compile(r"(?<![^\W_])_|_(?![^\W_])")
_MAX_NOTE_CELLS = 8


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is, on one line, also within a table."""
    text = "".join(_HTML.get(character, character) for character in one_line(text))
    # The ampersands and hashes of entities are made after the special characters are seen to.
    return _EDGE_UNDERSCORE.sub(r"\\_", _SPECIAL.sub(lambda match: f"\\{match[0]}", text))


def markdown_grid(header: Sequence[str], rows: Sequence[Sequence[str]], *, num_left: int) -> str:
    """A pipe table of texts that are already Markdown; the first `num_left` columns are set left, the others right."""
    widths = [max(3, *(len(line[index]) for line in (header, *rows))) for index in range(len(header))]
    lines = [_line(header, widths, num_left)]
    rule = ["-" * width if index < num_left else "-" * (width - 1) + ":" for index, width in enumerate(widths)]
    lines.append("| " + " | ".join(rule) + " |")
    lines += [_line(row, widths, num_left) for row in rows]
    return "\n".join(lines)


def _line(texts: Sequence[str], widths: Sequence[int], num_left: int) -> str:
    padded = [
        text.ljust(width) if index < num_left else text.rjust(width)
        for index, (text, width) in enumerate(zip(texts, widths, strict=True))
    ]
    return "| " + " | ".join(padded) + " |"


def markdown_table(table: Table) -> str:
    """The table itself; labels that repeat those of the row above are left blank."""
    header = [*map(escape_markdown, table.label_titles), *(_column_title(column) for column in table.columns)]
    rows = []
    above: tuple[str, ...] = ()
    for row in table.rows:
        is_same = [row.labels[: index + 1] == above[: index + 1] for index in range(len(row.labels))]
        # The last label names the row and always stands.
        labels = [
            "" if same and index < len(row.labels) - 1 else escape_markdown(label)
            for index, (label, same) in enumerate(zip(row.labels, is_same, strict=True))
        ]
        shown = (show_cell(cell, column) for cell, column in zip(row.cells, table.columns, strict=True))
        rows.append([*labels, *map(_cell_text, shown)])
        above = row.labels
    return markdown_grid(header, rows, num_left=len(table.label_titles))


def markdown_notes(table: Table) -> str:
    """Legend, remarks and footnotes, as lists."""
    parts = ["\n".join(f"- {escape_markdown(line)}" for line in (*table.legend, *table.remarks))]
    if table.footnotes:
        parts.append("\n".join(_footnotes(table)))
    return "\n\n".join(part for part in parts if part)


def markdown_findings(findings: Findings) -> str:
    """The findings under their questions, then how to read them."""
    parts = []
    for title, members in findings.by_question().items():
        parts.append(f"### {escape_markdown(title)}")
        parts.append("\n".join(_finding(finding) for finding in members))
    if findings.findings:
        parts.append("### How to read the findings")
    parts.append("\n".join(f"- {escape_markdown(line)}" for line in findings.notes))
    return "\n\n".join(parts)


def _finding(finding: Finding) -> str:
    text = f"- {escape_markdown(finding.sentence)}"
    text += f" *{escape_markdown(finding.basis)}.*" if finding.basis else ""
    if finding.claim is None:
        return text
    claim = f"The paper ({finding.claim.place}): {finding.claim.text}. On these models:"
    return f"{text}  \n  {escape_markdown(claim)} **{finding.claim.verdict}**."


def _footnotes(table: Table) -> list[str]:
    lines = []
    for footnote in table.footnotes:
        line = f"- \\[{footnote.number}\\] {escape_markdown(one_line(footnote.text, NOTE_LENGTH))}"
        if footnote.cell_ids:
            shown = ", ".join(f"`{cell_id}`" for cell_id in footnote.cell_ids[:_MAX_NOTE_CELLS])
            more = len(footnote.cell_ids) - _MAX_NOTE_CELLS
            line += f" (cell {shown}{f' and {more} more' if more > 0 else ''})"
        lines.append(line)
    return lines


def _column_title(column: Column) -> str:
    return escape_markdown(column.title if column.is_task else f"{column.group} {column.title}")


def _cell_text(shown: ShownCell) -> str:
    number = f"**{shown.number}**" if shown.is_best else shown.number
    text = escape_markdown(shown.text).replace(shown.number, number, 1)
    return text + escape_markdown(shown.mark) + (f" \\[{shown.notes}\\]" if shown.notes else "")
