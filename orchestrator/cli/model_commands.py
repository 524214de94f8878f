"""Commands on one model or on names, without a study."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from orchestrator.cli.errors import tell_error
from orchestrator.cli.options import EXIT_CHECK_FAILED, EXIT_INCOMPLETE, Json


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


def lm_eval(context: typer.Context) -> None:
    """Run lm-eval's command line with `--model qstudy_dllm --model_args pretrained=PATH,preset=paper,...`."""
    from workers.standalone import run_lm_eval

    run_lm_eval(context.args)


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
        made = quantize_model(options, output, console=Console(stderr=True))
    except QuantizeFailedError as error:
        tell_error(str(error), kind=error.failure.kind)
        raise typer.Exit(
            EXIT_CHECK_FAILED if error.failure.kind in ("audit", "nonfinite") else EXIT_INCOMPLETE
        ) from error
    if as_json:
        typer.echo(json.dumps(made.to_json(), indent=1))
    else:
        typer.echo("\n".join([*made.summary(), f"artifact: {made.folder}"]))
