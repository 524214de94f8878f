"""Our methods against plain transcriptions of the papers' algorithms, linear by linear, in one run on one device.

    python tests/benchmarks/method_speed.py                # a 4096 x 4096 linear, as LLaDA-8B's q_proj: some minutes
    python tests/benchmarks/method_speed.py --size 512     # the same in seconds

For each method: seconds (on a CPU of processor time, all threads together) and peak memory of ours and of the
transcription, their ratios, and the relative error of the layer's output, of both. Each side runs in a process of its
own, so that its peak is its own. The transcriptions do one column, one channel, one group or one step at a time, and
multiply by the matrices that the papers write down.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.awq import Inspection, clip_ranges, search_scale
from methods.gptq import accumulate_hessian, factorize, gptq
from methods.greedy_rotation import RotationSearch, random_factor, uniform_rotation
from methods.hadamard import hadamard_matrix, hadamard_transform
from methods.quantized_weight import quantize_weight
from methods.quantizer import Quantizer
from methods.randomness import random_signs
from methods.smoothquant import smoothing_scale
from methods.transforms import map_rows_

NUM_TOKENS, NUM_OUTLIERS, GROUP_SIZE, BLOCK_SIZE, NUM_STEPS = 4096, 16, 128, 128, 256
HADAMARD_SIZES = (4096, 12288, 3584, 18944)
IN_GROUPS = Quantizer(num_bits=4, granularity="group", group_size=GROUP_SIZE, half_scale=True)
PER_CHANNEL = Quantizer(num_bits=4, granularity="channel", half_scale=True)
PER_TOKEN = Quantizer(num_bits=4, granularity="token")

Result = TypeVar("Result")
# A layer of rounded weights (and, where the method is about them, rounded inputs): inputs [tokens, in] to outputs.
Layer = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Problem:
    """A weight [size, size] and inputs [tokens, size]: correlated features, some of them with outliers."""

    weight: Tensor
    inputs: Tensor

    @classmethod
    def random(cls, size: int, device: str) -> Problem:
        generator = torch.Generator().manual_seed(0)
        mixing = torch.randn(size, size, generator=generator) / size**0.5
        inputs = torch.randn(NUM_TOKENS, size, generator=generator) @ mixing
        inputs[:, torch.randperm(size, generator=generator)[:NUM_OUTLIERS]] *= 30
        weight = torch.randn(size, size, generator=generator) / size**0.5
        return cls(weight.to(device), inputs.to(device))


def nearest(values: Tensor, num_bits: int) -> Tensor:
    """Rows [n, k] rounded to nearest on asymmetric grids of their own."""
    low, high = values.amin(1, keepdim=True).clamp(max=0), values.amax(1, keepdim=True).clamp(min=0)
    scale = ((high - low) / (2**num_bits - 1)).half().float()
    zero = torch.round(-low / scale)
    return scale * (torch.clamp(torch.round(values / scale) + zero, 0, 2**num_bits - 1) - zero)


# GPTQ (arXiv 2210.17323): ours is blocked and works on rows of the transposed weight.


def our_gptq(problem: Problem) -> Layer:
    hessian = accumulate_hessian(iter([problem.inputs]))
    factor = factorize(hessian, damp_percent=0.01, act_order=False, name="linear")
    return partial(F.linear, weight=gptq(problem.weight, factor, IN_GROUPS, name="linear").dequantize())


def plain_gptq(problem: Problem) -> Layer:
    """Algorithm 1 without blocks: after each column, all that are left are updated."""
    W, X = problem.weight.clone(), problem.inputs
    H = 2 / len(X) * X.T @ X
    H += 0.01 * H.diagonal().mean() * torch.eye(len(H), device=H.device)
    U = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(H)), upper=True)
    Q = torch.zeros_like(W)
    scale = zero = torch.zeros(0)
    for i in range(W.shape[1]):
        if i % GROUP_SIZE == 0:
            group = W[:, i : i + GROUP_SIZE]
            low, high = group.amin(1).clamp(max=0), group.amax(1).clamp(min=0)
            scale = ((high - low) / 15).half().float()
            zero = torch.round(-low / scale)
        q = scale * (torch.clamp(torch.round(W[:, i] / scale) + zero, 0, 15) - zero)
        Q[:, i] = q
        W[:, i:] -= torch.outer((W[:, i] - q) / U[i, i], U[i, i:])
    return partial(F.linear, weight=Q)


# AWQ (arXiv 2306.00978): ours reads many tokens of a clip search from one Gram matrix per group.


def our_awq(problem: Problem) -> Layer:
    linear = nn.Linear(*problem.weight.shape[::-1], bias=False, device=problem.weight.device)
    linear.weight.data = problem.weight.clone()
    inspection = Inspection([problem.inputs], lambda _: linear(problem.inputs))
    scale = search_scale([linear], inspection, IN_GROUPS, [index / 20 for index in range(20)], "linear").scale
    tokens = problem.inputs[:: NUM_TOKENS // 512] / scale
    W = clip_ranges(problem.weight * scale, tokens, IN_GROUPS, clip_grid=20, max_shrink=0.5)
    return partial(F.linear, weight=quantize_weight(W, IN_GROUPS, "linear").dequantize() / scale)


def plain_awq(problem: Problem) -> Layer:
    """Equations 4 and 5, then the clip search group by group on the outputs of 512 tokens."""
    W, X = problem.weight, problem.inputs
    expected, mean = X @ W.T, X.abs().mean(0)
    least, best = float("inf"), torch.ones_like(mean)
    for index in range(20):
        s = mean.pow(index / 20).clamp_min(1e-4)
        s = s / (s.max() * s.min()).sqrt()
        groups = [nearest(group, 4) for group in (W * s).split(GROUP_SIZE, dim=1)]
        loss = float((X @ (torch.cat(groups, 1) / s).T - expected).square().mean())
        if loss < least:
            least, best = loss, s
    tokens, rounded = X[:: NUM_TOKENS // 512] / best, []
    for start in range(0, W.shape[1], GROUP_SIZE):
        group = (W * best)[:, start : start + GROUP_SIZE]
        outputs = tokens[:, start : start + GROUP_SIZE] @ group.T
        limit = group.abs().amax(1, keepdim=True)
        chosen, least_error = limit.clone(), torch.full_like(limit[:, 0], torch.inf)
        for step in range(10):
            bound = limit * (1 - step / 20)
            Q = nearest(group.clamp(-bound, bound), 4)
            error = (tokens[:, start : start + GROUP_SIZE] @ Q.T - outputs).square().mean(0)
            better = error < least_error
            chosen[better], least_error[better] = bound[better], error[better]
        rounded.append(nearest(group.clamp(-chosen, chosen), 4))
    return partial(F.linear, weight=torch.cat(rounded, 1) / best)


# SmoothQuant (arXiv 2211.10438): all channels at once.


def our_smoothquant(problem: Problem) -> Layer:
    maxima = problem.inputs.abs().amax(0), problem.weight.abs().amax(0)
    s = smoothing_scale(*maxima, alpha=0.5, min_scale=1e-5)
    weight = quantize_weight(problem.weight * s, PER_CHANNEL, "linear").dequantize()
    return lambda inputs: F.linear(PER_TOKEN(inputs / s), weight)


def plain_smoothquant(problem: Problem) -> Layer:
    """Equation 4, channel by channel, and rounding, output by output."""
    W, X = problem.weight, problem.inputs
    channels = range(W.shape[1])
    s = torch.stack([X[:, j].abs().max() ** 0.5 / W[:, j].abs().max().clamp_min(1e-5) ** 0.5 for j in channels])
    weight = torch.cat([nearest(row[None] * s, 4) for row in W])
    return lambda inputs: F.linear(PER_TOKEN(inputs / s), weight)


# QuaRot (arXiv 2404.00456): the transform in n log n.


def our_quarot(problem: Problem) -> Layer:
    signs = random_signs(problem.weight.shape[1], 0, "residual_stream")
    rotated = problem.weight.clone()
    map_rows_(rotated, lambda rows: hadamard_transform(rows * signs.to(rows)), None)
    weight = quantize_weight(rotated, PER_CHANNEL, "linear").dequantize()
    return lambda inputs: F.linear(PER_TOKEN(hadamard_transform(inputs * signs.to(inputs))), weight)


def plain_quarot(problem: Problem) -> Layer:
    """Q = diag(s) H / sqrt(n) as a matrix, in float64."""
    size = problem.weight.shape[1]
    signs = random_signs(size, 0, "residual_stream").to(problem.weight.device, torch.float64)
    Q = signs[:, None] * hadamard_matrix(size).to(problem.weight.device, torch.float64) / size**0.5
    weight = nearest((problem.weight.double() @ Q).float(), 4)
    return lambda inputs: F.linear(PER_TOKEN((inputs.double() @ Q).float()), weight)


# DuQuant (arXiv 2406.01721): features are swapped, not multiplied by permutations; nothing is read back in the search.


def our_duquant(problem: Problem) -> Layer:
    search = RotationSearch.of_block(BLOCK_SIZE, NUM_STEPS, 0, peak="absolute", outlier_index="column")
    transform = search.to(problem.inputs.device).transform(problem.inputs)
    weight = quantize_weight(transform.apply_to(problem.weight), PER_CHANNEL, "linear").dequantize()
    return lambda inputs: F.linear(PER_TOKEN(transform.apply_to(inputs)), weight)


def plain_duquant(problem: Problem) -> Layer:
    """Equations 2 to 4 with every matrix written out: block-diagonal rotations and a permutation of all features."""
    X, size = problem.inputs, problem.inputs.shape[1]
    first = torch.block_diag(*[greedy_rotation(X)] * (size // BLOCK_SIZE))
    rotated = X @ first
    order = rotated.abs().amax(0).argsort(descending=True, stable=True)
    P = torch.zeros(size, size, device=X.device)
    num_blocks = size // BLOCK_SIZE
    for rank, feature in enumerate(order.tolist()):
        turn, place = rank % num_blocks, rank // num_blocks
        block = turn if place % 2 == 0 else num_blocks - 1 - turn
        P[feature, block * BLOCK_SIZE + place] = 1
    second = torch.block_diag(*[greedy_rotation(rotated @ P)] * (size // BLOCK_SIZE))
    T = first @ P @ second
    weight = nearest(problem.weight @ T, 4)
    return lambda inputs: F.linear(PER_TOKEN(inputs @ T), weight)


def greedy_rotation(inputs: Tensor) -> Tensor:
    X = inputs.reshape(-1, BLOCK_SIZE)
    product = best = torch.eye(BLOCK_SIZE, dtype=torch.float64, device=X.device)
    least = float("inf")
    for step in range(NUM_STEPS):
        d = int(X.abs().argmax()) % BLOCK_SIZE
        E = torch.eye(BLOCK_SIZE, dtype=torch.float64)
        E[[0, d]] = E[[d, 0]]
        R = (E @ uniform_rotation(BLOCK_SIZE) @ random_factor(BLOCK_SIZE, 0, step) @ E).to(X.device)
        X, product = X @ R.float(), product @ R
        if float(X.abs().max()) < least:
            least, best = float(X.abs().max()), product
    return best.float()


SIDES: dict[str, tuple[Callable[[Problem], Layer], Callable[[Problem], Layer]]] = {
    "gptq": (our_gptq, plain_gptq),
    "awq": (our_awq, plain_awq),
    "smoothquant": (our_smoothquant, plain_smoothquant),
    "quarot": (our_quarot, plain_quarot),
    "duquant": (our_duquant, plain_duquant),
}


@dataclass(frozen=True)
class Measured:
    """Seconds, bytes beyond what the problem itself takes, and ||Y - Y'||_F / ||Y||_F of the layer's outputs."""

    seconds: float
    peak_bytes: int
    error: float


@torch.no_grad()
def measure(method: str, side: int, size: int, device: str, num_threads: int) -> Measured:
    torch.set_num_threads(num_threads)
    # What the first call of a library allocates is not the method's.
    SIDES[method][side](Problem.random(2 * BLOCK_SIZE, device))
    problem = Problem.random(size, device)
    before = start_peak(device)
    layer, seconds = timed(device, lambda: SIDES[method][side](problem))
    peak = peak_bytes(device) - before
    expected = problem.inputs @ problem.weight.T
    return Measured(seconds, peak, float((layer(problem.inputs) - expected).norm() / expected.norm()))


def start_peak(device: str) -> int:
    """Forgets the peak of memory so far, and says what is held now."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        # Linux: 5 resets the high-water mark of what is resident.
        Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes(device)


def peak_bytes(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024


def benchmark_methods(names: list[str], size: int, device: str) -> None:
    threads = torch.get_num_threads()
    print(f"{size} x {size}, {NUM_TOKENS} tokens: seconds, peak MiB and output error of ours | plain, and the ratios")
    for name in names:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
            ours, plain = (pool.submit(measure, name, side, size, device, threads).result() for side in (0, 1))
        memory = [max(each.peak_bytes, 1) / 2**20 for each in (ours, plain)]
        print(
            f"{name:12} {ours.seconds:8.2f} | {plain.seconds:8.2f} s, x {plain.seconds / ours.seconds:5.1f};  "
            f"{memory[0]:6.0f} | {memory[1]:6.0f} MiB;  error {ours.error:.5f} | {plain.error:.5f}",
            flush=True,
        )


def benchmark_hadamard(device: str) -> None:
    for size in HADAMARD_SIZES:
        hadamard_transform(torch.zeros(1, size, device=device))
        values = torch.randn(64, size, generator=torch.Generator().manual_seed(0)).to(device)
        matrix = hadamard_matrix(size).to(device=device, dtype=torch.float32) / size**0.5
        fast, fast_seconds = timed(device, partial(hadamard_transform, values))
        dense, dense_seconds = timed(device, partial(torch.matmul, values, matrix))
        difference = float((fast - dense).norm() / dense.norm())
        print(
            f"hadamard of 64 x {size:6}: {fast_seconds * 1e3:.2f} ms, dense {dense_seconds * 1e3:.2f} ms, "
            f"x {dense_seconds / fast_seconds:.1f}; relative difference {difference:.1e}"
        )


def timed(device: str, work: Callable[[], Result]) -> tuple[Result, float]:
    """The result, and seconds: of the processor where that does the work, so that other programs hardly count."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    synchronize(device)
    start = clock()
    result = work()
    synchronize(device)
    return result, clock() - start


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--method", choices=SIDES, action="append", help="only this method; may be given again")
    arguments = parser.parse_args()
    name = torch.cuda.get_device_name() if arguments.device == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    print(f"torch {torch.__version__} on {name}")
    benchmark_methods(arguments.method or list(SIDES), arguments.size, arguments.device)
    benchmark_hadamard(arguments.device)


if __name__ == "__main__":
    main()
