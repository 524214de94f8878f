from __future__ import annotations

import math
import sys
import types

import pytest
import torch

from methods import hadamard
from methods.hadamard import core_order, hadamard_matrix, hadamard_transform


@pytest.mark.parametrize("order", [1, 2, 4, 12, 20, 24, 28, 32, 36, 148, 320, 384])
def test_matrices_hold_plus_and_minus_one_and_have_orthogonal_rows(order):
    H = hadamard_matrix(order).to(torch.float64)
    assert set(H.unique().tolist()) <= {1.0, -1.0}
    assert torch.equal(H @ H.T, order * torch.eye(order, dtype=torch.float64))


@pytest.mark.parametrize(
    ("size", "order"),
    [(4096, 1), (12288, 12), (3584, 28), (18944, 148), (128, 1), (384, 12), (320, 20), (28, 28), (104, 104)],
)
def test_sizes_of_the_studied_models_are_built_on_the_smallest_known_matrix(size, order):
    assert core_order(size) == order


@pytest.mark.parametrize("size", [2, 12, 28, 96, 128, 148, 384, 592, 1024])
def test_transform_is_the_product_with_the_whole_matrix(size):
    values = torch.randn(2, 3, size, dtype=torch.float64)
    expected = values @ hadamard_matrix(size).to(torch.float64) / math.sqrt(size)
    torch.testing.assert_close(hadamard_transform(values), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [3584, 4096, 12288, 18944])
def test_large_transforms_are_orthonormal_with_entries_of_one_size(size):
    rows = torch.zeros(4, size, dtype=torch.float64)
    rows[torch.arange(4), torch.tensor([0, 1, size // 2 + 3, size - 1])] = 1
    transformed = hadamard_transform(rows)
    torch.testing.assert_close(transformed.abs(), torch.full_like(rows, size**-0.5), rtol=1e-12, atol=0)
    torch.testing.assert_close(transformed @ transformed.T, torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_values_are_transformed_in_single_precision(dtype):
    values = torch.randn(5, 384).to(dtype)
    transformed = hadamard_transform(values)
    assert transformed.dtype == dtype
    assert torch.equal(transformed, hadamard_transform(values.float()).to(dtype))


@pytest.mark.parametrize("size", [0, 3, 6, 14, 52, 100])
def test_a_size_without_a_construction_is_refused_and_never_padded(size):
    with pytest.raises(ValueError, match=rf"no Hadamard matrix of order {size} "):
        hadamard_transform(torch.zeros(2, size))


class OnCuda(torch.Tensor):
    """A tensor that says it is on a GPU."""

    is_cuda = True


@pytest.fixture
def kernel_calls(monkeypatch):
    """Installs a stand-in for the CUDA package and notes what it is called with."""
    calls = []

    def transform(values, scale):
        calls.append((values.shape[-1], scale))
        return values

    module = types.ModuleType("fast_hadamard_transform")
    module.hadamard_transform = transform
    monkeypatch.setitem(sys.modules, "fast_hadamard_transform", module)
    hadamard._fast_kernel.cache_clear()
    yield calls
    hadamard._fast_kernel.cache_clear()


def test_the_cuda_package_transforms_powers_of_two_on_cuda_and_nothing_else(kernel_calls):
    hadamard_transform(torch.randn(2, 64).as_subclass(OnCuda))
    assert kernel_calls == [(64, 1 / 8)]
    hadamard_transform(torch.randn(2, 64))
    hadamard_transform(torch.randn(2, 96).as_subclass(OnCuda))
    hadamard_transform(torch.randn(2, 64, dtype=torch.float64).as_subclass(OnCuda))
    assert len(kernel_calls) == 1


def test_without_the_cuda_package_cuda_tensors_are_transformed_by_products(monkeypatch):
    # None in sys.modules makes an import fail.
    monkeypatch.setitem(sys.modules, "fast_hadamard_transform", None)
    hadamard._fast_kernel.cache_clear()
    values = torch.randn(2, 64)
    assert torch.equal(hadamard_transform(values.as_subclass(OnCuda)), hadamard_transform(values))
    hadamard._fast_kernel.cache_clear()


@pytest.mark.parametrize("size", [32, 128, 4096])
def test_the_cuda_package_gives_the_same_as_the_products(size):
    pytest.importorskip("fast_hadamard_transform")
    if not torch.cuda.is_available():
        pytest.skip("the package needs a GPU")
    values = torch.randn(7, size, device="cuda")
    expected = hadamard_transform(values.double())
    torch.testing.assert_close(hadamard_transform(values).double(), expected, rtol=1e-4, atol=1e-4)
