"""Arguments and options that several commands share, and the exit codes. Each option has an environment variable."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grids.expansion import CELL_KEYS

EXIT_CHECK_FAILED, EXIT_BAD_INPUT, EXIT_INCOMPLETE = 1, 2, 3

GridFile = Annotated[Path, typer.Argument(help="The grid file (YAML).", show_default=False)]
StudyFolder = Annotated[Path, typer.Argument(help="The study's folder.", show_default=False)]
StudyOption = Annotated[
    Path | None, typer.Option("--study", envvar="QSTUDY_STUDY", help="The study's folder. [default: studies/NAME]")
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, envvar="QSTUDY_LIMIT", help="Items per task.")]
CELL_PAIR = f"{'|'.join(CELL_KEYS)}=VALUE"
Set = Annotated[
    list[str] | None,
    typer.Option("--set", envvar="QSTUDY_SET", help="Change a key of the grid: KEY=VALUE, dotted. Repeatable."),
]
Only = Annotated[
    list[str] | None,
    typer.Option(
        "--only",
        envvar="QSTUDY_ONLY",
        help=f"Only cells with {CELL_PAIR}. Repeatable.",
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
AllowMixedDevices = Annotated[
    bool,
    typer.Option(
        "--allow-mixed-devices",
        envvar="QSTUDY_ALLOW_MIXED_DEVICES",
        help="A model's cells may run on several kinds of device; tables say so.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", envvar="QSTUDY_DRY_RUN", help="Show the plan and stop.")]
Artifacts = Annotated[
    str | None,
    typer.Option(
        "--artifacts",
        envvar="QSTUDY_ARTIFACTS",
        help="For quantized models: a folder that all see, a URL (s3://...), or `node`. [default: STUDY/artifacts]",
    ),
]
