"""Findings as a reader meets them: sentences, verdicts, claims, and text from outside in every format."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reports import ResultStore, build_report, write_report
from reports.findings import QUESTION_TITLES, Findings, build_findings, claims
from reports.findings.claims import judge_claim
from reports.findings.wording import basis, change_sentence, score_sentence
from reports.html import findings_section
from reports.latex_findings import latex_findings
from reports.markdown import markdown_findings
from reports.published import published_results
from reports.published.results import PAPER
from reports.statistics import Estimate, ScoreMatrix, relative_change
from reports.terminal import terminal_findings

NASTY = "a_b% & # $x$ { } ~ ^ \\ < > | ``` *b* \x1b[31m \u202egnp 表 -base"


def _estimate(effect: float, low: float, high: float, minimum_detectable: float = 2.0) -> Estimate:
    return Estimate(
        effect=effect,
        stderr=1.0,
        interval=(low, high),
        test="permutation",
        p_value=0.01,
        minimum_detectable=minimum_detectable,
        num_items=10,
    )


# ---- sentences


def _said(estimate: Estimate, strength: Any, is_equal: bool) -> str:
    return score_sentence("a", "b", "", estimate, strength, is_equal)


def test_a_significant_difference_is_told_with_its_direction_interval_and_strength() -> None:
    assert _said(_estimate(-18.34, -20.0, -16.6), "strong", False) == (
        "a scores 18.3 points below b (95 % interval 16.6 to 20.0; strong evidence)."
    )
    # An interval that reaches over zero keeps its signs, in the direction that is told.
    for sign, direction in ((1, "above"), (-1, "below")):
        bounds = sorted((-0.1 * sign, 4.1 * sign))
        assert _said(_estimate(2.0 * sign, *bounds), "moderate", False) == (
            f"a scores 2.0 points {direction} b (95 % interval -0.1 to 4.1; moderate evidence)."
        )
    small = _said(_estimate(0.4, 0.1, 0.7), "strong", True)
    assert small.endswith("; strong evidence), a difference of less than one point.")


def test_without_significance_a_sentence_says_equal_or_what_could_have_been_detected() -> None:
    assert _said(_estimate(-0.02, -0.3, 0.3), "none", True) == (
        "a and b are equal within one point (difference 0.0 points, 95 % interval -0.3 to 0.3)."
    )
    # What is detectable is rounded up.
    assert _said(_estimate(-1.0, -3.0, 1.0, 3.02), "none", False) == (
        "No difference between a and b is detectable (difference -1.0 points, 95 % interval -3.0 to 1.0; "
        "minimum detectable 3.1 points at 80 % power)."
    )


def test_losses_are_told_as_losses() -> None:
    def said(estimate: Estimate, strength: Any, is_equal: bool = False) -> str:
        return change_sentence("math", "general", "", estimate, strength, is_equal, (-21.4, -9.1))

    losses = "21.4 % against 9.1 % of full precision"
    assert said(_estimate(-12.3, -15.0, -9.8), "strong") == (
        f"math loses 12.3 percentage points more than general ({losses}; 95 % interval 9.8 to 15.0; strong evidence)."
    )
    assert said(_estimate(5.0, 2.0, 8.0), "moderate").startswith("math loses 5.0 percentage points less than general")
    assert said(_estimate(-0.2, -0.7, 0.3), "none", is_equal=True) == (
        f"math and general lose the same within one percentage point ({losses}; difference 0.2 percentage points, "
        "95 % interval -0.3 to 0.7)."
    )
    assert said(_estimate(-1.0, -3.0, 1.0, 2.9), "none") == (
        f"No difference between the losses of math and general is detectable ({losses}; difference 1.0 percentage "
        "points, 95 % interval -1.0 to 3.0; minimum detectable 2.9 percentage points at 80 % power)."
    )


def test_what_a_finding_rests_on_is_named_where_it_is_little() -> None:
    many = ["a", "b", "c"]
    assert basis(models=["m"], methods=["rtn", "gptq"], schemes=[], tasks=many, num=(5, 6)) == (
        "m, rtn and gptq, 3 tasks, 5 of 6 cells"
    )


# ---- verdicts and claims


@pytest.mark.parametrize(
    ("direction", "effect", "half", "adjusted_p", "verdict"),
    [
        ("higher", 5.0, 2.0, 0.01, "agrees"),
        ("higher", -5.0, 2.0, 0.01, "contradicts"),
        ("higher", 5.0, 2.0, 0.2, "cannot tell"),
        ("lower", -5.0, 2.0, 0.01, "agrees"),
        ("lower", 5.0, 2.0, 0.01, "contradicts"),
        ("lower", 5.0, 6.0, 0.3, "cannot tell"),
        ("no_loss", 0.0, 0.5, 1.0, "agrees"),
        ("no_loss", -0.5, 0.3, 0.001, "agrees"),
        ("no_loss", 3.0, 1.0, 0.001, "agrees"),
        ("no_loss", -3.0, 1.0, 0.001, "contradicts"),
        ("no_loss", -3.0, 1.0, 0.06, "cannot tell"),
        ("no_loss", -1.5, 1.0, 0.001, "cannot tell"),
    ],
)
def test_a_claim_is_judged_by_the_stated_rule(
    direction: Any, effect: float, half: float, adjusted_p: float, verdict: str
) -> None:
    assert judge_claim(direction, _estimate(effect, effect - half, effect + half), adjusted_p) == verdict


def _paper_scores() -> dict[tuple[str, str, str, str], float]:
    return {
        (result.model, result.method, result.scheme.removesuffix("g128"), result.task): result.value
        for result in published_results()
        if result.source.name == PAPER
    }


_GROUPS = {"gsm8k": "math", "minerva_math": "math", "humaneval": "code", "mbpp": "code"}


def _paper_differences(claim: Any) -> list[float]:
    """first - second over all comparisons that the paper's own tables have for a claim."""
    scores = _paper_scores()
    changes = {
        place: relative_change(value, scores[place[0], "none", "fp16", place[3]])
        for place, value in scores.items()
        if place[1] != "none"
    }
    if claim.question == "task_category":
        sides = [
            [change for place, change in changes.items() if _GROUPS.get(place[3], "general") == group]
            for group in (claim.first, claim.second)
        ]
        return [float(np.mean(sides[0]) - np.mean(sides[1]))]
    if claim.question == "model_type":
        tuned = {place: change for place, change in changes.items() if "instruct" in place[0]}
        return [change - changes[place[0].replace("instruct", "base"), *place[1:]] for place, change in tuned.items()]
    differences = []
    for (model, method, scheme, task), value in scores.items():
        if claim.question == "method":
            is_first = method == claim.first and re.fullmatch(claim.schemes.replace("*", ".*"), scheme)
            other = (model, claim.second, scheme, task)
        else:
            is_first = scheme == claim.first and method != "none"
            other = (model, "none" if claim.second == "fp16" else method, claim.second, task)
        if is_first and other in scores:
            differences.append(value - scores[other])
    return differences


@pytest.mark.parametrize("claim", claims(), ids=lambda claim: claim.name)
def test_the_papers_own_tables_bear_out_every_claim(claim: Any) -> None:
    differences = _paper_differences(claim)
    assert differences
    mean = np.mean(differences)
    assert {"higher": mean > 0, "lower": mean < 0, "no_loss": mean > -1}[claim.direction]


def test_claims_have_names_of_their_own_and_every_question_has_one() -> None:
    assert len({claim.name for claim in claims()}) == len(claims())
    assert [*dict.fromkeys(claim.question for claim in claims())] == [*QUESTION_TITLES]


# ---- printers


@pytest.fixture
def findings(cell_row: Any) -> Findings:
    """A model, a method and a task group whose names are hard on every format."""
    rows, scores = [], {}
    generator = np.random.default_rng(0)
    for group in ("general", NASTY):
        full = np.ones(80)
        harm = {"none": 0.0, "rtn": 0.1, NASTY: 0.4}
        for method, scheme in (("none", "fp16"), ("rtn", "w4a16g128"), (NASTY, "w4a16g128")):
            values = np.where(generator.random(80) < harm[method], 0.0, full)
            names = {"model": NASTY, "method": method, "scheme": scheme, "task": group, "task_group": group}
            rows.append(cell_row(**names, variant_id=method, cell_id=f"{method}-{group}", value=float(values.mean())))
            scores.setdefault(group, {})[method] = values
    matrices = {task: (ScoreMatrix(task, columns),) for task, columns in scores.items()}
    return build_findings(rows, matrices=lambda task, _: matrices[task])


def test_text_from_outside_is_escaped_in_every_format(findings: Findings) -> None:
    sentence = next(finding.sentence for finding in findings.findings if finding.first == NASTY)
    assert NASTY in sentence
    markdown, latex = markdown_findings(findings), latex_findings(findings)
    assert r"a_b% &amp; \# \$x\$ { } \~ ^ \\ &lt; &gt; \| \`\`\` \*b\*" in markdown
    assert r"a\_b\% \& \# $\$$x$\$$ \{ \} \textasciitilde{} \textasciicircum{} \textbackslash{}" in latex
    page = findings_section(findings).body
    assert "a_b% &amp; # $x$ { } ~ ^ \\ &lt; &gt; | ``` *b*" in page
    for text in (markdown, latex, page, terminal_findings(findings)):
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202e]", text)
    assert not re.search(r"(?<!\\)[%&#_]", latex)


def test_results_without_scores_of_items_have_a_note_in_place_of_findings(tmp_path: Path, cell_row: Any) -> None:
    store = ResultStore(tmp_path / "study")
    for scheme in ("fp16", "w4a4"):
        store.record_cell([cell_row(scheme=scheme)])
    write_report(tmp_path / "study")
    for name in ("report.md", "findings.tex", "report.json"):
        text = (tmp_path / "study/report" / name).read_text()
        assert "no scores of single items" in text
        assert "How to read the findings" not in text


def test_findings_stand_in_every_format_and_json_has_the_cells_behind_them(tmp_path: Path, cell_row: Any) -> None:
    store = ResultStore(tmp_path / "study")
    for scheme, method, num_wrong in (("fp16", "none", 0), ("w4a4", "quarot", 9), ("w4a4", "smoothquant", 60)):
        values = [float(index >= num_wrong) for index in range(100)]
        row = cell_row(scheme=scheme, method=method, value=float(np.mean(values)))
        store.record_cell([row])
        items = [{"doc_id": i, "filter": "none", "metric": "acc", "value": value} for i, value in enumerate(values)]
        store.record_scores(row["cell_id"], items)
    write_report(tmp_path / "study", formats=("markdown", "latex", "json", "html"))
    report = tmp_path / "study/report"
    markdown, latex, data = ((report / name).read_text() for name in ("report.md", "findings.tex", "report.json"))
    found = json.loads(data)["findings"]
    assert latex in (report / "report.tex").read_text()
    stored = {row["cell_id"] for row in store.cells()}
    page = (report / "report.html").read_text()
    for finding in found["findings"]:
        assert finding["sentence"] in markdown
        assert finding["sentence"] in page
        ids = {*finding["cell_ids"], *finding["cell_ids_left_out"]}
        assert ids <= stored
        assert (finding["estimate"] is None) == (not finding["cell_ids"])
    better = next(finding for finding in found["findings"] if finding["first"] == "quarot")
    assert better["cell_ids"] == ["tiny-quarot-w4a4-facts", "tiny-smoothquant-w4a4-facts"]
    assert better["estimate"]["effect"] == pytest.approx(51.0)
    assert better["claim"]["verdict"] == "agrees"
    assert "The paper (RQ2; Tables 2 to 4): at W4A4, rotation (QuaRot) is better than smoothing" in markdown
    assert "On these models: **agrees**." in markdown
    assert 'On these models: </bdi><strong class="verdict agrees">agrees</strong>' in page
    assert " ".join(better["cell_ids"]) in page
    shown = terminal_findings(build_report(store, study="s").findings).splitlines()
    assert f"- agrees: {better['sentence']}" in shown
    assert re.fullmatch(r"The report has \d+ more findings\.", shown[-1])
