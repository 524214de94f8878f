"""What a study's folder tells without running anything: its status and its report. Loads neither torch nor Ray."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from grids import GridError
from grids.errors import unknown_name
from orchestrator.study_directory import StudyDirectory
from reports import DEFAULT_TABLES, REPORT_FORMATS, TableOrder, build_report, write_report
from reports.terminal import terminal_notes, terminal_table

PIPE_WIDTH = 200


@dataclass(frozen=True)
class Status:
    """Cells by state, for the whole study and for each variant."""

    name: str
    folder: Path
    variants: dict[str, Counter[str]]
    failures: list[tuple[str, str]]

    @property
    def total(self) -> Counter[str]:
        return sum(self.variants.values(), Counter())

    @property
    def is_complete(self) -> bool:
        return not any(self.total[state] for state in ("failed", "started", "missing"))

    def to_json(self) -> dict[str, Any]:
        return {
            "study": self.name,
            "complete": self.is_complete,
            "cells": dict(self.total),
            "variants": {label: dict(states) for label, states in self.variants.items()},
            "failures": [{"cell": cell, "failure": failure} for cell, failure in self.failures],
        }

    def to_table(self) -> Table:
        states = ("done", "failed", "started", "missing", "not applicable")
        table = Table(title=f"{self.name} ({self.folder})", title_justify="left", box=None, pad_edge=False)
        table.add_column("variant")
        for state in states:
            table.add_column(state, justify="right")
        for label, counts in [*self.variants.items(), ("all", self.total)]:
            table.add_row(label, *(str(counts[state] or "") for state in states))
        for cell, failure in self.failures:
            table.add_row(f"[red]failed: {cell}: {failure}[/red]")
        return table


def study_status(folder: Path) -> Status:
    """Raises GridError if the folder is not a study."""
    directory = StudyDirectory.existing(folder)
    description = directory.description()
    recorded = {row["cell_id"]: row for row in directory.store.cells()}
    variants: dict[str, Counter[str]] = {}
    failures = []
    for cell in description["cells"]:
        label = f"{cell['model']} {cell['method_label']} {cell['scheme']}"
        row = recorded.get(cell["cell_id"])
        if cell["not_applicable"] is not None:
            state = "not applicable"
        elif row is not None:
            state = row["status"]
        else:
            state = "started" if directory.store.num_samples(cell["cell_id"]) else "missing"
        if row is not None and state == "failed":
            failures.append((f"{label} {cell['task']}", f"{row['failure_kind']}: {row['failure_message']}"))
        variants.setdefault(label, Counter())[state] += 1
    return Status(description["name"], folder, variants, failures)


def write_study_report(
    folder: Path, formats: Sequence[str], output: Path | None, tables: Sequence[str] = ()
) -> list[Path]:
    """Write the given tables of a study, or the usual ones.

    Raises GridError for a folder without results, an unknown format, or a table that cannot be made.
    """
    for name in formats:
        if name not in REPORT_FORMATS:
            raise GridError(unknown_name("format", name, REPORT_FORMATS), key="--format")
    return _write(StudyDirectory.existing(folder), formats, output, tables or DEFAULT_TABLES)


def print_report(directory: StudyDirectory) -> bool:
    """Write report.md and report.tex, print the table. True if every applicable cell of the grid is done."""
    status = study_status(directory.root)
    paths = _write(directory, ("markdown", "latex"), None, DEFAULT_TABLES) if directory.store.cells() else []
    if paths:
        # A pipe has no width of its own, and a table cut to 80 columns would lose the tasks.
        console = Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH)
        expected = directory.description()["cells"]
        report = build_report(
            directory.store, study=status.name, expected=expected, order=_order(expected), tables=DEFAULT_TABLES[:1]
        )
        console.print(terminal_table(report.tables[0], max_width=console.width))
        if notes := terminal_notes(report.tables[0]):
            console.print(notes, markup=False, highlight=False)
    told = Console(stderr=True)
    for path in paths:
        told.print(f"wrote {path}", highlight=False, soft_wrap=True)
    counts = ", ".join(f"{number} {state}" for state, number in status.total.items())
    told.print(f"cells: {counts}", highlight=False)
    if status.failures:
        told.print(f"traces of failures are in {directory.log_dir}; --retry-failed runs them again", soft_wrap=True)
    return status.is_complete


def _write(directory: StudyDirectory, formats: Sequence[str], output: Path | None, tables: Sequence[str]) -> list[Path]:
    expected = directory.description()["cells"]
    try:
        return write_report(
            directory.root,
            directory.store,
            expected=expected,
            order=_order(expected),
            formats=formats,
            tables=tables,
            out_dir=output,
        )
    except GridError:
        raise
    except ValueError as error:
        raise GridError(str(error), file=str(directory.root)) from error


def _order(expected: Sequence[dict[str, Any]]) -> TableOrder:
    """Names in the grid's order."""

    def names(key: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(cell[key] for cell in expected))

    return TableOrder(
        models=names("model"), schemes=names("scheme"), methods=names("method_label"), tasks=names("task")
    )
