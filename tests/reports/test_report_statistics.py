"""Standard errors, relative drops and severity, against hand-computed and published values."""

from __future__ import annotations

import math

import pytest

from reports.statistics import mean, relative_change, severity, standard_error, standard_error_of_average


def test_the_standard_error_of_zeros_and_ones_is_the_binomial_one() -> None:
    scores = [1.0] * 30 + [0.0] * 70
    assert standard_error(scores) == pytest.approx(math.sqrt(0.3 * 0.7 / 99), rel=1e-12)


def test_the_standard_error_of_real_scores_is_that_of_their_mean() -> None:
    # Mean 2, squared deviations 1 + 0 + 1, s^2 = 1, divided by sqrt(3).
    assert standard_error([1.0, 2.0, 3.0]) == pytest.approx(1 / math.sqrt(3), rel=1e-12)


def test_fewer_than_two_scores_have_no_standard_error() -> None:
    assert standard_error([]) is None
    assert standard_error([0.5]) is None


def test_the_error_of_an_average_is_known_only_where_all_of_its_parts_are() -> None:
    assert standard_error_of_average([3.0, 4.0]) == pytest.approx(2.5)
    assert standard_error_of_average([3.0, None]) is None
    assert standard_error_of_average([3.0, math.nan]) is None
    assert standard_error_of_average([]) is None


def test_the_mean_of_nothing_is_refused() -> None:
    assert mean([1.0, 2.0]) == 1.5
    with pytest.raises(ValueError, match="no values"):
        mean([])


# (full precision, variant, printed drop): group averages of arXiv 2508.14896, Tables 2 to 5.
PUBLISHED = [
    ((69.9, 74.6, 46.4, 71.1, 65.7), (64.9, 69.3, 42.8, 70.0, 64.0), "-5.1"),  # LLaDA base, W4A4 DuQuant
    ((69.9, 74.6, 46.4, 71.1, 65.7), (49.4, 58.8, 29.2, 40.9, 27.1), "-37.3"),  # LLaDA base, W4A4 SmoothQuant
    ((69.9, 74.6, 46.4, 71.1, 65.7), (67.7, 70.8, 45.5, 70.5, 65.0), "-2.5"),  # LLaDA base, W8A8 SmoothQuant
    ((70.2, 71.3, 54.3, 75.9, 64.0), (65.2, 69.8, 51.3, 75.1, 61.1), "-3.9"),  # LLaDA instruct, W4A4 QuaRot
    ((69.7, 21.3), (63.3, 13.4), "-15.7"),  # LLaDA base, math, W3A16 GPTQ
    ((32.9, 39.4), (0.0, 0.0), "-100.0"),  # LLaDA base, code, W4A4 SmoothQuant
    ((68.4, 74.4, 59.0, 83.1), (68.2, 73.9, 58.1, 82.1), "-0.9"),  # Dream, W4A16 GPTQ (printed -0.8 of rounded means)
]


@pytest.mark.parametrize(("reference", "scores", "printed"), PUBLISHED)
def test_drops_of_published_rows_are_recomputed(
    reference: tuple[float, ...], scores: tuple[float, ...], printed: str
) -> None:
    change = relative_change(mean(scores), mean(reference))
    assert change is not None
    assert f"{change:.1f}" == printed


def test_the_published_average_of_duquant_at_four_bits_is_62_20() -> None:
    assert mean((64.9, 69.3, 42.8, 70.0, 64.0)) == pytest.approx(62.20, abs=1e-9)


def test_a_change_has_the_sign_of_better_or_worse() -> None:
    assert relative_change(55.0, 50.0) == pytest.approx(10.0)
    assert relative_change(11.0, 10.0, higher_is_better=False) == pytest.approx(-10.0)
    assert relative_change(0.0, 50.0) == -100.0
    assert relative_change(1.0, 0.0) is None


@pytest.mark.parametrize(
    ("change", "level"),
    [
        (25.0, "negligible"),
        (0.0, "negligible"),
        (-0.999, "negligible"),
        (-1.0, "moderate"),
        (-1.001, "moderate"),
        (-4.0, "moderate"),
        (-4.001, "significant"),
        (-100.0, "significant"),
    ],
)
def test_severity_takes_its_borders_as_stated(change: float, level: str) -> None:
    assert severity(change) == level


def test_a_drop_of_exactly_four_percent_is_moderate_whatever_binary_rounding_says() -> None:
    change = relative_change(0.48, 0.50)
    assert change is not None
    assert change < -4.0
    assert severity(change) == "moderate"
