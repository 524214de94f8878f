"""How to read a table, in sentences: what the numbers, marks and corrections of this one mean."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from reports.schemas import Row
from reports.statistics import NUM_RESAMPLES, SEVERITY_RULE
from reports.tables.columns import ColumnSource
from reports.tables.evidence import Evidence
from reports.tables.grid import Layout, TaskColumn
from reports.tables.model import SEVERITY_MARKS, SIGNIFICANT_MARK, TableRow
from reports.tables.spec import TableSpec


def legend(
    layout: Layout,
    spec: TableSpec,
    columns: Sequence[ColumnSource],
    rows: Sequence[TableRow],
    evidence: Evidence,
    num_tests: int,
) -> tuple[str, ...]:
    """The sentences that this table needs; none about what it does not show."""
    kinds = {source.column.kind for source in columns}
    has_errors = any(cell.stderr is not None or cell.interval is not None for row in rows for cell in row.cells)
    lines = _scores(layout, spec, columns, has_errors=has_errors)
    if "average" in kinds:
        error = ", its error from theirs" if has_errors else ""
        lines.append(f"avg: the plain mean of the tasks of the group (all: of every task){error}.")
    if "drop" in kinds:
        lines.append(
            "drop: the change of that mean (or of the group's only task) in percent of the same model's full "
            "precision (fp16); negative is worse."
        )
    if "recovery" in kinds:
        lines.append("recovery: the score or average in percent of the same model's full precision (fp16).")
    if {"drop", "recovery"} & kinds or any(source.column.is_shaded for source in columns):
        moderate, significant = SEVERITY_MARKS["moderate"], SEVERITY_MARKS["significant"]
        lines.append(f"Severity: {moderate} moderate, {significant} significant; {SEVERITY_RULE}.")
    if any(cell.status == "partial" for row in rows for cell in row.cells):
        lines.append("(k/n): an average over only k of its n tasks (or seeds); it has no drop and no severity.")
    if evidence.is_there:
        lines += _intervals(evidence, columns)
        lines += _best(spec, rows)
        lines += _differences(columns, rows, num_tests)
    return (*lines, *_seeds(rows))


def _scores(layout: Layout, spec: TableSpec, columns: Sequence[ColumnSource], *, has_errors: bool) -> list[str]:
    lines = []
    shown = dict.fromkeys(part for source in columns for part in source.parts)
    percentages = {source.parts[0] for source in columns if source.column.is_percentage and len(source.parts) == 1}
    percentages |= {part for source in columns if len(source.parts) > 1 for part in source.parts}
    if percentages and any(source.is_score for source in columns):
        errors = {
            "stderr": ", ± one standard error over the items",
            "interval": ", with 95 % intervals over the items",
            "none": "",
        }
        lines.append(f"Scores are in percent{errors[spec.uncertainty if has_errors else 'none']}.")
    described = [_describe(column, list(layout.column_rows(column).values())) for column in shown]
    lines.append("Tasks: " + "; ".join(described) + ".")
    others = [column.title for column in shown if column not in percentages]
    if others:
        lines.append(f"Not in percent, and in no average: {', '.join(others)}.")
    return lines


def _intervals(evidence: Evidence, columns: Sequence[ColumnSource]) -> list[str]:
    lines = []
    if any(source.column.uncertainty == "interval" and source.is_score for source in columns):
        lines.append(
            "95 % intervals: Wilson's for 0/1 scores, Student's t for graded ones, "
            f"bootstrap over the items of each task for averages ({NUM_RESAMPLES} resamples)."
        )
    if clustered := evidence.clustered_columns():
        names = ", ".join(column.title for column in clustered)
        lines.append(f"Items that share a passage or a subject count together in every error and test: {names}.")
    return lines


def _best(spec: TableSpec, rows: Sequence[TableRow]) -> list[str]:
    if spec.best is None or not any(cell.is_best for row in rows for cell in row.cells):
        return []
    return [
        f"Bold: the best of each {' and '.join(spec.best)} in a column, and all that are not significantly worse than "
        "it (paired on items: exact McNemar test for 0/1 scores, permutation test else; Holm-corrected within the "
        "column, 5 %)."
    ]


def _differences(columns: Sequence[ColumnSource], rows: Sequence[TableRow], num_tests: int) -> list[str]:
    if not any(source.column.kind == "difference" for source in columns):
        return []
    return [
        "Differences: the score less that of the same model's full precision (fp16), paired on items, in points; the "
        "intervals are for each difference by itself.",
        f"{SIGNIFICANT_MARK}: significant at 5 % after Holm's correction for the {num_tests} tests of this table "
        "(exact McNemar test for 0/1 scores, paired permutation test for graded or clustered scores and for averages).",
        *_detectable(columns, rows),
    ]


def _detectable(columns: Sequence[ColumnSource], rows: Sequence[TableRow]) -> list[str]:
    told = []
    for index, source in enumerate(columns):
        comparisons = [row.cells[index].comparison for row in rows if row.kind == "variant"]
        values = [comparison.minimum_detectable for comparison in comparisons if comparison]
        known = [value for value in values if value is not None]
        if source.column.kind == "difference" and known:
            name = source.column.title if source.column.is_task else f"{source.column.group} {source.column.title}"
            told.append(f"{name} {statistics.median(known):.2g} ({min(known):.2g} to {max(known):.2g})")
    if not told:
        return []
    return [
        "Minimum detectable difference (2.80 standard errors of the paired difference: two-sided 5 % test of one row, "
        f"80 % power), median over the rows and range: {'; '.join(told)}."
    ]


def _seeds(rows: Sequence[TableRow]) -> list[str]:
    lines = []
    if any(row.kind == "mean" for row in rows):
        lines.append(
            "mean of seeds: items are averaged over the seeds first; sd: standard deviation of the seeds' scores."
        )
    if any(row.kind == "noise_floor" for row in rows):
        lines.append(
            "noise floor: how far apart full precision is from itself under another seed (the largest distance between "
            "two seeds, without a sign)."
        )
    return lines


def _describe(column: TaskColumn, rows: Sequence[Row]) -> str:
    """A task's metric, filter, shots and number of items, as they are stored."""
    parts: list[str] = []
    values: tuple[Callable[[Row], str | None], ...] = (
        lambda row: row["metric"],
        lambda row: None if row["filter"] in ("", "none") else f"filter {row['filter']}",
        lambda row: None if row["num_fewshot"] is None else f"{row['num_fewshot']}-shot",
        lambda row: None if row["num_items"] is None else f"{row['num_items']} items",
    )
    for value in values:
        found = sorted({text for text in map(value, rows) if text is not None})
        parts += [" or ".join(found)] if found else []
    return f"{column.title} ({', '.join(parts) or 'no result'})"
