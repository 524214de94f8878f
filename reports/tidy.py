"""Tables as data for other programs: CSV with one line per number, and JSON with all there is."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import asdict
from typing import Any

from reports.tables import Table

_VALUE_COLUMNS = (
    "row",
    "kind",
    "group",
    "column",
    "unit",
    "value",
    "stderr",
    "num_items",
    "status",
    "drop_percent",
    "severity",
    "num_covered",
    "num_tasks",
    "cell_ids",
    "notes",
)


def csv_table(table: Table) -> str:
    """One line per cell of the table, numbers in full; `row` counts the table's rows, a null is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    # "Model" -> "model": names that a data frame takes.
    label_names = [re.sub(r"\W+", "_", title.lower()) for title in table.label_titles]
    writer.writerow([*label_names, *_VALUE_COLUMNS])
    footnotes = {footnote.number: footnote.text for footnote in table.footnotes}
    for index, row in enumerate(table.rows):
        for column, cell in zip(table.columns, row.cells, strict=True):
            covered, tasks = cell.coverage or (None, None)
            values = {
                "row": index,
                "kind": column.kind,
                "group": column.group,
                "column": column.title,
                "unit": "percent" if column.is_percentage else "metric",
                "value": cell.value,
                "stderr": cell.stderr,
                "num_items": cell.num_items,
                "status": cell.status,
                "drop_percent": cell.drop,
                "severity": cell.severity,
                "num_covered": covered,
                "num_tasks": tasks,
                "cell_ids": " ".join(cell.cell_ids),
                "notes": " / ".join(footnotes[number] for number in cell.notes),
            }
            writer.writerow([*row.labels, *(values[name] for name in _VALUE_COLUMNS)])
    return text.getvalue()


def json_table(table: Table, facts: dict[str, Any]) -> str:
    """The whole table with its legend and footnotes, beside `facts` about the study."""
    return json.dumps({**facts, "table": asdict(table)}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
