"""A study's report, from its folder alone. Loads neither torch nor Ray."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from grids import GridError
from grids.errors import unknown_name
from orchestrator.joining import join_studies
from orchestrator.run_result import RunResult
from orchestrator.study_directory import StudyDirectory
from reports import (
    DEFAULT_TABLES,
    PAPER_TABLES,
    REPORT_FORMATS,
    ResultStore,
    Table,
    TableOrder,
    build_report,
    write_report,
)
from reports.figures import FIGURE_FORMATS
from reports.files import storage_errors
from reports.joined import Results
from reports.published import PUBLICATIONS, record_paper
from reports.terminal import terminal_findings, terminal_notes, terminal_table

PIPE_WIDTH = 200
RUN_FORMATS = ("markdown", "latex", "html")
# What stands before the name of a publication, in place of a study's folder.
PUBLISHED = "published:"


def write_study_report(
    folder: Path,
    formats: Sequence[str],
    output: Path | None,
    tables: Sequence[str] = (),
    figures: Sequence[str] = (),
) -> list[Path]:
    """Write the given tables of a study, or the usual ones, and its figures; of `published:NAME`, of a publication.

    Raises GridError for a folder without results, an unknown format, or a table that cannot be made.
    """
    _check_formats(formats, figures)
    if str(folder).startswith(PUBLISHED):
        name = str(folder).removeprefix(PUBLISHED)
        return _write_published(name, formats, output, tables or PAPER_TABLES, figures)
    return _write_study(StudyDirectory.existing(folder), formats, output, tables or None, figures)


def write_joined_report(
    folders: Sequence[Path],
    formats: Sequence[str],
    output: Path | None,
    tables: Sequence[str] = (),
    figures: Sequence[str] = (),
) -> list[Path]:
    """Write the tables of several studies together, into `output`. Raises GridError as `join_studies` does, too."""
    _check_formats(formats, figures)
    if output is None:
        raise GridError("a report of several studies needs a folder of its own", key="--output")
    store, expected, name = join_studies(folders)
    return _write(output, store, expected, formats, output, tables or None, figures, name=name)


def study_tables(folder: Path, tables: Sequence[str] = ()) -> tuple[Table, ...]:
    """The given tables of a study, or the usual ones, made from its store. Raises GridError."""
    directory = StudyDirectory.existing(folder)
    expected = directory.description()["cells"]
    try:
        made = build_report(
            directory.store,
            study=folder.name,
            expected=expected,
            order=_order(expected),
            tables=tables or None,
        )
    except GridError:
        raise
    except ValueError as error:
        raise GridError(str(error), file=str(folder)) from error
    return made.tables


def _check_formats(formats: Sequence[str], figures: Sequence[str]) -> None:
    for key, names, known in (("--format", formats, REPORT_FORMATS), ("--figures", figures, FIGURE_FORMATS)):
        for name in names:
            if name not in known:
                raise GridError(unknown_name("format", name, known), key=key)


def _write_published(
    name: str, formats: Sequence[str], output: Path | None, tables: Sequence[str], figures: Sequence[str]
) -> list[Path]:
    if name not in PUBLICATIONS:
        raise GridError(unknown_name("publication", name, PUBLICATIONS))
    if output is None:
        raise GridError("a publication has no folder of its own; say where its tables are to go", key="--output")
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / PUBLICATIONS[name]
        store = ResultStore(study)
        record_paper(store)
        with storage_errors("write", output):
            return write_report(
                study, store, formats=formats, tables=tables, figures=figures, out_dir=output, tell=_tell
            )


def write_run_report(directory: StudyDirectory) -> list[Path]:
    """Write the report as at the end of a run; nothing where no cell has a result."""
    return _write_study(directory, RUN_FORMATS, None, None) if directory.store.cells() else []


def print_result(result: RunResult) -> None:
    """The main table on standard output; where the report is and how far the study is, on standard error."""
    if result.report_paths:
        # A pipe has no width of its own, and a table cut to 80 columns would lose the tasks.
        console = Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH)
        directory = StudyDirectory(result.study)
        expected = directory.description()["cells"]
        report = build_report(
            directory.store,
            study=result.status.name,
            expected=expected,
            order=_order(expected),
            tables=DEFAULT_TABLES[:1],
        )
        console.print(terminal_table(report.tables[0], max_width=console.width))
        for text in (terminal_notes(report.tables[0]), terminal_findings(report.findings)):
            if text:
                console.print(text, markup=False, highlight=False, soft_wrap=True)
    told = Console(stderr=True)
    for path in result.report_paths:
        told.print(f"wrote {path}", highlight=False, soft_wrap=True)
    counts = ", ".join(f"{number} {state}" for state, number in result.counts.items())
    told.print(f"cells: {counts}", highlight=False)
    if result.failures:
        told.print(
            f"`qstudy failures {result.study}` says why cells failed; --retry-failed runs them again",
            highlight=False,
            soft_wrap=True,
        )


def _write_study(
    directory: StudyDirectory,
    formats: Sequence[str],
    output: Path | None,
    tables: Sequence[str] | None,
    figures: Sequence[str] = (),
) -> list[Path]:
    expected = directory.description()["cells"]
    return _write(directory.root, directory.store, expected, formats, output or directory.report_dir, tables, figures)


def _write(
    root: Path,
    store: Results,
    expected: Sequence[dict[str, Any]],
    formats: Sequence[str],
    output: Path,
    tables: Sequence[str] | None,
    figures: Sequence[str],
    *,
    name: str | None = None,
) -> list[Path]:
    try:
        with storage_errors("write", output):
            return write_report(
                root,
                store,
                study=name,
                expected=expected,
                order=_order(expected),
                formats=formats,
                tables=tables,
                figures=figures,
                out_dir=output,
                tell=_tell,
            )
    except GridError:
        raise
    except ValueError as error:
        raise GridError(str(error), file=str(root)) from error


def _tell(line: str) -> None:
    print(line, file=sys.stderr)


def _order(expected: Sequence[dict[str, Any]]) -> TableOrder:
    """Names in the grid's order."""

    def names(key: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(cell[key] for cell in expected))

    return TableOrder(
        models=names("model"), schemes=names("scheme"), methods=names("method_label"), tasks=names("task")
    )
