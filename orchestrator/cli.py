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

from grids import GridError, parse_duration
from orchestrator.failures import RunInterruptedError

EXIT_CHECK_FAILED, EXIT_BAD_INPUT, EXIT_INCOMPLETE = 1, 2, 3
MAX_SIMULATED = 65_536

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
Device = Annotated[
    str | None,
    typer.Option(
        "--device", envvar="QSTUDY_DEVICE", help="Price for it: H200, A100, cpu, ... [default: where the study ran]"
    ),
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
    int | None,
    typer.Option(
        "--batch-size",
        min=1,
        envvar="QSTUDY_BATCH_SIZE",
        help="The most sequences of one forward; as many as suit the device unless given.",
    ),
]
Shards = Annotated[
    int | None,
    typer.Option(
        "--shards",
        min=1,
        envvar="QSTUDY_SHARDS",
        help="Parts that each cell is split into; by its price unless given. The numbers are the same.",
    ),
]
FailFast = Annotated[
    bool, typer.Option("--fail-fast", envvar="QSTUDY_FAIL_FAST", help="Stop at the first failed cell.")
]
TimeLimit = Annotated[
    str | None,
    typer.Option(
        "--time-limit",
        envvar="QSTUDY_TIME_LIMIT",
        help="End within 3h55m, say, before a batch job does: start nothing that would be lost, save what runs.",
    ),
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
    device: Device = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, envvar="QSTUDY_WORKERS", help="Predict the wall time on so many.")
    ] = None,
    simulate: Annotated[
        str | None,
        typer.Option("--simulate", envvar="QSTUDY_SIMULATE", help="Replay the plan on 8, or on each of 8,64,512 GPUs."),
    ] = None,
    failure_rate: Annotated[
        float,
        typer.Option("--failure-rate", min=0, envvar="QSTUDY_FAILURE_RATE", help="Deaths per simulated GPU and hour."),
    ] = 0.0,
    as_json: Json = False,
) -> None:
    """Show what would run, what would be reused, and why; and what it costs."""
    from orchestrator.commands import plan_grid
    from orchestrator.plan_view import print_plan

    sizes = ([workers] if workers else []) + _worker_counts(simulate)
    made = plan_grid(
        grid, study, limit=limit, overrides=set_ or [], only=only or [], retry_failed=retry_failed, device=device
    )
    simulations = [made.simulate(size, failures_per_hour=failure_rate) for size in dict.fromkeys(sizes)]
    print_plan(made, simulations, as_json=as_json)


def _worker_counts(text: str | None) -> list[int]:
    """`8,64,512` as numbers. Raises GridError."""
    parts = text.split(",") if text else []
    for part in parts:
        if not part.strip().isdecimal() or not 1 <= int(part) <= MAX_SIMULATED:
            raise GridError(f"{part!r} is not a number of workers from 1 to {MAX_SIMULATED}", key="--simulate")
    return [int(part) for part in parts]


@app.command()
def run(
    grid: GridFile,
    study: StudyOption = None,
    address: Address = None,
    workers: Workers = None,
    batch_size: BatchSize = None,
    shards: Shards = None,
    limit: Limit = None,
    set_: Set = None,
    only: Only = None,
    retry_failed: RetryFailed = False,
    fail_fast: FailFast = False,
    time_limit: TimeLimit = None,
    dry_run: DryRun = False,
) -> None:
    """Run a grid: compute what is missing, then write and print the table."""
    from orchestrator.commands import RunOptions, plan_grid, run_grid
    from orchestrator.plan_view import print_plan

    overrides = set_ or []
    if dry_run:
        made = plan_grid(grid, study, limit=limit, overrides=overrides, only=only or [], retry_failed=retry_failed)
        print_plan(made)
        return
    options = RunOptions(
        study=study,
        address=address,
        num_workers=workers,
        batch_size=batch_size,
        shards=shards,
        limit=limit,
        overrides=tuple(overrides),
        only=tuple(only or ()),
        retry_failed=retry_failed,
        fail_fast=fail_fast,
        time_limit=_seconds(time_limit),
    )
    raise typer.Exit(0 if run_grid(grid, options) else EXIT_INCOMPLETE)


def _seconds(text: str | None) -> float | None:
    """A length of time in seconds. Raises GridError."""
    try:
        return None if text is None else parse_duration(text)
    except ValueError as error:
        raise GridError(str(error), key="--time-limit") from error


@app.command()
def demo(
    study: StudyOption = None,
    address: Address = None,
    workers: Workers = None,
    batch_size: BatchSize = None,
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
def explain(
    study: StudyFolder,
    cell: Annotated[
        str,
        typer.Argument(
            help="A cell's id or the beginning of it, or model=...,method=...,scheme=...,task=...", show_default=False
        ),
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
    tables: Annotated[
        list[str] | None,
        typer.Option(
            "--table",
            envvar="QSTUDY_TABLE",
            help="A table that ships, or a spec file (YAML). Repeatable. [default: main, differences]",
        ),
    ] = None,
) -> None:
    """Write the tables of a study."""
    from orchestrator.reporting import write_study_report

    for path in write_study_report(study, formats.split(","), output, tables or ()):
        typer.echo(path)


@app.command()
def fetch(
    grid: GridFile,
    set_: Set = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", envvar="QSTUDY_OUTPUT", help="Where commits are recorded. [default: NAME.fetched.json]"
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Download the models and data sets of a grid once, for nodes without a network; HF_HUB_OFFLINE=1 only looks."""
    from orchestrator.fetching import fetch_grid

    made, record = fetch_grid(grid, output, overrides=set_ or [])
    if as_json:
        typer.echo(json.dumps(made.to_json(), indent=1))
    else:
        typer.echo("\n".join(made.to_lines()))
    Console(stderr=True).print(f"recorded in {record}", highlight=False, soft_wrap=True)
    raise typer.Exit(0 if made.is_complete else EXIT_INCOMPLETE)


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


@app.command(
    name="lm-eval",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def lm_eval(context: typer.Context) -> None:
    """Run lm-eval's command line with `--model qstudy_dllm --model_args pretrained=PATH,preset=paper,...`."""
    from workers.standalone import run_lm_eval

    run_lm_eval(context.args)


@app.command()
def export(
    study: StudyFolder,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", envvar="QSTUDY_OUTPUT", help="A folder. [default: STUDY/export]")
    ] = None,
    samples: Annotated[
        bool, typer.Option("--samples", envvar="QSTUDY_SAMPLES", help="Every request with its response, too.")
    ] = False,
    capsule: Annotated[
        bool,
        typer.Option("--capsule", envvar="QSTUDY_CAPSULE", help="One archive of grid, results, tables and checksums."),
    ] = False,
) -> None:
    """Write a study's results as Parquet and CSV, with a README that explains each column."""
    from orchestrator.exporting import export_study

    for path in export_study(study, output, samples=samples, capsule=capsule):
        typer.echo(path)


@app.command()
def verify(
    path: Annotated[Path, typer.Argument(help="A capsule, or a study's folder.", show_default=False)],
    max_gigabytes: Annotated[
        int,
        typer.Option("--max-gigabytes", min=1, envvar="QSTUDY_MAX_GIGABYTES", help="The most a capsule unpacks to."),
    ] = 16,
) -> None:
    """Check that checksums hold, that values follow from their items' scores, and ids from their configurations."""
    from orchestrator.exporting import verify as check
    from reports.export import Limits

    verdict = check(path, Limits(num_bytes=max_gigabytes << 30))
    verdict.print()
    raise typer.Exit(EXIT_CHECK_FAILED if verdict.problems else 0)


@app.command()
def quantize(
    model: Annotated[
        str, typer.Argument(help="A local folder, a shipped model, or a hub id with --revision.", show_default=False)
    ],
    method: Annotated[str, typer.Option("--method", envvar="QSTUDY_METHOD", help="As in `qstudy list methods`.")],
    scheme: Annotated[str, typer.Option("--scheme", envvar="QSTUDY_SCHEME", help="Such as w4a16g128.")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", envvar="QSTUDY_OUTPUT", help="A folder, such as the artifacts of a study."),
    ],
    calibration: Annotated[
        str | None,
        typer.Option("--calibration", envvar="QSTUDY_CALIBRATION", help="wikitext2, pileval or a text file."),
    ] = None,
    num_samples: Annotated[
        int, typer.Option("--num-samples", min=1, envvar="QSTUDY_NUM_SAMPLES", help="Calibration windows.")
    ] = 128,
    length: Annotated[
        int, typer.Option("--length", min=2, envvar="QSTUDY_LENGTH", help="Tokens of a calibration window.")
    ] = 2048,
    parameters: Annotated[
        list[str] | None,
        typer.Option("--set", envvar="QSTUDY_SET", help="A parameter of the method: KEY=VALUE. Repeatable."),
    ] = None,
    revision: Annotated[
        str | None, typer.Option("--revision", envvar="QSTUDY_REVISION", help="The commit of a hub id.")
    ] = None,
    preset: Annotated[str, typer.Option("--preset", envvar="QSTUDY_PRESET", help="Where parameters come from.")] = (
        "paper"
    ),
    dtype: Annotated[
        str, typer.Option("--dtype", envvar="QSTUDY_DTYPE", help="float32, bfloat16 or float16.")
    ] = "bfloat16",
    seed: Annotated[int, typer.Option("--seed", envvar="QSTUDY_SEED", help="Of every random draw.")] = 0,
    as_json: Json = False,
) -> None:
    """Quantize one model, check that it is what its label says, and write it; without a study."""
    from orchestrator.quantizing import QuantizeFailedError, QuantizeOptions, quantize_model

    options = QuantizeOptions(
        model=model,
        method=method,
        scheme=scheme,
        revision=revision,
        calibration=calibration,
        num_samples=num_samples,
        length=length,
        parameters=tuple(parameters or ()),
        preset=preset,
        dtype=dtype,
        seed=seed,
    )
    try:
        made = quantize_model(options, output)
    except QuantizeFailedError as error:
        Console(stderr=True).print(f"[red]{error.failure.kind}:[/red] {_escape(str(error))}", soft_wrap=True)
        raise typer.Exit(
            EXIT_CHECK_FAILED if error.failure.kind in ("audit", "nonfinite") else EXIT_INCOMPLETE
        ) from error
    if as_json:
        typer.echo(json.dumps(made.to_json(), indent=1))
    else:
        typer.echo("\n".join([*made.summary(), f"artifact: {made.folder}"]))


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
