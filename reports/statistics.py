"""What a table says about a number: its standard error, its change against full precision, how severe that is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Literal

Severity = Literal["negligible", "moderate", "significant"]

NEGLIGIBLE_BELOW_PERCENT = 1.0
SIGNIFICANT_ABOVE_PERCENT = 4.0
SEVERITY_RULE = (
    "negligible below 1 % (and every gain), moderate from 1 % to 4 % with both borders, significant above 4 %; "
    "judged before rounding"
)
# Two scores such as 0.50 and 0.48 differ by 4 % only up to binary rounding; a border must not turn on that.
_BORDER_DIGITS = 9


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean. Raises ValueError for no values."""
    if not values:
        raise ValueError("the mean of no values")
    return math.fsum(values) / len(values)


def standard_error(scores: Sequence[float]) -> float | None:
    """The standard error of the mean of independent scores, s / sqrt(n) with s^2 over n - 1; None for fewer than two.

    For 0/1 scores with mean p it is sqrt(p (1 - p) / (n - 1)), which lm-eval reports too.
    """
    if len(scores) < 2:
        return None
    return statistics.stdev(scores) / math.sqrt(len(scores))


def standard_error_of_average(stderrs: Sequence[float | None]) -> float | None:
    """The standard error of the plain average of independent numbers; None where one's own is unknown."""
    known = [stderr for stderr in stderrs if stderr is not None and math.isfinite(stderr)]
    if not known or len(known) < len(stderrs):
        return None
    return math.sqrt(math.fsum(stderr**2 for stderr in known)) / len(known)


def relative_change(value: float, reference: float, *, higher_is_better: bool = True) -> float | None:
    """The change against a reference in percent of it, negative where it got worse; None for a reference of zero."""
    if reference == 0:
        return None
    change = 100.0 * (value - reference) / abs(reference)
    return change if higher_is_better else -change


def severity(change: float) -> Severity:
    """The level of a change in percent (negative is worse), as in arXiv 2508.14896; `SEVERITY_RULE` states the borders.

    The paper says negligible < 1 %, moderate 1-4 %, significant > 4 %, and leaves the borders open.
    """
    drop = round(-change, _BORDER_DIGITS)
    if drop < NEGLIGIBLE_BELOW_PERCENT:
        return "negligible"
    return "moderate" if drop <= SIGNIFICANT_ABOVE_PERCENT else "significant"
