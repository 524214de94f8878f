"""Comparisons and bootstrap of score matrices against closed forms, simulation and independent tests."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from reports.statistics import (
    NUM_RESAMPLES,
    AverageScores,
    ScoreMatrix,
    change_interval,
    difference_interval,
    keyed_generator,
    mcnemar,
    standard_error,
    standard_error_of_average,
)
from reports.statistics.resampling import bootstrap_means, sign_flipped_means


def _binary(generator: np.random.Generator, chance: float, size: int) -> np.ndarray:
    return (generator.random(size) < chance).astype(np.float64)


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(7)


def test_draws_depend_on_their_key_alone() -> None:
    first, again, other = (keyed_generator("bootstrap", key, 5).random(4) for key in ("a", "a", "b"))
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()


def test_two_matrices_of_one_task_give_the_same_replicates_whatever_else_is_in_them(
    generator: np.random.Generator,
) -> None:
    one, other = _binary(generator, 0.7, 50), _binary(generator, 0.5, 50)
    alone = ScoreMatrix("task", {"a": one})
    both = ScoreMatrix("task", {"b": other, "a": one})
    assert alone.bootstrap(("a",)).tolist() == both.bootstrap(("a",)).tolist()


@pytest.mark.parametrize("is_binary", [True, False])
def test_the_bootstrap_has_the_variance_of_the_standard_error(generator: np.random.Generator, is_binary: bool) -> None:
    scores = _binary(generator, 0.6, 30) if is_binary else generator.normal(0.5, 0.2, 30)
    replicates = bootstrap_means(scores[:, None], np.ones(30), key="x")
    assert float(replicates.mean()) == pytest.approx(float(scores.mean()), abs=0.01)
    # 2000 replicates: the relative error of their standard deviation is about 1 / sqrt(4000).
    assert float(replicates.std(ddof=1)) == pytest.approx(standard_error(scores), rel=0.06)


def test_the_bootstrap_draws_whole_clusters(generator: np.random.Generator) -> None:
    clusters = np.repeat(np.arange(30), 4)
    scores = np.repeat(_binary(generator, 0.5, 30), 4)
    matrix = ScoreMatrix("task", {"a": scores}, clusters)
    assert float(matrix.bootstrap(("a",)).std(ddof=1)) == pytest.approx(matrix.standard_error(("a",)), rel=0.06)
    assert matrix.standard_error(("a",)) == pytest.approx(2 * (standard_error(scores) or 0.0), rel=0.02)


def test_sign_flips_have_the_variance_of_a_random_walk(generator: np.random.Generator) -> None:
    differences = generator.normal(0.0, 1.0, 200)
    flipped = sign_flipped_means(np.column_stack([differences, np.zeros(200)]), 200, key="x")
    walk = flipped[0] - flipped[1]
    assert float(walk.std()) == pytest.approx(math.sqrt(float(differences @ differences)) / 200, rel=0.05)
    assert float(walk.mean()) == pytest.approx(0.0, abs=4 * float(walk.std()) / math.sqrt(len(walk)))


def test_the_bootstrap_interval_of_an_average_covers(generator: np.random.Generator) -> None:
    hits = []
    for repetition in range(500):
        tasks = [
            ScoreMatrix(f"{repetition}-{chance}", {"a": _binary(generator, chance, 60)}) for chance in (0.5, 0.7, 0.9)
        ]
        low, high = AverageScores(tasks).interval(("a",)) or (0.0, 0.0)
        hits.append(low <= 0.7 <= high)
    assert 0.92 <= np.mean(hits) <= 0.98


def test_zeros_and_ones_are_compared_by_mcnemar_on_the_items(generator: np.random.Generator) -> None:
    one, other = _binary(generator, 0.8, 300), _binary(generator, 0.7, 300)
    found = ScoreMatrix("task", {"a": one, "b": other}).compare(("a",), ("b",))
    higher, lower = int(np.sum(one > other)), int(np.sum(one < other))
    assert (found.test, found.num_higher, found.num_lower, found.num_items) == ("mcnemar", higher, lower, 300)
    assert found.p_value == pytest.approx(stats.binomtest(higher, higher + lower).pvalue, rel=1e-10)
    assert found.difference == pytest.approx(float(one.mean() - other.mean()), rel=1e-12)
    assert found.stderr == pytest.approx(float((one - other).std(ddof=1)) / math.sqrt(300), rel=1e-12)
    assert found.interval == pytest.approx(difference_interval(one - other), rel=1e-12)
    assert found.minimum_detectable == pytest.approx(2.801585 * (found.stderr or 0.0), rel=0.02)


def test_pairing_finds_what_an_unpaired_test_does_not(generator: np.random.Generator) -> None:
    # 400 items, of which the variant loses 12 and gains 1: a clear loss, and a small one beside the spread of items.
    base = _binary(generator, 0.5, 400)
    variant = base.copy()
    variant[np.flatnonzero(base == 1)[:12]] = 0.0
    variant[np.flatnonzero(base == 0)[0]] = 1.0
    found = ScoreMatrix("task", {"v": variant, "b": base}).compare(("v",), ("b",))
    table = [[int(x.sum()), int(400 - x.sum())] for x in (variant, base)]
    assert found.p_value == pytest.approx(mcnemar(1, 12))
    assert found.p_value < 0.01
    assert stats.fisher_exact(table)[1] > 0.3
    assert found.interval is not None
    assert found.interval[1] < 0


def test_graded_scores_are_compared_by_permutation(generator: np.random.Generator) -> None:
    one = generator.random(80)
    other = one + generator.normal(0.02, 0.1, 80)
    found = ScoreMatrix("task", {"a": one, "b": other}).compare(("a",), ("b",))
    expected = stats.permutation_test(
        (one, other), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=20_000, rng=1
    )
    assert found.test == "permutation"
    assert found.p_value == pytest.approx(expected.pvalue, abs=0.02)
    assert 0.005 < found.p_value < 0.9


def test_clusters_flip_together(generator: np.random.Generator) -> None:
    # Eight clusters of ten items that all gain: 2^8 sign patterns, two of them as far out.
    clusters = np.repeat(np.arange(8), 10)
    matrix = ScoreMatrix("task", {"a": np.ones(80), "b": np.zeros(80)}, clusters)
    found = matrix.compare(("a",), ("b",))
    assert (found.test, found.num_units) == ("permutation", 8)
    assert found.p_value == pytest.approx(2 / 2**8)


def test_a_comparison_swaps_its_sign_and_nothing_else(generator: np.random.Generator) -> None:
    matrix = ScoreMatrix("task", {name: _binary(generator, 0.6, 90) for name in "ab"})
    one, other = matrix.compare(("a",), ("b",)), matrix.compare(("b",), ("a",))
    assert one.difference == pytest.approx(-other.difference)
    assert one.p_value == pytest.approx(other.p_value)
    assert one.interval == pytest.approx((-(other.interval or (0, 0))[1], -(other.interval or (0, 0))[0]))


def test_the_average_of_tasks_is_compared_over_all_their_items(generator: np.random.Generator) -> None:
    small = ScoreMatrix("small", {"a": np.array([1.0, 1.0, 1.0, 0.0]), "b": np.array([0.0, 0.0, 1.0, 0.0])})
    large = ScoreMatrix("large", {"a": np.array([1.0] * 6 + [0.0] * 2), "b": np.array([1.0] * 5 + [0.0] * 3)})
    found = AverageScores([small, large]).compare(("a",), ("b",))
    assert found.difference == pytest.approx((0.5 + 0.125) / 2)
    assert (found.num_higher, found.num_lower, found.num_items) == (3, 0, 12)
    # Contributions 1/8, 1/8, 1/16: of the eight sign patterns only all plus and all minus are as far out.
    assert found.p_value == pytest.approx(2 / 8)
    assert found.stderr == pytest.approx(
        standard_error_of_average([task.compare(("a",), ("b",)).stderr for task in (small, large)])
    )


def test_the_permutation_test_of_an_average_keeps_its_level(generator: np.random.Generator) -> None:
    columns: dict[str, dict[str, np.ndarray]] = {"x": {}, "y": {}}
    for repetition, task in itertools.product(range(400), columns):
        base = _binary(generator, 0.6, 100)
        is_redrawn = generator.random(100) < 0.3
        columns[task][f"a{repetition}"] = base
        columns[task][f"b{repetition}"] = np.where(is_redrawn, _binary(generator, 0.6, 100), base)
    average = AverageScores([ScoreMatrix(task, scores) for task, scores in columns.items()])
    p_values = [average.compare((f"a{number}",), (f"b{number}",)).p_value for number in range(400)]
    assert 0.02 <= np.mean(np.array(p_values) <= 0.05) <= 0.08


def test_the_same_answers_to_every_item_are_not_proof_of_equality() -> None:
    scores = np.array([1.0] * 70 + [0.0] * 30)
    tasks = [ScoreMatrix(name, {"a": scores, "b": scores}) for name in "xy"]
    found = AverageScores(tasks).compare(("a",), ("b",))
    assert (found.difference, found.p_value) == (0.0, 1.0)
    assert found.interval is not None
    assert found.interval[0] < -0.01 < 0.01 < found.interval[1]


def test_several_seeds_are_averaged_item_by_item(generator: np.random.Generator) -> None:
    columns = {name: _binary(generator, 0.5, 40) for name in ("a0", "a1", "b0", "b1")}
    matrix = ScoreMatrix("task", columns)
    key, reference = ("a0", "a1"), ("b0", "b1")
    differences = (columns["a0"] + columns["a1"] - columns["b0"] - columns["b1"]) / 2
    found = matrix.compare(key, reference)
    assert found.test == "permutation"
    assert found.difference == pytest.approx(float(differences.mean()))
    assert found.stderr == pytest.approx(standard_error(differences))
    assert float(matrix.bootstrap(key).std(ddof=1)) == pytest.approx(matrix.standard_error(key), rel=0.06)


def test_the_interval_of_a_relative_change_is_paired(generator: np.random.Generator) -> None:
    base = _binary(generator, 0.6, 500)
    variant = base * (generator.random(500) > 0.1)
    matrix = ScoreMatrix("task", {"v": variant, "b": base})
    interval = change_interval(matrix.bootstrap(("v",)), matrix.bootstrap(("b",)))
    assert interval is not None
    # The share lost is a binomial of the items that were right: 95 % within about 1.96 sqrt(p q / n).
    lost, right = float(base.sum() - variant.sum()), float(base.sum())
    share = lost / right
    half = 1.96 * 100 * math.sqrt(share * (1 - share) / right)
    assert interval == pytest.approx((-100 * share - half, -100 * share + half), abs=0.5)
    assert change_interval(matrix.bootstrap(("v",)), np.zeros(2000)) is None
    worse = change_interval(matrix.bootstrap(("v",)), matrix.bootstrap(("b",)), higher_is_better=False)
    assert worse == pytest.approx((-interval[1], -interval[0]))


def test_a_resample_of_uneven_clusters_is_divided_by_what_was_drawn() -> None:
    sums, sizes = np.array([[3.0], [1.0], [0.0]]), np.array([4.0, 1.0, 2.0])
    drawn = keyed_generator("bootstrap", "task", 3).integers(0, 3, size=(NUM_RESAMPLES, 3), dtype=np.int32)
    ratios = sums[drawn, 0].sum(axis=1) / sizes[drawn].sum(axis=1)
    expected = 4 / 7 + (ratios - 4 / 7) * np.sqrt(3 / 2)
    assert bootstrap_means(sums, sizes, key="task")[0] == pytest.approx(expected, rel=1e-6)
