"""The `qstudy` command: reads arguments, calls one function, sets the exit code.

Exit codes: 0 done, 1 a check that was asked for failed, 2 bad input (nothing written), 3 incomplete. Messages for
people go to standard error, results to standard output. Heavy imports happen inside commands.
"""

from __future__ import annotations

import sys

import typer
from rich.console import Console

from grids import GridError
from orchestrator.cli import comparison_commands, grid_commands, model_commands, result_commands, study_commands
from orchestrator.cli.errors import tell_error
from orchestrator.cli.options import EXIT_BAD_INPUT, EXIT_CHECK_FAILED, EXIT_INCOMPLETE
from orchestrator.failures import RunInterruptedError

app = typer.Typer(
    name="qstudy",
    help="Studies of post-training quantization on diffusion language models, from a grid file to the paper's tables.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (
    grid_commands.plan,
    grid_commands.run,
    grid_commands.demo,
    study_commands.status,
    study_commands.explain,
    study_commands.logs,
    study_commands.failures,
    result_commands.report,
    comparison_commands.compare,
    result_commands.export,
    result_commands.verify,
    grid_commands.fetch,
    model_commands.quantize,
):
    app.command()(command)
app.command(name="list")(model_commands.list_)
app.command(name="check-paper")(comparison_commands.check_paper)
# lm-eval has options of its own, --help among them.
app.command(
    name="lm-eval",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)(model_commands.lm_eval)


def main() -> None:
    """Entry point of the `qstudy` command."""
    try:
        app()
    except SystemExit:
        raise
    except RunInterruptedError as error:
        tell_error(f"{error}\nthe run has stopped; what was saved is kept, and the same command goes on from there")
        sys.exit(EXIT_INCOMPLETE)
    except KeyboardInterrupt:
        Console(stderr=True).print("stopped; the same command goes on where this one was")
        sys.exit(EXIT_INCOMPLETE)
    except (GridError, _storage_error()) as error:
        tell_error(str(error))
        sys.exit(EXIT_BAD_INPUT)


def _storage_error() -> type[Exception]:
    """Looked up when an error is on its way, for it lives beside Arrow, which takes its time to load."""
    from reports import StorageError

    return StorageError


__all__ = ["EXIT_BAD_INPUT", "EXIT_CHECK_FAILED", "EXIT_INCOMPLETE", "app", "main"]
