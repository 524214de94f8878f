"""Tables in LaTeX: booktabs and multirow, for pdfLaTeX on a plain TeX Live."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from reports.plain_text import NOTE_LENGTH, one_line
from reports.tables import Column, ShownCell, Table, TableRow, show_cell

PACKAGES = ("booktabs", "multirow", "graphicx")
# A float does not break over pages; a table with more rows is set as several.
MAX_ROWS = 36
# With more columns than this, labels included, a table is shrunk to the width of the line.
_MAX_NATURAL_COLUMNS = 7
# With more columns than this the report's page is turned.
_MAX_PORTRAIT_COLUMNS = 9

# Only what every text font has, in the old encoding (OT1) and in T1, without packages or fonts beyond the base.
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"$\$$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\`{}",
    "±": r"$\pm$",
    "†": r"$\dagger$",
    "‡": r"$\ddagger$",
    "\ufffd": "?",
}
_MARKS = {"": "", "†": r"\rlap{\textsuperscript{$\dagger$}}", "‡": r"\rlap{\textsuperscript{$\ddagger$}}"}
_LETTERS = frozenset(chr(code) for code in range(0xC0, 0x100)) - frozenset("\u00d7\u00f7\u00d0\u00de\u00f0\u00fe")


def escape_latex(text: str) -> str:
    """Text that LaTeX shows as it is; a character that pdfLaTeX has no glyph for is shown as its code point."""
    # Two hyphens in a row would print as a dash, two commas in T1 as a low quotation mark.
    escaped = "".join(_SPECIAL.get(character) or _glyph(character) for character in one_line(text))
    return escaped.replace("--", "-{}-").replace("--", "-{}-").replace(",,", ",{},")


def _glyph(character: str) -> str:
    if character < "\x7f" or character in _LETTERS:
        return character
    return f"[U+{ord(character):04X}]"


def latex_table(table: Table, *, label: str = "tab:qstudy-main") -> str:
    """The table as one or more floats for a document that loads `PACKAGES`; to be taken in by \\input."""
    pages = _pages(table.rows)
    floats = []
    for index, rows in enumerate(pages):
        caption = table.title if index == 0 else f"{table.title} (continued)"
        notes = _notes(table) if index == len(pages) - 1 else []
        floats.append(_float(table, rows, caption, label if index == 0 else f"{label}-{index + 1}", notes))
    needs = ", ".join(PACKAGES)
    return f"% Needs the packages {needs}.\n" + "\n".join(floats)


def latex_document(table: Table, *, paragraphs: Sequence[tuple[str, str]] = ()) -> str:
    """A small document of its own with the table in it; `paragraphs` are (heading, plain text) set after it."""
    num_columns = len(table.label_titles) + len(table.columns)
    landscape = ",landscape" if num_columns > _MAX_PORTRAIT_COLUMNS else ""
    packages = "\n".join(f"\\usepackage{{{package}}}" for package in PACKAGES)
    text = "\n\n".join(f"\\paragraph{{{escape_latex(heading)}}} {escape_latex(body)}" for heading, body in paragraphs)
    return (
        "\\documentclass[10pt]{article}\n"
        "\\usepackage[utf8]{inputenc}\n"
        f"\\usepackage[a4paper{landscape},margin=18mm]{{geometry}}\n"
        f"{packages}\n"
        "\\setlength{\\parindent}{0pt}\n"
        "\\begin{document}\n"
        "\\sloppy\n"
        f"% ---- the table, as in tables/main.tex\n{latex_table(table)}\n% ---- end of the table\n\n"
        f"{text}\n"
        "\\end{document}\n"
    )


def _pages(rows: Sequence[TableRow]) -> list[list[TableRow]]:
    """Rows in runs of at most MAX_ROWS, cut between blocks where a block is not longer than that by itself."""
    pages: list[list[TableRow]] = [[]]
    for _, members in groupby(rows, key=lambda row: row.block):
        block = list(members)
        while block:
            room = MAX_ROWS - len(pages[-1])
            if len(block) > room and pages[-1] and (len(block) <= MAX_ROWS or not room):
                pages.append([])
                continue
            pages[-1] += block[:room]
            block = block[room:]
    return pages


def _float(table: Table, rows: Sequence[TableRow], caption: str, label: str, notes: Sequence[str]) -> str:
    tabular = _tabular(table, rows)
    if len(table.label_titles) + len(table.columns) > _MAX_NATURAL_COLUMNS:
        # Only ever shrunk: a table that fits keeps its size.
        fit = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
        tabular = f"{fit}\n{tabular}}}"
    lines = [
        r"\begin{table*}[!htbp]",
        r"\centering",
        rf"\caption{{{escape_latex(caption)}}}",
        rf"\label{{{label}}}",
        r"\small",
        r"\setlength{\tabcolsep}{4pt}",
    ]
    lines.append(tabular)
    if notes:
        lines += [r"\par\smallskip", r"\begin{minipage}{\linewidth}\footnotesize\raggedright"]
        lines += [rf"{note}\par" for note in notes]
        lines.append(r"\end{minipage}")
    return "\n".join([*lines, r"\end{table*}"]) + "\n"


def _tabular(table: Table, rows: Sequence[TableRow]) -> str:
    num_labels = len(table.label_titles)
    lines = [rf"\begin{{tabular}}{{{'l' * num_labels}{_alignment(table.columns)}}}", r"\toprule", *_header(table)]
    above: TableRow | None = None
    for index, row in enumerate(rows):
        lines += _rule(above, row, num_labels + len(table.columns))
        shown = (show_cell(cell, column) for cell, column in zip(row.cells, table.columns, strict=True))
        lines.append(" & ".join([*_labels(rows, index), *map(_cell_text, shown)]) + r" \\")
        above = row
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def _alignment(columns: Sequence[Column]) -> str:
    """Right-aligned columns; those with a severity mark keep room for it at their right."""
    return "".join("r@{\\hspace{3.5\\tabcolsep}}" if column.kind == "drop" else "r" for column in columns)


def _header(table: Table) -> list[str]:
    """Two lines: the groups over their columns, then the columns."""
    num_labels = len(table.label_titles)
    groups, rules, first = [""] * num_labels, [], num_labels + 1
    for group, members in groupby(table.columns, key=lambda column: column.group):
        count = len(list(members))
        groups.append(rf"\multicolumn{{{count}}}{{c}}{{{escape_latex(group)}}}")
        rules.append(rf"\cmidrule(lr){{{first}-{first + count - 1}}}")
        first += count
    titles = [escape_latex(title) for title in (*table.label_titles, *(column.title for column in table.columns))]
    return [" & ".join(groups) + r" \\", " ".join(rules), " & ".join(titles) + r" \\"]


def _rule(above: TableRow | None, row: TableRow, num_columns: int) -> list[str]:
    """A full rule between models, a partial one between the blocks of a model."""
    if above is None or above.labels[0] != row.labels[0]:
        return [r"\midrule"]
    return [] if above.block == row.block else [rf"\cmidrule(l){{2-{num_columns}}}"]


def _labels(rows: Sequence[TableRow], index: int) -> list[str]:
    """A row's labels; one that spans rows stands in the first of them."""
    row = rows[index]
    texts = []
    for place, label in enumerate(row.labels):
        is_last = place == len(row.labels) - 1
        shared = row.labels[: place + 1]
        if not is_last and index and rows[index - 1].labels[: place + 1] == shared:
            texts.append("")
            continue
        span = 1
        while not is_last and index + span < len(rows) and rows[index + span].labels[: place + 1] == shared:
            span += 1
        text = escape_latex(label)
        texts.append(rf"\multirow{{{span}}}{{*}}{{{text}}}" if span > 1 else text)
    return texts


def _cell_text(shown: ShownCell) -> str:
    text = shown.number
    if text[:1] in ("+", "-") and len(text) > 1:
        text = f"${text[0]}${text[1:]}"
    elif text == "-":
        text = "--"
    text += rf"{{\scriptsize\,$\pm$\,{shown.stderr}}}" if shown.stderr else ""
    text += rf"{{\scriptsize\ ({shown.coverage})}}" if shown.coverage else ""
    return text + _MARKS[shown.mark] + (rf"\textsuperscript{{{shown.notes}}}" if shown.notes else "")


def _notes(table: Table) -> list[str]:
    lines = [escape_latex(line) for line in (*table.legend, *table.remarks)]
    for footnote in table.footnotes:
        lines.append(rf"\textsuperscript{{{footnote.number}}}\,{escape_latex(one_line(footnote.text, NOTE_LENGTH))}")
    return lines
