from __future__ import annotations

import pytest
import torch
from torch import nn

from methods.hadamard import hadamard_matrix
from methods.linear import QuantLinear
from methods.quantized_weight import quantize_weight
from methods.quantizer import Quantizer
from methods.transforms import TRANSFORMS, BlockRotation, HadamardTransform, TransformedLinear, with_transform

WEIGHTS = Quantizer(num_bits=4, granularity="channel", half_scale=True)
TOKENS = Quantizer(num_bits=4, granularity="token")


def block_rotation(num_features: int = 32, block_size: int = 8) -> BlockRotation:
    generator = torch.Generator().manual_seed(0)
    rotations = [torch.linalg.qr(torch.randn(block_size, block_size, generator=generator))[0] for _ in range(2)]
    return BlockRotation(rotations[0], torch.randperm(num_features, generator=generator), rotations[1])


def all_transforms() -> list[nn.Module]:
    return [HadamardTransform(), HadamardTransform(num_heads=4), block_rotation()]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("index", range(3))
@pytest.mark.parametrize("shape", [(32,), (5, 32), (2, 5, 32), (2, 3, 5, 32)])
def test_a_linear_with_a_transformed_input_keeps_its_function_for_any_leading_shape(bias, index, shape):
    linear = nn.Linear(32, 8, bias=bias)
    inputs = torch.randn(shape)
    expected = linear(inputs).detach()
    transform = all_transforms()[index]
    transformed = with_transform(linear, transform, device=None)
    assert transform(inputs).shape == shape
    torch.testing.assert_close(transformed(inputs), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(nn.functional.linear(inputs, linear.weight, linear.bias), expected, atol=1e-2)


@pytest.mark.parametrize("index", range(3))
def test_every_row_of_a_batch_is_transformed_by_itself(index):
    transform = all_transforms()[index]
    values = torch.randn(3, 5, 32)
    torch.testing.assert_close(transform(values)[1, 2], transform(values[1, 2]), rtol=1e-5, atol=1e-6)


def test_a_transform_across_heads_is_the_kronecker_product_with_the_identity():
    values = torch.randn(6, 48, dtype=torch.float64)
    matrix = torch.kron(hadamard_matrix(12).double() / 12**0.5, torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(HadamardTransform(num_heads=12)(values), values @ matrix)


def test_a_block_rotation_is_the_product_of_its_three_matrices():
    transform = block_rotation()
    R1, R2 = (torch.block_diag(*[rotation.double()] * 4) for rotation in (transform.first, transform.second))
    P = torch.eye(32, dtype=torch.float64)[:, transform.permutation]
    values = torch.randn(6, 32, dtype=torch.float64)
    torch.testing.assert_close(transform(values), values @ R1 @ P @ R2)


@pytest.mark.parametrize("index", range(3))
def test_inputs_are_rounded_after_their_transform(index):
    linear, inputs = nn.Linear(32, 8), torch.randn(5, 32)
    transformed = with_transform(linear, all_transforms()[index], device=None)
    quantized = QuantLinear.from_linear(
        transformed, quantize_weight(transformed.weight, WEIGHTS, "w"), activation=TOKENS
    )
    expected = TOKENS(transformed.transform(inputs)) @ WEIGHTS(transformed.weight.detach()).T + linear.bias
    torch.testing.assert_close(quantized(inputs), expected)
    assert not torch.allclose(quantized(inputs), quantized.transform(TOKENS(inputs)) @ quantized.weight.T + linear.bias)


def test_casting_a_model_leaves_rotations_in_single_precision():
    model = nn.Sequential(TransformedLinear(nn.Linear(32, 8), block_rotation()))
    before = model[0].transform.first.clone()
    model.to(torch.bfloat16)
    assert model[0].weight.dtype == torch.bfloat16
    assert torch.equal(model[0].transform.first, before)
    assert model(torch.randn(2, 32, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize("index", range(3))
def test_a_transform_is_its_options_and_its_tensors(index):
    transform = all_transforms()[index]
    assert set(transform.state_dict()) == set(transform.tensor_names)
    restored = TRANSFORMS[transform.kind].restore(transform.options(), transform.state_dict())
    values = torch.randn(4, 32)
    assert torch.equal(restored(values), transform(values))


def test_a_number_of_heads_without_a_hadamard_matrix_is_refused():
    with pytest.raises(ValueError, match="order 14"):
        HadamardTransform(num_heads=14)
