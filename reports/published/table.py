"""The table of a study's scores beside published ones: ours, published, difference, within noise?"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

from reports.published.comparison import PublishedComparison, published_comparisons
from reports.published.results import PAPER, PublishedResult, erratum_notes, published_results
from reports.schemas import Row
from reports.tables.grid import Layout, TableOrder, lay_out, model_labels
from reports.tables.model import Column, Table, TableCell, TableRow
from reports.tables.notes import Notes
from reports.tables.rows import AXIS_TITLES, RowSource, find_rows
from reports.tables.spec import TableSpec, read_table_spec

_COLUMNS = (
    Column(kind="task", title="ours", group="", tasks=(), is_task=True),
    Column(kind="published", title="published", group="", tasks=(), is_task=True, uncertainty="none"),
    Column(kind="difference", title="difference", group="", tasks=(), is_task=True),
    Column(kind="verdict", title="within noise?", group="", tasks=(), is_task=True, uncertainty="none"),
    Column(kind="verdict", title="source", group="", tasks=(), is_task=True, uncertainty="none"),
)
_DIFFERENCE = _COLUMNS.index(next(column for column in _COLUMNS if column.kind == "difference"))
_VERDICTS = {True: "yes", False: "no", None: "cannot tell"}
_LEGEND = (
    "ours: in percent, ± one standard error over the items; published: as the source prints it.",
    "difference: ours less published, in points, ± its standard error: ours and the published score's together, the "
    "latter as of independent items, for no source states one.",
    "within noise?: whether the difference is at most 1.96 of its standard errors. Of differences that are nothing but "
    "noise, one in twenty is beyond it.",
)


def build_published_table(
    cells: Sequence[Row],
    order: TableOrder | None = None,
    expected: Sequence[Row] | None = None,
    *,
    spec: TableSpec | None = None,
    results: Sequence[PublishedResult] | None = None,
) -> Table:
    """The table of a spec with `content: published` (default: `published`); arguments as for `build_study_table`.

    A score has a row for each published one that it compares with. Where there are published ones and none compares, it
    has a row beside the one that differs least, and footnotes say what differs. Scores that nobody published the like
    of are in the remarks.
    """
    spec = spec or read_table_spec("published")
    known = published_results() if results is None else results
    layout = lay_out(cells, spec, order or TableOrder(), expected)
    found = list(_beside(layout, find_rows(layout, spec), spec, known))
    notes = Notes()
    rows = tuple(_table_row(source, task, each, notes) for source, task, each in found if each.published)
    compared = [each for _, _, each in found if each.difference is not None]
    return Table(
        name=spec.name,
        title=spec.title,
        label_titles=(*(AXIS_TITLES[axis] for axis in spec.rows), "Task"),
        columns=_COLUMNS,
        rows=rows,
        footnotes=notes.footnotes(),
        legend=(*_LEGEND, *_sources(each.published for _, _, each in found if each.published)) if rows else (),
        remarks=(
            *layout.remarks,
            *_tally(compared),
            *_grouped("not compared, {}", [(each.reasons[0], each) for _, _, each in found if not each.published]),
            *_unstated(compared),
            *_grouped("{}", [(caveat, each) for each in compared for caveat in each.caveats]),
            *_errata(compared),
        ),
    )


def compares(table: Table) -> bool:
    """Whether any score of a table of published numbers compares."""
    return any(row.cells[_DIFFERENCE].value is not None for row in table.rows)


def _beside(
    layout: Layout, rows: Sequence[RowSource], spec: TableSpec, known: Sequence[PublishedResult]
) -> Iterator[tuple[RowSource, str, PublishedComparison]]:
    """Each score of the layout with its task's title: beside all that it compares with, else beside the nearest."""
    for source in rows:
        for column in layout.columns if source.kind == "variant" else ():
            entry = layout.entries.get((source.variant_ids[0], column))
            if entry is None or entry.row is None or entry.value is None:
                continue
            label = spec.labels.tasks.get(column.task)
            title = column.title if label is None else column.title.replace(column.task, label, 1)
            comparisons = list(published_comparisons(entry.row, known))
            alike = [comparison for comparison in comparisons if not comparison.reasons]
            for comparison in alike or [min(comparisons, key=lambda comparison: len(comparison.reasons))]:
                yield source, title, comparison


def _table_row(source: RowSource, task: str, comparison: PublishedComparison, notes: Notes) -> TableRow:
    published = comparison.published
    assert published is not None, "a row stands beside a published score"
    ids = (comparison.cell_id,)
    if comparison.reasons:
        numbers = tuple(notes.add(reason, ids) for reason in comparison.reasons)
        difference = TableCell(status="not_applicable", cell_ids=ids, word="-", notes=numbers)
        verdict = TableCell(status="not_applicable", cell_ids=ids, word="-")
    else:
        difference = TableCell(value=comparison.difference, stderr=comparison.difference_stderr, cell_ids=ids)
        verdict = TableCell(word=_VERDICTS[comparison.within_noise], cell_ids=ids)
    return TableRow(
        labels=(*source.labels, task),
        cells=(
            TableCell(value=comparison.value, stderr=comparison.stderr, cell_ids=ids),
            TableCell(value=published.value, num_items=published.num_items),
            difference,
            verdict,
            TableCell(word=f"{published.source.name}, {published.place}"),
        ),
        is_reference=source.is_reference,
        names={axis: source.names[axis] for axis in AXIS_TITLES} | {"task": comparison.task},
        variant_ids=source.variant_ids,
    )


def _sources(results: Iterable[PublishedResult]) -> list[str]:
    sources = dict.fromkeys(result.source for result in results)
    return [f"{source.name}: {source.title}, {source.version}, {source.url}" for source in sources]


def _tally(compared: Sequence[PublishedComparison]) -> list[str]:
    judged = [each for each in compared if each.within_noise is not None]
    if not judged:
        return []
    return [f"{sum(bool(each.within_noise) for each in judged)} of {len(judged)} differences are within noise"]


def _unstated(compared: Sequence[PublishedComparison]) -> list[str]:
    count = Counter(name for each in compared for name in each.unstated)
    if not count:
        return []
    named = "; ".join(f"{name} {number}" for name, number in count.most_common())
    return [f"what the source does not state, and for how many of the {len(compared)} published scores: {named}"]


def _grouped(sentence: str, reasons: Sequence[tuple[str, PublishedComparison]]) -> list[str]:
    """Each reason once, with the cells that it is about: by model its tasks, and how many cells."""
    about: dict[str, dict[str, PublishedComparison]] = defaultdict(dict)
    for reason, comparison in reasons:
        about[reason][comparison.cell_id] = comparison
    return [f"{sentence.format(reason)} ({_cells(list(covered.values()))})" for reason, covered in about.items()]


def _cells(covered: Sequence[PublishedComparison]) -> str:
    """How many cells, and of which models on which tasks."""
    labels = model_labels(comparison.model for comparison in covered)
    tasks: dict[str, dict[str, None]] = defaultdict(dict)
    for comparison in covered:
        tasks[labels[comparison.model]][comparison.task] = None
    models: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for model, names in tasks.items():
        models[tuple(names)].append(model)
    named = "; ".join(f"{', '.join(alike)} on {', '.join(names)}" for names, alike in models.items())
    return f"{len(covered)} cell{'s' if len(covered) > 1 else ''}: {named}"


def _errata(compared: Sequence[PublishedComparison]) -> list[str]:
    """What is known to be wrong in the paper's tables that numbers were compared with: averages, which are not."""
    results = [comparison.published for comparison in compared if comparison.published]
    places = {result.place for result in results if result.source.name == PAPER}
    return [
        f"erratum of the paper, Table {note['table']}, {note['quantity']} (not compared): {note['note']}"
        for note in erratum_notes()
        if f"Table {note['table']}" in places
    ]
