"""What categories of tasks and kinds of models lose, and how often noise alone is called a finding."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from reports.findings import Findings, build_findings
from reports.statistics import ScoreMatrix
from tests.reports.findings.conftest import NUM_ITEMS, Study, wrong


def _losing_study(study: Study) -> None:
    for model, lost in (("org/x-8b-base", 20), ("org/x-8b-instruct", 40)):
        for task, group, num_right in (("facts", "general", 160), ("places", "general", 120), ("sums", "math", 80)):
            full = wrong(*range(num_right, NUM_ITEMS))
            kept = [0.0 if index < lost and group == "math" else value for index, value in enumerate(full)]
            study.add(model, "fp16", "none", full, task=task, group=group)
            study.add(model, "w4a4", "rtn", kept, task=task, group=group)


def test_task_categories_are_compared_in_what_their_averages_lose_of_full_precision(study: Study) -> None:
    _losing_study(study)
    found = study.finding("math", "general")
    assert found.estimate is not None
    # A quarter and a half of the 80 right answers, and none of the general ones.
    assert found.changes == pytest.approx((-37.5, 0.0))
    assert found.estimate.effect == pytest.approx(-37.5)
    assert found.sentence.startswith(
        "math loses 37.5 percentage points more than general (37.5 % against 0.0 % of full precision; 95 % interval "
    )
    assert found.claim is not None
    assert found.claim.verdict == "agrees"
    assert found.unit == "percent of full precision"


def test_an_instruct_model_is_compared_with_the_base_model_of_its_family(study: Study) -> None:
    _losing_study(study)
    study.add("org/y-7b-base", "fp16", "none", wrong())
    study.add("org/y-7b-base", "w4a4", "rtn", wrong(*range(100)))
    found = study.finding("x-8b-instruct", "x-8b-base")
    assert found.estimate is not None
    # The average over three tasks loses 20 or 40 of 360 right answers.
    assert found.estimate.effect == pytest.approx(-100 * 20 / 360)
    assert found.changes == pytest.approx((-100 * 40 / 360, -100 * 20 / 360))
    assert "x-8b-instruct loses 5.6 percentage points more than x-8b-base" in found.sentence
    assert found.claim is not None
    assert found.claim.verdict == "contradicts"
    assert found.num_cells == (12, 12)


@pytest.mark.parametrize(
    ("tuned", "base", "is_family"),
    [
        ("Dream-v0-Instruct-7B", "Dream-v0-Base-7B", True),
        ("org/LLaDA-8B-Instruct", "other/LLaDA-8B", True),
        ("models/tiny-llada-instruct", "models/tiny-llada-base", True),
        ("gemma_2b_it", "gemma_2b", True),
        ("LLaDA-8B-Instruct", "Dream-v0-Base-7B", False),
        ("LLaDA-8B", "LLaDA-8B-Base", False),
    ],
)
def test_families_are_told_by_names(study: Study, tuned: str, base: str, is_family: bool) -> None:
    for name in (base, tuned):
        study.add(name, "fp16", "none", wrong(0))
        study.add(name, "w4a4", "rtn", wrong(*range(9)))
    (found,) = [finding for finding in study.findings().findings if finding.question == "model_type"]
    assert (found.estimate is not None) == is_family


def test_models_of_a_family_are_compared_under_the_same_method(study: Study) -> None:
    for name, method in (("x-base", "rtn"), ("x-instruct", "gptq")):
        study.add(name, "fp16", "none", wrong(0))
        study.add(name, "w4a4", method, wrong(*range(9)))
    found = study.finding("x-instruct", "x-base")
    assert found.sentence.endswith("cannot be compared: they share no method, scheme and task.")


def test_a_full_precision_without_a_right_answer_has_nothing_to_lose(study: Study) -> None:
    study.add("tiny", "fp16", "none", wrong())
    study.add("tiny", "w4a4", "rtn", wrong(*range(9)))
    for scheme, method in (("fp16", "none"), ("w4a4", "rtn")):
        study.add("tiny", scheme, method, [0.0] * NUM_ITEMS, task="sums", group="math")
    found = study.finding("math", "general")
    assert (found.estimate, found.num_comparisons) == (None, (0, 1))


# ---- errors of the first kind


def _null_study(generator: np.random.Generator, cell_row: Any) -> Findings:
    """Variants of two models that are drawn alike, so that every significant finding is wrong."""
    num_items = 60
    rows: list[dict[str, Any]] = []
    scores: dict[str, dict[str, np.ndarray]] = {}
    made = [("none", "fp16")] + [(m, s) for m in ("gptq", "awq", "rtn") for s in ("w4a16g128", "w3a16g128", "w8a8")]
    for model, (task, group) in itertools.product(("x-base", "x-instruct"), (("facts", "general"), ("sums", "math"))):
        known = generator.random(num_items)
        for method, scheme in made:
            name = f"{model}-{method}-{scheme}"
            values = (known + generator.normal(0, 0.1, num_items) < 0.7).astype(float)
            scores.setdefault(task, {})[name] = values
            names = {"model": model, "method": method, "scheme": scheme, "task": task, "task_group": group}
            rows.append(cell_row(**names, variant_id=name, value=float(values.mean()), num_items=num_items))
    matrices = {task: (ScoreMatrix(task, columns),) for task, columns in scores.items()}
    return build_findings(rows, matrices=lambda task, _: matrices[task])


def test_a_report_of_nothing_but_noise_has_a_significant_finding_at_most_once_in_twenty(cell_row: Any) -> None:
    generator = np.random.default_rng(0)
    num_studies = 50
    num_wrong, verdicts = 0, []
    for _ in range(num_studies):
        found = _null_study(generator, cell_row)
        assert found.num_tests > 8
        num_wrong += any(finding.strength != "none" for finding in found.findings if finding.estimate)
        verdicts += [finding.claim.verdict for finding in found.findings if finding.claim]
    # Three standard errors above 5 %.
    assert num_wrong / num_studies <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / num_studies)
    assert verdicts.count("contradicts") <= num_wrong
