"""How strong evidence is, how it is worded, what the paper claims beside it, and what a study cannot tell."""

from __future__ import annotations

import math
from typing import Any

import pytest
from scipy import stats

from reports.statistics import holm, mcnemar
from tests.reports.findings.conftest import NUM_ITEMS, Study, smoothed_error, wrong

Z = stats.norm.ppf(0.975)
DETECTION = Z + stats.norm.ppf(0.8)


def test_a_method_that_is_better_is_found_and_agrees_with_the_paper(study: Study) -> None:
    study.add("tiny", "fp16", "none", wrong())
    study.add("tiny", "w4a16g128", "gptq", wrong(*range(5)))
    study.add("tiny", "w4a16g128", "awq", wrong(*range(3, 40)))
    found = study.finding("gptq", "awq")
    estimate = found.estimate
    assert estimate is not None
    # Two items are wrong on either side, three on gptq's alone, 35 on awq's.
    assert estimate.effect == pytest.approx(100 * 32 / 200)
    half = Z * smoothed_error(35, 3)
    assert estimate.interval == pytest.approx((16 - half, 16 + half))
    # The exact test's p-value is out of reach of 4999 random signs, but not of the bound on it.
    assert mcnemar(35, 3) < estimate.p_value < 1e-5
    assert found.strength == "strong"
    low, high = 16 - half, 16 + half
    assert found.sentence == (
        f"gptq scores 16.0 points above awq at w4a16g128 (95 % interval {low:.1f} to {high:.1f}; strong evidence)."
    )
    assert found.basis == "tiny, facts, 2 of 2 cells"
    assert found.cell_ids == ("tiny-gptq-w4a16g128-facts", "tiny-awq-w4a16g128-facts")
    assert found.claim is not None
    assert found.claim.verdict == "agrees"


def test_methods_without_a_difference_have_the_minimum_that_could_have_been_detected(study: Study) -> None:
    study.add("tiny", "fp16", "none", wrong())
    study.add("tiny", "w4a16g128", "gptq", wrong(0, 1, 2, 3))
    study.add("tiny", "w4a16g128", "awq", wrong(4, 5, 6, 7))
    found = study.finding("gptq", "awq")
    assert found.estimate is not None
    detectable = DETECTION * smoothed_error(4, 4)
    assert found.estimate.minimum_detectable == pytest.approx(detectable)
    assert (found.strength, found.is_equal) == ("none", False)
    half = Z * smoothed_error(4, 4)
    assert found.sentence == (
        "No difference between gptq and awq is detectable at w4a16g128 (difference 0.0 points, 95 % interval "
        f"-{half:.1f} to {half:.1f}; minimum detectable {math.ceil(10 * detectable) / 10:.1f} points at 80 % power)."
    )
    assert found.claim is not None
    assert found.claim.verdict == "cannot tell"


def test_a_ranking_the_other_way_round_contradicts_the_paper(study: Study) -> None:
    study.add("tiny", "fp16", "none", wrong())
    study.add("tiny", "w4a4", "smoothquant", wrong(0))
    study.add("tiny", "w4a4", "quarot", wrong(*range(60)))
    found = study.finding("quarot", "smoothquant")
    assert found.estimate is not None
    assert found.estimate.effect == pytest.approx(-29.5)
    assert "quarot scores 29.5 points below smoothquant at w4a4 (95 % interval 2" in found.sentence
    assert found.claim is not None
    assert found.claim.verdict == "contradicts"


def test_equal_within_one_point_is_said_where_the_interval_shows_it(study: Study) -> None:
    num_items = 6000
    study.add("tiny", "fp16", "none", wrong(0, 1, num_items=num_items))
    study.add("tiny", "w8a8", "quarot", wrong(2, 3, 4, num_items=num_items))
    study.add("tiny", "w4a4", "quarot", wrong(*range(30), num_items=num_items))
    kept, lost = study.finding("w8a8", "full precision"), study.finding("w4a4", "full precision")
    assert kept.is_equal
    assert kept.sentence.startswith("w8a8 and full precision are equal within one point (difference 0.0 points,")
    assert kept.claim is not None
    assert kept.claim.verdict == "agrees"
    # Significant and small: both are said.
    assert (lost.is_equal, lost.strength) == (True, "strong")
    assert lost.sentence.endswith("strong evidence), a difference of less than one point.")


def test_what_costs_almost_nothing_is_contradicted_only_by_an_interval_wholly_below_a_point(study: Study) -> None:
    study.add("tiny", "fp16", "none", wrong())
    study.add("tiny", "w8a8", "rtn", wrong(*range(30)))
    found = study.finding("w8a8", "full precision")
    assert found.claim is not None
    assert found.claim.verdict == "contradicts"
    study.add("tiny", "w8a8", "rtn", wrong(*range(4)))
    found = study.finding("w8a8", "full precision")
    assert found.claim is not None
    assert found.claim.verdict == "cannot tell"


def test_p_values_are_corrected_over_all_findings(study: Study) -> None:
    study.add("tiny", "fp16", "none", wrong())
    for place, scheme in enumerate(("w4a16g128", "w3a16g128", "w4a4")):
        for method, num_wrong in (("rtn", 9), ("gptq", 5), ("awq", 6)):
            study.add("tiny", scheme, method, wrong(*range(place, place + num_wrong)))
    found = study.findings()
    tested = [finding for finding in found.findings if finding.estimate]
    assert len(tested) == found.num_tests > 5
    assert [finding.adjusted_p for finding in tested] == pytest.approx(
        holm([finding.estimate.p_value for finding in tested if finding.estimate])
    )
    assert f"Holm's correction for the {found.num_tests} tests" in " ".join(found.notes)


# ---- what a study cannot tell


def test_a_study_of_one_bit_width_says_what_it_lacks(study: Study) -> None:
    study.add("tiny", "fp16", "none", wrong())
    study.add("tiny", "w4a16g128", "gptq", wrong(1))
    found = {(finding.first, finding.second): finding for finding in study.findings().findings}
    width = found["w4a16", "w3a16"]
    assert width.sentence == "w4a16 and w3a16 cannot be compared: the study has w4a16, and no w3a16."
    assert width.claim is not None
    assert (width.claim.verdict, width.estimate, width.cell_ids) == ("cannot tell", None, ())
    assert found["gptq", "awq"].sentence.endswith("the study has no awq among its weight-only variants.")
    assert found["math", "general"].sentence.endswith("the study has no math tasks.")
    assert "base and instruction-tuned model of one family" in found["instruct", "base"].sentence
    assert {finding.question for finding in found.values()} == {"bit_width", "method", "task_category", "model_type"}


def test_a_study_without_full_precision_or_without_item_scores_says_so(study: Study, cell_row: Any) -> None:
    study.add("tiny", "w8a8", "rtn", wrong(1))
    assert study.finding("w8a8", "full precision").sentence.endswith("the study has no full precision to compare with.")
    study.store.record_cell([cell_row(model="tiny", scheme="fp16", method="none")])
    found = study.finding("w8a8", "full precision")
    assert found.sentence.endswith("cannot be compared: of 1 comparisons none has both cells, with scores of items.")
    assert (found.basis, found.num_cells) == ("0 of 2 cells", (0, 2))


def test_failed_and_missing_cells_are_left_out_and_counted(study: Study, failed_row: Any, expected_cell: Any) -> None:
    names = [
        {"model": "tiny", "scheme": scheme, "method": method, "task": task}
        for scheme, method in (("fp16", "none"), ("w4a16g128", "gptq"), ("w4a16g128", "awq"))
        for task in ("facts", "places", "sums")
    ]
    study.add("tiny", "fp16", "none", wrong())
    study.add("tiny", "w4a16g128", "gptq", wrong(*range(10)))
    study.add("tiny", "w4a16g128", "awq", wrong(*range(30)))
    # gptq fails where awq scores nothing, and awq has not run where gptq has.
    study.store.record_cell([failed_row(model="tiny", scheme="w4a16g128", method="gptq", task="places")])
    study.add("tiny", "w4a16g128", "awq", wrong(*range(NUM_ITEMS)), task="places")
    study.add("tiny", "w4a16g128", "gptq", wrong(), task="sums")
    found = study.finding("gptq", "awq", expected=[expected_cell(**name) for name in names])
    assert found.estimate is not None
    assert found.estimate.effect == pytest.approx(10.0)
    assert (found.num_comparisons, found.num_cells) == ((1, 3), (2, 6))
    assert found.basis == "tiny, facts, 2 of 6 cells"
    assert set(found.cell_ids_left_out) == {
        f"tiny-{method}-w4a16g128-{task}" for method in ("gptq", "awq") for task in ("places", "sums")
    }


def test_cells_of_other_items_and_of_metrics_that_are_no_shares_are_not_compared(study: Study) -> None:
    study.add("tiny", "fp16", "none", wrong())
    study.add("tiny", "w4a16g128", "gptq", wrong(1))
    study.add("tiny", "w4a16g128", "awq", wrong(2), doc_ids=range(500, 500 + NUM_ITEMS))
    for scheme, method, value in (("fp16", "none", 3.0), ("w4a16g128", "gptq", 9.0), ("w4a16g128", "awq", 5.0)):
        study.add("tiny", scheme, method, [value] * 5, task="words", metric="perplexity", higher_is_better=False)
    found = study.finding("gptq", "awq")
    assert (found.estimate, found.num_comparisons) == (None, (0, 1))
    # Most cells have the items that gptq has.
    found = study.finding("w4a16", "full precision")
    assert found.cell_ids == ("tiny-gptq-w4a16g128-facts", "tiny-none-fp16-facts")
    assert found.cell_ids_left_out == ("tiny-awq-w4a16g128-facts",)


def test_methods_of_different_models_are_not_compared(study: Study) -> None:
    study.add("one", "w4a16g128", "gptq", wrong(1))
    study.add("other", "w4a16g128", "awq", wrong(2))
    assert study.finding("gptq", "awq").sentence.endswith("cannot be compared: no model and scheme has both.")


def test_a_cell_that_does_not_apply_is_not_expected(study: Study, expected_cell: Any) -> None:
    expected = [expected_cell(model="tiny", scheme="fp16", method="none")]
    study.add("tiny", "fp16", "none", wrong())
    for method in ("gptq", "awq"):
        study.add("tiny", "w4a16g128", method, wrong(1))
        expected.append(expected_cell(model="tiny", scheme="w4a16g128", method=method))
        reason = "no groups" if method == "awq" else None
        expected.append(expected_cell(model="tiny", scheme="w3a16", method=method, not_applicable=reason))
    assert study.finding("gptq", "awq", expected).num_cells == (2, 2)
