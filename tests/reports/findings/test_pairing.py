"""What is compared with what: items, baselines, seeds, variants; with mutants that compare something else."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from reports.findings import material
from reports.statistics import ScoreMatrix, contrasts
from tests.reports.findings.conftest import NUM_ITEMS, Study, wrong


def _two_models(study: Study) -> None:
    """Two models that know different items; each loses three of its own, so that the losses are paired and small."""
    study.add("a", "fp16", "none", wrong(*range(90)))
    study.add("a", "w4a4", "rtn", wrong(*range(93)))
    study.add("b", "fp16", "none", wrong(*range(100, 190)))
    study.add("b", "w4a4", "rtn", wrong(*range(100, 193)))


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
        study.add(f"x-{name}", "fp16", "none", wrong(*range(num_wrong)))
        study.add(f"x-{name}", "w4a4", "rtn", wrong(*range(num_wrong_quantized)))
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
    study.add("tiny", "fp16", "none", wrong())
    study.add("tiny", "fp16", "none", wrong(), task="places")
    study.add("tiny", "w4a4", "rtn", wrong(*range(20)))
    study.store.record_cell([failed_row(model="tiny", scheme="w4a4", task="places")])

    def check() -> None:
        assert study.finding("w4a4", "full precision").num_cells == (2, 4)

    check()
    monkeypatch.setattr(material.Material, "is_complete", lambda *_: True)
    with pytest.raises((AssertionError, KeyError)):
        check()


def test_seeds_are_averaged_item_by_item_before_anything_is_compared(study: Study) -> None:
    rows = {
        ("fp16", "none"): (wrong(0), wrong(1)),
        ("w4a4", "rtn"): (wrong(*range(20)), wrong(*range(30))),
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
    study.add("tiny", "w4a16g128", "gptq", wrong(*range(4)), method_label="gptq, wikitext2")
    study.add("tiny", "w4a16g128", "gptq", wrong(*range(8)), method_label="gptq, pileval")
    study.add("tiny", "w4a16g128", "awq", wrong(*range(10)), method_label="awq, pileval")
    found = study.finding("gptq", "awq")
    assert found.estimate is not None
    assert found.estimate.effect == pytest.approx(100 * (10 - 6) / NUM_ITEMS)
    assert found.num_cells == (3, 3)


def test_bit_widths_are_compared_under_the_same_method_and_group_size(study: Study) -> None:
    study.add("tiny", "w4a16g128", "gptq", wrong(*range(4)))
    study.add("tiny", "w3a16g128", "gptq", wrong(*range(10)))
    study.add("tiny", "w3a16g32", "gptq", wrong(*range(90)))
    study.add("tiny", "w3a16g128", "awq", wrong(*range(150)))
    found = study.finding("w4a16", "w3a16")
    assert found.estimate is not None
    assert found.estimate.effect == pytest.approx(3.0)
    assert found.schemes == ("w4a16g128", "w3a16g128")


def test_a_bit_width_is_that_of_weights_and_activations_unless_only_the_cache_has_one(study: Study) -> None:
    study.add("tiny", "fp16", "none", wrong())
    for scheme in ("w4a4", "w4a4kv4", "w4a16kv4", "no scheme"):
        name = scheme.replace(" ", "-")
        study.add("tiny", scheme, "rtn", wrong(0), variant_id=name, cell_id=name)
    found = {f.first: f.schemes for f in study.findings().findings if f.second == "full precision" and f.estimate}
    assert found == {"w4a4": ("w4a4", "w4a4kv4"), "w4a16kv4": ("w4a16kv4",), "no scheme": ("no scheme",)}


def test_methods_that_the_paper_does_not_compare_are_held_against_plain_rounding(study: Study) -> None:
    for method, num_wrong in (("rtn", 40), ("gptq", 20), ("mine", 10)):
        study.add("tiny", "w4a16g128", method, wrong(*range(num_wrong)))
    pairs = {(f.first, f.second): f for f in study.findings().findings if f.question == "method" and f.estimate}
    assert set(pairs) == {("gptq", "rtn"), ("mine", "rtn")}
    assert pairs["mine", "rtn"].claim is None


def test_a_question_with_many_comparisons_leaves_some_to_the_tables_but_no_claim(study: Study) -> None:
    methods = ["rtn", "gptq", *(f"mine{number}" for number in range(14))]
    for method in methods:
        study.add("tiny", "w4a16g128", method, wrong(1, num_items=20))
    found = study.findings()
    told = [finding for finding in found.findings if finding.question == "method"]
    assert len(told) == 12
    assert sum(finding.claim is not None for finding in told) == 4
    # Fifteen against rounding, of which eight have room.
    assert "7 further comparisons were left to the tables." in found.notes


def test_what_a_study_can_answer_stands_before_what_it_cannot(study: Study) -> None:
    study.add("tiny", "fp16", "none", wrong())
    study.add("tiny", "w4a4", "smoothquant", wrong(0))
    study.add("tiny", "w4a4", "quarot", wrong(1))
    for question in ("bit_width", "method"):
        answered = [each.estimate is not None for each in study.findings().findings if each.question == question]
        assert answered == sorted(answered, reverse=True)
        assert {True, False} == set(answered)
