from __future__ import annotations

import pytest
import torch
from torch import nn

from methods.linear import QuantLinear
from methods.quantized_weight import quantize_weight
from methods.quantizer import Quantizer

WEIGHTS = Quantizer(num_bits=4, granularity="group", group_size=16, half_scale=True)
TOKENS = Quantizer(num_bits=4, granularity="token")


def make_linear(dtype: torch.dtype = torch.float32, *, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(32, 8, bias=bias).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
def test_forward_is_the_product_of_the_rounded_operands(dtype, bias):
    linear = make_linear(dtype, bias=bias)
    quantized = QuantLinear.from_linear(linear, quantize_weight(linear.weight, WEIGHTS, "w"), activation=TOKENS)
    inputs = torch.randn(2, 5, 32, dtype=dtype)
    expected = TOKENS(inputs) @ WEIGHTS(linear.weight.detach()).T + (linear.bias if bias else 0)
    output = quantized(inputs)
    assert output.dtype == dtype
    torch.testing.assert_close(output, expected, rtol=2e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-2)
    assert not torch.allclose(output, linear(inputs), atol=1e-3)


def test_activation_quantizer_knows_whether_it_ran():
    linear = make_linear()
    quantized = QuantLinear.from_linear(linear, quantize_weight(linear.weight, WEIGHTS, "w"), activation=TOKENS)
    assert not quantized.activation.exercised
    quantized(torch.randn(1, 32))
    assert quantized.activation.exercised


def test_effective_bits_count_what_is_stored_but_not_the_bias():
    linear = make_linear()
    assert QuantLinear.from_linear(linear, quantize_weight(linear.weight, WEIGHTS, "w")).effective_bits == 4 + 20 / 16
    assert QuantLinear.from_linear(linear, linear.weight).effective_bits == 16


def test_casting_the_model_leaves_stored_scales_at_float16_and_rounds_the_weight_anew():
    linear = make_linear()
    model = nn.Sequential(QuantLinear.from_linear(linear, quantize_weight(linear.weight, WEIGHTS, "w")))
    before = model[0].quantized_weight.dequantize()
    model.to(torch.bfloat16).to(torch.float32)
    assert model[0].scale.dtype == torch.float16
    assert model[0].weight.dtype == torch.float32
    assert torch.equal(model[0].weight, before)


def test_dequantized_weight_is_not_part_of_the_state():
    linear = make_linear()
    quantized = QuantLinear.from_linear(linear, quantize_weight(linear.weight, WEIGHTS, "w"))
    assert set(quantized.state_dict()) == {"codes", "scale", "zero", "bias"}


def test_weight_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"\(4, 32\)"):
        QuantLinear.from_linear(make_linear(), torch.zeros(4, 32))
