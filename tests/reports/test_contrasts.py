"""Contrasts of many means against closed forms, a direct transcription of the bootstrap, and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from reports.statistics import (
    Change,
    Estimate,
    ScoreMatrix,
    change_of,
    estimate_changes,
    estimate_differences,
    mcnemar,
)

Z, DETECTION = stats.norm.ppf(0.975), stats.norm.ppf(0.975) + stats.norm.ppf(0.8)


def _binary(generator: np.random.Generator, num_items: int, share: float = 0.7) -> np.ndarray:
    return (generator.random(num_items) < share).astype(float)


def _changed(generator: np.random.Generator, scores: np.ndarray, gained: float, lost: float) -> np.ndarray:
    """Wrong items become right with one chance, right ones wrong with the other."""
    drawn = generator.random(len(scores))
    return np.where(scores == 1, drawn >= lost, drawn < gained).astype(float)


def _difference(matrix: ScoreMatrix, one: str, other: str) -> Estimate:
    (estimate,) = estimate_differences([{matrix: {one: 1.0, other: -1.0}}])
    return estimate


def _pair(num_gained: int, num_lost: int, num_items: int) -> ScoreMatrix:
    one, other = np.ones(num_items), np.ones(num_items)
    other[:num_gained] = 0
    one[num_gained : num_gained + num_lost] = 0
    return ScoreMatrix("facts", {"one": one, "other": other})


@pytest.mark.parametrize(("gained", "lost", "num_items"), [(9, 2, 80), (4, 4, 300), (0, 0, 50), (40, 11, 200)])
def test_a_single_pair_is_tested_as_by_mcnemar_with_the_error_of_paired_proportions(
    gained: int, lost: int, num_items: int
) -> None:
    estimate = _difference(_pair(gained, lost, num_items), "one", "other")
    assert estimate.effect == pytest.approx((gained - lost) / num_items)
    raw = math.sqrt((gained + lost - (gained - lost) ** 2 / num_items) / (num_items * (num_items - 1)))
    p, q, total = (gained + 1) / (num_items + 2), (lost + 1) / (num_items + 2), num_items + 2
    smoothed = math.sqrt((p + q - (p - q) ** 2) / total)
    assert estimate.stderr == pytest.approx(raw)
    assert estimate.minimum_detectable == pytest.approx(DETECTION * max(raw, smoothed), rel=1e-9)
    half = Z * max(raw, smoothed)
    assert estimate.interval == pytest.approx((estimate.effect - half, estimate.effect + half))
    # Beyond 16 discordant pairs signs are drawn, or the bound of an extreme result stands.
    tolerance = 1e-12 if gained + lost <= 16 else 0.02
    assert estimate.p_value == pytest.approx(mcnemar(gained, lost), abs=tolerance)


def test_models_that_answer_the_same_items_share_their_luck() -> None:
    """Two copies of one comparison are no more evidence than one."""
    generator = np.random.default_rng(0)
    base = _binary(generator, 120)
    variant = _changed(generator, base, 0.1, 0.1)
    matrix = ScoreMatrix("facts", {"a": base, "a4": variant, "b": base, "b4": variant})
    both, one = estimate_differences(
        [{matrix: {"a4": 0.5, "a": -0.5, "b4": 0.5, "b": -0.5}}, {matrix: {"a4": 1.0, "a": -1.0}}]
    )
    assert (both.effect, both.stderr, both.p_value) == pytest.approx((one.effect, one.stderr, one.p_value))


def test_tasks_are_independent_strata_and_clusters_are_units() -> None:
    generator = np.random.default_rng(1)
    columns = [_binary(generator, num_items) for num_items in (60, 60, 90, 90)]
    clusters = np.repeat(np.arange(30), 3)
    facts = ScoreMatrix("facts", {"one": columns[0], "other": columns[1]})
    places = ScoreMatrix("places", {"one": columns[2], "other": columns[3]}, clusters)
    weights = {"one": 0.5, "other": -0.5}
    (estimate,) = estimate_differences([{facts: weights, places: weights}])
    first, second = (columns[0] - columns[1]) / 2, (columns[2] - columns[3]) / 2
    sums = np.bincount(clusters, weights=second - second.mean())
    variances = [first.var(ddof=1) / 60, 30 / 29 * np.square(sums).sum() / 90**2]
    assert estimate.effect == pytest.approx(first.mean() + second.mean())
    assert estimate.stderr == pytest.approx(math.sqrt(sum(variances)))
    assert estimate.num_items == 150


def test_relative_changes_have_the_error_of_a_bootstrap_written_out() -> None:
    generator = np.random.default_rng(2)
    full = _binary(generator, 150, 0.6)
    tasks = {name: {"full": full, "w4": _changed(generator, full, 0.02, lost)} for name, lost in (("a", 0.2), ("b", 0))}
    a, b = (ScoreMatrix(name, columns) for name, columns in tasks.items())
    first, second = (Change((task,), ("w4",), ("full",)) for task in (a, b))
    (estimate,) = estimate_changes([[(first, second)]])
    expected = [100 * (columns["w4"].mean() / columns["full"].mean() - 1) for columns in tasks.values()]
    assert [change_of(first), change_of(second)] == pytest.approx(expected)
    assert estimate.effect == pytest.approx(expected[0] - expected[1])
    other = np.random.default_rng(3)
    drawn = {name: other.integers(0, 150, size=(4000, 150)) for name in tasks}
    replicates = [
        100 * (columns["w4"][drawn[name]].mean(axis=1) / columns["full"][drawn[name]].mean(axis=1) - 1)
        for name, columns in tasks.items()
    ]
    assert estimate.stderr == pytest.approx(np.std(replicates[0] - replicates[1]), rel=0.06)
    # Few of task b's items differ; the linearised ratio has one more item that differs either way.
    variances = []
    for columns in tasks.values():
        base, kept = columns["full"].mean(), columns["w4"].mean() / columns["full"].mean()
        values = 100 / base * (columns["w4"] - kept * columns["full"])
        step = 100 / base * min(kept, 1)
        values = np.concatenate([values, [step, -step]])
        variances.append(values.var() / len(values))
    error = math.sqrt(sum(variances))
    assert estimate.stderr < error < 1.15 * estimate.stderr
    assert estimate.interval == pytest.approx((estimate.effect - Z * error, estimate.effect + Z * error))
    assert estimate.p_value == pytest.approx(2 * stats.norm.sf(abs(estimate.effect) / error))


def test_a_change_against_nothing_is_refused() -> None:
    nothing = ScoreMatrix("a", {"full": np.zeros(5), "w4": np.zeros(5)})
    with pytest.raises(ValueError, match="against zero"):
        change_of(Change((nothing,), ("w4",), ("full",)))


def test_under_the_null_hypothesis_one_test_in_twenty_is_significant_and_intervals_cover() -> None:
    """Many studies of two tasks at once: sides that are drawn alike, and losses that are equal."""
    generator = np.random.default_rng(4)
    num_studies, num_items = 600, 70
    matrices = []
    for task in ("a", "b"):
        columns = {}
        for study in range(num_studies):
            full = _binary(generator, num_items)
            columns[f"full{study}"] = full
            for side in ("one", "other"):
                columns[f"{side}{study}"] = _changed(generator, full, 0.1, 0.15)
        matrices.append(ScoreMatrix(task, columns))
    studies = range(num_studies)
    weights = [{matrix: {f"one{i}": 0.5, f"other{i}": -0.5} for matrix in matrices} for i in studies]
    changes = [[Change((matrix,), (f"one{i}",), (f"full{i}",)) for matrix in matrices] for i in studies]
    for estimates in (estimate_differences(weights), estimate_changes([[(one, other)] for one, other in changes])):
        rate = np.mean([estimate.p_value < 0.05 for estimate in estimates])
        coverage = np.mean([estimate.interval[0] <= 0 <= estimate.interval[1] for estimate in estimates])
        # Three standard errors of a rate of 5 % in 600 studies are 2.7 points; the smoothing errs on the safe side.
        assert 0.015 < rate < 0.077
        assert 0.93 < coverage < 0.98


def test_a_true_difference_as_large_as_the_minimum_detectable_is_found_four_times_in_five() -> None:
    generator = np.random.default_rng(5)
    num_studies, num_items, lost = 600, 400, 0.08
    columns = {}
    for study in range(num_studies):
        columns[f"full{study}"] = np.ones(num_items)
        columns[f"w4{study}"] = (generator.random(num_items) >= lost).astype(float)
        # Half of the losses are made up for elsewhere.
        columns[f"full{study}"][generator.random(num_items) < lost / 2] = 0.0
    matrix = ScoreMatrix("a", columns)
    estimates = estimate_differences([{matrix: {f"w4{i}": 1.0, f"full{i}": -1.0}} for i in range(num_studies)])
    detectable = np.median([estimate.minimum_detectable for estimate in estimates])
    found = np.mean([estimate.p_value < 0.05 for estimate in estimates])
    power = stats.norm.sf(Z - lost / 2 / (detectable / DETECTION))
    assert found == pytest.approx(power, abs=0.06)
