"""Findings as data: an answer to one of the study's questions, its evidence, and what the paper claims."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from reports.findings.claims import ClaimSource, Question, Verdict
from reports.statistics import Estimate

Strength = Literal["strong", "moderate", "none"]
Unit = Literal["points", "percent of full precision"]

QUESTION_TITLES: Mapping[Question, str] = {
    "bit_width": "Bit width",
    "method": "Method",
    "task_category": "Task category",
    "model_type": "Model type",
}


@dataclass(frozen=True, kw_only=True)
class ClaimVerdict:
    """A claim of the paper beside a finding: `text` in our words, `place` where the paper makes it."""

    name: str
    text: str
    place: str
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class Finding:
    """How `first` compares with `second`; effect and interval are of first - second, in `unit`.

    `estimate` is None where the study has nothing complete to compare: then the sentence says why. `adjusted_p` is
    corrected for all tests of the report. `changes` are the two mean changes from full precision in percent, where
    these are compared. `models`, `methods`, `schemes` and `tasks` are what the finding rests on. `num_comparisons`
    and `num_cells` say how many of how many were complete; `cell_ids` are those that count, `cell_ids_left_out` the
    others (failed, missing, without scores of items, or without what they are compared with).
    """

    question: Question
    first: str
    second: str
    sentence: str
    basis: str
    unit: Unit
    estimate: Estimate | None = None
    adjusted_p: float | None = None
    strength: Strength | None = None
    is_equal: bool | None = None
    changes: tuple[float, float] | None = None
    models: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    schemes: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    num_comparisons: tuple[int, int] = (0, 0)
    num_cells: tuple[int, int] = (0, 0)
    cell_ids: tuple[str, ...] = ()
    cell_ids_left_out: tuple[str, ...] = ()
    claim: ClaimVerdict | None = None


@dataclass(frozen=True, kw_only=True)
class Findings:
    """All findings of a study in the order of the questions; `notes` say how they were made and how to read them."""

    findings: tuple[Finding, ...] = ()
    num_tests: int = 0
    notes: tuple[str, ...] = ()
    source: ClaimSource | None = None

    def by_question(self) -> dict[str, list[Finding]]:
        """The findings under the title of their question."""
        groups: dict[str, list[Finding]] = {}
        for finding in self.findings:
            groups.setdefault(QUESTION_TITLES[finding.question], []).append(finding)
        return groups

    def as_json(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {
            "num_tests": self.num_tests,
            "source": self.source.model_dump() if self.source else None,
            "notes": list(self.notes),
            "findings": [asdict(finding) for finding in self.findings],
        }
