"""The findings as a section of the page: sentences under their questions, each with what it rests on."""

from __future__ import annotations

from reports.findings import Finding, Findings
from reports.html.markup import Html, element, join
from reports.html.page import Section, paragraphs

_MAX_CELLS = 24


def findings_section(findings: Findings) -> Section:
    """All findings, what the paper claims of the same, and how to read them."""
    parts: list[Html] = []
    for question, members in findings.by_question().items():
        parts.append(element("h3", question))
        parts.append(element("ul", *map(_item, members), class_="findings"))
    notes = paragraphs(findings.notes)
    if parts:
        notes = element("details", element("summary", "How to read the findings"), notes)
    return Section(name="findings", title="Findings", body=join([*parts, notes]))


def _item(finding: Finding) -> Html:
    """A sentence, the claim, and what it rests on, which opens to the ids of the cells."""
    lines = [element("div", element("bdi", finding.sentence))]
    if finding.claim is not None:
        claim = finding.claim
        verdict = element("strong", claim.verdict, class_=f"verdict {claim.verdict.replace(' ', '-')}")
        text = element("bdi", f"The paper ({claim.place}): {claim.text}. On these models: ")
        lines.append(element("div", text, verdict, ".", class_="claim"))
    if finding.cell_ids:
        shown = element("code", " ".join(finding.cell_ids[:_MAX_CELLS]))
        more = len(finding.cell_ids) - _MAX_CELLS
        rest = f" and {more} more, all of them in report.json (findings)" if more > 0 else None
        lines.append(element("details", element("summary", element("bdi", finding.basis)), shown, rest))
    elif finding.basis:
        lines.append(element("div", element("bdi", finding.basis), class_="claim"))
    return element("li", *lines)
