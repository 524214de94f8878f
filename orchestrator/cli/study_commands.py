"""Commands that look into a study's folder, also while another shell runs it."""

from __future__ import annotations

import json
import time
from typing import Annotated

import typer
from rich.console import Console

from grids import GridError
from orchestrator.cli.options import CELL_PAIR, EXIT_INCOMPLETE, Json, StudyFolder


def status(
    study: StudyFolder,
    watch: Annotated[bool, typer.Option("--watch", envvar="QSTUDY_WATCH", help="Until the run ends.")] = False,
    as_json: Json = False,
) -> None:
    """Show how far a study is, what runs now, and when it will be done."""
    from orchestrator.status_view import status_view, watch_status
    from orchestrator.study_state import study_status

    if watch and as_json:
        raise GridError("--watch shows a table and --json one document; choose one of them", key="--watch")
    if watch:
        made = watch_status(study, Console())
    else:
        made = study_status(study)
        if as_json:
            typer.echo(json.dumps(made.to_json(), indent=1, ensure_ascii=False))
        else:
            Console().print(status_view(made, now=time.time()))
    raise typer.Exit(0 if made.is_complete else EXIT_INCOMPLETE)


def explain(
    study: StudyFolder,
    cell: Annotated[
        str,
        typer.Argument(help=f"An id, its beginning, or {CELL_PAIR},...", show_default=False),
    ],
    as_json: Json = False,
) -> None:
    """Show what decides a cell's id, why it will or will not run, and where its traces are."""
    from orchestrator.explaining import explain_cell

    made = explain_cell(study, cell)
    if as_json:
        typer.echo(json.dumps(made.to_json(), indent=1, ensure_ascii=False))
    else:
        typer.echo("\n".join(made.to_lines()))


def logs(
    study: StudyFolder,
    cell: Annotated[
        str | None,
        typer.Argument(
            help=f"Only about this cell and its variant: an id, its beginning, or {CELL_PAIR},...",
            show_default=False,
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", envvar="QSTUDY_FOLLOW", help="Go on until the run ends.")
    ] = False,
) -> None:
    """Show what happened: attempts, where, how long, warnings and traces."""
    from orchestrator.logs import study_log

    is_empty = True
    for line in study_log(study, cell, follow=follow):
        is_empty = False
        typer.echo(line, nl=False)
    if is_empty:
        Console(stderr=True).print("nothing was logged yet")


def failures(study: StudyFolder, as_json: Json = False) -> None:
    """Show what failed, by kind and message, with the cells and how to read their logs."""
    from orchestrator.failed_cells import failures_view, study_failures

    groups = study_failures(study)
    if as_json:
        typer.echo(json.dumps([group.to_json() for group in groups], indent=1, ensure_ascii=False))
    else:
        Console().print(failures_view(study, groups), soft_wrap=True)
