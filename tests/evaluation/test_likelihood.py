"""The Monte-Carlo estimate against the exact expectation, and what its draws may depend on."""

from __future__ import annotations

import inspect
import itertools
import math
from collections import Counter
from collections.abc import Callable

import pytest
import torch

from grids.protocol import LikelihoodSettings
from workers.likelihood import _masked_losses, conditional_log_likelihood, draw_masks, is_greedy, mask_counts
from workers.models import LoadedModel

CONTEXT, TARGET = [72, 101, 108, 257, 33], [50, 7, 200]
MakeLoaded = Callable[..., LoadedModel]


def exact_log_likelihood(loaded: LoadedModel, context: list[int], target: list[int]) -> float:
    """The estimator's expectation, by all 2^L - 1 patterns of masks: P(l) = 1/L, each of the C(L, l) patterns alike.

    Float64, one forward per pattern, and nothing of the estimator's code.
    """
    length = len(target)
    model = loaded.model.double()
    expected = 0.0
    for pattern in itertools.product([False, True], repeat=length):
        num_masked = sum(pattern)
        if num_masked == 0:
            continue
        hidden = [256 if masked else token for token, masked in zip(target, pattern, strict=True)]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([context + hidden])).logits[0]
        nll = 0.0
        for i, masked in enumerate(pattern):
            if masked:
                row = len(context) + i - (1 if loaded.family == "dream" else 0)
                nll -= float(torch.log_softmax(logits[row].double(), -1)[target[i]])
        expected += nll * (length / num_masked) / (length * math.comb(length, num_masked))
    model.float()
    return -expected


def estimate(loaded: LoadedModel, target: list[int], key: str = "key", seed: int = 0, **settings: int) -> float:
    return conditional_log_likelihood(loaded, CONTEXT, target, LikelihoodSettings(**settings), key, seed)


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_one_token_is_exact_with_one_draw(family: str, make_loaded: MakeLoaded) -> None:
    loaded = make_loaded(family)
    exact = exact_log_likelihood(loaded, CONTEXT, TARGET[:1])
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
    exact = exact_log_likelihood(loaded, CONTEXT, target)
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
    assert masks.float().mean(0).min() > 0.4


def test_masks_depend_on_seed_key_and_length_and_on_nothing_else() -> None:
    settings = LikelihoodSettings(mc_num=32)
    masks = draw_masks(10, settings, "key", seed=0)
    torch.manual_seed(99)
    assert torch.equal(masks, draw_masks(10, settings, "key", seed=0))
    assert not torch.equal(masks, draw_masks(10, settings, "another key", seed=0))
    assert not torch.equal(masks, draw_masks(10, settings, "key", seed=1))
    # More draws go on where fewer ended; no model, device or batch is among the arguments.
    assert torch.equal(masks, draw_masks(10, LikelihoodSettings(mc_num=64), "key", seed=0)[:32])
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


@pytest.mark.parametrize("family", ["llada", "dream", "causal"])
def test_chunks_of_draws_change_nothing(family: str, make_loaded: MakeLoaded) -> None:
    loaded = make_loaded(family)
    settings = LikelihoodSettings(mc_num=12, strata=4)
    values = [
        conditional_log_likelihood(loaded, CONTEXT, TARGET, settings, "key", 0, batch_size=size) for size in (1, 5, 64)
    ]
    assert values == pytest.approx([values[0]] * 3, rel=1e-6)
    assert isinstance(values[0], float)


def test_equal_masks_are_asked_once_and_others_share_forwards_up_to_the_batch_size(make_loaded: MakeLoaded) -> None:
    loaded = make_loaded("llada")
    settings = LikelihoodSettings(mc_num=64)
    masks = draw_masks(len(TARGET), settings, "key", 0)
    num_patterns = len({tuple(row) for row in masks.tolist()})
    assert 5 < num_patterns <= 2 ** len(TARGET) - 1
    estimate = conditional_log_likelihood(loaded, CONTEXT, TARGET, settings, "key", 0, batch_size=5)
    assert (loaded.counter.num_forwards, loaded.counter.num_sequences) == (-(-num_patterns // 5), num_patterns)
    # The mean over draws, each with its own forward.
    rows = [_masked_losses(loaded, CONTEXT, TARGET, mask[None]) for mask in masks]
    assert estimate == pytest.approx(-float(torch.cat(rows).mean()), rel=1e-6)


def test_requests_do_not_depend_on_the_order_they_are_asked_in(make_loaded: MakeLoaded) -> None:
    loaded = make_loaded("llada")
    keys = ["a", "b", "c"]
    forward = {key: estimate(loaded, TARGET, key=key, mc_num=4) for key in keys}
    backward = {key: estimate(loaded, TARGET, key=key, mc_num=4) for key in reversed(keys)}
    assert forward == backward
    assert len(set(forward.values())) == 3


def test_a_causal_model_is_scored_exactly(make_loaded: MakeLoaded) -> None:
    loaded = make_loaded("causal")
    ids = CONTEXT + TARGET
    with torch.no_grad():
        log_probs = loaded.model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    expected = sum(float(log_probs[i - 1, ids[i]]) for i in range(len(CONTEXT), len(ids)))
    assert estimate(loaded, TARGET, mc_num=3) == pytest.approx(expected, rel=1e-5)
    assert loaded.counter.num_forwards == 1


def test_an_empty_target_is_refused(make_loaded: MakeLoaded) -> None:
    with pytest.raises(ValueError, match="no tokens of its own"):
        estimate(make_loaded("llada"), [])


@pytest.mark.parametrize("family", ["llada", "dream", "causal"])
def test_the_greedy_flag_is_true_of_what_greedy_decoding_gives(family: str, make_loaded: MakeLoaded) -> None:
    loaded = make_loaded(family)
    fill = 0 if family == "causal" else 256
    tokens, hidden = [fill] * 3, [True] * 3
    for place in range(3):
        logits = loaded.logits(torch.tensor([CONTEXT + tokens]))[0, len(CONTEXT) :].double()
        confidence, best = logits.softmax(-1).max(-1)
        if family != "causal":
            place = max((i for i in range(3) if hidden[i]), key=lambda i: float(confidence[i]))
        tokens[place], hidden[place] = int(best[place]), False
    assert is_greedy(loaded, CONTEXT, tokens)
    assert not is_greedy(loaded, CONTEXT, [(tokens[0] + 1) % 256, *tokens[1:]])
