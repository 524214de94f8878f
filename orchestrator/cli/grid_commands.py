"""Commands on a grid file: what it would do and cost, running it, and fetching what it needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from grids import GridError, parse_duration
from orchestrator.cli.options import (
    EXIT_INCOMPLETE,
    Address,
    AllowMixedDevices,
    Artifacts,
    BatchSize,
    Device,
    DryRun,
    FailFast,
    GridFile,
    Json,
    Limit,
    Only,
    RetryFailed,
    Set,
    Shards,
    StudyOption,
    TimeLimit,
    Workers,
)

MAX_SIMULATED = 65_536


def plan(
    grid: GridFile,
    study: StudyOption = None,
    limit: Limit = None,
    set_: Set = None,
    only: Only = None,
    retry_failed: RetryFailed = False,
    device: Device = None,
    artifacts: Artifacts = None,
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
    from orchestrator.commands import RunOptions, plan_grid
    from orchestrator.plan_view import print_plan

    sizes = ([workers] if workers else []) + _worker_counts(simulate)
    options = RunOptions(
        study=study,
        limit=limit,
        overrides=tuple(set_ or ()),
        only=tuple(only or ()),
        retry_failed=retry_failed,
        artifacts=artifacts,
    )
    made = plan_grid(grid, options, device=device)
    simulations = [made.simulate(size, failures_per_hour=failure_rate) for size in dict.fromkeys(sizes)]
    print_plan(made, simulations, as_json=as_json)


def _worker_counts(text: str | None) -> list[int]:
    """`8,64,512` as numbers. Raises GridError."""
    parts = text.split(",") if text else []
    for part in parts:
        if not part.strip().isdecimal() or not 1 <= int(part) <= MAX_SIMULATED:
            raise GridError(f"{part!r} is not a number of workers from 1 to {MAX_SIMULATED}", key="--simulate")
    return [int(part) for part in parts]


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
    allow_mixed_devices: AllowMixedDevices = False,
    artifacts: Artifacts = None,
    dry_run: DryRun = False,
) -> None:
    """Run a grid: compute what is missing, then write and print the table."""
    from orchestrator.commands import RunOptions, plan_grid, run_grid
    from orchestrator.plan_view import print_plan
    from orchestrator.reporting import print_result

    overrides = [*(set_ or []), *(["allow_mixed_devices=true"] if allow_mixed_devices else [])]
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
        artifacts=artifacts,
    )
    if dry_run:
        print_plan(plan_grid(grid, options))
        return
    result = run_grid(grid, options, console=Console(stderr=True))
    print_result(result)
    raise typer.Exit(0 if result.is_complete else EXIT_INCOMPLETE)


def _seconds(text: str | None) -> float | None:
    """A length of time in seconds. Raises GridError."""
    try:
        return None if text is None else parse_duration(text)
    except ValueError as error:
        raise GridError(str(error), key="--time-limit") from error


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
    from orchestrator.reporting import print_result

    options = RunOptions(study=study, address=address, num_workers=workers, batch_size=batch_size, limit=limit)
    result = run_grid(DEMO_GRID, options, console=Console(stderr=True))
    print_result(result)
    raise typer.Exit(0 if result.is_complete else EXIT_INCOMPLETE)


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
