"""Findings from stores with known effects: what is found, how it is worded, what it rests on, and what is refused."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from reports import ItemLibrary, ResultStore
from reports.findings import Finding, Findings, build_findings, material
from reports.statistics import ScoreMatrix, contrasts, holm, mcnemar

Z = stats.norm.ppf(0.975)
DETECTION = Z + stats.norm.ppf(0.8)
NUM_ITEMS = 200


def _wrong(*places: int, num_items: int = NUM_ITEMS) -> list[float]:
    """All right but at these places."""
    return [0.0 if index in places else 1.0 for index in range(num_items)]


class Study:
    """A store with item scores, and its findings."""

    def __init__(self, folder: Path, cell_row: Any) -> None:
        self.folder = folder
        self.store = ResultStore(folder)
        self._cell_row = cell_row

    def add(
        self, model: str, scheme: str, method: str, scores: Sequence[float], task: str = "facts", **changes: Any
    ) -> str:
        """Record a cell with its items (0, 1, ... unless `doc_ids` says); returns its id."""
        doc_ids = changes.pop("doc_ids", range(len(scores)))
        group = changes.pop("group", "general")
        names = {"model": model, "scheme": scheme, "method": method, "task": task, "task_group": group}
        if "method_label" in changes:
            changes["variant_id"] = re.sub(r"\W+", "-", f"{model}-{changes['method_label']}-{scheme}")
        numbers = {"value": float(np.mean(scores)), "stderr": None, "num_items": len(scores)}
        row = self._cell_row(**names, **{**numbers, **changes})
        items = [
            {"doc_id": doc_id, "filter": row["filter"], "metric": row["metric"], "value": float(value)}
            for doc_id, value in zip(doc_ids, scores, strict=True)
        ]
        self.store.record_cell([row])
        self.store.record_scores(row["cell_id"], items)
        return str(row["cell_id"])

    def findings(self, expected: Sequence[Any] | None = None) -> Findings:
        return build_findings(self.store.cells(), expected=expected, matrices=ItemLibrary(self.store).matrices)

    def finding(self, first: str, second: str, expected: Sequence[Any] | None = None) -> Finding:
        found = self.findings(expected).findings
        return next(finding for finding in found if (finding.first, finding.second) == (first, second))


@pytest.fixture
def study(tmp_path: Path, cell_row: Any) -> Study:
    return Study(tmp_path / "study", cell_row)


def _smoothed_error(gained: int, lost: int, num_items: int = NUM_ITEMS) -> float:
    """Bonett and Price's standard error of the difference of two paired proportions, in points."""
    total = num_items + 2
    p, q = (gained + 1) / total, (lost + 1) / total
    return 100 * math.sqrt((p + q - (p - q) ** 2) / total)


# ---- strength of evidence, and the paper's claims


def test_a_method_that_is_better_is_found_and_agrees_with_the_paper(study: Study) -> None:
    study.add("tiny", "fp16", "none", _wrong())
    study.add("tiny", "w4a16g128", "gptq", _wrong(*range(5)))
    study.add("tiny", "w4a16g128", "awq", _wrong(*range(3, 40)))
    found = study.finding("gptq", "awq")
    estimate = found.estimate
    assert estimate is not None
    # Two items are wrong on either side, three on gptq's alone, 35 on awq's.
    assert estimate.effect == pytest.approx(100 * 32 / 200)
    half = Z * _smoothed_error(35, 3)
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
    study.add("tiny", "fp16", "none", _wrong())
    study.add("tiny", "w4a16g128", "gptq", _wrong(0, 1, 2, 3))
    study.add("tiny", "w4a16g128", "awq", _wrong(4, 5, 6, 7))
    found = study.finding("gptq", "awq")
    assert found.estimate is not None
    detectable = DETECTION * _smoothed_error(4, 4)
    assert found.estimate.minimum_detectable == pytest.approx(detectable)
    assert (found.strength, found.is_equal) == ("none", False)
    half = Z * _smoothed_error(4, 4)
    assert found.sentence == (
        "No difference between gptq and awq is detectable at w4a16g128 (difference 0.0 points, 95 % interval "
        f"-{half:.1f} to {half:.1f}; minimum detectable {math.ceil(10 * detectable) / 10:.1f} points at 80 % power)."
    )
    assert found.claim is not None
    assert found.claim.verdict == "cannot tell"


def test_a_ranking_the_other_way_round_contradicts_the_paper(study: Study) -> None:
    study.add("tiny", "fp16", "none", _wrong())
    study.add("tiny", "w4a4", "smoothquant", _wrong(0))
    study.add("tiny", "w4a4", "quarot", _wrong(*range(60)))
    found = study.finding("quarot", "smoothquant")
    assert found.estimate is not None
    assert found.estimate.effect == pytest.approx(-29.5)
    assert "quarot scores 29.5 points below smoothquant at w4a4 (95 % interval 2" in found.sentence
    assert found.claim is not None
    assert found.claim.verdict == "contradicts"


def test_equal_within_one_point_is_said_where_the_interval_shows_it(study: Study) -> None:
    num_items = 6000
    study.add("tiny", "fp16", "none", _wrong(0, 1, num_items=num_items))
    study.add("tiny", "w8a8", "quarot", _wrong(2, 3, 4, num_items=num_items))
    study.add("tiny", "w4a4", "quarot", _wrong(*range(30), num_items=num_items))
    kept, lost = study.finding("w8a8", "full precision"), study.finding("w4a4", "full precision")
    assert kept.is_equal
    assert kept.sentence.startswith("w8a8 and full precision are equal within one point (difference 0.0 points,")
    assert kept.claim is not None
    assert kept.claim.verdict == "agrees"
    # Significant and small: both are said.
    assert (lost.is_equal, lost.strength) == (True, "strong")
    assert lost.sentence.endswith("strong evidence), a difference of less than one point.")


def test_what_costs_almost_nothing_is_contradicted_only_by_an_interval_wholly_below_a_point(study: Study) -> None:
    study.add("tiny", "fp16", "none", _wrong())
    study.add("tiny", "w8a8", "rtn", _wrong(*range(30)))
    found = study.finding("w8a8", "full precision")
    assert found.claim is not None
    assert found.claim.verdict == "contradicts"
    study.add("tiny", "w8a8", "rtn", _wrong(*range(4)))
    found = study.finding("w8a8", "full precision")
    assert found.claim is not None
    assert found.claim.verdict == "cannot tell"


def test_p_values_are_corrected_over_all_findings(study: Study) -> None:
    study.add("tiny", "fp16", "none", _wrong())
    for place, scheme in enumerate(("w4a16g128", "w3a16g128", "w4a4")):
        for method, num_wrong in (("rtn", 9), ("gptq", 5), ("awq", 6)):
            study.add("tiny", scheme, method, _wrong(*range(place, place + num_wrong)))
    found = study.findings()
    tested = [finding for finding in found.findings if finding.estimate]
    assert len(tested) == found.num_tests > 5
    assert [finding.adjusted_p for finding in tested] == pytest.approx(
        holm([finding.estimate.p_value for finding in tested if finding.estimate])
    )
    assert f"Holm's correction for the {found.num_tests} tests" in " ".join(found.notes)


# ---- what a study cannot tell


def test_a_study_of_one_bit_width_says_what_it_lacks(study: Study) -> None:
    study.add("tiny", "fp16", "none", _wrong())
    study.add("tiny", "w4a16g128", "gptq", _wrong(1))
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
    study.add("tiny", "w8a8", "rtn", _wrong(1))
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
    study.add("tiny", "fp16", "none", _wrong())
    study.add("tiny", "w4a16g128", "gptq", _wrong(*range(10)))
    study.add("tiny", "w4a16g128", "awq", _wrong(*range(30)))
    # gptq fails where awq scores nothing, and awq has not run where gptq has.
    study.store.record_cell([failed_row(model="tiny", scheme="w4a16g128", method="gptq", task="places")])
    study.add("tiny", "w4a16g128", "awq", _wrong(*range(NUM_ITEMS)), task="places")
    study.add("tiny", "w4a16g128", "gptq", _wrong(), task="sums")
    found = study.finding("gptq", "awq", expected=[expected_cell(**name) for name in names])
    assert found.estimate is not None
    assert found.estimate.effect == pytest.approx(10.0)
    assert (found.num_comparisons, found.num_cells) == ((1, 3), (2, 6))
    assert found.basis == "tiny, facts, 2 of 6 cells"
    assert set(found.cell_ids_left_out) == {
        f"tiny-{method}-w4a16g128-{task}" for method in ("gptq", "awq") for task in ("places", "sums")
    }


def test_cells_of_other_items_and_of_metrics_that_are_no_shares_are_not_compared(study: Study) -> None:
    study.add("tiny", "fp16", "none", _wrong())
    study.add("tiny", "w4a16g128", "gptq", _wrong(1))
    study.add("tiny", "w4a16g128", "awq", _wrong(2), doc_ids=range(500, 500 + NUM_ITEMS))
    for scheme, method, value in (("fp16", "none", 3.0), ("w4a16g128", "gptq", 9.0), ("w4a16g128", "awq", 5.0)):
        study.add("tiny", scheme, method, [value] * 5, task="words", metric="perplexity", higher_is_better=False)
    found = study.finding("gptq", "awq")
    assert (found.estimate, found.num_comparisons) == (None, (0, 1))
    # Most cells have the items that gptq has.
    found = study.finding("w4a16", "full precision")
    assert found.cell_ids == ("tiny-gptq-w4a16g128-facts", "tiny-none-fp16-facts")
    assert found.cell_ids_left_out == ("tiny-awq-w4a16g128-facts",)


def test_methods_of_different_models_are_not_compared(study: Study) -> None:
    study.add("one", "w4a16g128", "gptq", _wrong(1))
    study.add("other", "w4a16g128", "awq", _wrong(2))
    assert study.finding("gptq", "awq").sentence.endswith("cannot be compared: no model and scheme has both.")


def test_a_cell_that_does_not_apply_is_not_expected(study: Study, expected_cell: Any) -> None:
    expected = [expected_cell(model="tiny", scheme="fp16", method="none")]
    study.add("tiny", "fp16", "none", _wrong())
    for method in ("gptq", "awq"):
        study.add("tiny", "w4a16g128", method, _wrong(1))
        expected.append(expected_cell(model="tiny", scheme="w4a16g128", method=method))
        reason = "no groups" if method == "awq" else None
        expected.append(expected_cell(model="tiny", scheme="w3a16", method=method, not_applicable=reason))
    assert study.finding("gptq", "awq", expected).num_cells == (2, 2)


# ---- pairing, baselines, seeds


def _two_models(study: Study) -> None:
    """Two models that know different items; each loses three of its own, so that the losses are paired and small."""
    study.add("a", "fp16", "none", _wrong(*range(90)))
    study.add("a", "w4a4", "rtn", _wrong(*range(93)))
    study.add("b", "fp16", "none", _wrong(*range(100, 190)))
    study.add("b", "w4a4", "rtn", _wrong(*range(100, 193)))


def _check_pairing(study: Study) -> None:
    found = study.finding("w4a4", "full precision")
    assert found.estimate is not None
    assert found.estimate.effect == pytest.approx(-1.5)
    # Six items lose half a point's share each: their variance by hand.
    values = np.zeros(NUM_ITEMS)
    values[[90, 91, 92, 190, 191, 192]] = -50.0
    assert found.estimate.stderr == pytest.approx(values.std(ddof=1) / math.sqrt(NUM_ITEMS))
    assert found.estimate.p_value == pytest.approx(2 / 2**6)


def test_every_model_is_compared_with_its_own_full_precision_item_by_item(study: Study) -> None:
    _two_models(study)
    _check_pairing(study)


def _check_baselines(study: Study) -> None:
    """Of 200 and of 100 right answers, the base model loses twenty and the instruct model fifty."""
    sides = {"base": (0, 20), "instruct": (100, 150)}
    for name, (num_wrong, num_wrong_quantized) in sides.items():
        study.add(f"x-{name}", "fp16", "none", _wrong(*range(num_wrong)))
        study.add(f"x-{name}", "w4a4", "rtn", _wrong(*range(num_wrong_quantized)))
    assert study.finding("x-instruct", "x-base").changes == pytest.approx((-50.0, -10.0))


def test_every_model_loses_of_its_own_full_precision(study: Study) -> None:
    _check_baselines(study)


def test_mutant_a_swapped_baseline_is_found(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    units_of = material._units

    def swapped(*arguments: Any) -> list[material.Unit]:
        units = units_of(*arguments)
        others = [unit.references for unit in reversed(units)]
        return [replace(unit, references=other) for unit, other in zip(units, others, strict=True)]

    monkeypatch.setattr(material, "_units", swapped)
    with pytest.raises(AssertionError):
        _check_baselines(study)


def test_mutant_an_unpaired_error_in_place_of_a_paired_one_is_found(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    _two_models(study)

    def unpaired(task: ScoreMatrix, weights: np.ndarray) -> np.ndarray:
        """The sides' items in different orders: the same means, no pairs."""
        scores = task._scores.astype(float)
        return scores @ np.minimum(weights, 0) + (scores @ np.maximum(weights, 0))[::-1]

    monkeypatch.setattr(contrasts.ScoreMatrix, "combine", unpaired)
    with pytest.raises(AssertionError):
        _check_pairing(study)


def test_mutant_a_failed_cell_that_counts_as_nothing_right_is_found(
    study: Study, failed_row: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    study.add("tiny", "fp16", "none", _wrong())
    study.add("tiny", "fp16", "none", _wrong(), task="places")
    study.add("tiny", "w4a4", "rtn", _wrong(*range(20)))
    study.store.record_cell([failed_row(model="tiny", scheme="w4a4", task="places")])

    def check() -> None:
        assert study.finding("w4a4", "full precision").num_cells == (2, 4)

    check()
    monkeypatch.setattr(material.Material, "is_complete", lambda *_: True)
    with pytest.raises((AssertionError, KeyError)):
        check()


def test_seeds_are_averaged_item_by_item_before_anything_is_compared(study: Study) -> None:
    rows = {
        ("fp16", "none"): (_wrong(0), _wrong(1)),
        ("w4a4", "rtn"): (_wrong(*range(20)), _wrong(*range(30))),
    }
    for (scheme, method), seeds in rows.items():
        for seed, scores in enumerate(seeds):
            names = {"variant_id": f"{scheme}-{seed}", "cell_id": f"{scheme}-{seed}-facts", "seeds": f"[{seed}]"}
            study.add("tiny", scheme, method, scores, **names)
    found = study.finding("w4a4", "full precision")
    assert found.estimate is not None
    sides = [np.mean(rows[place], axis=0) for place in (("w4a4", "rtn"), ("fp16", "none"))]
    difference = 100 * (sides[0] - sides[1])
    assert found.estimate.effect == pytest.approx(difference.mean())
    assert found.estimate.stderr == pytest.approx(difference.std(ddof=1) / math.sqrt(NUM_ITEMS))
    assert found.num_comparisons == (1, 1)
    assert len(found.cell_ids) == 4


def test_variants_of_one_method_are_averaged_and_told_by_the_methods_own_name(study: Study) -> None:
    study.add("tiny", "w4a16g128", "gptq", _wrong(*range(4)), method_label="gptq, wikitext2")
    study.add("tiny", "w4a16g128", "gptq", _wrong(*range(8)), method_label="gptq, pileval")
    study.add("tiny", "w4a16g128", "awq", _wrong(*range(10)), method_label="awq, pileval")
    found = study.finding("gptq", "awq")
    assert found.estimate is not None
    assert found.estimate.effect == pytest.approx(100 * (10 - 6) / NUM_ITEMS)
    assert found.num_cells == (3, 3)


def test_bit_widths_are_compared_under_the_same_method_and_group_size(study: Study) -> None:
    study.add("tiny", "w4a16g128", "gptq", _wrong(*range(4)))
    study.add("tiny", "w3a16g128", "gptq", _wrong(*range(10)))
    study.add("tiny", "w3a16g32", "gptq", _wrong(*range(90)))
    study.add("tiny", "w3a16g128", "awq", _wrong(*range(150)))
    found = study.finding("w4a16", "w3a16")
    assert found.estimate is not None
    assert found.estimate.effect == pytest.approx(3.0)
    assert found.schemes == ("w4a16g128", "w3a16g128")


def test_a_bit_width_is_that_of_weights_and_activations_unless_only_the_cache_has_one(study: Study) -> None:
    study.add("tiny", "fp16", "none", _wrong())
    for scheme in ("w4a4", "w4a4kv4", "w4a16kv4", "no scheme"):
        name = scheme.replace(" ", "-")
        study.add("tiny", scheme, "rtn", _wrong(0), variant_id=name, cell_id=name)
    found = {f.first: f.schemes for f in study.findings().findings if f.second == "full precision" and f.estimate}
    assert found == {"w4a4": ("w4a4", "w4a4kv4"), "w4a16kv4": ("w4a16kv4",), "no scheme": ("no scheme",)}


def test_methods_that_the_paper_does_not_compare_are_held_against_plain_rounding(study: Study) -> None:
    for method, num_wrong in (("rtn", 40), ("gptq", 20), ("mine", 10)):
        study.add("tiny", "w4a16g128", method, _wrong(*range(num_wrong)))
    pairs = {(f.first, f.second): f for f in study.findings().findings if f.question == "method" and f.estimate}
    assert set(pairs) == {("gptq", "rtn"), ("mine", "rtn")}
    assert pairs["mine", "rtn"].claim is None


def test_a_question_with_many_comparisons_leaves_some_to_the_tables_but_no_claim(study: Study) -> None:
    methods = ["rtn", "gptq", *(f"mine{number}" for number in range(14))]
    for method in methods:
        study.add("tiny", "w4a16g128", method, _wrong(1, num_items=20))
    found = study.findings()
    told = [finding for finding in found.findings if finding.question == "method"]
    assert len(told) == 12
    assert sum(finding.claim is not None for finding in told) == 4
    # Fifteen against rounding, of which eight have room.
    assert "7 further comparisons were left to the tables." in found.notes


def test_what_a_study_can_answer_stands_before_what_it_cannot(study: Study) -> None:
    study.add("tiny", "fp16", "none", _wrong())
    study.add("tiny", "w4a4", "smoothquant", _wrong(0))
    study.add("tiny", "w4a4", "quarot", _wrong(1))
    for question in ("bit_width", "method"):
        answered = [each.estimate is not None for each in study.findings().findings if each.question == question]
        assert answered == sorted(answered, reverse=True)
        assert {True, False} == set(answered)


# ---- losses


def _losing_study(study: Study) -> None:
    for model, lost in (("org/x-8b-base", 20), ("org/x-8b-instruct", 40)):
        for task, group, num_right in (("facts", "general", 160), ("places", "general", 120), ("sums", "math", 80)):
            full = _wrong(*range(num_right, NUM_ITEMS))
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
    study.add("org/y-7b-base", "fp16", "none", _wrong())
    study.add("org/y-7b-base", "w4a4", "rtn", _wrong(*range(100)))
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
        study.add(name, "fp16", "none", _wrong(0))
        study.add(name, "w4a4", "rtn", _wrong(*range(9)))
    (found,) = [finding for finding in study.findings().findings if finding.question == "model_type"]
    assert (found.estimate is not None) == is_family


def test_models_of_a_family_are_compared_under_the_same_method(study: Study) -> None:
    for name, method in (("x-base", "rtn"), ("x-instruct", "gptq")):
        study.add(name, "fp16", "none", _wrong(0))
        study.add(name, "w4a4", method, _wrong(*range(9)))
    found = study.finding("x-instruct", "x-base")
    assert found.sentence.endswith("cannot be compared: they share no method, scheme and task.")


def test_a_full_precision_without_a_right_answer_has_nothing_to_lose(study: Study) -> None:
    study.add("tiny", "fp16", "none", _wrong())
    study.add("tiny", "w4a4", "rtn", _wrong(*range(9)))
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
    wrong, verdicts = 0, []
    for _ in range(num_studies):
        found = _null_study(generator, cell_row)
        assert found.num_tests > 8
        wrong += any(finding.strength != "none" for finding in found.findings if finding.estimate)
        verdicts += [finding.claim.verdict for finding in found.findings if finding.claim]
    # Three standard errors above 5 %.
    assert wrong / num_studies <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / num_studies)
    assert verdicts.count("contradicts") <= wrong
