"""Tables as data for other programs: CSV with one line per number, and JSON with all there is."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from reports.tables import Column, Table, TableCell

_NAMES = ("model", "scheme", "method")


def csv_tables(tables: Sequence[Table]) -> str:
    """One line per cell of each table, numbers in full; `row` counts a table's rows, what is not known is empty.

    `unit` is that of value, stderr, interval and difference; what is in percent says so in its name.
    """
    lines = [line for table in tables for line in _lines(table)]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]) if lines else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _lines(table: Table) -> list[dict[str, object]]:
    footnotes = {footnote.number: footnote.text for footnote in table.footnotes}
    lines = []
    for index, row in enumerate(table.rows):
        for column, cell in zip(table.columns, row.cells, strict=True):
            place = {
                "table": table.name,
                "row": index,
                "row_kind": row.kind,
                **{name: row.names[name] for name in _NAMES},
                "label": " / ".join(row.labels),
                "variant_ids": " ".join(row.variant_ids),
            }
            notes = " / ".join(footnotes[number] for number in cell.notes)
            lines.append({**place, **_cell_values(cell, column), "notes": notes})
    return lines


def _cell_values(cell: TableCell, column: Column) -> dict[str, object]:
    covered, tasks = cell.coverage or (None, None)
    low, high = cell.interval or (None, None)
    return {
        "kind": column.kind,
        "group": column.group,
        "column": column.title,
        "unit": "" if column.kind == "verdict" else "percent" if column.is_percentage else "metric",
        "value": cell.value,
        "word": cell.word,
        "stderr": cell.stderr,
        "interval_low": low,
        "interval_high": high,
        "num_items": cell.num_items,
        "status": cell.status,
        **comparison_values(cell),
        "drop_percent": cell.drop,
        "recovery_percent": cell.recovery,
        "severity": cell.severity,
        "is_best": cell.is_best,
        "spread": cell.spread,
        "num_seeds": cell.num_seeds,
        "num_covered": covered,
        "num_tasks": tasks,
        "cell_ids": " ".join(cell.cell_ids),
        "reference_cell_ids": " ".join(cell.reference_cell_ids),
    }


def comparison_values(cell: TableCell) -> dict[str, object]:
    """What a cell's comparison found, by name; each None where there is no comparison."""
    found = cell.comparison
    low, high = (found.interval if found else None) or (None, None)
    return {
        "difference": found.difference if found else None,
        "difference_low": low,
        "difference_high": high,
        "test": found.test if found else None,
        "p_value": found.p_value if found else None,
        "adjusted_p": found.adjusted_p if found else None,
        "minimum_detectable": found.minimum_detectable if found else None,
        "num_higher": found.num_higher if found else None,
        "num_lower": found.num_lower if found else None,
    }


def json_tables(tables: Sequence[Table], facts: dict[str, Any]) -> str:
    """The whole tables with their legends and footnotes, beside `facts` about the study."""
    content = {**facts, "tables": [asdict(table) for table in tables]}
    return json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n"
