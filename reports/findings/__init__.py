"""What a study says about its four questions, as sentences made from tests on its items, beside the paper's claims."""

from reports.findings.build import build_findings
from reports.findings.claims import Claim, ClaimSource, Question, Verdict, claim_source, claims
from reports.findings.model import QUESTION_TITLES, ClaimVerdict, Finding, Findings

__all__ = [
    "QUESTION_TITLES",
    "Claim",
    "ClaimSource",
    "ClaimVerdict",
    "Finding",
    "Findings",
    "Question",
    "Verdict",
    "build_findings",
    "claim_source",
    "claims",
]
