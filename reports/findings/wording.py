"""Findings in words: one sentence each, by the strength of its evidence, and the notes that all of them need."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from reports.findings.claims import EQUAL_WITHIN, VERDICT_RULE, ClaimSource
from reports.findings.model import Strength
from reports.statistics import NUM_RESAMPLES, SIGNIFICANCE, Estimate

NO_ITEMS = "There are no findings: the results have no scores of single items, which every test needs."
STRONG_BELOW = 0.001
_MAX_LISTED = 2
_DECIMALS = 1


def score_sentence(first: str, second: str, where: str, estimate: Estimate, strength: Strength, is_equal: bool) -> str:
    """How the scores of two sides compare, in points."""
    if strength != "none":
        direction = "above" if estimate.effect > 0 else "below"
        text = f"{first} scores {_number(abs(estimate.effect))} points {direction} {second}{where}"
        text += f" ({_interval(estimate, one_sided=True)}; {strength} evidence)"
        return text + (", a difference of less than one point." if is_equal else ".")
    numbers = f"difference {_number(estimate.effect)} points, {_interval(estimate)}"
    if is_equal:
        return f"{first} and {second} are equal within one point{where} ({numbers})."
    return f"No difference between {first} and {second} is detectable{where} ({numbers}; {_detectable(estimate)})."


def change_sentence(
    first: str,
    second: str,
    where: str,
    estimate: Estimate,
    strength: Strength,
    is_equal: bool,
    changes: tuple[float, float],
) -> str:
    """How much two sides lose of their full precision."""
    losses = " against ".join(f"{_number(-change)} %" for change in changes) + " of full precision"
    loss = _negated(estimate)
    if strength != "none":
        direction = "more" if loss.effect > 0 else "less"
        text = f"{first} loses {_number(abs(loss.effect))} percentage points {direction} than {second}{where}"
        text += f" ({losses}; {_interval(loss, one_sided=True)}; {strength} evidence)"
        return text + (", a difference of less than one percentage point." if is_equal else ".")
    numbers = f"{losses}; difference {_number(loss.effect)} percentage points, {_interval(loss)}"
    if is_equal:
        return f"{first} and {second} lose the same within one percentage point{where} ({numbers})."
    sides = f"the losses of {first} and {second}"
    return f"No difference between {sides} is detectable{where} ({numbers}; {_detectable(estimate, 'percentage ')})."


def nothing_sentence(first: str, second: str, reason: str) -> str:
    """Why two sides cannot be compared."""
    return f"{first} and {second} cannot be compared: {reason}."


def basis(
    *, models: Sequence[str], methods: Sequence[str], schemes: Sequence[str], tasks: Sequence[str], num: tuple[int, int]
) -> str:
    """What a finding rests on: names where they are few, else how many, and how many of how many cells."""
    listed = [_listed(names, what) for names, what in ((models, "models"), (methods, "methods"), (schemes, "schemes"))]
    parts = [*listed, _listed(tasks, "tasks"), f"{num[0]} of {num[1]} cells"]
    return ", ".join(part for part in parts if part)


def joined(names: Sequence[str]) -> str:
    """Names as a sentence lists them."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def notes(num_tests: int, num_left_out: int, source: ClaimSource, *, has_changes: bool) -> tuple[str, ...]:
    """How the findings were made and how they are to be read."""
    lines = [
        "A finding is a mean over comparisons of two cells that differ in nothing else (same model, method, scheme, "
        "task and seed as far as these are not what is compared), paired on items; only comparisons with both sides "
        "complete count. Seeds of a variant, and variants of a method, are averaged item by item first.",
    ]
    if has_changes:
        lines.append(
            "Losses are what the average over the tasks loses in percent of the same model's full precision, negative "
            "for a gain; task categories have different items, so their losses are not paired."
        )
    lines += [
        f"Evidence is strong below p = {STRONG_BELOW:g} and moderate below {SIGNIFICANCE:g}, after Holm's correction "
        f"for the {num_tests} tests of this section (paired permutation test over items for scores, normal test for "
        "losses). Intervals are for each finding by itself: 1.96 standard errors to either side, those of losses by "
        f"bootstrap over the items of each task, baseline and variant drawn together ({NUM_RESAMPLES} resamples). "
        "Minimum detectable: what one test at 5 % finds with 80 % power. Equal within one point: the interval lies "
        f"within {EQUAL_WITHIN:g} on either side of zero.",
        "Items are what is drawn: a finding speaks of these models, methods and tasks, and of no others.",
        f"The paper: {source.title}, {source.version}; its claims are in our words, and about {source.models}. "
        f"{VERDICT_RULE}.",
    ]
    lines.append("The ids of the cells behind each finding are in report.json (findings).")
    if num_left_out:
        lines.append(f"{num_left_out} further comparisons were left to the tables.")
    return tuple(lines)


def _detectable(estimate: Estimate, kind: str = "") -> str:
    """Rounded up: what is told is detectable."""
    detectable = math.ceil(10**_DECIMALS * estimate.minimum_detectable) / 10**_DECIMALS
    return f"minimum detectable {_number(detectable)} {kind}points at 80 % power"


def _negated(estimate: Estimate) -> Estimate:
    low, high = estimate.interval
    return replace(estimate, effect=-estimate.effect, interval=(-high, -low))


def _interval(estimate: Estimate, *, one_sided: bool = False) -> str:
    """The interval; of an effect that is told without its sign, without signs too where it lies on one side."""
    low, high = estimate.interval
    if one_sided and low * high >= 0:
        low, high = sorted((abs(low), abs(high)))
    elif one_sided and estimate.effect < 0:
        low, high = -high, -low
    return f"95 % interval {_number(low)} to {_number(high)}"


def _number(value: float) -> str:
    text = f"{value:.{_DECIMALS}f}"
    return text[1:] if text == "-0.0" else text


def _listed(names: Sequence[str], what: str) -> str:
    return joined(names) if len(names) <= _MAX_LISTED else f"{len(names)} {what}"
