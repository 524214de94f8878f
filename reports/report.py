"""The report of a study: its table with everything that a reader needs to trust it, in several formats."""

from __future__ import annotations

import difflib
import os
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reports.latex import latex_document, latex_table
from reports.markdown import escape_markdown, markdown_notes, markdown_table
from reports.plain_text import one_line
from reports.provenance import Provenance, merge_provenance
from reports.schemas import Row
from reports.store import ResultStore
from reports.tables import REFERENCE_SCHEME, Table, TableOrder, build_study_table, model_labels
from reports.tidy import csv_table, json_table


@dataclass(frozen=True, kw_only=True)
class Report:
    """A table and the facts around it; `state` counts the cells that are done, failed, missing and not applicable."""

    study: str
    table: Table
    state: dict[str, int]
    models: tuple[str, ...]
    num_items: int
    provenance: Provenance
    files_set_aside: tuple[str, ...] = ()

    @property
    def summary(self) -> list[str]:
        """What was run, a line each."""
        states = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in self.state.items() if count)
        labels = [row.labels for row in self.table.rows if not row.is_reference]
        schemes = ", ".join(dict.fromkeys([REFERENCE_SCHEME, *(scheme for _, scheme, _ in labels)]))
        methods = ", ".join(dict.fromkeys(method for _, _, method in labels)) or "none"
        lines = [
            f"Models: {', '.join(self.models)}",
            f"Schemes: {schemes}",
            f"Methods: {methods}",
            f"Cells: {states}; {self.num_items} items scored",
        ]
        if self.files_set_aside:
            lines.append(
                f"Damaged result files that were set aside and count as not computed: {', '.join(self.files_set_aside)}"
            )
        return lines


def build_report(
    store: ResultStore,
    *,
    study: str,
    expected: Sequence[Row] | None = None,
    order: TableOrder | None = None,
) -> Report:
    """The report of what is in the store; `expected` and `order` as for `build_study_table`.

    Raises ValueError where the store has nothing to show.
    """
    cells = store.cells()
    variants = store.variants()
    if not cells and not (variants and expected):
        raise ValueError(f"no results in {store.results_dir}: run the study first (qstudy run)")
    table = build_study_table(cells, order, expected, variants=variants)
    cell_ids = table.cell_ids
    shown = [row for row in cells if row["cell_id"] in cell_ids]
    return Report(
        study=study,
        table=table,
        state=_state(table, expected or ()),
        models=_model_names(table, [*(expected or ()), *shown]),
        num_items=sum({row["cell_id"]: row["num_items"] or 0 for row in shown if row["status"] == "done"}.values()),
        provenance=merge_provenance(shown),
        files_set_aside=tuple(str(path.relative_to(store.results_dir)) for path in store.files_set_aside()),
    )


def _model_names(table: Table, rows: Sequence[Row]) -> tuple[str, ...]:
    """The models in the table's order, hub ids in full; of a folder only its name, for paths say nothing elsewhere."""
    labels = model_labels(row["model"] for row in rows)
    place = {label: index for index, label in reversed(list(enumerate(row.labels[0] for row in table.rows)))}
    shown = sorted((name for name in labels if labels[name] in place), key=lambda name: place[labels[name]])
    return tuple(labels[name] if name.startswith(("/", ".")) else name for name in shown)


def _state(table: Table, expected: Sequence[Row]) -> dict[str, int]:
    """How many of the study's cells are in which state; what has no row because it does not apply is counted too."""
    count = Counter(
        cell.status
        for row in table.rows
        for cell, column in zip(row.cells, table.columns, strict=True)
        if column.kind == "task" and (cell.cell_ids or cell.status == "missing")
    )
    cell_ids = table.cell_ids
    count["not_applicable"] += sum(
        bool(cell.get("not_applicable")) and cell["cell_id"] not in cell_ids for cell in expected
    )
    return {name: count[name] for name in ("done", "failed", "missing", "not_applicable")}


def write_report(
    study_dir: Path,
    store: ResultStore | None = None,
    *,
    expected: Sequence[Row] | None = None,
    order: TableOrder | None = None,
    formats: Sequence[str] = ("markdown", "latex", "csv", "json"),
    out_dir: Path | None = None,
) -> list[Path]:
    """Write a study's report below `out_dir` (default: `study_dir/report`) and return the files, in order.

    `markdown` gives report.md, `latex` report.tex (a document of its own) and tables/main.tex (the bare table), `csv`
    report.csv, `json` report.json. Raises ValueError for an unknown format, and for a study without results, before
    anything is written.
    """
    study_dir = Path(study_dir)
    for name in formats:
        if name not in PRINTERS:
            near = difflib.get_close_matches(name, PRINTERS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"unknown report format {name!r}; formats are {', '.join(PRINTERS)}{hint}")
    report = build_report(
        store or ResultStore(study_dir), study=study_dir.resolve().name, expected=expected, order=order
    )
    out_dir = study_dir / "report" if out_dir is None else Path(out_dir)
    texts = {path: text for name in dict.fromkeys(formats) for path, text in PRINTERS[name](report).items()}
    for path, text in texts.items():
        _write_text(out_dir / path, text)
    return [out_dir / path for path in texts]


def _markdown(report: Report) -> dict[str, str]:
    provenance = "\n".join(f"- {escape_markdown(line)}" for line in report.provenance.sentences())
    summary = "\n".join(f"- {escape_markdown(line)}" for line in report.summary)
    parts = [
        f"# Study {escape_markdown(report.study)}",
        "## What was run",
        summary,
        f"## {escape_markdown(report.table.title)}",
        markdown_table(report.table),
        markdown_notes(report.table),
        "## Provenance",
        provenance,
    ]
    return {"report.md": "\n\n".join(parts) + "\n"}


def _latex(report: Report) -> dict[str, str]:
    paragraphs = [
        (f"Study {report.study}.", ". ".join(report.summary) + "."),
        ("Provenance.", ". ".join(report.provenance.sentences()) + "."),
    ]
    return {
        "report.tex": latex_document(report.table, paragraphs=paragraphs),
        "tables/main.tex": latex_table(report.table),
    }


def _csv(report: Report) -> dict[str, str]:
    return {"report.csv": csv_table(report.table)}


def _json(report: Report) -> dict[str, str]:
    facts: dict[str, Any] = {
        "study": one_line(report.study),
        "models": report.models,
        "cells": report.state,
        "num_items": report.num_items,
        "provenance": report.provenance.as_json(),
        "files_set_aside": report.files_set_aside,
    }
    return {"report.json": json_table(report.table, facts)}


PRINTERS: dict[str, Callable[[Report], dict[str, str]]] = {
    "markdown": _markdown,
    "latex": _latex,
    "csv": _csv,
    "json": _json,
}


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".tmp-{uuid.uuid4().hex}"
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
