"""Commands that hold results against others: variants against variants, a paper against its study."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from orchestrator.cli.options import CELL_PAIR, EXIT_CHECK_FAILED, EXIT_INCOMPLETE, Json, StudyFolder

_SELECTOR = f"An id of a variant or a cell, its beginning, or {CELL_PAIR},..."


def compare(
    study: StudyFolder,
    a: Annotated[str, typer.Argument(help=f"The one side. {_SELECTOR}", show_default=False)],
    b: Annotated[str, typer.Argument(help="The other side, named alike.", show_default=False)],
    flips: Annotated[
        bool, typer.Option("--flips", envvar="QSTUDY_FLIPS", help="The items gained and lost, with their texts.")
    ] = False,
    flips_limit: Annotated[
        int,
        typer.Option("--flips-limit", min=1, envvar="QSTUDY_FLIPS_LIMIT", help="Items per task, gained and lost each."),
    ] = 5,
    text_length: Annotated[
        int, typer.Option("--text-length", min=1, envvar="QSTUDY_TEXT_LENGTH", help="Characters of a text at most.")
    ] = 500,
    max_drop: Annotated[
        float | None,
        typer.Option(
            "--max-drop",
            min=0,
            envvar="QSTUDY_MAX_DROP",
            help="In points. A drop of a task or of the average counts where it is larger, and significant at 5 % "
            "after Holm's correction for all tests shown.",
        ),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            envvar="QSTUDY_STRICT",
            help="Exit 1 where a drop counts (--max-drop, 0 unless given); else 3 where a score cannot be judged.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare variants of a study, B with A: differences, tests, and the items gained and lost.

    Sides that name several models are compared model by model.
    """
    from orchestrator.comparing import compare_variants
    from orchestrator.comparison_view import comparison_view, flips_view, verdict_lines
    from orchestrator.reporting import PIPE_WIDTH

    made = compare_variants(study, a, b)
    limit = max_drop if max_drop is not None else 0.0 if strict else None
    verdict = None if limit is None else made.judge(limit)
    if as_json:
        content = made.to_json(flips_limit=flips_limit if flips else None)
        content["verdict"] = vars(verdict) if verdict else None
        typer.echo(json.dumps(content, indent=1, ensure_ascii=False))
    else:
        console = Console(highlight=False) if sys.stdout.isatty() else Console(width=PIPE_WIDTH, highlight=False)
        for part in comparison_view(made, console):
            console.print(part)
        if flips:
            for part in flips_view(made, limit=flips_limit, text_length=text_length):
                console.print(part, soft_wrap=True)
        if verdict:
            results, beside = verdict_lines(verdict)
            for line in results:
                console.print(line, markup=False, soft_wrap=True)
            for line in beside:
                Console(stderr=True).print(line, markup=False, highlight=False, soft_wrap=True)
    if strict and verdict:
        raise typer.Exit(EXIT_CHECK_FAILED if verdict.drops else EXIT_INCOMPLETE if verdict.unjudged else 0)


def check_paper(
    paper: Annotated[Path, typer.Argument(help="The paper's main LaTeX file.", show_default=False)],
    study: StudyFolder,
    tables: Annotated[
        list[str] | None,
        typer.Option(
            "--table",
            envvar="QSTUDY_TABLE",
            help="As given to `qstudy report` when numbers.tex was written. Repeatable. [default: main, differences]",
        ),
    ] = None,
) -> None:
    """Check that the numbers that a paper took from numbers.tex are still those of the study.

    Files that the paper takes in are read where they lie in its folder. A number typed by hand is checked if a comment
    ends its line: % cell ID, or % cells ID ID ... for the last numbers of the line.
    """
    from orchestrator.paper_check import check_paper as check
    from reports.plain_text import one_line

    found = check(paper, study, tables or ())
    told = Console(stderr=True)
    for problem in found.problems:
        typer.echo(one_line(problem))
    for note in found.notes:
        told.print(one_line(note), markup=False, highlight=False, soft_wrap=True)
    verdict = f"{len(found.problems)} problems" if found.problems else "all equal"
    summary = f"{found.num_numbers} numbers in {found.num_places} places checked: {verdict}"
    told.print(summary, highlight=False)
    raise typer.Exit(EXIT_CHECK_FAILED if found.problems else 0)
