"""Published results as data, with their sources; where the paper's own numbers do not follow; ours beside theirs."""

from reports.published.comparison import PublishedComparison, compare_with_published
from reports.published.errata import ROUNDING_RULE, Erratum, WrongNumber, find_errata
from reports.published.results import (
    PublicationSource,
    PublishedAverage,
    PublishedResult,
    erratum_notes,
    model_name,
    paper_averages,
    paper_tables,
    published_results,
)

__all__ = [
    "ROUNDING_RULE",
    "Erratum",
    "PublicationSource",
    "PublishedAverage",
    "PublishedComparison",
    "PublishedResult",
    "WrongNumber",
    "compare_with_published",
    "erratum_notes",
    "find_errata",
    "model_name",
    "paper_averages",
    "paper_tables",
    "published_results",
]
