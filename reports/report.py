"""The report of a study: its tables with everything that a reader needs to trust them, in several formats."""

from __future__ import annotations

import math
import os
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from grids.errors import GridError, unknown_name
from reports.figures import FIGURE_FORMATS, FIGURE_NAMES, FIGURE_TABLE, FigurePage, FigureSource, NoFigure, stale_files
from reports.figures.sections import html_figures, markdown_figures
from reports.files import write_file
from reports.findings import Findings, build_findings
from reports.html import SampleStore, findings_section, report_page
from reports.items import ItemLibrary
from reports.joined import Results
from reports.latex import latex_document, latex_table
from reports.latex_findings import latex_findings
from reports.latex_numbers import latex_numbers
from reports.markdown import escape_markdown, markdown_findings, markdown_notes, markdown_table
from reports.plain_text import one_line
from reports.provenance import Provenance, merge_provenance
from reports.published import build_published_table, compares, with_errata
from reports.schemas import Row
from reports.store import ResultStore
from reports.tables import (
    DEFAULT_TABLES,
    REFERENCE_SCHEME,
    Table,
    TableOrder,
    TableSpec,
    build_study_table,
    model_labels,
    read_table_spec,
)
from reports.tidy import csv_tables, json_tables


@dataclass(frozen=True, kw_only=True)
class Report:
    """Findings, tables and the facts around them.

    `state` counts the cells that are done, failed, missing and not applicable. `rows` are the stored rows of the cells
    that the tables show, `store` is where their samples are. `figure_source` is there where figures were asked for,
    `figures` when they are drawn.
    """

    study: str
    tables: tuple[Table, ...]
    state: dict[str, int]
    models: tuple[str, ...]
    num_items: int
    provenance: Provenance
    files_set_aside: tuple[str, ...] = ()
    rows: tuple[Row, ...] = field(default=(), repr=False)
    store: SampleStore | None = field(default=None, repr=False, compare=False)
    findings: Findings = field(default_factory=Findings)
    figure_source: FigureSource | None = field(default=None, repr=False, compare=False)
    figures: tuple[FigurePage, ...] = field(default=(), repr=False, compare=False)

    @property
    def summary(self) -> list[str]:
        """What was run, a line each."""
        states = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in self.state.items() if count)
        rows = [row for table in self.tables for row in table.rows if not row.is_reference]
        schemes = ", ".join(dict.fromkeys([REFERENCE_SCHEME, *(row.names["scheme"] for row in rows)]))
        methods = list(dict.fromkeys(row.names["method"] for row in rows))
        # A label may hold commas of its own: `gptq, wikitext2`.
        between = "; " if any("," in label for label in methods) else ", "
        lines = [
            f"Models: {', '.join(self.models)}",
            f"Schemes: {schemes}",
            f"Methods: {between.join(methods) or 'none'}",
            f"Cells: {states}" + ("" if self.provenance.publications else f"; {self.num_items} items scored"),
        ]
        if self.files_set_aside:
            lines.append(
                f"Damaged result files that were set aside and count as not computed: {', '.join(self.files_set_aside)}"
            )
        return lines


def build_report(
    store: Results,
    *,
    study: str,
    expected: Sequence[Row] | None = None,
    order: TableOrder | None = None,
    tables: Sequence[str] | None = None,
    with_figures: bool = False,
) -> Report:
    """The report of what is in the store; `expected` and `order` as for `build_study_table`.

    `tables`: names of specs that ship, or files; None for the usual ones, with that of published numbers where any of
    the study's compares with one. `with_figures` adds what figures are drawn from. Raises ValueError where the store
    has nothing to show, and GridError for a spec that is unknown, wrong, or does not fit the study.
    """
    specs = [read_table_spec(name) for name in dict.fromkeys(DEFAULT_TABLES if tables is None else tables)]
    _check_names(specs)
    cells = store.cells()
    variants = store.variants()
    if not cells and not (variants and expected):
        raise ValueError(f"no results in {store.place}: run the study first (qstudy run)")
    library = ItemLibrary(store)

    def table_of(spec: TableSpec) -> Table:
        if spec.content == "published":
            return _published_table(cells, order, expected, spec)
        return build_study_table(cells, order, expected, spec=spec, variants=variants, matrices=library.matrices)

    made = tuple(map(table_of, specs))
    if tables is None and compares(published := build_published_table(cells, order, expected)):
        made += (published,)
    cell_ids = frozenset().union(*(table.cell_ids for table in made))
    shown = [row for row in cells if row["cell_id"] in cell_ids]
    done = {row["cell_id"]: row["num_items"] or 0 for row in shown if row["status"] == "done"}
    provenance = merge_provenance(shown)
    if provenance.publications:
        made = tuple(map(with_errata, made))
    return Report(
        study=study,
        tables=made,
        state=_state(cells, variants, expected),
        models=_model_names(made, [*(expected or ()), *shown]),
        num_items=sum(done.values()),
        provenance=provenance,
        files_set_aside=tuple(store.names_set_aside()),
        rows=tuple(shown),
        store=store,
        findings=build_findings(cells, order=order, expected=expected, matrices=library.matrices),
        figure_source=(
            FigureSource(table=table_of(FIGURE_TABLE), cells=cells, variants=variants) if with_figures else None
        ),
    )


def _published_table(
    cells: Sequence[Row], order: TableOrder | None, expected: Sequence[Row] | None, spec: TableSpec
) -> Table:
    table = build_published_table(cells, order, expected, spec=spec)
    if not table.rows:
        reasons = "; ".join(table.remarks) or "no cell has a score"
        raise GridError(f"nothing to put beside the study's scores: {reasons}", file=f"table {spec.name}")
    return table


def _check_names(specs: Sequence[TableSpec]) -> None:
    names = [spec.name for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise GridError(f"two tables are named {name!r}, and would be written to one file; give one another name")


def _model_names(tables: Sequence[Table], rows: Sequence[Row]) -> tuple[str, ...]:
    """The models in the tables' order, hub ids in full; of a folder only its name, for paths say nothing elsewhere."""
    labels = model_labels(row["model"] for row in rows)
    shown = dict.fromkeys(row.names["model"] for table in tables for row in table.rows)
    return tuple(labels[name] if name.startswith(("/", ".")) else name for name in shown)


def _state(cells: Sequence[Row], variants: Sequence[Row], expected: Sequence[Row] | None) -> dict[str, int]:
    """How many of the study's cells are in which state."""
    stored: dict[str, list[Row]] = {}
    for row in cells:
        stored.setdefault(row["cell_id"], []).append(row)
    failed_variants = {row["variant_id"] for row in variants if row["status"] == "failed"}
    count = Counter(
        _cell_state(stored.get(cell["cell_id"], []), cell, failed_variants)
        for cell in ([rows[0] for rows in stored.values()] if expected is None else expected)
    )
    return {name: count[name] for name in ("done", "failed", "missing", "not_applicable")}


def _cell_state(rows: Sequence[Row], cell: Row, failed_variants: set[str]) -> str:
    if rows:
        primary = next((row for row in rows if row["is_primary"]), None)
        return "done" if primary is not None and math.isfinite(primary["value"]) else "failed"
    if cell.get("not_applicable"):
        return "not_applicable"
    return "failed" if cell["variant_id"] in failed_variants else "missing"


def write_report(
    study_dir: Path,
    store: Results | None = None,
    *,
    study: str | None = None,
    expected: Sequence[Row] | None = None,
    order: TableOrder | None = None,
    formats: Sequence[str] = ("markdown", "latex", "csv", "json"),
    tables: Sequence[str] | None = None,
    figures: Sequence[str] = (),
    out_dir: Path | None = None,
    tell: Callable[[str], object] = lambda line: None,
) -> list[Path]:
    """Write a study's report below `out_dir` (default: `study_dir/report`) and return the files, in order.

    `markdown` gives report.md, `latex` report.tex (a document of its own), findings.tex and tables/NAME.tex (the bare
    findings and tables) and numbers.tex (a macro per number), `csv` report.csv, `json` report.json, `html` report.html;
    each format of `figures` (pdf, svg, png) figures/NAME.FORMAT, a file per page, in place of those of an earlier
    report. `tables` as for `build_report`. A figure that the study has no data for is left out, and `tell` hears why.
    Raises ValueError for an unknown format, and for a study without results, GridError for a table spec that cannot be
    used, before anything is written.
    """
    study_dir = Path(study_dir)
    for what, names, known in (("report format", formats, PRINTERS), ("figure format", figures, FIGURE_FORMATS)):
        for name in names:
            if name not in known:
                raise ValueError(unknown_name(what, name, known))
    report = build_report(
        store or ResultStore(study_dir),
        study=study or study_dir.resolve().name,
        expected=expected,
        order=order,
        tables=tables,
        with_figures=bool(figures),
    )
    if report.figure_source is not None:
        report = replace(report, figures=tuple(_drawn(report.figure_source, figures, tell)))
    out_dir = study_dir / "report" if out_dir is None else Path(out_dir)
    texts = {path: text for name in dict.fromkeys(formats) for path, text in PRINTERS[name](report).items()}
    for path, text in texts.items():
        _write_text(out_dir / path, text)
    images = {path: content for page in report.figures for path, content in page.files.items()}
    for path, content in images.items():
        write_file(out_dir / path, partial(_put, content), sync=False)
    if figures:
        for file in stale_files(out_dir, images):
            file.unlink()
    return [out_dir / path for path in (*texts, *images)]


def _drawn(source: FigureSource, formats: Sequence[str], tell: Callable[[str], object]) -> Iterator[FigurePage]:
    # Here, for it loads matplotlib.
    from reports.figures.drawing import draw_figure

    for name in FIGURE_NAMES:
        found = draw_figure(name, source, list(dict.fromkeys(formats)))
        if isinstance(found, NoFigure):
            tell(f"no figure {name}: {found.reason}")
        else:
            yield from found


def _put(content: bytes, file: BinaryIO) -> None:
    file.write(content)


def _markdown(report: Report) -> dict[str, str]:
    provenance = "\n".join(f"- {escape_markdown(line)}" for line in report.provenance.sentences())
    summary = "\n".join(f"- {escape_markdown(line)}" for line in report.summary)
    parts = [
        f"# Study {escape_markdown(report.study)}",
        "## What was run",
        summary,
        "## Findings",
        markdown_findings(report.findings),
        *(part for table in report.tables for part in _markdown_section(table)),
        *markdown_figures(report.figures),
        "## Provenance",
        provenance,
    ]
    return {"report.md": "\n\n".join(parts) + "\n"}


def _markdown_section(table: Table) -> list[str]:
    return [f"## {escape_markdown(table.title)}", markdown_table(table), markdown_notes(table)]


def _latex(report: Report) -> dict[str, str]:
    paragraphs = [
        (f"Study {report.study}.", ". ".join(report.summary) + "."),
        ("Provenance.", ". ".join(report.provenance.sentences()) + "."),
    ]
    findings = latex_findings(report.findings)
    opening = f"\\section*{{Findings}}\n{findings}\\clearpage\n"
    return {
        "report.tex": latex_document(report.tables, opening=opening, paragraphs=paragraphs),
        "findings.tex": findings,
        **{f"tables/{table.name}.tex": latex_table(table) for table in report.tables},
        "numbers.tex": latex_numbers(report.study, report.tables),
    }


def _csv(report: Report) -> dict[str, str]:
    return {"report.csv": csv_tables(report.tables)}


def _json(report: Report) -> dict[str, str]:
    facts: dict[str, Any] = {
        "study": one_line(report.study),
        "models": report.models,
        "cells": report.state,
        "num_items": report.num_items,
        "provenance": report.provenance.as_json(),
        "files_set_aside": report.files_set_aside,
        "findings": report.findings.as_json(),
    }
    return {"report.json": json_tables(report.tables, facts)}


def _html(report: Report) -> dict[str, str]:
    study = one_line(report.study)
    page = report_page(
        study=study,
        # Of several studies that were read as one, none is called by the name of all.
        folder=study if isinstance(report.store, ResultStore) else "STUDY",
        summary=report.summary,
        provenance=report.provenance.sentences(),
        tables=report.tables,
        rows=report.rows,
        store=report.store,
        before_tables=[findings_section(report.findings)],
        after_tables=html_figures(report.figures),
    )
    return {"report.html": page}


PRINTERS: dict[str, Callable[[Report], dict[str, str]]] = {
    "markdown": _markdown,
    "latex": _latex,
    "csv": _csv,
    "json": _json,
    "html": _html,
}


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".tmp-{uuid.uuid4().hex}"
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
