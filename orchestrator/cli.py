"""The `qstudy` command: reads arguments, calls one function, sets the exit code.

Exit codes: 0 done, 1 a check that was asked for failed, 2 bad input (nothing written), 3 incomplete. Messages for
people go to standard error, results to standard output. Heavy imports happen inside commands.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from grids import GridError
from orchestrator.failures import RunInterruptedError

EXIT_BAD_INPUT, EXIT_INCOMPLETE = 2, 3

app = typer.Typer(
    name="qstudy",
    help="Studies of post-training quantization on diffusion language models, from a grid file to the paper's tables.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

GridFile = Annotated[Path, typer.Argument(help="The grid file (YAML).", show_default=False)]
StudyFolder = Annotated[Path, typer.Argument(help="The study's folder.", show_default=False)]
StudyOption = Annotated[
    Path | None, typer.Option("--study", envvar="QSTUDY_STUDY", help="The study's folder. [default: studies/NAME]")
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, envvar="QSTUDY_LIMIT", help="Items per task.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", envvar="QSTUDY_SET", help="Change a key of the grid: KEY=VALUE, dotted. Repeatable."),
]
Only = Annotated[
    list[str] | None,
    typer.Option(
        "--only", envvar="QSTUDY_ONLY", help="Only cells with model|method|scheme|task|seed=VALUE. Repeatable."
    ),
]
Json = Annotated[bool, typer.Option("--json", envvar="QSTUDY_JSON", help="One JSON document on standard output.")]
RetryFailed = Annotated[
    bool, typer.Option("--retry-failed", envvar="QSTUDY_RETRY_FAILED", help="Run failed cells once more.")
]
Address = Annotated[
    str | None, typer.Option("--address", envvar="QSTUDY_ADDRESS", help="A running Ray cluster. [default: a local one]")
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        envvar="QSTUDY_WORKERS",
        help="How many. [default: one per GPU; without one, one per CPU, at most 8]",
    ),
]
BatchSize = Annotated[
    int,
    typer.Option(
        "--batch-size", min=1, envvar="QSTUDY_BATCH_SIZE", help="Requests that are answered and saved together."
    ),
]
FailFast = Annotated[
    bool, typer.Option("--fail-fast", envvar="QSTUDY_FAIL_FAST", help="Stop at the first failed cell.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", envvar="QSTUDY_DRY_RUN", help="Show the plan and stop.")]


@app.command()
def plan(
    grid: GridFile,
    study: StudyOption = None,
    limit: Limit = None,
    set_: Set = None,
    only: Only = None,
    retry_failed: RetryFailed = False,
    as_json: Json = False,
) -> None:
    """Show what would run, what would be reused, and why."""
    from orchestrator.commands import plan_grid, print_plan

    made = plan_grid(grid, study, limit=limit, overrides=set_ or [], only=only or [], retry_failed=retry_failed)
    print_plan(made, as_json=as_json)


@app.command()
def run(
    grid: GridFile,
    study: StudyOption = None,
    address: Address = None,
    workers: Workers = None,
    batch_size: BatchSize = 16,
    limit: Limit = None,
    set_: Set = None,
    only: Only = None,
    retry_failed: RetryFailed = False,
    fail_fast: FailFast = False,
    dry_run: DryRun = False,
) -> None:
    """Run a grid: compute what is missing, then write and print the table."""
    from orchestrator.commands import RunOptions, plan_grid, print_plan, run_grid

    overrides = set_ or []
    if dry_run:
        made = plan_grid(grid, study, limit=limit, overrides=overrides, only=only or [], retry_failed=retry_failed)
        print_plan(made, as_json=False)
        return
    options = RunOptions(
        study=study,
        address=address,
        num_workers=workers,
        batch_size=batch_size,
        limit=limit,
        overrides=tuple(overrides),
        only=tuple(only or ()),
        retry_failed=retry_failed,
        fail_fast=fail_fast,
    )
    raise typer.Exit(0 if run_grid(grid, options) else EXIT_INCOMPLETE)


@app.command()
def demo(
    study: StudyOption = None,
    address: Address = None,
    workers: Workers = None,
    batch_size: BatchSize = 16,
    limit: Limit = None,
) -> None:
    """Run the grid that ships: three tiny diffusion models, a few minutes on two CPU cores."""
    from orchestrator.catalog import DEMO_GRID
    from orchestrator.commands import RunOptions, run_grid

    options = RunOptions(study=study, address=address, num_workers=workers, batch_size=batch_size, limit=limit)
    raise typer.Exit(0 if run_grid(DEMO_GRID, options) else EXIT_INCOMPLETE)


@app.command()
def status(
    study: StudyFolder,
    watch: Annotated[bool, typer.Option("--watch", envvar="QSTUDY_WATCH", help="Until the run ends.")] = False,
    as_json: Json = False,
) -> None:
    """Show how far a study is, what runs now, and when it will be done."""
    from orchestrator.status import study_status
    from orchestrator.status_view import status_view, watch_status

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


@app.command()
def logs(
    study: StudyFolder,
    cell: Annotated[
        str, typer.Argument(help="An id, its beginning, or model|method|scheme|task|seed=VALUE,...", show_default=False)
    ],
    follow: Annotated[
        bool, typer.Option("--follow", "-f", envvar="QSTUDY_FOLLOW", help="Go on until the run ends.")
    ] = False,
) -> None:
    """Show what a cell's attempts did: where, how long, warnings and traces."""
    from orchestrator.logs import cell_log, follow_cell_log

    for text in (follow_cell_log if follow else cell_log)(study, cell):
        typer.echo(text, nl=False)


@app.command()
def failures(study: StudyFolder, as_json: Json = False) -> None:
    """Show what failed, by kind and message, with the cells and where their logs are."""
    from orchestrator.failed_cells import failures_view, study_failures

    groups = study_failures(study)
    if as_json:
        typer.echo(json.dumps([group.to_json() for group in groups], indent=1, ensure_ascii=False))
    else:
        Console().print(failures_view(groups), soft_wrap=True)


@app.command()
def report(
    study: StudyFolder,
    formats: Annotated[
        str, typer.Option("--format", "-f", envvar="QSTUDY_FORMAT", help="Any of markdown,latex,csv,json.")
    ] = "markdown,latex",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", envvar="QSTUDY_OUTPUT", help="A folder. [default: STUDY/report]")
    ] = None,
) -> None:
    """Write the tables of a study."""
    from orchestrator.reporting import write_study_report

    for path in write_study_report(study, formats.split(","), output):
        typer.echo(path)


@app.command(name="list")
def list_(
    what: Annotated[str, typer.Argument(help="models, methods, schemes, tasks or presets.", show_default=False)],
    as_json: Json = False,
) -> None:
    """List what a grid may name."""
    from orchestrator.listing import list_names

    made = list_names(what)
    if as_json:
        typer.echo(json.dumps(made.to_json(), indent=1))
    else:
        Console().print(made.to_table())


def main() -> None:
    """Entry point of the `qstudy` command."""
    try:
        app()
    except SystemExit:
        raise
    except RunInterruptedError as error:
        _tell_error(f"{error}\nthe run has stopped; what was saved is kept, and the same command goes on from there")
        sys.exit(EXIT_INCOMPLETE)
    except KeyboardInterrupt:
        Console(stderr=True).print("stopped; the same command goes on where this one was")
        sys.exit(EXIT_INCOMPLETE)
    except (GridError, _storage_error()) as error:
        _tell_error(str(error))
        sys.exit(EXIT_BAD_INPUT)


def _storage_error() -> type[Exception]:
    """Looked up when an error is on its way, for it lives beside Arrow, which takes its time to load."""
    from reports import StorageError

    return StorageError


def _tell_error(text: str) -> None:
    Console(stderr=True).print(f"[red]error:[/red] {_escape(text)}", soft_wrap=True, highlight=False)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
