"""Tables in LaTeX: booktabs and multirow, numbers aligned by siunitx where it is loaded; for a plain TeX Live."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from reports.latex_column import TINTS, ColumnLayout, cell_text, text_width
from reports.latex_text import breakable_latex, escape_latex
from reports.plain_text import NOTE_LENGTH, one_line
from reports.tables import Table, TableRow

PACKAGES = ("booktabs", "multirow", "graphicx")
# A float does not break over pages; a table with more rows is set as several.
MAX_ROWS = 36
# Points. A wider table is set as several, cut between groups of columns; a page turned on its side takes 740, so that
# this one is shrunk by a fifth there.
MAX_WIDTH = 900.0
# Points; with wider tables the report's page is turned. Upright it takes 490.
_MAX_UPRIGHT_WIDTH = 540.0

_SHADING = "Shaded: light where moderate, dark where significant."
# In a document without siunitx, colours or multirow, a table is only a little plainer. One that would have to be shrunk
# to less than two thirds of its width is turned on its side instead; one too high for its page is shrunk as a whole.
_COMMANDS = "\n".join(
    [
        r"\providecommand{\qstudynumber}[2]{\ifdefined\tablenum"
        r"\tablenum[table-format=#1,retain-explicit-plus,detect-weight]{#2}\else\ensuremath{#2}\fi}",
        r"\providecommand{\qstudybest}[1]{{\bfseries\ifdefined\tablenum\else\boldmath\fi #1}}",
        r"\providecommand{\qstudymark}[1]{\makebox[0.6em][l]{\textsuperscript{#1}}}",
        r"\providecommand{\qstudyshade}[1]{\ifdefined\cellcolor\cellcolor{qstudy#1}\fi}",
        *(rf"\ifdefined\definecolor\definecolor{{qstudy{name}}}{{rgb}}{{{tint}}}\fi" for name, tint in TINTS.items()),
        r"\providecommand{\multirow}[3]{#3}",
        r"\ifdefined\qstudytabular\else\newsavebox{\qstudytabular}\newsavebox{\qstudypage}\fi",
        # Of the whole: its caption, and its notes.
        r"\providecommand{\qstudyset}[2]{\centering\ifdim\wd\qstudytabular>1.5\linewidth",
        r"  \qstudybody{\textheight}{#1}{#2}\rotatebox{90}{\qstudyshrunk{\linewidth}}%",
        r"  \else\qstudybody{\linewidth}{#1}{#2}\qstudyshrunk{\textheight}\fi}",
        r"\providecommand{\qstudybody}[3]{\sbox\qstudypage{\begin{minipage}{#1}\centering #2\par\smallskip",
        r"  \ifdim\wd\qstudytabular>\linewidth\resizebox{\linewidth}{!}{\usebox\qstudytabular}%",
        r"  \else\usebox\qstudytabular\fi\par\smallskip",
        r"  \ifdim\wd\qstudytabular<0.7\linewidth\begin{minipage}{0.7\linewidth}%",
        r"  \else\begin{minipage}{\linewidth}\fi\footnotesize\raggedright #3\end{minipage}\end{minipage}}}",
        r"\providecommand{\qstudyshrunk}[1]{\ifdim\dimexpr\ht\qstudypage+\dp\qstudypage\relax>0.98#1",
        r"  \resizebox*{!}{0.98#1}{\usebox\qstudypage}\else\usebox\qstudypage\fi}",
    ]
)


def latex_table(table: Table) -> str:
    """The table as one or more floats for a document that loads `PACKAGES`; to be taken in by \\input.

    It also takes siunitx for the alignment of numbers and xcolor with the option table for the shading, if the document
    loads them. Its label is tab:qstudy-NAME.
    """
    layouts = [ColumnLayout.of(table, index) for index in range(len(table.columns))]
    parts = [(columns, rows) for columns in _panels(table, layouts) for rows in _pages(table.rows)]
    floats = []
    for index, (columns, rows) in enumerate(parts):
        caption = _caption(table, index)
        notes = _notes(table) if index == len(parts) - 1 else []
        floats.append(_float(caption, _tabular(table, rows, columns, layouts), notes))
    needs = f"% Needs the packages {', '.join(PACKAGES)}; uses siunitx and xcolor (option table) where they are loaded."
    return f"{needs}\n{_COMMANDS}\n" + "\n".join(floats)


def latex_document(tables: Sequence[Table], *, opening: str = "", paragraphs: Sequence[tuple[str, str]] = ()) -> str:
    """A small document of its own: `opening` (LaTeX), the tables, and `paragraphs` of (heading, plain text)."""
    width = max(
        _labels_width(table) + sum(ColumnLayout.of(table, index).width for index in range(len(table.columns)))
        for table in tables
    )
    landscape = ",landscape" if width > _MAX_UPRIGHT_WIDTH else ""
    packages = "\n".join(f"\\usepackage{{{package}}}" for package in PACKAGES)
    text = "\n\n".join(
        f"\\paragraph{{{breakable_latex(heading)}}} {breakable_latex(body)}" for heading, body in paragraphs
    )
    floats = "\n".join(_in_document(table) for table in tables)
    return (
        "\\documentclass[10pt]{article}\n"
        "\\usepackage[utf8]{inputenc}\n"
        "\\usepackage[table]{xcolor}\n"
        f"\\usepackage[a4paper{landscape},margin=18mm]{{geometry}}\n"
        f"{packages}\n"
        "\\IfFileExists{siunitx.sty}{\\usepackage{siunitx}}{}\n"
        "\\setlength{\\parindent}{0pt}\n"
        "\\begin{document}\n"
        "\\sloppy\n"
        f"{opening}"
        f"{floats}\\clearpage\n"
        f"{text}\n"
        "\\end{document}\n"
    )


def _in_document(table: Table) -> str:
    text = latex_table(table)
    # LaTeX can only hold so many floats back; those of one large table alone are many.
    flush = "\\clearpage\n" if text.count(r"\begin{table*}") > 1 else ""
    return f"% ---- as in tables/{table.name}.tex\n{text}{flush}% ---- end of the table\n"


def _panels(table: Table, layouts: Sequence[ColumnLayout]) -> list[list[int]]:
    """Columns in runs that are about MAX_WIDTH at most with the labels, cut between groups where these fit."""
    room = MAX_WIDTH - _labels_width(table)
    panels: list[list[int]] = [[]]
    for _, members in groupby(range(len(layouts)), key=lambda index: table.columns[index].group):
        group = list(members)
        if sum(layouts[index].width for index in panels[-1] + group) > room and panels[-1]:
            panels.append([])
        for index in group:
            if sum(layouts[each].width for each in (*panels[-1], index)) > room and panels[-1]:
                panels.append([])
            panels[-1].append(index)
    return panels


def _labels_width(table: Table) -> float:
    """About how wide the label columns are, in points."""
    texts = [(title, *(row.labels[place] for row in table.rows)) for place, title in enumerate(table.label_titles)]
    return sum(map(text_width, texts))


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


def _caption(table: Table, index: int) -> str:
    """Of a table's first float, or of one that continues it under the same number."""
    title, label = escape_latex(table.title), f"tab:qstudy-{table.name}"
    if index == 0:
        return rf"\caption{{{title}}}\label{{{label}}}"
    return rf"\addtocounter{{table}}{{-1}}\caption{{{title} (continued)}}\label{{{label}-{index + 1}}}"


def _float(caption: str, tabular: str, notes: Sequence[str]) -> str:
    lines = [
        r"\begin{table*}[!htbp]",
        r"\begin{lrbox}{\qstudytabular}\small\setlength{\tabcolsep}{4pt}%",
        tabular,
        r"\end{lrbox}",
        rf"\qstudyset{{{caption}}}{{%",
        *(rf"{note}\par" for note in notes),
        r"}",
        r"\end{table*}",
    ]
    return "\n".join(lines) + "\n"


def _tabular(table: Table, rows: Sequence[TableRow], columns: Sequence[int], layouts: Sequence[ColumnLayout]) -> str:
    num_labels = len(table.label_titles)
    alignment = "l" * num_labels + "r" * len(columns)
    lines = [rf"\begin{{tabular}}{{{alignment}}}", r"\toprule", *_header(table, columns)]
    above: TableRow | None = None
    for index, row in enumerate(rows):
        lines += _rule(above, row, num_labels + len(columns))
        cells = (layouts[place].text(row.cells[place], table.columns[place]) for place in columns)
        lines.append(" & ".join([*_labels(rows, index), *cells]) + r" \\")
        above = row
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def _header(table: Table, columns: Sequence[int]) -> list[str]:
    """The groups over their columns, where these have any, then the columns."""
    num_labels = len(table.label_titles)
    shown = [table.columns[index] for index in columns]
    groups, rules, first = [""] * num_labels, [], num_labels + 1
    for group, members in groupby(shown, key=lambda column: column.group):
        count = len(list(members))
        groups.append(rf"\multicolumn{{{count}}}{{c}}{{{cell_text(group)}}}")
        if group:
            rules.append(rf"\cmidrule(lr){{{first}-{first + count - 1}}}")
        first += count
    titles = [cell_text(title) for title in table.label_titles]
    titles += [rf"\multicolumn{{1}}{{c}}{{{cell_text(column.title)}}}" for column in shown]
    heading = [" & ".join(groups) + r" \\", " ".join(rules)] if rules else []
    return [*heading, " & ".join(titles) + r" \\"]


def _rule(above: TableRow | None, row: TableRow, num_columns: int) -> list[str]:
    """A rule from the first label that changes to the right; the last label is each row's own."""
    if above is None:
        return [r"\midrule"]
    places = range(len(row.labels) - 1)
    changed = next((place for place in places if above.labels[place] != row.labels[place]), None)
    if changed is None:
        return []
    return [rf"\cmidrule(l){{{changed + 1}-{num_columns}}}" if changed else r"\midrule"]


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
        texts.append(rf"\multirow{{{span}}}{{*}}{{{cell_text(label)}}}" if span > 1 else cell_text(label))
    return texts


def _notes(table: Table) -> list[str]:
    legend = [*table.legend, _SHADING] if any(column.is_shaded for column in table.columns) else table.legend
    lines = [breakable_latex(line) for line in (*legend, *table.remarks)]
    for footnote in table.footnotes:
        text = breakable_latex(one_line(footnote.text, NOTE_LENGTH))
        lines.append(rf"\textsuperscript{{{footnote.number}}}\,{text}")
    return lines
