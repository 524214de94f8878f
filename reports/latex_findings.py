"""Findings in LaTeX: lists under paragraph headings."""

from __future__ import annotations

import re

from reports.findings import Finding, Findings
from reports.latex_text import breakable_latex, escape_latex


def latex_findings(findings: Findings) -> str:
    """The findings and how to read them, to be taken in by \\input; needs no packages."""
    lines = []
    for title, members in findings.by_question().items():
        lines += [rf"\paragraph{{{escape_latex(title)}.}}", r"\begin{itemize}\setlength{\itemsep}{0pt}"]
        lines += map(_finding, members)
        lines.append(r"\end{itemize}")
    heading = r"\paragraph{How to read the findings.} " if findings.findings else ""
    notes = " ".join(map(_text, findings.notes))
    lines.append(rf"{heading}{{\footnotesize {notes}\par}}")
    return "\n".join(lines) + "\n"


def _finding(finding: Finding) -> str:
    text = rf"\item {_text(finding.sentence)}"
    text += rf" \emph{{{_text(finding.basis)}.}}" if finding.basis else ""
    if finding.claim is None:
        return text
    claim = f"The paper ({finding.claim.place}): {finding.claim.text}. On these models:"
    return rf"{text}\newline {_text(claim)} \textbf{{{finding.claim.verdict}}}."


def _text(text: str) -> str:
    """Text with minus signs in place of the hyphens before numbers."""
    return re.sub(r"(?<![^ (\[])-(?=\d)", "$-$", breakable_latex(text))
