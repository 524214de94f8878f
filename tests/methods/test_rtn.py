from __future__ import annotations

import dataclasses

import pytest
import torch
from pydantic import ValidationError

import methods.rtn
from grids.schemes import parse_scheme
from methods.audit import AuditError, audit, original_weights
from methods.blocks import block_linears
from methods.quantizer import NonFiniteError, Quantizer
from methods.rtn import Rtn, RtnParameters

FAMILIES = ["llada", "dream"]
SCHEMES = ["w4a16g16", "w3a16g16", "w2a16", "w8a8", "w4a4", "w4a8g16", "w4a4kv4", "w4a4kv4q4", "w16a8", "w16a16kv4"]


def quantized(model, scheme, **parameters):
    report = Rtn(RtnParameters(**parameters)).quantize(model, parse_scheme(scheme), None, seed=0)
    return model, report


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_passes_the_audit(build_model, held_out, family, scheme):
    model = build_model(family)
    original = original_weights(model)
    _, report = quantized(model, scheme)
    found = audit(model, parse_scheme(scheme), held_out, original=original)
    assert found.num_linears == len(report.linears) == 14
    is_rounded = parse_scheme(scheme).operand_bits[:2] != (16, 16)
    assert (found.max_output_error > 0) == is_rounded


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_those_of_an_independent_float64_rounding(build_model, family):
    plain = original_weights(build_model(family))
    model, _ = quantized(build_model(family), "w4a16g16")
    for name, weight in plain.items():
        groups = weight.double().reshape(len(weight), -1, 16)
        low, high = groups.amin(-1, keepdim=True).clamp(max=0), groups.amax(-1, keepdim=True).clamp(min=0)
        scale = ((high - low) / 15).half().double()
        zero = (-low / scale).round()
        expected = scale * (((groups / scale).round() + zero).clamp(0, 15) - zero)
        actual = model.get_submodule(name).weight.double()
        torch.testing.assert_close(actual, expected.view_as(weight), rtol=1e-6, atol=1e-6, msg=name)


def test_activations_are_rounded_per_token_as_the_parameters_say(build_model):
    model, _ = quantized(build_model(), "w8a4", activation_symmetric=True, activation_clip_ratio=0.9)
    expected = Quantizer(num_bits=4, granularity="token", symmetric=True, clip_ratio=0.9)
    assert all(linear.activation.quantizer == expected for linear in block_linears(model).values())


@pytest.mark.parametrize(
    "parameters",
    [{"symmetric": True}, {"clip_search": True}, {"clip_ratio": 0.8}, {"symmetric": True, "clip_search": True}],
)
def test_weight_parameters_change_the_weights_and_keep_the_label_true(build_model, held_out, parameters):
    default, _ = quantized(build_model(), "w3a16g16")
    model, _ = quantized(build_model(), "w3a16g16", **parameters)
    audit(model, parse_scheme("w3a16g16"), held_out)
    weights = [m.model.layers[0].mlp.up_proj.weight for m in (default, model)]
    assert not torch.equal(*weights)


def test_clip_search_lowers_the_weight_error_at_three_bits(build_model):
    errors = []
    for clip_search in (False, True):
        _, report = quantized(build_model(), "w3a16", clip_search=clip_search)
        errors.append(sum(linear.weight_error for linear in report.linears))
    assert errors[1] < errors[0]


def test_more_bits_come_nearer_to_the_full_precision_logits(build_model, logits, token_ids):
    expected = logits(build_model(), token_ids)
    errors = []
    for scheme in ("w8a16", "w4a16", "w3a16", "w2a16"):
        model, _ = quantized(build_model(), scheme)
        errors.append((logits(model, token_ids) - expected).norm().item())
    assert errors == sorted(errors)


def test_four_bit_activations_fail_on_outlier_channels_that_four_bit_weights_survive(
    build_model, plant_outliers, logits, token_ids
):
    def error(scheme: str, *, with_outliers: bool) -> float:
        model = build_model("llada")
        if with_outliers:
            plant_outliers(model)
        expected = logits(model, token_ids)
        quantized(model, scheme)
        return ((logits(model, token_ids) - expected).norm() / expected.norm()).item()

    hurt = error("w4a4", with_outliers=True)
    assert hurt > 2 * error("w4a16", with_outliers=True)
    assert hurt > 2 * error("w4a4", with_outliers=False)
    assert error("w8a4", with_outliers=True) > 4 * error("w8a8", with_outliers=True)


def test_head_embeddings_and_norms_stay_as_they_are(build_model):
    plain = build_model()
    model, _ = quantized(build_model(), "w4a4")
    assert torch.equal(model.lm_head.weight, plain.lm_head.weight)
    assert torch.equal(model.model.embed_tokens.weight, plain.model.embed_tokens.weight)
    assert torch.equal(model.model.layers[0].self_attn.k_proj.bias, plain.model.layers[0].self_attn.k_proj.bias)


def test_full_precision_is_refused_and_everything_else_served():
    method = Rtn(RtnParameters())
    assert "quantizes nothing" in method.refusal(parse_scheme("fp16"))
    assert all(method.refusal(parse_scheme(scheme)) is None for scheme in SCHEMES)


def test_quantizing_twice_is_refused(build_model):
    model, _ = quantized(build_model(), "w4a16")
    with pytest.raises(ValueError, match="quantized already"):
        quantized(model, "w4a16")


def test_weights_that_are_not_finite_are_refused_by_name(build_model):
    model = build_model()
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match=r"model\.layers\.1\.mlp\.up_proj"):
        quantized(model, "w4a16")


@pytest.mark.parametrize(
    "parameters", [{"clip": 1}, {"clip_ratio": 0}, {"clip_ratio": 1.5}, {"clip_ratio": 0.9, "clip_search": True}]
)
def test_impossible_parameters_are_refused(parameters):
    with pytest.raises(ValidationError):
        RtnParameters(**parameters)


def test_skipped_linears_keep_their_weights_and_the_audit_lists_them(build_model, held_out):
    plain = original_weights(build_model())
    model, report = quantized(build_model(), "w4a8", skip=["down_proj", "q_proj"])
    skipped = [name for name in plain if name.endswith(("q_proj", "down_proj"))]
    assert report.left_out == tuple(skipped)
    found = audit(model, parse_scheme("w4a8"), held_out, left_out=report.left_out)
    assert found.left_out == tuple(skipped)
    for row in found.linears:
        assert (row.weight_bits, row.activation_bits) == (16 if row.name in skipped else 4, 8)
        assert torch.equal(model.get_submodule(row.name).weight, plain[row.name]) == (row.name in skipped)


def test_the_order_in_which_skipped_linears_are_named_is_not_part_of_the_parameters():
    assert RtnParameters(skip=["down_proj", "q_proj"]) == RtnParameters(skip=["q_proj", "down_proj", "q_proj"])


def test_nothing_is_left_out_of_a_scheme_that_leaves_weights_alone(build_model):
    assert quantized(build_model(), "w16a8", skip=["q_proj"])[1].left_out == ()


def test_the_report_says_what_each_linear_cost(build_model):
    _, report = quantized(build_model(), "w4a16g16")
    assert all(linear.seconds > 0 for linear in report.linears)
    assert sum(linear.seconds for linear in report.linears) == pytest.approx(report.seconds, rel=0.2)
    peaks = [linear.peak_memory_bytes for linear in report.linears]
    # More than Python itself with torch, less than any machine that runs this has.
    assert 2**26 < peaks[0] <= peaks[-1] == report.peak_memory_bytes < 2**38


def test_seeded_defect_rounding_to_other_bits_is_refused_by_the_audit(build_model, held_out, monkeypatch):
    quantize_weight = methods.rtn.quantize_weight

    def coarser(weight, quantizer, name):
        return quantize_weight(weight, dataclasses.replace(quantizer, num_bits=3), name)

    monkeypatch.setattr(methods.rtn, "quantize_weight", coarser)
    model, _ = quantized(build_model(), "w4a16g16")
    with pytest.raises(AuditError, match="has 3-bit weights, not 4"):
        audit(model, parse_scheme("w4a16g16"), held_out)


def test_seeded_defect_a_linear_that_is_silently_kept_is_refused_by_the_audit(build_model, held_out, monkeypatch):
    monkeypatch.setattr(RtnParameters, "skips", lambda self, name: name.endswith("0.mlp.down_proj"))
    model, report = quantized(build_model(), "w4a16g16")
    with pytest.raises(AuditError, match=r"layers\.0\.mlp\.down_proj has 16-bit weights, not 4"):
        audit(model, parse_scheme("w4a16g16"), held_out)
    assert report.left_out == ("model.layers.0.mlp.down_proj",)
