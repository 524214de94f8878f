"""Our solvers against plain transcriptions of the papers' algorithms, in one run on one device.

    python tests/benchmarks/method_speed.py                # a 4096 x 4096 linear, as LLaDA-8B's q_proj
    python tests/benchmarks/method_speed.py --size 512     # the same in seconds

Prints seconds, the ratio, and the layer's output error of both. The transcriptions do one column, one step at a time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from methods.gptq import accumulate_hessian, factorize, gptq
from methods.hadamard import hadamard_matrix, hadamard_transform
from methods.quantizer import Quantizer

Result = TypeVar("Result")
NUM_TOKENS = 4096


def timed(device: str, work: Callable[[], Result]) -> tuple[Result, float]:
    synchronize(device)
    start = time.perf_counter()
    result = work()
    synchronize(device)
    return result, time.perf_counter() - start


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def plain_gptq(weight: Tensor, hessian: Tensor, num_bits: int, group_size: int) -> Tensor:
    """Algorithm 1 of arXiv 2210.17323 without blocks: after each column, all that are left are updated."""
    W, H = weight.clone(), hessian.clone()
    H += 0.01 * H.diagonal().mean() * torch.eye(len(H), device=H.device)
    U = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(H)), upper=True)
    Q = torch.zeros_like(W)
    scale = zero = torch.zeros(0)
    for i in range(W.shape[1]):
        if i % group_size == 0:
            group = W[:, i : i + group_size]
            low, high = group.amin(1).clamp(max=0), group.amax(1).clamp(min=0)
            scale = ((high - low) / (2**num_bits - 1)).half().float()
            zero = torch.round(-low / scale)
        q = scale * (torch.clamp(torch.round(W[:, i] / scale) + zero, 0, 2**num_bits - 1) - zero)
        Q[:, i] = q
        W[:, i:] -= torch.outer((W[:, i] - q) / U[i, i], U[i, i:])
    return Q


def benchmark_gptq(size: int, device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(size, size, generator=generator) / size**0.5
    inputs = (torch.randn(NUM_TOKENS, size, generator=generator) @ mixing).to(device)
    weight = (torch.randn(size, size, generator=generator) / size**0.5).to(device)
    hessian, seconds = timed(device, lambda: accumulate_hessian(iter([inputs])))
    print(f"gptq   Hessian of {NUM_TOKENS} tokens, {size} features: {seconds:.2f} s")
    quantizer = Quantizer(num_bits=4, granularity="group", group_size=128, symmetric=False)

    def ours() -> Tensor:
        factor = factorize(hessian.clone(), damp_percent=0.01, act_order=False, name="linear")
        solved = gptq(weight, factor, quantizer, static_groups=False, block_size=128, name="linear")
        return solved.dequantize()

    fast, fast_seconds = timed(device, ours)
    plain, plain_seconds = timed(device, lambda: plain_gptq(weight, hessian, 4, 128))
    errors = [float((inputs @ (weight - each).T).norm() / (inputs @ weight.T).norm()) for each in (fast, plain)]
    print(
        f"gptq   {size} x {size}, 4 bits, groups of 128: {fast_seconds:.2f} s, plain {plain_seconds:.2f} s, "
        f"ratio {plain_seconds / fast_seconds:.1f}; output error {errors[0]:.5f}, plain {errors[1]:.5f}"
    )


def benchmark_hadamard(device: str) -> None:
    for size in (4096, 12288, 3584, 18944):
        values = torch.randn(64, size, generator=torch.Generator().manual_seed(0)).to(device)
        matrix = hadamard_matrix(size).to(device=device, dtype=torch.float32) / size**0.5
        fast, fast_seconds = timed(device, partial(hadamard_transform, values))
        dense, dense_seconds = timed(device, partial(torch.matmul, values, matrix))
        difference = float((fast - dense).norm() / dense.norm())
        print(
            f"hadamard {size:6}: {fast_seconds * 1e3:.2f} ms, dense {dense_seconds * 1e3:.2f} ms, "
            f"ratio {dense_seconds / fast_seconds:.1f}; relative difference {difference:.1e}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    name = torch.cuda.get_device_name() if arguments.device == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    print(f"torch {torch.__version__} on {name}")
    benchmark_gptq(arguments.size, arguments.device)
    benchmark_hadamard(arguments.device)


if __name__ == "__main__":
    main()
