"""Tables in LaTeX: booktabs and multirow, numbers aligned by siunitx where it is loaded; for a plain TeX Live."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from reports.latex_text import escape_latex
from reports.plain_text import NOTE_LENGTH, one_line
from reports.statistics import Severity
from reports.tables import Column, ShownCell, Table, TableCell, TableRow, show_cell

PACKAGES = ("booktabs", "multirow", "graphicx")
# A float does not break over pages; a table with more rows is set as several.
MAX_ROWS = 36
# With more columns than this, labels included, a table is shrunk to the width of the line.
_MAX_NATURAL_COLUMNS = 7
# With more columns than this the report's page is turned.
_MAX_PORTRAIT_COLUMNS = 9

# Tints that differ in lightness, so that they stay apart in grey and for any colour vision.
_TINTS: dict[Severity, str] = {"moderate": "1.000,0.925,0.750", "significant": "0.960,0.720,0.530"}
_SHADING = "Shaded: light where moderate, dark where significant."
# In a document without siunitx, or without colours, a table is only a little plainer.
_COMMANDS = "\n".join(
    [
        r"\providecommand{\qstudynumber}[2]{\ifdefined\tablenum"
        r"\tablenum[table-format=#1,retain-explicit-plus,detect-weight]{#2}\else\ensuremath{#2}\fi}",
        r"\providecommand{\qstudybest}[1]{{\bfseries\ifdefined\tablenum\else\boldmath\fi #1}}",
        r"\providecommand{\qstudymark}[1]{\makebox[0.6em][l]{\textsuperscript{#1}}}",
        r"\providecommand{\qstudyshade}[1]{\ifdefined\cellcolor\cellcolor{qstudy#1}\fi}",
        *(rf"\ifdefined\definecolor\definecolor{{qstudy{name}}}{{rgb}}{{{tint}}}\fi" for name, tint in _TINTS.items()),
    ]
)
_MARKS = {"": "", "†": r"$\dagger$", "‡": r"$\ddagger$", "*": r"$\ast$"}
_NUMBER = re.compile(r"[+-]?(\d+)(?:\.(\d+))?")


def latex_table(table: Table) -> str:
    """The table as one or more floats for a document that loads `PACKAGES`; to be taken in by \\input.

    It also takes siunitx for the alignment of numbers and xcolor with the option table for the shading, if the document
    loads them. Its label is tab:qstudy-NAME.
    """
    pages = _pages(table.rows)
    layouts = [_ColumnLayout.of(table, index) for index in range(len(table.columns))]
    floats = []
    for index, rows in enumerate(pages):
        caption = table.title if index == 0 else f"{table.title} (continued)"
        notes = _notes(table) if index == len(pages) - 1 else []
        label = f"tab:qstudy-{table.name}" + (f"-{index + 1}" if index else "")
        floats.append(_float(table, rows, layouts, caption, label, notes))
    needs = f"% Needs the packages {', '.join(PACKAGES)}; uses siunitx and xcolor (option table) where they are loaded."
    return f"{needs}\n{_COMMANDS}\n" + "\n".join(floats)


def latex_document(tables: Sequence[Table], *, paragraphs: Sequence[tuple[str, str]] = ()) -> str:
    """A small document of its own with the tables in it; `paragraphs` are (heading, plain text) set after them."""
    num_columns = max(len(table.label_titles) + len(table.columns) for table in tables)
    landscape = ",landscape" if num_columns > _MAX_PORTRAIT_COLUMNS else ""
    packages = "\n".join(f"\\usepackage{{{package}}}" for package in PACKAGES)
    text = "\n\n".join(f"\\paragraph{{{escape_latex(heading)}}} {escape_latex(body)}" for heading, body in paragraphs)
    floats = "\n".join(
        f"% ---- as in tables/{table.name}.tex\n{latex_table(table)}\\clearpage\n% ---- end of the table\n"
        for table in tables
    )
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
        f"{floats}\n"
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


def _float(
    table: Table,
    rows: Sequence[TableRow],
    layouts: Sequence[_ColumnLayout],
    caption: str,
    label: str,
    notes: Sequence[str],
) -> str:
    tabular = _tabular(table, rows, layouts)
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


def _tabular(table: Table, rows: Sequence[TableRow], layouts: Sequence[_ColumnLayout]) -> str:
    num_labels = len(table.label_titles)
    alignment = "l" * num_labels + "r" * len(table.columns)
    lines = [rf"\begin{{tabular}}{{{alignment}}}", r"\toprule", *_header(table)]
    above: TableRow | None = None
    for index, row in enumerate(rows):
        lines += _rule(above, row, num_labels + len(table.columns))
        cells = (
            layout.text(cell, column) for layout, cell, column in zip(layouts, row.cells, table.columns, strict=True)
        )
        lines.append(" & ".join([*_labels(rows, index), *cells]) + r" \\")
        above = row
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def _header(table: Table) -> list[str]:
    """Two lines: the groups over their columns, then the columns."""
    num_labels = len(table.label_titles)
    groups, rules, first = [""] * num_labels, [], num_labels + 1
    for group, members in groupby(table.columns, key=lambda column: column.group):
        count = len(list(members))
        groups.append(rf"\multicolumn{{{count}}}{{c}}{{{escape_latex(group)}}}")
        rules.append(rf"\cmidrule(lr){{{first}-{first + count - 1}}}")
        first += count
    titles = [escape_latex(title) for title in table.label_titles]
    titles += [rf"\multicolumn{{1}}{{c}}{{{escape_latex(column.title)}}}" for column in table.columns]
    return [" & ".join(groups) + r" \\", " ".join(rules), " & ".join(titles) + r" \\"]


def _rule(above: TableRow | None, row: TableRow, num_columns: int) -> list[str]:
    """A full rule between models (or what stands first), a partial one between the blocks of one."""
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


@dataclass(frozen=True)
class _ColumnLayout:
    """What the cells of a column need room for, so that right-aligned cells have their decimal points in one line."""

    number_format: str
    stderr: str
    bounds: tuple[str, str]
    extra: str
    has_marks: bool

    @classmethod
    def of(cls, table: Table, index: int) -> _ColumnLayout:
        column = table.columns[index]
        shown = [cell for row in table.rows if (cell := show_cell(row.cells[index], column)).is_number]
        numbers = [match for cell in shown if (match := _NUMBER.fullmatch(cell.number))]
        sign = "-" if any(match[0][0] in "+-" for match in numbers) else ""
        whole = max((len(match[1]) for match in numbers), default=1)
        fraction = max((len(match[2] or "") for match in numbers), default=0)
        intervals = [cell.interval for cell in shown if cell.interval]
        return cls(
            number_format=f"{sign}{whole}.{fraction}",
            stderr=_widest(cell.stderr for cell in shown),
            bounds=(_widest(low for low, _ in intervals), _widest(high for _, high in intervals)),
            extra=_widest(cell.extra for cell in shown),
            has_marks=any(cell.mark for cell in shown),
        )

    def text(self, cell: TableCell, column: Column) -> str:
        """A cell of the column."""
        shown = show_cell(cell, column)
        notes = rf"\textsuperscript{{{shown.notes}}}" if shown.notes else ""
        if not shown.is_number:
            word = "--" if shown.number == "-" else escape_latex(shown.number)
            return rf"\multicolumn{{1}}{{c}}{{{word}{notes}}}" if word or notes else ""
        number = self._number(shown)
        beside = self._stderr(shown) + self._interval(shown) + self._extra(shown)
        number += rf"{{\scriptsize{beside}}}" if beside else ""
        number += rf"\qstudymark{{{_MARKS[shown.mark]}}}" if self.has_marks else ""
        number += rf"\rlap{{{notes}}}" if notes else ""
        shade = cell.severity if column.is_shaded and cell.severity in _TINTS else None
        return rf"\qstudyshade{{{shade}}}{number}" if shade else number

    def _number(self, shown: ShownCell) -> str:
        if not _NUMBER.fullmatch(shown.number):
            return escape_latex(shown.number)
        number = rf"\qstudynumber{{{self.number_format}}}{{{shown.number}}}"
        return rf"\qstudybest{{{number}}}" if shown.is_best else number

    def _stderr(self, shown: ShownCell) -> str:
        if not self.stderr:
            return ""
        text = rf"\,$\pm$\,{shown.stderr}"
        return text + _missing(shown.stderr, self.stderr) if shown.stderr else rf"\phantom{{\,$\pm$\,{self.stderr}}}"

    def _interval(self, shown: ShownCell) -> str:
        if not self.bounds[0]:
            return ""
        if not shown.interval:
            return rf"\phantom{{\ [{_minus(self.bounds[0])}, {_minus(self.bounds[1])}]}}"
        (low, high), (widest_low, widest_high) = shown.interval, self.bounds
        before, after = _missing(low, widest_low), _missing(high, widest_high)
        return rf"\ {before}[{_minus(low)}, {_minus(high)}]{after}"

    def _extra(self, shown: ShownCell) -> str:
        if not self.extra:
            return ""
        text = rf"\rlap{{\ ({shown.extra})}}" if shown.extra else ""
        return text + rf"\phantom{{\ ({self.extra})}}"


def _widest(texts: Iterable[str]) -> str:
    """A text as wide as any of these: the most digits, with a minus if one has it."""
    found = [text for text in texts if text]
    sign = "-" if any(text.startswith("-") for text in found) else ""
    return sign + max((text.removeprefix("-") for text in found), key=len, default="")


def _missing(text: str, widest: str) -> str:
    """Invisible characters that make a number as wide as the widest."""
    sign = r"\phantom{$-$}" if widest.startswith("-") and not text.startswith("-") else ""
    return sign + r"\phantom{0}" * (len(widest.removeprefix("-")) - len(text.removeprefix("-")))


def _minus(text: str) -> str:
    return text.replace("-", "$-$")


def _notes(table: Table) -> list[str]:
    legend = [*table.legend, _SHADING] if any(column.is_shaded for column in table.columns) else table.legend
    lines = [escape_latex(line) for line in (*legend, *table.remarks)]
    for footnote in table.footnotes:
        lines.append(rf"\textsuperscript{{{footnote.number}}}\,{escape_latex(one_line(footnote.text, NOTE_LENGTH))}")
    return lines
