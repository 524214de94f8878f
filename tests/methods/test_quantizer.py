from __future__ import annotations

import pytest
import torch

from methods.quantized_weight import quantize_weight
from methods.quantizer import NonFiniteError, Quantizer

BITS = [2, 3, 4, 8]


def random_weight(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("num_bits", BITS)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(
    ("granularity", "group_size", "num_grids"),
    [("tensor", None, 1), ("channel", None, 6), ("token", None, 6), ("group", 8, 24)],
)
def test_rounding_errs_by_at_most_half_a_scale(num_bits, symmetric, granularity, group_size, num_grids):
    quantizer = Quantizer(num_bits=num_bits, granularity=granularity, group_size=group_size, symmetric=symmetric)
    values = random_weight(6, 32)
    groups = quantizer.grouped(values)
    grid = quantizer.fit(groups)
    assert grid.scale.numel() == num_grids
    assert ((quantizer(values).view_as(groups) - groups).abs() <= grid.scale * 0.5001).all()


@pytest.mark.parametrize("num_bits", BITS)
@pytest.mark.parametrize("symmetric", [False, True])
def test_quantized_values_take_at_most_two_to_the_bits_levels_and_stay_when_rounded_again(num_bits, symmetric):
    quantizer = Quantizer(num_bits=num_bits, granularity="channel", symmetric=symmetric)
    values = random_weight(4, 2000)
    once = quantizer(values)
    assert all(row.unique().numel() <= 2**num_bits for row in once)
    grid = quantizer.fit(values)
    torch.testing.assert_close(grid.quantize(once), once, rtol=1e-6, atol=1e-6)


def test_sixteen_bits_are_the_identity():
    values = random_weight(3, 8)
    assert torch.equal(Quantizer(num_bits=16, granularity="token")(values), values)


def test_asymmetric_grid_holds_zero_and_both_ends_of_the_range():
    values = torch.tensor([[-1.0, 0.0, 0.5, 2.0]])
    grid = Quantizer(num_bits=2, granularity="channel").fit(values)
    assert (grid.scale.item(), grid.zero.item()) == (1.0, 1.0)
    assert grid.codes(values).tolist() == [[0.0, 1.0, 1.0, 3.0]]


def test_range_of_positive_values_begins_at_zero():
    grid = Quantizer(num_bits=2, granularity="channel").fit(torch.tensor([[3.0, 4.0, 6.0]]))
    assert (grid.scale.item(), grid.zero.item()) == (2.0, 0.0)


def test_symmetric_scale_maps_the_largest_value_to_the_largest_positive_code():
    grid = Quantizer(num_bits=4, granularity="channel", symmetric=True).fit(torch.tensor([[-1.4, 0.7, 0.0]]))
    assert grid.scale.item() == pytest.approx(0.2)
    assert grid.codes(torch.tensor([[-1.4, 0.8, 0.0, -1.6, 9.0]])).tolist() == [[1.0, 12.0, 8.0, 0.0, 15.0]]


def test_clip_ratio_shrinks_the_range():
    values = torch.tensor([[-1.0, 3.0]])
    rounded = Quantizer(num_bits=4, granularity="token", clip_ratio=0.5)(values)
    assert rounded.max().item() == pytest.approx(1.5, abs=0.14)


def test_clip_search_lowers_the_error_that_it_minimises_and_saves_the_bulk_from_an_outlier():
    values = random_weight(16, 128)
    values[:, 0] = 12.0
    plain = Quantizer(num_bits=3, granularity="channel", half_scale=True)
    searched = Quantizer(num_bits=3, granularity="channel", half_scale=True, clip_search=True)
    errors = [(quantizer(values) - values).abs().pow(2.4).sum(-1) for quantizer in (plain, searched)]
    assert (errors[1] <= errors[0]).all()
    assert errors[1].sum() < 0.9 * errors[0].sum()


def test_per_token_rounding_of_a_token_does_not_depend_on_the_others():
    quantizer = Quantizer(num_bits=4, granularity="token")
    tokens = random_weight(2, 5, 16)
    assert torch.equal(quantizer(tokens)[1, 2], quantizer(tokens[1, 2]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rounding_keeps_the_dtype_and_zeros(dtype):
    quantizer = Quantizer(num_bits=4, granularity="token")
    rounded = quantizer(torch.zeros(2, 8, dtype=dtype))
    assert rounded.dtype == dtype
    assert (rounded == 0).all()


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("magnitude", [1e-30, 1e-7, 3e-6, 1.0, 1e4])
def test_stored_scales_are_float16_and_positive_at_any_magnitude(symmetric, magnitude):
    weight = random_weight(4, 32) * magnitude
    weight[1] = 0
    quantizer = Quantizer(num_bits=4, granularity="group", group_size=16, symmetric=symmetric, half_scale=True)
    stored = quantize_weight(weight, quantizer, "w")
    assert stored.scale.dtype == torch.float16
    assert (stored.scale > 0).all()
    assert stored.scale.isfinite().all()
    assert (stored.dequantize()[1] == 0).all()
    error = (stored.dequantize() - weight).abs().view(4, 2, 16)
    assert (error <= stored.scale.float()[..., None] * 0.51).all()


@pytest.mark.parametrize("symmetric", [False, True])
def test_stored_codes_and_float16_scales_reproduce_the_fake_quantized_weight_exactly(symmetric):
    weight = random_weight(6, 32)
    quantizer = Quantizer(num_bits=3, granularity="group", group_size=8, symmetric=symmetric, half_scale=True)
    assert torch.equal(quantize_weight(weight, quantizer, "w").dequantize(), quantizer(weight))


def test_bits_per_weight_count_codes_scales_and_zeros():
    weight = random_weight(4, 256)
    grouped = quantize_weight(weight, Quantizer(num_bits=4, granularity="group", group_size=128, half_scale=True), "w")
    assert grouped.bits_per_weight == 4 + (16 + 4) / 128
    symmetric = quantize_weight(weight, Quantizer(num_bits=4, granularity="channel", symmetric=True), "w")
    assert symmetric.bits_per_weight == 4 + 16 / 256
    whole = quantize_weight(weight, Quantizer(num_bits=8, granularity="tensor"), "w")
    assert whole.bits_per_weight == 8 + (16 + 8) / weight.numel()
    torch.testing.assert_close(whole.dequantize(), weight, rtol=0, atol=float(whole.scale.max()))


def test_group_size_that_does_not_divide_names_the_linear_and_the_sizes():
    quantizer = Quantizer(num_bits=4, granularity="group", group_size=24)
    with pytest.raises(ValueError, match=r"layers\.0\.mlp\.up_proj: group size 24 does not divide its 32 input"):
        quantize_weight(random_weight(4, 32), quantizer, "layers.0.mlp.up_proj")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(bad):
    weight = random_weight(4, 32)
    weight[2, 3] = bad
    with pytest.raises(NonFiniteError, match="up_proj"):
        quantize_weight(weight, Quantizer(num_bits=4, granularity="channel"), "up_proj")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_bits": 1, "granularity": "channel"}, "num_bits 1"),
        ({"num_bits": 9, "granularity": "channel"}, "num_bits 9"),
        ({"num_bits": 4, "granularity": "group"}, "group_size None"),
        ({"num_bits": 4, "granularity": "token", "group_size": 8}, "group_size 8"),
        ({"num_bits": 4, "granularity": "group", "group_size": 0}, "group_size 0"),
        ({"num_bits": 4, "granularity": "token", "clip_ratio": 0.0}, "clip_ratio 0.0"),
        ({"num_bits": 4, "granularity": "token", "clip_ratio": 0.9, "clip_search": True}, "clip_search"),
    ],
)
def test_impossible_quantizers_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Quantizer(**arguments)
