"""`qstudy check-paper`: whether the numbers that a paper took from a study are still those of the study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from grids import GridError
from orchestrator.reporting import study_tables
from reports.latex_numbers import Number, macro_name, table_numbers
from reports.paper import Definition, Paper, TypedNumber, Use, read_paper

Numbers = Mapping[tuple[str, str], Number]


@dataclass(frozen=True, kw_only=True)
class PaperCheck:
    """What was found: `problems`, a line each; `notes` on what was not looked at; how much was checked."""

    problems: tuple[str, ...]
    notes: tuple[str, ...]
    num_numbers: int
    num_places: int


def check_paper(file: Path, folder: Path, tables: Sequence[str] = ()) -> PaperCheck:
    """Check each number that the paper uses against the study's tables, made anew from its store.

    `tables`: those that the paper's numbers.tex was written with, if not the usual ones. Raises GridError for a paper
    that cannot be read or uses no number of a study, and for a study without results.
    """
    if not file.is_file():
        raise GridError("no such file", file=str(file))
    try:
        paper = read_paper(file)
    except OSError as error:
        raise GridError(f"cannot read the paper: {error.strerror}", file=str(error.filename or file)) from error
    if not (paper.uses or paper.typed or paper.unreadable):
        raise GridError(
            "the paper uses no number of a study: no \\qs{...} of the numbers.tex that `qstudy report` writes, and no "
            "comment `% cell ID` behind a number",
            file=str(file),
        )
    found = table_numbers(study_tables(folder, tables))
    numbers = {(number.quantity, number.key): number for number in found}
    scores = {number.cell_ids: number for number in reversed(found) if number.quantity == "value"}
    problems = [problem for use in paper.uses for problem in _use_problems(use, paper, numbers)]
    problems += [problem for typed in paper.typed for problem in _typed_problems(typed, scores)]
    problems += [f"{macro} at {place}: TeX puts its key together; write it out" for macro, place in paper.unreadable]
    names = {(use.quantity, use.key) for use in paper.uses}
    return PaperCheck(
        problems=tuple(problems),
        notes=(*paper.notes, *_other_cells(paper, names, numbers)),
        num_numbers=len(names) + len(paper.typed),
        num_places=len(paper.uses) + len(paper.typed),
    )


def _use_problems(use: Use, paper: Paper, numbers: Numbers) -> list[str]:
    name = macro_name(use.quantity, use.key)
    definitions = paper.definitions.get((use.quantity, use.key), ())
    number = numbers.get((use.quantity, use.key))
    if number is None:
        said = f"the paper says {_said(definitions[-1])}" if definitions else "the paper does not define it"
        was = f" ({definitions[-1].source})" if definitions and definitions[-1].source else ""
        return [f"{name} at {use.place}: {said}, the study has no such number{was}"]
    if not definitions:
        told = "no file of the paper's folder defines it; is numbers.tex there, and taken in?"
        return [f"{name} at {use.place}: {told} The study says {number.text}, {number.source}"]
    return [
        f"{name} at {use.place}: the paper says {_said(definition)}, the study says {number.text}, {number.source}"
        for definition in definitions
        if definition.text != number.text
    ]


def _said(definition: Definition) -> str:
    return f"{definition.text} ({definition.place})"


def _typed_problems(typed: TypedNumber, scores: Mapping[tuple[str, ...], Number]) -> list[str]:
    number = scores.get((typed.cell_id,))
    if number is None:
        return [f"{typed.text} at {typed.place}: the study has no score of cell {typed.cell_id}"]
    num_decimals = len(typed.text.partition(".")[2])
    text = f"{number.value:.{num_decimals}f}"
    if float(text) == float(typed.text):
        return []
    return [f"{typed.text} at {typed.place}: typed by hand; the study says {text}, cell {typed.cell_id}"]


def _other_cells(paper: Paper, names: set[tuple[str, str]], numbers: Numbers) -> list[str]:
    """Equal numbers that rest on other cells than they did: the study was run again with other settings."""
    notes = []
    for name in sorted(names):
        number, definitions = numbers.get(name), paper.definitions.get(name)
        said = definitions[-1] if definitions else None
        if number and said and said.text == number.text and said.source not in ("", number.source):
            notes.append(f"{macro_name(*name)} is equal, but of other cells: {said.source} then, {number.source} now")
    return notes
