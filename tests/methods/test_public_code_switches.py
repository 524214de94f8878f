"""Each deviation of the study's public code is a switch: what it changes in the first block, and nothing else there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from grids import parse_scheme
from methods import QuantLinear, available_methods, block_linears, decoder_blocks
from methods.attention import attention_operands

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
QKV = {"q_proj", "k_proj", "v_proj"}


def describe(model: nn.Module) -> dict[str, Any]:
    """What a quantized model's first block is made of."""
    parts: dict[str, Any] = {}
    block = decoder_blocks(model)[0]
    for name, linear in block_linears(model).items():
        if not name.startswith("model.layers.0."):
            continue
        assert isinstance(linear, QuantLinear)
        short, stored = name.rpartition(".")[2], linear.quantized_weight
        parts[f"{short} bits"] = linear.weight_bits
        parts[f"{short} has zeros"] = stored is not None and stored.zero is not None
        parts[f"{short} weight"] = linear.weight.flatten().tolist()
        parts[f"{short} activation"] = None if linear.activation is None else repr(linear.activation.quantizer)
        transform = linear.transform
        parts[f"{short} transform"] = (
            None if transform is None else [tensor.flatten().tolist() for tensor in transform.state_dict().values()]
        )
    for norm in ("input_layernorm", "post_attention_layernorm"):
        parts[norm] = block.get_parameter(f"{norm}.weight").tolist()
    operands = attention_operands(block)
    for operand in ("key", "value", "query"):
        quantizer = getattr(operands, operand, None)
        parts[operand] = None if quantizer is None else repr(quantizer.quantizer)
    return parts


@pytest.fixture
def changes(build_model: Callable[..., nn.Module], token_ids: Tensor) -> Callable[..., set[str]]:
    """The parts of the first block that differ between a method's parameters and the same with a switch."""

    def compare(method: str, scheme: str, given: dict[str, Any], switch: dict[str, Any]) -> set[str]:
        described = []
        for parameters in (given, given | switch):
            model = build_model("llada", hidden_size=64, intermediate_size=128, num_attention_heads=4)
            with torch.no_grad():
                # Channels of very different size, so that scales and rotations have something to choose.
                model.get_submodule("model.embed_tokens").weight[:, ::7] *= 9
            kind = available_methods()[method]
            built = kind(kind.Parameters.model_validate(parameters))
            report = built.quantize(model, parse_scheme(scheme), token_ids, seed=0)
            described.append(describe(model) | {"left out": sorted(report.left_out)})
        before, after = described
        return {part for part in before if before[part] != after[part]}

    return compare


def of_all(part: str, linears: Any = LINEARS) -> set[str]:
    return {f"{name} {part}" for name in linears}


SMALL_BLOCKS = {"block_size": 16, "num_steps": 8}


def test_gptq_skip_leaves_the_named_linears_at_16_bits_and_says_so(changes: Callable[..., set[str]]) -> None:
    changed = changes("gptq", "w4a16g32", {}, {"skip": ["q_proj", "k_proj", "v_proj"]})
    assert {part for part in changed if part.endswith("bits")} == of_all("bits", QKV)
    assert "left out" in changed
    # The others are solved again, for inputs that the skipped linears no longer disturb.
    assert of_all("weight", QKV) <= changed
    assert not {part for part in changed if part.endswith(("activation", "transform"))}


def test_gptq_symmetric_changes_every_grid(changes: Callable[..., set[str]]) -> None:
    changed = changes("gptq", "w4a16g32", {}, {"symmetric": True})
    assert changed == of_all("weight") | of_all("has zeros")


def test_awq_inspecting_the_block_changes_what_is_scaled_by_the_norms(changes: Callable[..., set[str]]) -> None:
    changed = changes("awq", "w3a16g32", {}, {"inspect": "block"})
    assert changed & {"input_layernorm", "post_attention_layernorm"}
    assert not {part for part in changed if part.endswith(("bits", "activation", "transform"))}


def test_smoothquant_smoothing_all_reaches_o_and_down(changes: Callable[..., set[str]]) -> None:
    changed = changes("smoothquant", "w8a8", {}, {"smooth": "all"})
    assert {"o_proj weight", "v_proj weight", "down_proj weight", "up_proj weight"} <= changed
    assert not changed & {"q_proj weight", "k_proj weight", "gate_proj weight", "input_layernorm"}


def test_smoothquant_by_one_linear_changes_the_scales_of_both_norms(changes: Callable[..., set[str]]) -> None:
    changed = changes("smoothquant", "w8a8", {}, {"anchor_only": True})
    assert {"input_layernorm", "post_attention_layernorm"} <= changed
    assert not changed & {"o_proj weight", "down_proj weight"}


def test_smoothquant_floor_changes_scales_that_lie_below_it(changes: Callable[..., set[str]]) -> None:
    assert changes("smoothquant", "w8a8", {}, {"min_scale": 1e-4}) == set()
    assert "input_layernorm" in changes("smoothquant", "w8a8", {}, {"min_scale": 1000.0})


def test_quarot_without_keys_leaves_keys_alone_and_says_so(changes: Callable[..., set[str]]) -> None:
    changed = changes("quarot", "w4a4kv4", {"weights": "rtn"}, {"quantize_k": False})
    assert changed == {"key", "left out"}


@pytest.mark.parametrize(
    ("switch", "parts"),
    [({"activation_clip_ratio": 1.0}, of_all("activation")), ({"kv_clip_ratio": 1.0}, {"key", "value"})],
)
def test_quarot_clip_ratios_change_only_what_they_clip(
    changes: Callable[..., set[str]], switch: dict[str, float], parts: set[str]
) -> None:
    assert changes("quarot", "w4a4kv4", {"weights": "rtn"}, switch) == parts


def test_quarot_skipping_down_leaves_it_at_16_bits(changes: Callable[..., set[str]]) -> None:
    changed = changes("quarot", "w4a4", {"weights": "rtn"}, {"skip": ["down_proj"]})
    assert changed == {"down_proj bits", "down_proj weight", "left out"}


@pytest.mark.parametrize("switch", [{"outlier_index": "row"}, {"peak": "range"}, {"mean_sequence": True}])
def test_duquant_search_switches_change_rotations_and_no_quantizer(
    changes: Callable[..., set[str]], switch: dict[str, Any]
) -> None:
    changed = changes("duquant", "w4a4", SMALL_BLOCKS, switch)
    assert changed & of_all("transform")
    assert not {part for part in changed if part.endswith(("bits", "zeros", "activation"))}


def test_duquant_clip_ratios_change_only_what_they_clip(changes: Callable[..., set[str]]) -> None:
    given = SMALL_BLOCKS | {"clip_ratio": 1.0}
    assert changes("duquant", "w4a4", SMALL_BLOCKS, {"activation_clip_ratio": 1.0}) >= of_all("activation")
    changed = changes("duquant", "w4a4", SMALL_BLOCKS, given)
    assert of_all("weight") <= changed
    assert not changed & of_all("activation")
