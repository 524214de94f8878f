"""Tiny random models of the two shapes that the study quantizes, and inputs with outlier channels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

VOCAB_SIZE = 61
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}

BuildModel = Callable[..., nn.Module]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def build_model() -> BuildModel:
    """Builds the same random model for the same arguments; `llada` has no biases, `dream` GQA and q, k, v biases."""

    def build(
        family: str = "dream", *, is_causal: bool = False, dtype: torch.dtype = torch.float32, **sizes: Any
    ) -> nn.Module:
        config: Any
        if family == "llada":
            config = LlamaConfig(**(SIZES | {"num_key_value_heads": 4} | sizes))
        else:
            config = Qwen2Config(**(SIZES | {"num_key_value_heads": 2} | sizes))
        config.is_causal = is_causal
        with torch.random.fork_rng():
            torch.manual_seed(7)
            model = (LlamaForCausalLM if family == "llada" else Qwen2ForCausalLM)(config)
            for name, parameter in model.named_parameters():
                # Random biases and norm gains: a test must notice when one is lost.
                spread = 0.1 if name.endswith("bias") or "norm" in name else 0.15
                centre = 1.0 if "norm" in name else 0.0
                parameter.data.normal_(centre, spread)
        return model.to(dtype).eval()

    return build


@pytest.fixture
def token_ids() -> Tensor:
    """Calibration token ids [12, 16]."""
    return torch.randint(0, VOCAB_SIZE, (12, 16), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def held_out() -> Tensor:
    """Token ids [3, 16] that are not calibrated on."""
    return torch.randint(0, VOCAB_SIZE, (3, 16), generator=torch.Generator().manual_seed(2))


@pytest.fixture
def plant_outliers() -> Callable[[nn.Module], None]:
    """Gives a model outlier channels, keeping its function: a norm's gain goes up, the next linears' columns down."""

    def plant(model: nn.Module, factor: float = 60.0) -> None:
        for block in model.model.layers:
            for norm, linears in (
                (block.input_layernorm, ("q_proj", "k_proj", "v_proj")),
                (block.post_attention_layernorm, ("gate_proj", "up_proj")),
            ):
                norm.weight.data[3] *= factor
                owner = block.self_attn if "q_proj" in linears else block.mlp
                for name in linears:
                    getattr(owner, name).weight.data[:, 3] /= factor

    return plant


@torch.no_grad()
def logits_of(model: nn.Module, token_ids: Tensor, **kwargs: Any) -> Tensor:
    return model(input_ids=token_ids, use_cache=False, **kwargs).logits


@pytest.fixture
def logits() -> Callable[..., Tensor]:
    return logits_of
