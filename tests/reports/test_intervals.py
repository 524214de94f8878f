"""Standard errors and intervals against closed forms, published values and simulated coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest

from reports.statistics import mean_interval, minimum_detectable, standard_error, wilson_interval
from reports.statistics.intervals import detection_error, difference_interval

Z = 1.959963984540054


def _clustered_by_definition(scores: list[float], clusters: list[int]) -> float:
    """sqrt of the sum over pairs of items of one cluster, times G / (G - 1), over n."""
    mean = sum(scores) / len(scores)
    pairs = sum(
        (one - mean) * (other - mean)
        for one, its in zip(scores, clusters, strict=True)
        for other, others in zip(scores, clusters, strict=True)
        if its == others
    )
    num_clusters = len(set(clusters))
    return math.sqrt(pairs * num_clusters / (num_clusters - 1)) / len(scores)


@pytest.mark.parametrize("seed", range(3))
def test_the_clustered_error_is_the_sum_over_pairs_of_a_cluster(seed: int) -> None:
    generator = np.random.default_rng(seed)
    scores, clusters = generator.random(24), generator.integers(0, 6, 24)
    clusters[:6] = range(6)
    expected = _clustered_by_definition(scores.tolist(), clusters.tolist())
    assert standard_error(scores, clusters) == pytest.approx(expected, rel=1e-12)


def test_clusters_of_one_item_give_the_independent_error_and_whole_clusters_a_larger_one() -> None:
    scores = np.array([1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0])
    assert standard_error(scores, np.arange(8)) == pytest.approx(standard_error(scores), rel=1e-12)
    # Four pairs that agree: as four items, s^2 = 1/3, s / sqrt(4) = 0.2887.
    assert standard_error(scores, np.arange(8) // 2) == pytest.approx(math.sqrt(1 / 3 / 4), rel=1e-12)
    assert standard_error(scores, np.zeros(8, dtype=np.int64)) is None


def test_wilsons_interval_is_the_published_one() -> None:
    # Newcombe 1998, Statistics in Medicine 17, 857-872, table I: 81/263, 15/148, 0/20, 1/29, method 3.
    for correct, total, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (1, 29, 0.0061, 0.1718)):
        assert wilson_interval(correct / total, total) == pytest.approx((low, high), abs=5e-5)
    assert wilson_interval(0.0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson_interval(1.0, 20) == pytest.approx((0.8389, 1.0), abs=5e-5)


def test_wilsons_borders_are_where_the_score_test_just_rejects() -> None:
    for border in wilson_interval(0.3, 50):
        assert abs(0.3 - border) / math.sqrt(border * (1 - border) / 50) == pytest.approx(Z, rel=1e-12)


def test_a_mean_of_zeros_and_ones_has_wilsons_interval_and_graded_scores_have_students() -> None:
    assert mean_interval(np.array([1.0] * 7 + [0.0] * 3)) == pytest.approx(wilson_interval(0.7, 10))
    # t of 4 degrees of freedom: 2.776445.
    graded = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    half = 2.7764451052 * math.sqrt(0.025 / 5)
    assert mean_interval(graded) == pytest.approx((0.3 - half, 0.3 + half), rel=1e-9)
    assert mean_interval(np.full(5, 0.4)) is None
    assert mean_interval(np.array([1.0])) is None


def test_items_that_all_agree_with_their_cluster_count_once() -> None:
    scores, clusters = np.repeat([1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 1.0], 6), np.repeat(np.arange(10), 6)
    low, high = mean_interval(scores, clusters) or (0.0, 0.0)
    alone_low, alone_high = mean_interval(scores) or (0.0, 0.0)
    assert high - low > 2 * (alone_high - alone_low)
    # All right says nothing of how alike the items of a cluster are: ten clusters are ten items.
    all_right = mean_interval(np.ones(60), clusters)
    assert all_right == pytest.approx(wilson_interval(1.0, 10, quantile=2.2621571628))


def _coverage(hits: list[bool]) -> float:
    return sum(hits) / len(hits)


def test_the_interval_of_clustered_scores_covers_and_the_one_that_ignores_clusters_does_not() -> None:
    generator = np.random.default_rng(1)
    clusters = np.repeat(np.arange(40), 5)
    with_clusters, without = [], []
    for _ in range(2000):
        # Each cluster has a difficulty of its own, with mean one half.
        chance = np.repeat(generator.beta(1.0, 1.0, 40), 5)
        scores = (generator.random(200) < chance).astype(np.float64)
        for hits, interval in (
            (with_clusters, mean_interval(scores, clusters)),
            (without, mean_interval(scores)),
        ):
            assert interval is not None
            hits.append(interval[0] <= 0.5 <= interval[1])
    assert 0.93 <= _coverage(with_clusters) <= 0.97
    assert _coverage(without) < 0.87


@pytest.mark.parametrize(("lost", "gained"), [(0.10, 0.05), (0.30, 0.10)])
def test_the_interval_of_a_paired_difference_covers(lost: float, gained: float) -> None:
    generator = np.random.default_rng(2)
    hits = []
    for _ in range(3000):
        differences = generator.choice([-1.0, 0.0, 1.0], size=100, p=[lost, 1 - lost - gained, gained])
        low, high = difference_interval(differences) or (0.0, 0.0)
        hits.append(low <= gained - lost <= high)
    assert 0.93 <= _coverage(hits) <= 0.97


def test_no_discordant_pair_leaves_an_interval_and_an_error_that_are_not_zero() -> None:
    # Bonett and Price: both counts 0, so p = 1/102 each, half-width z sqrt(2 / 102 / 102).
    half = Z * math.sqrt(2 / 102 / 102)
    assert difference_interval(np.zeros(100)) == pytest.approx((-half, half), rel=1e-12)
    assert detection_error(np.zeros(100)) == pytest.approx(half / Z, rel=1e-12)
    assert difference_interval(np.full(10, 0.25)) is None


def test_graded_differences_have_students_interval() -> None:
    differences = np.array([0.5, -0.25, 0.0, 0.75, 0.0])
    half = 2.7764451052 * float(differences.std(ddof=1)) / math.sqrt(5)
    assert difference_interval(differences) == pytest.approx((0.2 - half, 0.2 + half), rel=1e-9)


def test_the_minimum_detectable_difference_is_found_four_times_in_five() -> None:
    assert minimum_detectable(1.0) == pytest.approx(1.959964 + 0.841621, abs=1e-6)
    generator = np.random.default_rng(3)
    estimates = generator.normal(minimum_detectable(0.7), 0.7, 20_000)
    assert _coverage(list(np.abs(estimates) > Z * 0.7)) == pytest.approx(0.8, abs=0.01)
