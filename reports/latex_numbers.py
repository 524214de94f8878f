r"""The numbers of tables as LaTeX macros, so that a paper's text names a number in place of typing it.

A number is looked up by what it is: \qs{MODEL/SCHEME/METHOD/TASK}. A key depends on its own row and column alone, so
that cells which are added later change none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from grids.identity import ID_LENGTH, text_id
from reports.plain_text import one_line
from reports.tables import Column, Table, TableCell, TableRow, decimal_text

# Each quantity and the command that looks it up.
COMMANDS: Mapping[str, str] = {
    "value": "qs",
    "stderr": "qsstderr",
    "low": "qslow",
    "high": "qshigh",
    "difference": "qsdifference",
    "differencelow": "qsdifferencelow",
    "differencehigh": "qsdifferencehigh",
    "drop": "qsdrop",
    "recovery": "qsrecovery",
}
SETTER = "qsset"
# Tables whose numbers need no table's name in front: they show the same cells.
_PLAIN_TABLES = ("main", "differences")
# Nothing that TeX, or a language of babel, gives a meaning to.
_NOT_IN_KEYS = re.compile(r"[^A-Za-z0-9.+-]+")
_SUFFIX_LENGTH = ID_LENGTH // 2

_HEAD = r"""% Numbers of study {study}, as `qstudy report` wrote them; do not edit, it writes them anew.
% \input{{numbers}} in the preamble; then, anywhere in the paper,
%   \qs{{MODEL/SCHEME/METHOD/TASK}}  is a score, as the tables show it{example}
%   \qsstderr, \qslow, \qshigh  its standard error, and the ends of its 95 % interval
%   \qsdifference, \qsdifferencelow, \qsdifferencehigh  what full precision differs by, in points, and its interval
%   \qsdrop, \qsrecovery  the change in percent of full precision, and the share of it that is left
% Full precision has no METHOD; in place of TASK, average is that of all tasks and average-GROUP that of a group.
% A minus is a hyphen, so that \num of siunitx takes it; in text write $\qsdifference{{...}}$.
% `qstudy check-paper PAPER STUDY` checks that a paper's numbers are still those of the study.
\ifdefined\qsset\else
\newcommand{{\qsname}}[2]{{qs@#1@\detokenize{{#2}}}}
\newcommand{{\qsset}}[3]{{%
  \ifcsname\qsname{{#1}}{{#2}}\endcsname\PackageWarning{{qstudy}}{{\detokenize{{#2}} is set twice}}\fi
  \expandafter\def\csname\qsname{{#1}}{{#2}}\endcsname{{#3}}}}
\newcommand{{\qsget}}[2]{{%
  \ifcsname\qsname{{#1}}{{#2}}\endcsname\csname\qsname{{#1}}{{#2}}\endcsname\else\qsunknown{{#1}}{{#2}}\fi}}
\DeclareRobustCommand{{\qsunknown}}[2]{{\textbf{{??}}\PackageWarning{{qstudy}}{{There is no #1 of \detokenize{{#2}}}}}}
{commands}
\fi
"""


@dataclass(frozen=True, kw_only=True)
class Number:
    """One number of a table: `text` as it is shown, `value` in full, the cells behind it and those compared with."""

    quantity: str
    key: str
    text: str
    value: float
    cell_ids: tuple[str, ...]
    reference_cell_ids: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """The ids in words."""
        ids = f"{'cell' if len(self.cell_ids) == 1 else 'cells'} {' '.join(self.cell_ids)}"
        return ids + (f" against {' '.join(self.reference_cell_ids)}" if self.reference_cell_ids else "")


def macro_name(quantity: str, key: str) -> str:
    """How a paper writes a number."""
    return rf"\{COMMANDS[quantity]}{{{key}}}"


def latex_numbers(study: str, tables: Sequence[Table]) -> str:
    """The file that defines a macro per number of the tables, each with its cells' ids in a comment."""
    numbers = table_numbers(tables)
    first = next((number for number in numbers if number.quantity == "value"), None)
    example = f": \\qs{{{first.key}}} is {first.text}" if first else ""
    commands = "\n".join(
        rf"\newcommand{{\{command}}}[1]{{\qsget{{{quantity}}}{{#1}}}}" for quantity, command in COMMANDS.items()
    )
    head = _HEAD.format(study=one_line(study), example=example, commands=commands)
    lines = [rf"\{SETTER}{{{number.quantity}}}{{{number.key}}}{{{number.text}}}% {number.source}" for number in numbers]
    return head + "".join(f"{line}\n" for line in lines)


def table_numbers(tables: Sequence[Table]) -> list[Number]:
    """The numbers of the tables, each once; averages and means that miss a cell are left out.

    Where one key would stand for several numbers, each of them gets an id behind it: a key never passes from one number
    to another.
    """
    found: dict[tuple[str, str], dict[tuple[str, ...], Number]] = {}
    for table in tables:
        for number in _numbers_of(table):
            found.setdefault((number.quantity, number.key), {}).setdefault(number.cell_ids, number)
    return [
        number if len(alike) == 1 else replace(number, key=f"{number.key}-{_short_id(number)}")
        for alike in found.values()
        for number in alike.values()
    ]


def _short_id(number: Number) -> str:
    ids = number.cell_ids
    return (ids[0] if len(ids) == 1 else text_id(" ".join(ids)))[:_SUFFIX_LENGTH]


def _numbers_of(table: Table) -> Iterator[Number]:
    prefix = () if table.name in _PLAIN_TABLES else (table.name,)
    for row in table.rows:
        for column, cell in zip(table.columns, row.cells, strict=True):
            if cell.value is None or cell.status not in ("done", "noise_floor"):
                continue
            key = "/".join(_key_part(part) for part in (*prefix, *_row_parts(row), _column_part(column)))
            for quantity, (value, text) in _quantities(cell, column).items():
                is_compared = quantity not in ("value", "stderr", "low", "high")
                yield Number(
                    quantity=quantity,
                    key=key,
                    text=text,
                    value=value,
                    cell_ids=cell.cell_ids,
                    reference_cell_ids=cell.reference_cell_ids if is_compared else (),
                )


def _row_parts(row: TableRow) -> tuple[str, ...]:
    """Model, scheme and method; the usual seed goes without saying."""
    model = row.names["model"].rstrip("/").rsplit("/", 1)[-1]
    of_seed = {
        "mean": "mean-of-seeds",
        "noise_floor": "noise-floor",
        "variant": f"seed-{row.seed}" if row.seed else "",
    }[row.kind]
    method = "" if row.is_reference else row.names["method"]
    last = "-".join(part for part in (method, of_seed) if part)
    return (model, row.names["scheme"], *([last] if last else []))


def _column_part(column: Column) -> str:
    if len(column.tasks) == 1:
        return column.tasks[0]
    return "average" if column.is_overall else f"average-{column.group}"


def _key_part(text: str) -> str:
    return _NOT_IN_KEYS.sub("-", text).strip("-") or "-"


def _quantities(cell: TableCell, column: Column) -> dict[str, tuple[float, str]]:
    """What a cell holds, each with its text as its own column would show it."""
    low, high = cell.interval or (None, None)
    found: dict[str, float | None] = {}
    if column.kind in ("task", "average"):
        found = {"value": cell.value, "stderr": cell.stderr, "low": low, "high": high}
    elif column.kind in ("drop", "recovery"):
        found = {column.kind: cell.value}
    if cell.comparison is not None and cell.reference_cell_ids:
        low, high = cell.comparison.interval or (None, None)
        found |= {"difference": cell.comparison.difference, "differencelow": low, "differencehigh": high}
    found |= {"drop": cell.drop, "recovery": cell.recovery}
    return {quantity: (value, _text(quantity, value, column)) for quantity, value in found.items() if value is not None}


def _text(quantity: str, value: float, column: Column) -> str:
    is_percentage = column.is_percentage or quantity in ("drop", "recovery")
    return decimal_text(value, is_percentage=is_percentage, sign="+" if quantity in ("difference", "drop") else "-")
