"""The paper's claims as data, and whether a study's numbers agree with one."""

from __future__ import annotations

import functools
from importlib.resources import files
from typing import Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict

from reports.statistics import SIGNIFICANCE, Estimate

Question = Literal["bit_width", "method", "task_category", "model_type"]
Direction = Literal["higher", "lower", "no_loss"]
Verdict = Literal["agrees", "contradicts", "cannot tell"]

QUESTIONS: tuple[Question, ...] = get_args(Question)
# Closer than this counts as equal: in points, or in percent of full precision.
EQUAL_WITHIN = 1.0
VERDICT_RULE = (
    "A claim of a direction agrees where the finding is significant in it, and is contradicted where it is significant "
    "in the other; that something costs almost nothing agrees where the whole interval lies above "
    f"-{EQUAL_WITHIN:g} point, and is contradicted where all of it lies below and the finding is significant; else a "
    "study cannot tell"
)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Claim(_Strict):
    """One claim: `direction` is that of `first` against `second`; `schemes` is a pattern of bit widths, or all."""

    name: str
    question: Question
    text: str
    place: str
    first: str
    second: str
    schemes: str = "*"
    direction: Direction


class ClaimSource(_Strict):
    """Where the claims stand, and which models they are about."""

    title: str
    url: str
    version: str
    models: str


class _ClaimFile(_Strict):
    source: ClaimSource
    claims: tuple[Claim, ...]


def claim_source() -> ClaimSource:
    """The paper that the claims are from."""
    return _claim_file().source


def claims() -> tuple[Claim, ...]:
    """All claims, in the order of the questions."""
    return _claim_file().claims


@functools.cache
def _claim_file() -> _ClaimFile:
    text = (files("reports") / "findings" / "claims.yaml").read_text(encoding="utf-8")
    return _ClaimFile.model_validate(yaml.safe_load(text))


def judge_claim(direction: Direction, estimate: Estimate, adjusted_p: float) -> Verdict:
    """What an estimate of first - second says about a claim, by `VERDICT_RULE`."""
    low, high = estimate.interval
    if direction == "no_loss" and low > -EQUAL_WITHIN:
        return "agrees"
    if adjusted_p >= SIGNIFICANCE:
        return "cannot tell"
    if direction == "no_loss":
        return "contradicts" if high < -EQUAL_WITHIN else "cannot tell"
    return "agrees" if (estimate.effect > 0) == (direction == "higher") else "contradicts"
