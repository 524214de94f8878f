"""Where the paper's printed averages and changes do not follow from the columns that it prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from grids.expansion import FULL_PRECISION
from reports.published.results import PAPER, PublishedAverage, paper_averages, paper_tables, published_results
from reports.statistics import mean, relative_change

Quantity = Literal["average", "change"]

# Scores, averages and changes are printed with one decimal, so each stands for an interval of half of it either way.
_HALF_STEP = 0.05
_SLACK = 1e-9
ROUNDING_RULE = (
    "An average follows if some scores that round to the printed ones have a mean that rounds to it: within 0.1 of the "
    "mean of the printed scores. A change against full precision follows if averages within 0.05 of the printed ones, "
    "or of the means of the printed scores, give a change that rounds to it."
)


@dataclass(frozen=True)
class WrongNumber:
    """A printed number and what it should be: an average in percent points, or a change in percent."""

    model: str
    method: str
    scheme: str
    printed: float
    recomputed: float


@dataclass(frozen=True)
class Erratum:
    """The wrong averages, or the wrong changes, of one of the paper's tables."""

    table: int
    quantity: Quantity
    rows: tuple[WrongNumber, ...]


def find_errata() -> list[Erratum]:
    """Every table and quantity with printed numbers that do not follow, by `ROUNDING_RULE`.

    An average is recomputed from its row's scores, a change from the printed averages.
    """
    errata = []
    for table in sorted(paper_tables()):
        averages = [average for average in paper_averages() if average.table == table]
        errata.append(Erratum(table, "average", tuple(_wrong_averages(averages))))
        errata.append(Erratum(table, "change", tuple(_wrong_changes(averages))))
    return [erratum for erratum in errata if erratum.rows]


def _wrong_averages(averages: Sequence[PublishedAverage]) -> list[WrongNumber]:
    means = {average: _mean_score(average) for average in averages}
    return [
        _wrong(average, average.average, recomputed)
        for average, recomputed in means.items()
        if abs(average.average - recomputed) > 2 * _HALF_STEP + _SLACK
    ]


def _wrong_changes(averages: Sequence[PublishedAverage]) -> list[WrongNumber]:
    full = {average.model: average for average in averages if average.method == FULL_PRECISION}
    wrong = []
    for average in averages:
        if average.change is None:
            continue
        reference = full[average.model]
        printed = (average.average, reference.average)
        columns = (_mean_score(average), _mean_score(reference))
        if not any(_gives(average.change, value, base) for value, base in (printed, columns)):
            recomputed = relative_change(*printed)
            assert recomputed is not None, "no model of the paper scores zero at full precision"
            wrong.append(_wrong(average, average.change, recomputed))
    return wrong


def _gives(change: float, value: float, reference: float) -> bool:
    """Whether values within rounding of these two can have the printed change."""
    low = 100 * ((value - _HALF_STEP) / (reference + _HALF_STEP) - 1)
    high = 100 * ((value + _HALF_STEP) / (reference - _HALF_STEP) - 1)
    return low - _HALF_STEP - _SLACK <= change <= high + _HALF_STEP + _SLACK


def _mean_score(average: PublishedAverage) -> float:
    """The mean of the row's printed scores. Full precision is printed once where two tables share it."""
    scores = {
        (result.model, result.method, result.scheme, result.task): result.value
        for result in published_results()
        if result.source.name == PAPER
    }
    tasks = paper_tables()[average.table]
    return mean([scores[average.model, average.method, average.scheme, task] for task in tasks])


def _wrong(average: PublishedAverage, printed: float, recomputed: float) -> WrongNumber:
    return WrongNumber(average.model, average.method, average.scheme, printed, recomputed)
