"""Orthonormal Hadamard transforms of any size n = m 2^k for which a matrix of order m is constructed here.

Powers of two are Sylvester's; the other orders Paley's, from quadratic residues: q + 1 for a prime q = 3 mod 4 (12 from
11), 2 (q + 1) for a prime q = 1 mod 4 (28 from 13, 148 from 73). A transform of n = a b is two products with the
matrices of its Kronecker factors, the same on every device; nothing is ever padded.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from methods.quantizer import compute_dtype

_FAST_KERNEL = "fast_hadamard_transform"
_FAST_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_FAST_MAX_SIZE = 32768
# One product with a matrix of this order costs less than two with its factors' and the copy between them.
_MAX_SINGLE_FACTOR = 256


def hadamard_transform(values: Tensor) -> Tensor:
    """Values [..., n] times H / sqrt(n): arithmetic in float32 (float64 stays), dtype kept.

    H is `hadamard_matrix(n)`, which is not symmetric for every n. Raises ValueError where no H of that order is known.
    """
    size = values.shape[-1]
    kernel = _fast_kernel() if _suits_fast_kernel(values) else None
    if kernel is not None:
        return kernel(values.contiguous(), scale=1 / math.sqrt(size))
    dtype = compute_dtype(values)
    factors = _scaled_factors(size, dtype, values.device)
    if len(factors) == 1:
        return (values.to(dtype) @ factors[0]).to(values.dtype)
    left, right = factors
    # A row-major row times A (x) B is A^T X B, for the row as a matrix X [a, b].
    X = values.to(dtype).reshape(*values.shape[:-1], left.shape[0], right.shape[0])
    return (left.T @ (X @ right)).reshape(values.shape).to(values.dtype)


def hadamard_matrix(size: int) -> Tensor:
    """H of +1 and -1 with H H^T = n I, int8 [n, n]: a Paley matrix (x) a Sylvester matrix.

    Raises ValueError that names the size where no construction is known.
    """
    order = core_order(size)
    return torch.kron(_core_matrix(order), _sylvester(size // order))


def core_order(size: int) -> int:
    """The order m of the matrix that is not a Sylvester matrix in n = m 2^k; 1 for a power of two.

    Raises ValueError that names the size where no construction is known.
    """
    if size >= 1:
        power_of_two = size & -size
        order = size // power_of_two
        if order == 1:
            return 1
        while size % order == 0:
            if _is_paley_first(order) or _is_paley_second(order):
                return order
            order *= 2
    raise ValueError(
        f"no Hadamard matrix of order {size} is known here: it must be 2^k, or 2^k (q + 1) with a prime q = 3 mod 4, "
        "or 2^k (q + 1) with k >= 1 and a prime q = 1 mod 4"
    )


def _is_paley_first(order: int) -> bool:
    return order % 4 == 0 and _is_prime(order - 1)


def _is_paley_second(order: int) -> bool:
    return order % 4 == 0 and (order // 2 - 1) % 4 == 1 and _is_prime(order // 2 - 1)


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


def _core_matrix(order: int) -> Tensor:
    if order == 1:
        return torch.ones(1, 1, dtype=torch.int8)
    return _paley_first(order - 1) if _is_paley_first(order) else _paley_second(order // 2 - 1)


def _paley_first(q: int) -> Tensor:
    """I + S with S = [[0, 1], [-1, Q]] skew, of order q + 1 for a prime q = 3 mod 4."""
    S = _bordered(_jacobsthal(q), column_sign=-1)
    return S + torch.eye(q + 1, dtype=torch.int8)


def _paley_second(q: int) -> Tensor:
    """C (x) [[1, 1], [1, -1]] + I (x) [[1, -1], [-1, -1]] with C = [[0, 1], [1, Q]], of order 2 (q + 1)."""
    C = _bordered(_jacobsthal(q), column_sign=1)
    identity = torch.eye(q + 1, dtype=torch.int8)
    off_diagonal = torch.tensor([[1, 1], [1, -1]], dtype=torch.int8)
    diagonal = torch.tensor([[1, -1], [-1, -1]], dtype=torch.int8)
    return torch.kron(C, off_diagonal) + torch.kron(identity, diagonal)


def _jacobsthal(q: int) -> Tensor:
    """Q[i, j] = 1, -1 or 0 as i - j is a square, no square, or zero modulo the prime q."""
    character = torch.full((q,), -1, dtype=torch.int8)
    numbers = torch.arange(q)
    character[numbers * numbers % q] = 1
    character[0] = 0
    return character[(numbers[:, None] - numbers[None, :]) % q]


def _bordered(Q: Tensor, *, column_sign: int) -> Tensor:
    """Q with a first row of ones and a first column of `column_sign`, and 0 in the corner."""
    size = Q.shape[0] + 1
    matrix = torch.zeros(size, size, dtype=torch.int8)
    matrix[0, 1:] = 1
    matrix[1:, 0] = column_sign
    matrix[1:, 1:] = Q
    return matrix


def _sylvester(size: int) -> Tensor:
    matrix = torch.ones(1, 1, dtype=torch.int8)
    step = torch.tensor([[1, 1], [1, -1]], dtype=torch.int8)
    while matrix.shape[0] < size:
        matrix = torch.kron(matrix, step)
    return matrix


@cache
def _scaled_factors(size: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    """H / sqrt(n) as one matrix, or as two Kronecker factors of about the same order."""
    order = core_order(size)
    if size <= _MAX_SINGLE_FACTOR:
        return (_scaled(hadamard_matrix(size), dtype, device),)
    powers = [2**k for k in range((size // order).bit_length())]
    left = min((order * power for power in powers), key=lambda a: a + size // a)
    if left == size:
        return (_scaled(hadamard_matrix(size), dtype, device),)
    return _scaled(hadamard_matrix(left), dtype, device), _scaled(_sylvester(size // left), dtype, device)


def _scaled(matrix: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    return (matrix.to(torch.float64) / math.sqrt(matrix.shape[0])).to(device=device, dtype=dtype)


def _suits_fast_kernel(values: Tensor) -> bool:
    size = values.shape[-1]
    # For sizes that are no power of two the kernel pads with zeros, or has matrices of its own.
    return values.is_cuda and values.dtype in _FAST_DTYPES and size <= _FAST_MAX_SIZE and size.bit_count() == 1


@cache
def _fast_kernel() -> Callable[..., Tensor] | None:
    try:
        module = importlib.import_module(_FAST_KERNEL)
    except ImportError:
        return None
    kernel: Callable[..., Tensor] = module.hadamard_transform
    return kernel
