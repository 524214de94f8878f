"""How large a change is: relative to full precision, and in the paper's three levels."""

from __future__ import annotations

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
