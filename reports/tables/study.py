"""A table of a study: its spec, the store's rows and the scores of items become a `Table`."""

from __future__ import annotations

from collections.abc import Sequence

from reports.schemas import Row
from reports.tables.cells import Cells
from reports.tables.columns import ColumnSource, find_columns
from reports.tables.evidence import Evidence, MatrixSource
from reports.tables.grid import Layout, TableOrder, lay_out
from reports.tables.legend import legend
from reports.tables.model import Table, TableRow
from reports.tables.notes import Notes
from reports.tables.rows import AXIS_TITLES, RowSource, find_rows
from reports.tables.spec import TableSpec, read_table_spec


def build_study_table(
    cells: Sequence[Row],
    order: TableOrder | None = None,
    expected: Sequence[Row] | None = None,
    *,
    spec: TableSpec | None = None,
    variants: Sequence[Row] = (),
    matrices: MatrixSource | None = None,
) -> Table:
    """The table that a spec (default: `main`) makes of the store's rows of `cells`.

    Task columns whose metric is better when higher and whose values lie in [0, 1] are shown in percent; only these
    enter averages, each with the same weight. Drops, differences and recoveries are against the same model's full
    precision. An average that misses a cell says over how many it is, and is compared with nothing.

    `expected` lists the cells of the grid (`cell_id`, `variant_id`, `model`, `method_label`, `scheme`, `task`,
    `task_group`, optionally `seed`, `num_fewshot` and `not_applicable`, a reason): cells without a result are then
    marked and footnoted, and stored cells that are not among them are left out with a remark. `variants` (rows of the
    store) tell a cell that is missing because its variant failed. `matrices` gives the scores of items
    (`ItemLibrary.matrices`); without it there are no intervals and no tests. Raises ValueError for an expected cell
    without one of its keys, and GridError for a spec that does not fit the study.
    """
    spec = spec or read_table_spec("main")
    layout = lay_out(cells, spec, order or TableOrder(), expected)
    rows = find_rows(layout, spec)
    evidence = Evidence(layout, matrices)
    failed_variants = {row["variant_id"]: row for row in variants if row["status"] == "failed"}
    notes = Notes()
    made = Cells(layout, rows, evidence, failed_variants, notes, is_grid_known=expected is not None)
    columns = find_columns(layout, spec, made.percentages)
    num_tests = made.judge(
        rows,
        tested=[source.parts for source in columns],
        ranked=[source.parts for source in columns if source.is_score],
        best=spec.best,
    )
    if not any(source.is_score for source in columns):
        # Full precision has no difference from itself.
        rows = [row for row in rows if not row.is_reference or row.kind == "noise_floor"]
    table_rows = tuple(_table_row(row, columns, made) for row in rows)
    return Table(
        name=spec.name,
        title=spec.title,
        label_titles=tuple(AXIS_TITLES[axis] for axis in spec.rows),
        columns=tuple(source.column for source in columns),
        rows=table_rows,
        num_tests=num_tests,
        footnotes=notes.footnotes(),
        legend=legend(layout, spec, columns, table_rows, evidence, num_tests),
        remarks=(*layout.remarks, *_without_items(layout, evidence)),
    )


def _table_row(row: RowSource, columns: Sequence[ColumnSource], cells: Cells) -> TableRow:
    return TableRow(
        labels=row.labels,
        cells=tuple(cells.cell(row, source.column.kind, source.parts) for source in columns),
        kind=row.kind,
        is_reference=row.is_reference,
        names={axis: row.names[axis] for axis in AXIS_TITLES},
        variant_ids=row.variant_ids,
        seed=row.seed,
    )


def _without_items(layout: Layout, evidence: Evidence) -> list[str]:
    """Says where scores of items are missing while others have them."""
    if not evidence.is_there:
        return []
    remarks = []
    for column in layout.columns:
        done = list(layout.column_rows(column))
        unknown = [variant_id for variant_id in done if not evidence.knows(column, (variant_id,))]
        if unknown:
            remarks.append(
                f"{column.title}: {len(unknown)} of {len(done)} cells have no item scores that average to their score; "
                "these have no interval and no test"
            )
    return remarks
