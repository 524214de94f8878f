"""SmoothQuant against a float64 transcription that reads its inputs off a plain forward and loops over channels."""

from __future__ import annotations

import json

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from grids.schemes import parse_scheme
from methods import scaling, smoothquant
from methods.audit import AuditError, audit, original_weights
from methods.contract import ComputeSettings
from methods.linear import QuantLinear
from methods.quantizer import NonFiniteError
from methods.rounding import RoundingParameters
from methods.rtn import Rtn, RtnParameters
from methods.scaling import PLACES
from methods.smoothquant import SmoothQuant, SmoothQuantParameters
from methods.state import quantized_state, restore_quantized

FAMILIES = ["llada", "dream"]
SMOOTHED = {
    "norms": {"qkv": ["q_proj", "k_proj", "v_proj"], "gate_up": ["gate_proj", "up_proj"]},
    "all": {
        "qkv": ["q_proj", "k_proj", "v_proj"],
        "gate_up": ["gate_proj", "up_proj"],
        "v_o": ["o_proj"],
        "up_down": ["down_proj"],
    },
}


def inputs_of_linears(model: nn.Module, token_ids: Tensor) -> dict[str, Tensor]:
    """What enters each linear of the first block in a plain forward, [tokens, in], by its short name."""
    seen: dict[str, Tensor] = {}
    handles = []
    for name, module in model.model.layers[0].named_modules():
        if isinstance(module, nn.Linear):

            def record(_, arguments, name=name):
                seen[name.rpartition(".")[2]] = arguments[0].flatten(0, -2)

            handles.append(module.register_forward_pre_hook(record))
    with torch.no_grad():
        model(input_ids=token_ids, use_cache=False)
    for handle in handles:
        handle.remove()
    return seen


def transcribed_block(
    model: nn.Module,
    token_ids: Tensor,
    smooth: str,
    *,
    alpha: float,
    anchor_only: bool = False,
    min_scale: float = 1e-5,
) -> dict[str, Tensor]:
    """The first block's smoothed weights, biases and norm gains in float64; linears by short names."""
    block, X = model.model.layers[0], inputs_of_linears(model, token_ids)
    parameters = {name.replace("self_attn.", "").replace("mlp.", ""): p.data for name, p in block.named_parameters()}
    W = {name.removesuffix(".weight"): p.clone() for name, p in parameters.items() if name.endswith(".weight")}
    b = {name.removesuffix(".bias"): p.clone() for name, p in parameters.items() if name.endswith(".bias")}
    given = {name: weight.clone() for name, weight in W.items()}
    for place, linears in SMOOTHED[smooth].items():
        seen = [linears[-1] if place == "gate_up" else linears[0]] if anchor_only else linears
        s = torch.zeros(X[linears[0]].shape[1], dtype=torch.float64)
        for j in range(len(s)):
            # Query heads that share a value head share its channels' scales.
            group = [j]
            if place == "v_o" and len(W["v_proj"]) < len(s):
                first = j // 16 * 16 + j % 8
                group = [first, first + 8]
            x = max(X[linears[0]][:, i].abs().max().item() for i in group)
            w = max(given[name][:, i].abs().max().item() for name in seen for i in group)
            s[j] = max(x**alpha / max(w, 1e-5) ** (1 - alpha), min_scale)
        for name in linears:
            W[name] = W[name] @ torch.diag(s)
        producer = {"qkv": "input_layernorm", "gate_up": "post_attention_layernorm", "v_o": "v_proj"}.get(
            place, "up_proj"
        )
        rows = s if len(W[producer]) == len(s) else torch.cat([s[0:8], s[16:24]])
        W[producer] = W[producer] / rows.view(-1, *[1] * (W[producer].ndim - 1))
        if producer in b:
            b[producer] = b[producer] / rows
    return W | {f"{name}.bias": bias for name, bias in b.items()}


def transcribed_rounding(weight: Tensor, num_bits: int) -> Tensor:
    low, high = weight.amin(1, keepdim=True).clamp(max=0), weight.amax(1, keepdim=True).clamp(min=0)
    scale = ((high - low) / (2**num_bits - 1)).half().double()
    zero = (-low / scale).round()
    return scale * (((weight / scale).round() + zero).clamp(0, 2**num_bits - 1) - zero)


def quantized(model, token_ids, scheme="w4a4", *, compute=None, **parameters):
    method = SmoothQuant(SmoothQuantParameters(**parameters))
    return model, method.quantize(model, parse_scheme(scheme), token_ids, seed=0, compute=compute)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("smooth", ["norms", "all"])
@pytest.mark.parametrize(
    "options", [{"alpha": 0.5}, {"alpha": 0.85}, {"alpha": 0.5, "anchor_only": True}, {"alpha": 0.5, "min_scale": 2.0}]
)
def test_weights_biases_and_norms_equal_a_transcription_of_the_equations(
    build_model, token_ids, plant_outliers, family, smooth, options
):
    models = [build_model(family, dtype=torch.float64) for _ in range(2)]
    for model in models:
        plant_outliers(model)
    expected = transcribed_block(models[0], token_ids, smooth, **options)
    # Batches that do not divide the samples: maxima must be those of all of them.
    model, _ = quantized(models[1], token_ids, smooth=smooth, compute=ComputeSettings(batch_size=5), **options)
    for name, module in model.model.layers[0].named_modules():
        short_name = name.rpartition(".")[2]
        if isinstance(module, QuantLinear):
            weight = transcribed_rounding(expected[short_name], 4)
            torch.testing.assert_close(module.weight.double(), weight, rtol=1e-6, atol=1e-7, msg=name)
            if module.bias is not None:
                torch.testing.assert_close(module.bias, expected[f"{short_name}.bias"], msg=name)
        elif short_name in expected:
            torch.testing.assert_close(module.weight.data, expected[short_name], msg=name)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("options", [{}, {"smooth": "all"}, {"smooth": "all", "anchor_only": True, "min_scale": 0.01}])
def test_the_smoothed_but_unrounded_model_gives_the_originals_logits(
    build_model, logits, token_ids, plant_outliers, monkeypatch, family, options
):
    model = build_model(family)
    plant_outliers(model)
    expected = logits(model, token_ids)
    before = model.model.layers[1].input_layernorm.weight.clone()
    monkeypatch.setattr(RoundingParameters, "round_blocks", lambda self, job: None)
    quantized(model, token_ids, **options)
    assert (before / model.model.layers[1].input_layernorm.weight).log().abs().max() > 1
    assert ((logits(model, token_ids) - expected).abs().max() / expected.abs().max()).item() < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("options", [{}, {"smooth": "all"}, {"weights": "gptq"}, {"smooth": "all", "weights": "gptq"}])
@pytest.mark.parametrize("scheme", ["w8a8", "w4a4", "w4a8kv4g16"])
def test_a_whole_model_passes_the_audit_and_comes_back_bit_for_bit(
    build_model, logits, token_ids, held_out, family, options, scheme
):
    model = build_model(family)
    original = original_weights(model)
    _, report = quantized(model, token_ids, scheme, **options)
    found = audit(model, parse_scheme(scheme), held_out, original=original)
    assert found.num_linears == len(report.linears) == 14
    # The audit compares with the smoothed weights, so what it measures is the rounding alone.
    assert 0 < found.max_output_error < {"w8a8": 0.02, "w4a4": 0.3, "w4a8kv4g16": 0.2}[scheme]
    assert set(report.changed_parameters) == {
        f"model.layers.{index}.{norm}.weight"
        for index in range(2)
        for norm in ("input_layernorm", "post_attention_layernorm")
    }
    tensors, layout = quantized_state(model, changed_parameters=report.changed_parameters)
    restored = build_model(family)
    restore_quantized(restored, tensors, json.loads(json.dumps(layout)))
    assert torch.equal(logits(restored, token_ids), logits(model, token_ids))


def error_of(method, build_model, plant_outliers, logits, token_ids, scheme):
    model = build_model("llada")
    plant_outliers(model)
    expected = logits(model, token_ids)
    method.quantize(model, parse_scheme(scheme), token_ids, seed=0)
    return ((logits(model, token_ids) - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize(("scheme", "gain"), [("w8a8", 2), ("w8a6", 2), ("w8a4", 1.5)])
def test_outliers_that_hurt_round_to_nearest_are_smoothed_away(
    build_model, plant_outliers, logits, token_ids, scheme, gain
):
    context = (build_model, plant_outliers, logits, token_ids, scheme)
    smoothed = error_of(SmoothQuant(SmoothQuantParameters()), *context)
    assert error_of(Rtn(RtnParameters()), *context) > gain * smoothed


def test_four_bits_of_both_operands_profit_too(build_model, plant_outliers, logits, token_ids):
    context = (build_model, plant_outliers, logits, token_ids, "w4a4")
    rtn = error_of(Rtn(RtnParameters()), *context)
    smoothed = error_of(SmoothQuant(SmoothQuantParameters()), *context)
    solved = error_of(SmoothQuant(SmoothQuantParameters(weights="gptq")), *context)
    assert rtn > smoothed
    assert rtn > solved


def test_gptq_after_smoothing_is_gptq_with_the_nested_settings(build_model, token_ids, held_out):
    model, report = quantized(
        build_model(), token_ids, "w4a8g16", weights="gptq", gptq={"act_order": True, "damp_percent": 0.02}
    )
    assert all(linear.damp_percent == 0.02 for linear in report.linears)
    assert model.model.layers[0].mlp.up_proj.group_index is not None
    audit(model, parse_scheme("w4a8g16"), held_out)


def test_operand_parameters_reach_the_rounding(build_model, token_ids):
    model, _ = quantized(build_model(), token_ids, "w8a8", symmetric=True, activation_symmetric=True)
    assert model.model.layers[0].mlp.up_proj.quantized_weight.symmetric
    assert model.model.layers[0].mlp.up_proj.activation.quantizer.symmetric


def test_large_columns_of_k_count_unless_only_the_anchor_is_looked_at(build_model, token_ids):
    gains = {}
    for anchor_only in (False, True):
        model = build_model()
        model.model.layers[0].self_attn.k_proj.weight.data[:, 4] *= 100
        quantized(model, token_ids, anchor_only=anchor_only)
        gains[anchor_only] = model.model.layers[0].input_layernorm.weight[4].item()
    assert gains[False] > 5 * gains[True]


def test_only_the_places_asked_for_change(build_model, token_ids, monkeypatch):
    monkeypatch.setattr(RoundingParameters, "round_blocks", lambda self, job: None)
    touched = {
        "qkv": {"input_layernorm", "q_proj", "k_proj", "v_proj"},
        "gate_up": {"post_attention_layernorm", "gate_proj", "up_proj"},
        "v_o": {"v_proj", "o_proj"},
        "up_down": {"up_proj", "down_proj"},
    }
    for place, names in touched.items():
        plain = build_model()
        model, report = quantized(build_model(), token_ids, smooth=[place])
        changed = {
            name.split(".")[-2]
            for (name, parameter), other in zip(model.named_parameters(), plain.parameters(), strict=True)
            if not torch.equal(parameter, other)
        }
        assert changed == names
        assert len(report.changed_parameters) == (2 if place in ("qkv", "gate_up") else 0)


def test_seeded_defect_folding_into_q_alone_is_refused(build_model, token_ids, monkeypatch):
    monkeypatch.setitem(PLACES, "qkv", scaling.ScalePlace("input_layernorm", ("self_attn.q_proj",), "self_attn.q_proj"))
    with pytest.raises(AuditError, match=r"model\.layers\.0 changes its output"):
        quantized(build_model(), token_ids)


def test_seeded_defect_forgetting_the_bias_of_v_is_refused(build_model, token_ids, monkeypatch):
    def lose_the_bias(producer: nn.Module, scale: Tensor) -> None:
        producer.weight.data /= scale.view(-1, *[1] * (producer.weight.ndim - 1))

    monkeypatch.setattr(scaling, "_divide_producer", lose_the_bias)
    with pytest.raises(AuditError, match=r"model\.layers\.0 changes its output"):
        quantized(build_model("dream"), token_ids, smooth="all")


def first_linear(block: nn.Module, place: scaling.Place) -> dict[str, nn.Linear]:
    return dict([next(iter(scaling.place_linears(block, place).items()))])


def test_seeded_defect_weight_maxima_of_one_linear_alone_fails_the_transcription(build_model, token_ids, monkeypatch):
    expected = transcribed_block(build_model(dtype=torch.float64), token_ids, "norms", alpha=0.5)
    for is_defective in (False, True):
        if is_defective:
            monkeypatch.setattr(smoothquant, "place_linears", first_linear)
        model, _ = quantized(build_model(dtype=torch.float64), token_ids)
        gain = model.model.layers[0].input_layernorm.weight
        assert torch.allclose(gain, expected["input_layernorm"], rtol=1e-3) != is_defective


def test_nan_in_the_model_is_named_with_its_place(build_model, token_ids):
    model = build_model()
    model.model.layers[1].input_layernorm.weight.data[3] = float("nan")
    with pytest.raises(NonFiniteError, match=r"model\.layers\.1: the scales of qkv"):
        quantized(model, token_ids)


def test_schemes_are_refused_with_the_reason():
    method = SmoothQuant(SmoothQuantParameters())
    for scheme in ("w8a8", "w4a4", "w4a8g128", "w16a8", "w4a4kv4q4"):
        assert method.refusal(parse_scheme(scheme)) is None
    for scheme in ("w4a16g128", "w4a16kv4"):
        assert "leaves them at 16 bits" in method.refusal(parse_scheme(scheme))
    assert "quantizes nothing" in method.refusal(parse_scheme("fp16"))
    with_gptq = SmoothQuant(SmoothQuantParameters(weights="gptq"))
    assert "rounds weights" in with_gptq.refusal(parse_scheme("w16a8"))


def test_one_meaning_has_one_spelling():
    everything = SmoothQuantParameters(smooth="all")
    assert everything.smooth == ["qkv", "v_o", "gate_up", "up_down"]
    assert SmoothQuantParameters(smooth=["up_down", "gate_up", "v_o", "qkv", "qkv"]) == everything
    assert SmoothQuantParameters(smooth="norms") == SmoothQuantParameters()


@pytest.mark.parametrize(
    "parameters",
    [
        {"alpha": 1.1},
        {"smooth": []},
        {"smooth": ["down"]},
        {"min_scale": 0},
        {"weights": "awq"},
        {"gptq": {"act_order": True}},
        {"weights": "gptq", "gptq": {"order": True}},
    ],
)
def test_impossible_parameters_are_refused(parameters):
    with pytest.raises(ValidationError):
        SmoothQuantParameters(**parameters)
