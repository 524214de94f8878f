"""Quantization and fake-quantized forward passes on blocks of the real sizes, random weights.

    python tests/benchmarks/quantization_speed.py                    # LLaDA-8B and Dream-7B blocks on the GPU
    python tests/benchmarks/quantization_speed.py --shape tiny       # the same steps anywhere, in seconds

Checks first that the device gives what the CPU gives, then prints one line per figure. Ratios are taken within a run.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

import methods
from grids import parse_scheme

SIZES = {
    "llada-8b": (LlamaConfig, {"hidden_size": 4096, "intermediate_size": 12288, "num_attention_heads": 32}),
    "dream-7b": (
        Qwen2Config,
        {"hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28, "num_key_value_heads": 4},
    ),
    "tiny": (LlamaConfig, {"hidden_size": 256, "intermediate_size": 768, "num_attention_heads": 4}),
}
NUM_BLOCKS = {"llada-8b": 32, "dream-7b": 28, "tiny": 2}
VARIANTS = [
    ("rtn", "w4a16g128"),
    ("rtn", "w8a8"),
    ("rtn", "w4a4"),
    ("gptq", "w4a16g128"),
    ("gptq", "w4a4"),
    ("awq", "w4a16g128"),
    ("smoothquant", "w8a8"),
    ("quarot", "w4a4kv4"),
    ("duquant", "w4a4"),
]


def make_model(shape: str, num_blocks: int, dtype: torch.dtype, device: str) -> Any:
    """A bidirectional model of `num_blocks` blocks with random weights and a small vocabulary."""
    kind, sizes = SIZES[shape]
    torch.manual_seed(0)
    config = kind(num_hidden_layers=num_blocks, vocab_size=1024, use_cache=False, tie_word_embeddings=False, **sizes)
    config.is_causal = False
    model = (LlamaForCausalLM if kind is LlamaConfig else Qwen2ForCausalLM)(config)
    return model.eval().to(device=device, dtype=dtype)


def seconds(work: Callable[[], object], device: str, repeats: int = 1) -> float:
    """The shortest of `repeats` timings of `work`."""
    times = []
    for _ in range(repeats):
        synchronize(device)
        start = time.perf_counter()
        work()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times)


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def quantize(model: Any, method: str, scheme: str, windows: torch.Tensor) -> methods.QuantizationReport:
    kind = methods.available_methods()[method]
    return kind(kind.Parameters()).quantize(model, parse_scheme(scheme), windows, seed=0)


def quantized(model: Any, method: str, scheme: str, windows: torch.Tensor) -> Any:
    """A copy of the model, quantized."""
    copied = copy.deepcopy(model)
    quantize(copied, method, scheme, windows)
    return copied


@torch.no_grad()
def check_device(device: str) -> None:
    """Every variant of a small model: codes and logits on the device agree with the CPU's."""
    windows = torch.randint(1024, (8, 64), generator=torch.Generator().manual_seed(1))
    reference = make_model("tiny", 2, torch.float32, "cpu")
    for method, scheme in VARIANTS:
        here = quantized(reference, method, scheme, windows)(windows).logits
        copied = make_model("tiny", 2, torch.float32, "cpu").to(device)
        there = quantized(copied, method, scheme, windows.to(device))(windows.to(device)).logits.cpu()
        difference = (here - there).norm() / here.norm()
        print(
            f"check      {method:11} {scheme:10} logits on {device} differ from the cpu's by {difference:.1e}, relative"
        )


@torch.no_grad()
def measure(shape: str, num_blocks: int, num_windows: int, length: int, device: str) -> None:
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model = make_model(shape, num_blocks, dtype, device)
    windows = torch.randint(1024, (num_windows, length), generator=torch.Generator().manual_seed(1)).to(device)
    batch = windows[:4, : min(length, 1024)]
    plain = seconds(lambda: model(batch), device, repeats=5)
    tokens = batch.numel()
    print(f"{shape:10} full precision: forward {tokens / plain:,.0f} tokens/s through {num_blocks} blocks")
    for method, scheme in VARIANTS:
        copied = copy.deepcopy(model)
        report = quantize(copied, method, scheme, windows)
        forward = seconds(partial(copied, batch), device, repeats=5)
        whole, peak = report.seconds / num_blocks * NUM_BLOCKS[shape], report.peak_memory_bytes / 2**30
        print(
            f"{shape:10} {method:11} {scheme:10} {report.seconds / num_blocks:7.2f} s a block on {num_windows} x "
            f"{length} tokens, {whole:6.0f} s for {NUM_BLOCKS[shape]} blocks, peak {peak:.1f} "
            f"GiB; forward {plain / forward:.2f} x the speed of full precision",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SIZES, nargs="*", default=["llada-8b", "dream-7b"])
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--windows", type=int, default=128)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    name = torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu"
    print(f"torch {torch.__version__} on {name}")
    check_device(arguments.device)
    for shape in arguments.shape:
        measure(shape, arguments.blocks, arguments.windows, arguments.length, arguments.device)


if __name__ == "__main__":
    main()
