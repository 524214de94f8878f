from __future__ import annotations

import copy
import json

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load, save

from grids.schemes import parse_scheme
from methods import rotation
from methods.attention import attention_operands
from methods.audit import AuditError, audit, original_weights
from methods.blocks import block_linears
from methods.hadamard import hadamard_matrix
from methods.quantizer import Quantizer
from methods.quarot import Quarot, QuarotParameters
from methods.randomness import random_signs
from methods.rotation import rotate_model
from methods.state import quantized_state, restore_quantized
from methods.transforms import HadamardTransform

FAMILIES = ["llada", "dream"]
SCHEMES = ["w4a4", "w4a4kv4", "w4a4kv4q4", "w8a8", "w4a16g16", "w3a8kv8"]


def quantized(model, token_ids, scheme="w4a4kv4", *, seed=0, **parameters):
    return model, Quarot(QuarotParameters(**parameters)).quantize(model, parse_scheme(scheme), token_ids, seed=seed)


def relative(actual, expected):
    return float((actual - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_rotated_model_gives_the_originals_logits(build_model, logits, token_ids, family, tied):
    model = build_model(family, tie_word_embeddings=tied)
    expected, plain = logits(model, token_ids), copy.deepcopy(model.state_dict())
    changed = rotate_model(model, seed=0, device=None)
    assert relative(logits(model, token_ids), expected) < 1e-4
    assert all(
        not torch.allclose(parameter, plain[name]) for name, parameter in model.named_parameters() if "bias" not in name
    )
    norms = [f"model.layers.{i}.{name}_layernorm.weight" for i in range(2) for name in ("input", "post_attention")]
    assert sorted(changed) == sorted(["model.embed_tokens.weight", "lm_head.weight", "model.norm.weight", *norms])
    assert all((model.get_parameter(name) == 1).all() for name in changed if "norm" in name)
    assert not model.config.tie_word_embeddings or not tied


@pytest.mark.parametrize(
    "sizes",
    [{"hidden_size": 48, "intermediate_size": 56}, {"hidden_size": 88, "num_attention_heads": 4, "head_dim": 12}],
)
def test_sizes_that_are_no_powers_of_two_rotate_too(build_model, logits, token_ids, sizes):
    model = build_model("dream", **sizes)
    expected = logits(model, token_ids)
    rotate_model(model, seed=3, device=None)
    assert relative(logits(model, token_ids), expected) < 1e-4


def test_biases_of_all_linears_are_rotated_with_their_outputs(build_model, logits, token_ids):
    model = build_model("llada", attention_bias=True, mlp_bias=True)
    expected = logits(model, token_ids)
    rotate_model(model, seed=0, device=None)
    assert relative(logits(model, token_ids), expected) < 1e-4


def test_a_half_precision_model_is_rotated_within_its_rounding(build_model, token_ids, held_out):
    model, _ = quantized(build_model(dtype=torch.bfloat16), token_ids)
    audit(model, parse_scheme("w4a4kv4"), held_out)


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_those_of_an_independent_float64_transcription(build_model, family):
    plain, model = build_model(family), build_model(family)
    rotate_model(model, seed=5, device=None)
    W = {name: parameter.double() for name, parameter in plain.state_dict().items()}
    actual = {name: parameter.double() for name, parameter in model.state_dict().items()}
    H = {size: hadamard_matrix(size).double() / size**0.5 for size in (4, 8, 32, 64)}
    Q = torch.diag(random_signs(32, 5, "residual_stream")) @ H[32]
    heads = torch.block_diag(*[H[8]] * (4 if family == "llada" else 2))
    expected = {
        "model.embed_tokens.weight": W["model.embed_tokens.weight"] @ Q,
        "lm_head.weight": W["lm_head.weight"] @ torch.diag(W["model.norm.weight"]) @ Q,
    }
    for layer in ("model.layers.0.", "model.layers.1."):
        for norm, names in (("input", "qkv"), ("post_attention", ("gate", "up"))):
            gain = torch.diag(W[f"{layer}{norm}_layernorm.weight"])
            for name in names:
                full = f"{layer}{'self_attn' if norm == 'input' else 'mlp'}.{name}_proj.weight"
                expected[full] = W[full] @ gain @ Q
        v, o, down = (f"{layer}{name}_proj." for name in ("self_attn.v", "self_attn.o", "mlp.down"))
        expected[f"{v}weight"] = heads.T @ expected[f"{v}weight"]
        expected[f"{o}weight"] = Q.T @ W[f"{o}weight"] @ torch.kron(H[4], H[8])
        expected[f"{down}weight"] = Q.T @ W[f"{down}weight"] @ H[64]
        if family == "dream":
            expected[f"{v}bias"] = W[f"{v}bias"] @ heads
    for name, weight in expected.items():
        torch.testing.assert_close(actual[name], weight, rtol=1e-5, atol=1e-6, msg=name)


def test_the_seed_decides_the_rotation(build_model, token_ids):
    weights = [
        quantized(build_model(), token_ids, "w4a4", seed=seed, weights="rtn")[0].get_parameter(
            "model.embed_tokens.weight"
        )
        for seed in (0, 0, 1)
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.allclose(weights[0], weights[2])


@pytest.mark.parametrize("weights", ["rtn", "gptq"])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("family", FAMILIES)
def test_quantized_models_pass_the_audit_and_are_restored_bit_for_bit(
    build_model, logits, token_ids, held_out, family, scheme, weights
):
    model = build_model(family, tie_word_embeddings=weights == "rtn")
    original = original_weights(model)
    _, report = quantized(model, token_ids, scheme, weights=weights)
    found = audit(model, parse_scheme(scheme), held_out, original=original, left_out=report.left_out)
    # Errors are those of the rounding: the original weights have been rotated in place.
    assert 0 < found.max_output_error < 0.5
    assert found.left_out == ()
    kinds = {row.name.rpartition(".")[2]: row.transform for row in found.linears}
    assert {name for name, kind in kinds.items() if kind == "hadamard"} == {"o_proj", "down_proj"}
    tensors, layout = quantized_state(model, changed_parameters=report.changed_parameters)
    restored = build_model(family, tie_word_embeddings=weights == "rtn")
    restore_quantized(restored, load(save(tensors)), json.loads(json.dumps(layout)))
    assert torch.equal(logits(restored, token_ids), logits(model, token_ids))
    audit(restored, parse_scheme(scheme), held_out)


def test_operands_are_rounded_as_the_paper_says(build_model, token_ids):
    model, _ = quantized(build_model(), token_ids, "w4a4kv4")
    activation = Quantizer(num_bits=4, granularity="token", symmetric=True, clip_ratio=0.9)
    for linear in block_linears(model).values():
        assert linear.quantized_weight.symmetric
        assert linear.activation.quantizer == activation
    operands = attention_operands(model.model.layers[1])
    kv = Quantizer(num_bits=4, granularity="token", clip_ratio=0.95)
    assert operands.key.quantizer == operands.value.quantizer == kv
    assert operands.query is None
    assert isinstance(operands.rotation, HadamardTransform)


def test_keys_are_rounded_after_a_hadamard_transform_of_each_head(build_model, logits, token_ids):
    model, _ = quantized(build_model(), token_ids, "w4a4kv4", weights="rtn")
    operands, seen = attention_operands(model.model.layers[0]), {}
    operands.rotation.register_forward_hook(
        lambda _, arguments, output: seen.setdefault("pairs", []).append((*arguments, output))
    )
    operands.key.register_forward_pre_hook(lambda _, arguments: seen.update(rounded=arguments[0]))
    logits(model, token_ids)
    (query, rotated_query), (key, rotated_key) = seen["pairs"]
    assert seen["rounded"] is rotated_key
    H = hadamard_matrix(8).float() / 8**0.5
    torch.testing.assert_close(rotated_key, key @ H)
    torch.testing.assert_close(rotated_query, query @ H)


def test_full_precision_keys_are_left_out_by_a_switch_and_the_audit_must_be_told(build_model, token_ids, held_out):
    model, report = quantized(build_model(), token_ids, "w4a4kv4", quantize_k=False)
    operands = attention_operands(model.model.layers[0])
    assert operands.key is None
    assert operands.rotation is None
    assert operands.value.num_bits == 4
    assert report.left_out == ("key",)
    assert audit(model, parse_scheme("w4a4kv4"), held_out, left_out=report.left_out).left_out == ("key",)
    with pytest.raises(AuditError, match="key operands of 16 bits, not 4"):
        audit(model, parse_scheme("w4a4kv4"), held_out)
    assert quantized(build_model(), token_ids, "w4a4", quantize_k=False)[1].left_out == ()


@pytest.mark.parametrize("weights", ["rtn", "gptq"])
def test_skipped_linears_keep_their_rotated_weights_and_the_audit_must_be_told(
    build_model, token_ids, held_out, weights
):
    model, report = quantized(build_model(), token_ids, "w4a4", weights=weights, skip=["down_proj"])
    downs = ("model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj")
    assert report.left_out == downs
    found = audit(model, parse_scheme("w4a4"), held_out, left_out=report.left_out)
    rows = {row.name: row for row in found.linears}
    assert all((rows[name].weight_bits, rows[name].activation_bits) == (16, 4) for name in downs)
    assert found.effective_bits > 6
    with pytest.raises(AuditError, match=r"layers\.1\.mlp\.down_proj has 16-bit weights, not 4"):
        audit(model, parse_scheme("w4a4"), held_out)


def test_activation_clip_ratio_is_a_switch(build_model, token_ids):
    model, _ = quantized(build_model(), token_ids, "w4a4", activation_clip_ratio=1.0)
    assert {linear.activation.quantizer.clip_ratio for linear in block_linears(model).values()} == {1.0}


def test_gptq_rounds_the_rotated_weights_better_than_rtn(build_model, logits, token_ids):
    expected = logits(build_model(), token_ids)
    errors = {}
    for weights in ("rtn", "gptq"):
        model, _ = quantized(build_model(), token_ids, "w3a16", weights=weights)
        errors[weights] = (logits(model, token_ids) - expected).norm()
    assert errors["gptq"] < 0.9 * errors["rtn"]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"hidden_size": 24, "num_attention_heads": 3, "num_key_value_heads": 3}, "number of attention heads 3 cannot"),
        ({"intermediate_size": 52}, "intermediate size 52 cannot be rotated: no Hadamard matrix of order 52"),
        ({"head_dim": 6}, "head size 6 cannot"),
        ({"hidden_size": 100, "head_dim": 8}, "hidden size 100 cannot"),
    ],
)
def test_a_model_without_hadamard_matrices_of_its_sizes_is_refused_unchanged(build_model, token_ids, sizes, message):
    model = build_model("llada", **sizes)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        quantized(model, token_ids)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_refusals_and_impossible_parameters_name_the_reason():
    assert "quantizes nothing" in Quarot(QuarotParameters()).refusal(parse_scheme("fp16"))
    assert "16 bits" in Quarot(QuarotParameters()).refusal(parse_scheme("w16a4"))
    assert Quarot(QuarotParameters(weights="rtn")).refusal(parse_scheme("w16a4")) is None
    for parameters in ({"weights": "awq"}, {"skip": ["lm_head"]}, {"clip_ratio": 0.9}, {"rotate": True}):
        with pytest.raises(ValidationError):
            QuarotParameters(**parameters)


def forget_bias(linear, inputs, outputs, device):
    bias, linear.bias = linear.bias, None
    rotation_of_linear(linear, inputs, outputs, device)
    linear.bias = bias


rotation_of_linear = rotation._transform_linear_


def test_mutant_a_value_bias_that_is_not_rotated_is_found_before_anything_is_rounded(
    build_model, token_ids, monkeypatch
):
    monkeypatch.setattr(rotation, "_transform_linear_", forget_bias)
    with pytest.raises(AuditError, match="the rotation changes the unquantized model's logits"):
        quantized(build_model("dream"), token_ids)


def test_mutant_an_online_transform_that_is_left_out_is_found_before_anything_is_rounded(
    build_model, token_ids, monkeypatch
):
    monkeypatch.setattr(rotation, "TransformedLinear", lambda linear, transform: linear)
    with pytest.raises(AuditError, match="the rotation changes the unquantized model's logits"):
        quantized(build_model("llada"), token_ids)


def test_mutant_inputs_that_are_rounded_before_their_transform_are_found_by_the_audit(build_model, token_ids, held_out):
    model, _ = quantized(build_model(), token_ids, "w4a4", weights="rtn")
    down = model.get_submodule("model.layers.1.mlp.down_proj")
    down.forward = lambda inputs: torch.nn.functional.linear(down.transform(down.activation(inputs)), down.weight)
    with pytest.raises(AuditError) as caught:
        audit(model, parse_scheme("w4a4"), held_out)
    assert caught.value.findings == ("model.layers.1.mlp.down_proj activations are rounded without their transform",)


def test_mutant_an_input_that_passes_its_transform_by_is_found_by_the_audit(build_model, token_ids, held_out):
    model, _ = quantized(build_model(), token_ids, "w4a16", weights="rtn")
    down = model.get_submodule("model.layers.1.mlp.down_proj")
    down.forward = lambda inputs: torch.nn.functional.linear(inputs, down.weight)
    with pytest.raises(AuditError, match="down_proj inputs never passed their hadamard transform"):
        audit(model, parse_scheme("w4a16"), held_out)
