"""The Monte-Carlo estimate against the exact expectation, and what its draws may depend on."""

from __future__ import annotations

import inspect
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from grids.protocol import LikelihoodSettings
from tests.evaluation.slow_likelihood import enumerated_log_likelihood
from workers.likelihood import Question, log_likelihoods
from workers.likelihood.masks import draw_masks, mask_counts, patterns
from workers.models import LoadedModel

CONTEXT, TARGET = [72, 101, 108, 257, 33], [50, 7, 200]
MakeLoaded = Callable[..., LoadedModel]


def estimate(loaded: LoadedModel, target: list[int], key: str = "key", seed: int = 0, **settings: Any) -> float:
    ((_, logprob),) = log_likelihoods(
        loaded, [Question(CONTEXT, target, key)], LikelihoodSettings.model_validate(settings), seed
    )
    return logprob


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_one_token_is_exact_with_one_draw(family: str, make_loaded: MakeLoaded) -> None:
    loaded = make_loaded(family)
    exact = enumerated_log_likelihood(loaded, CONTEXT, TARGET[:1])
    assert estimate(loaded, TARGET[:1], mc_num=1) == pytest.approx(exact, rel=1e-5)
    assert estimate(loaded, TARGET[:1], mc_num=8, strata=4) == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("family", ["llada", "dream"])
@pytest.mark.parametrize("length", [2, 3])
@pytest.mark.parametrize("strata", [1, 8])
def test_the_mean_of_many_draws_is_the_exact_value(
    family: str, length: int, strata: int, make_loaded: MakeLoaded
) -> None:
    loaded = make_loaded(family)
    target = TARGET[:length]
    exact = enumerated_log_likelihood(loaded, CONTEXT, target)
    draws = [estimate(loaded, target, key=f"key {i}", mc_num=strata, strata=strata) for i in range(300 // strata)]
    mean = sum(draws) / len(draws)
    stderr = math.sqrt(sum((draw - mean) ** 2 for draw in draws) / (len(draws) - 1) / len(draws))
    assert abs(mean - exact) < 4 * stderr + 1e-6
    # The bar is tight enough to see a wrong weight.
    assert 4 * stderr < 0.25 * abs(exact)


def test_strata_lower_the_variance(make_loaded: MakeLoaded) -> None:
    loaded = make_loaded("llada")

    def spread(strata: int) -> float:
        values = [estimate(loaded, TARGET, key=f"key {i}", mc_num=6, strata=strata) for i in range(40)]
        return float(torch.tensor(values).std())

    assert spread(3) < 0.8 * spread(1)


@pytest.mark.parametrize(("length", "strata"), [(1, 4), (3, 2), (5, 8), (20, 8)])
def test_every_stratum_has_a_uniform_number_of_masks(length: int, strata: int) -> None:
    settings = LikelihoodSettings(mc_num=400 * length * strata, strata=strata)
    counts = mask_counts(length, settings, "key", seed=3)
    assert len(counts) == settings.mc_num
    for j in range(strata):
        seen = Counter(counts[j::strata])
        assert set(seen) == set(range(1, length + 1))
        # Five standard deviations of a binomial with mean 400.
        assert all(abs(number - 400) < 5 * math.sqrt(400) for number in seen.values())


def test_strata_spread_evenly_over_the_numbers_of_masks() -> None:
    counts = mask_counts(20, LikelihoodSettings(mc_num=8, strata=8), "key", seed=0)
    first = counts[0]
    assert counts == [(first + step - 1) % 20 + 1 for step in (0, 2, 5, 7, 10, 12, 15, 17)]


def test_masks_have_exactly_the_drawn_number_of_tokens_and_reach_every_position() -> None:
    settings = LikelihoodSettings(mc_num=200, strata=4)
    masks = draw_masks(6, settings, "key", seed=0)
    assert masks.sum(-1).tolist() == mask_counts(6, settings, "key", seed=0)
    assert masks.mean(0).min() > 0.4


def test_masks_depend_on_seed_key_and_length_and_on_nothing_else() -> None:
    settings = LikelihoodSettings(mc_num=32)
    masks = draw_masks(10, settings, "key", seed=0)
    torch.manual_seed(99)
    assert np.array_equal(masks, draw_masks(10, settings, "key", seed=0))
    assert not np.array_equal(masks, draw_masks(10, settings, "another key", seed=0))
    assert not np.array_equal(masks, draw_masks(10, settings, "key", seed=1))
    # More draws go on where fewer ended; no model, device or batch is among the arguments.
    assert np.array_equal(masks, draw_masks(10, LikelihoodSettings(mc_num=64), "key", seed=0)[:32])
    assert list(inspect.signature(draw_masks).parameters) == ["length", "settings", "key", "seed"]


def test_masks_are_golden() -> None:
    """Results of a study must not change because a version of this program draws other masks."""
    masks = draw_masks(6, LikelihoodSettings(mc_num=4, strata=2), "key", seed=7)
    assert ["".join("x" if masked else "." for masked in row) for row in masks] == [
        "xxxx.x",
        "xx....",
        ".x....",
        "..xxxx",
    ]


@pytest.mark.parametrize("family", ["llada", "dream"])
@pytest.mark.parametrize("length", [1, 2, 3])
def test_exact_is_the_sum_over_all_patterns(family: str, length: int, make_loaded: MakeLoaded) -> None:
    loaded = make_loaded(family)
    expected = enumerated_log_likelihood(loaded, CONTEXT, TARGET[:length])
    num_patterns = 2**length - 1
    values = {estimate(loaded, TARGET[:length], key, mc_num=num_patterns, exact=True) for key in "ab"}
    # No draws, so no noise: the key decides nothing.
    assert [*values] == [pytest.approx(expected, rel=1e-5)]


def test_exact_draws_where_there_are_more_patterns_than_draws(make_loaded: MakeLoaded) -> None:
    loaded = make_loaded("llada")
    drawn = estimate(loaded, TARGET, mc_num=6)
    assert estimate(loaded, TARGET, mc_num=6, exact=True) == drawn
    assert estimate(loaded, TARGET, mc_num=7, exact=True) != estimate(loaded, TARGET, mc_num=7)


@pytest.mark.parametrize("settings", [{"mc_num": 7, "exact": True}, {"mc_num": 40}, {"mc_num": 40, "strata": 8}])
@pytest.mark.parametrize("length", [1, 2, 3])
def test_patterns_are_different_and_their_weights_sum_to_one(length: int, settings: dict[str, Any]) -> None:
    found = patterns(length, LikelihoodSettings.model_validate(settings), "key", 0)
    assert len({tuple(mask) for mask in found.masks.tolist()}) == len(found.masks) <= 2**length - 1
    assert found.masks.any(axis=1).all()
    assert found.weights.sum() == pytest.approx(1)


def test_an_empty_target_is_refused(make_loaded: MakeLoaded) -> None:
    with pytest.raises(ValueError, match="no tokens of its own"):
        estimate(make_loaded("llada"), [])
