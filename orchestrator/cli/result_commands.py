"""Commands that take results out of a study: tables, data to publish, checks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import EXIT_CHECK_FAILED, StudyFolder


def report(
    studies: Annotated[
        list[Path],
        typer.Argument(
            metavar="STUDY...",
            help="The study's folder; several are shown together; published:paper for the paper's own numbers.",
        ),
    ],
    formats: Annotated[
        str, typer.Option("--format", "-f", envvar="QSTUDY_FORMAT", help="Any of markdown,latex,html,csv,json.")
    ] = "markdown,latex,html",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", envvar="QSTUDY_OUTPUT", help="A folder. [default: STUDY/report, of one study]"),
    ] = None,
    tables: Annotated[
        list[str] | None,
        typer.Option(
            "--table",
            envvar="QSTUDY_TABLE",
            help="A table that ships, or a spec file (YAML). Repeatable. [default: main, differences, and published "
            "where a score compares with a published one]",
        ),
    ] = None,
    figures: Annotated[
        str,
        typer.Option(
            "--figures", envvar="QSTUDY_FIGURES", help="Any of pdf,svg,png: draw figures, too.", show_default="none"
        ),
    ] = "",
) -> None:
    """Write the tables and figures of a study, or of several that scored their tasks alike."""
    from orchestrator.reporting import write_joined_report, write_study_report

    names, drawn = formats.split(","), figures.split(",") if figures else ()
    if len(studies) == 1:
        paths = write_study_report(studies[0], names, output, tables or (), drawn)
    else:
        paths = write_joined_report(studies, names, output, tables or (), drawn)
    for path in paths:
        typer.echo(path)


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

    made = export_study(study, output, samples=samples, capsule=capsule)
    for path in made.paths:
        typer.echo(path)
    if made.capsule_digest is not None:
        typer.echo(f"SHA-256 of the capsule's manifest: {made.capsule_digest}", err=True)


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
