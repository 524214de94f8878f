"""Published results as data, with their sources; as rows of a store; errata; ours beside theirs."""

from reports.published.comparison import PublishedComparison, compare_with_published, published_comparisons
from reports.published.errata import ROUNDING_RULE, Erratum, WrongNumber, find_errata
from reports.published.printed import with_errata
from reports.published.results import (
    PublicationSource,
    PublishedAverage,
    PublishedResult,
    erratum_notes,
    model_name,
    paper_averages,
    paper_groups,
    paper_tables,
    published_results,
)
from reports.published.rows import PUBLICATIONS, record_paper
from reports.published.table import build_published_table, compares

__all__ = [
    "PUBLICATIONS",
    "ROUNDING_RULE",
    "Erratum",
    "PublicationSource",
    "PublishedAverage",
    "PublishedComparison",
    "PublishedResult",
    "WrongNumber",
    "build_published_table",
    "compare_with_published",
    "compares",
    "erratum_notes",
    "find_errata",
    "model_name",
    "paper_averages",
    "paper_groups",
    "paper_tables",
    "published_comparisons",
    "published_results",
    "record_paper",
    "with_errata",
]
