"""Paired tests and Holm's correction against their definitions and published values."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from reports.statistics import MAX_ENUMERATED, holm, mcnemar, sign_flip_p_value


def _mcnemar_by_enumeration(gained: int, lost: int) -> Fraction:
    """The chance under a fair coin of a split at least as uneven."""
    total = gained + lost
    extreme = [k for k in range(total + 1) if abs(2 * k - total) >= abs(gained - lost)]
    return Fraction(sum(math.comb(total, k) for k in extreme), 2**total)


@pytest.mark.parametrize(("gained", "lost"), itertools.product(range(0, 26, 5), range(0, 31, 3)))
def test_mcnemar_is_the_binomial_enumerated(gained: int, lost: int) -> None:
    assert mcnemar(gained, lost) == pytest.approx(float(_mcnemar_by_enumeration(gained, lost)), rel=1e-12)


def test_mcnemar_has_its_known_values() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(0, 5) == pytest.approx(0.0625)
    assert mcnemar(0, 6) == pytest.approx(0.03125)
    assert mcnemar(59, 6) == pytest.approx(stats.binomtest(6, 65).pvalue, rel=1e-10)
    assert mcnemar(6000, 5800) == pytest.approx(stats.binomtest(6000, 11800).pvalue, rel=1e-8)


def _no_samples() -> np.ndarray:
    raise AssertionError("no samples are needed")


def _exact(values: np.ndarray) -> float:
    return sign_flip_p_value(values, _no_samples, 9)


def _flips_by_enumeration(values: list[float]) -> float:
    observed = abs(sum(values))
    sums = [
        sum(s * v for s, v in zip(signs, values, strict=True))
        for signs in itertools.product((1, -1), repeat=len(values))
    ]
    return sum(abs(total) >= observed - 1e-12 for total in sums) / len(sums)


@pytest.mark.parametrize("seed", range(5))
def test_the_permutation_test_of_few_differences_is_the_full_enumeration(seed: int) -> None:
    generator = np.random.default_rng(seed)
    values = np.round(generator.normal(0.3, 1.0, 10), 1)
    assert _exact(values) == pytest.approx(_flips_by_enumeration(values.tolist()), abs=1e-12)


def test_the_permutation_test_of_zeros_and_ones_is_mcnemars() -> None:
    for gained, lost in ((9, 2), (4, 4), (0, 7), (12, 4)):
        differences = np.array([0.01] * gained + [-0.01] * lost + [0.0] * 30)
        assert _exact(differences) == pytest.approx(mcnemar(gained, lost), rel=1e-12)


def test_fishers_test_of_darwins_plants_has_its_known_value() -> None:
    # Fisher, The Design of Experiments, section 21: 863 of 32768 sums of one sign are as large, two-sided 5.267 %.
    plants = np.array([49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48], dtype=np.float64)
    assert _exact(plants) == pytest.approx(2 * 863 / 32768, rel=1e-12)


def test_sampled_sign_flips_come_near_the_exact_value_and_never_give_zero() -> None:
    values = np.random.default_rng(0).normal(0.4, 1.0, MAX_ENUMERATED)
    exact = _exact(values)
    padded = np.concatenate([values, [1e-12]])
    signs = np.random.default_rng(1).choice([-1.0, 1.0], size=(20_000, len(padded)))
    assert sign_flip_p_value(padded, lambda: signs @ padded, len(signs)) == pytest.approx(exact, abs=0.01)
    assert sign_flip_p_value(np.array([1.0] * 10 + [-1.0] * 8), lambda: np.zeros(9), 9) == pytest.approx(0.1)


def test_overwhelming_evidence_is_not_held_back_by_the_number_of_samples() -> None:
    found = sign_flip_p_value(np.ones(60), _no_samples, 999)
    # Hoeffding's bound 2 exp(-n / 2), which lies above the exact 2 / 2^n.
    assert found == pytest.approx(2 * math.exp(-30), rel=1e-6)
    assert found >= 2 / 2**60


def test_holm_is_its_definition() -> None:
    generator = np.random.default_rng(4)
    for _ in range(20):
        p_values = generator.random(7) ** 3
        # Smallest level at which the step-down procedure rejects each hypothesis.
        adjusted = holm(p_values.tolist())
        for level in (0.01, 0.05, 0.1, 0.3):
            rejected = set()
            for rank, index in enumerate(np.argsort(p_values)):
                if p_values[index] > level / (len(p_values) - rank):
                    break
                rejected.add(int(index))
            assert rejected == {index for index, value in enumerate(adjusted) if value <= level}


def test_holm_has_its_known_values() -> None:
    # 0.005 x 4, 0.01 x 3, then 0.03 x 2 and 0.04 x 1, which may not be less than the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
