"""Each test breaks a quantized model in one way; the audit must say which."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from grids.schemes import parse_scheme
from methods.audit import AuditError, audit, original_weights
from methods.dynamic import DynamicQuantizer
from methods.linear import QuantLinear
from methods.quantizer import Quantizer
from methods.rtn import Rtn, RtnParameters

SCHEME = "w4a4kv4g16"
DOWN = "model.layers.1.mlp.down_proj"


@pytest.fixture
def quantized(build_model):
    model = build_model()
    Rtn(RtnParameters()).quantize(model, parse_scheme(SCHEME), None, seed=0)
    return model


def findings_of(model: nn.Module, held_out: torch.Tensor, scheme: str = SCHEME) -> tuple[str, ...]:
    with pytest.raises(AuditError) as caught:
        audit(model, parse_scheme(scheme), held_out)
    for finding in caught.value.findings:
        assert finding in str(caught.value)
    return caught.value.findings


def test_an_honest_model_passes_with_a_row_per_linear(build_model, held_out):
    model = build_model()
    original = original_weights(model)
    Rtn(RtnParameters()).quantize(model, parse_scheme(SCHEME), None, seed=0)
    found = audit(model, parse_scheme(SCHEME), held_out, original=original)
    assert found.num_linears == 14
    assert found.effective_bits == 4 + 20 / 16
    row = next(row for row in found.linears if row.name == DOWN)
    assert (row.weight_bits, row.group_size, row.activation_bits) == (4, 16, 4)
    assert 8 < row.num_levels <= 16
    assert 8 < row.activation_levels <= 16
    assert 0.01 < row.output_error <= found.max_output_error < 1
    data = json.loads(json.dumps(found.to_json()))
    assert data["num_linears"] == 14
    assert data["linears"][0]["name"] == "model.layers.0.self_attn.q_proj"


def test_output_error_compares_with_the_original_operands_for_the_same_input(build_model, held_out):
    model = build_model()
    original = original_weights(model)
    Rtn(RtnParameters()).quantize(model, parse_scheme("w4a4"), None, seed=0)
    found = audit(model, parse_scheme("w4a4"), held_out, original=original)
    pairs = []
    linear = model.get_submodule(DOWN)
    linear.register_forward_hook(lambda _, arguments, output: pairs.append((arguments[0], output)))
    with torch.no_grad():
        model(input_ids=held_out, use_cache=False)
    ((inputs, output),) = pairs
    expected = inputs @ original[DOWN].T
    row = next(row for row in found.linears if row.name == DOWN)
    assert row.output_error == pytest.approx(((output - expected).norm() / expected.norm()).item(), rel=1e-4)


def test_without_original_weights_there_is_no_output_error(quantized, held_out):
    found = audit(quantized, parse_scheme(SCHEME), held_out)
    assert found.max_output_error is None


def test_a_linear_left_at_full_precision_is_named(quantized, held_out):
    quantized.model.layers[1].mlp.down_proj = nn.Linear(64, 32, bias=False)
    assert findings_of(quantized, held_out) == (f"{DOWN} is not quantized: it is Linear",)


def test_a_linear_that_no_method_knows_is_named(quantized, held_out):
    quantized.model.layers[0].mlp.router = nn.Linear(32, 2)
    assert findings_of(quantized, held_out) == (
        "model.layers.0.mlp.router is not quantized: no method knows this linear",
    )


def test_a_weight_nudged_off_its_grid_is_found(quantized, held_out):
    quantized.get_submodule(DOWN).weight[3, 5] += 1e-4
    assert findings_of(quantized, held_out) == (f"{DOWN} has 1 weights off their grid",)


def test_a_code_beyond_the_bits_is_found(quantized, held_out):
    linear = quantized.get_submodule(DOWN)
    linear.codes[0, 0] = 16
    linear.weight.copy_(linear.quantized_weight.dequantize())
    assert findings_of(quantized, held_out) == (f"{DOWN} has code 16, beyond 4 bits",)


def test_a_removed_activation_quantizer_is_found(quantized, held_out):
    quantized.get_submodule(DOWN).activation = None
    assert findings_of(quantized, held_out) == (f"{DOWN} has 16-bit activations, not 4",)


def test_an_activation_quantizer_that_never_runs_is_found(quantized, held_out):
    class Bypass(QuantLinear):
        def forward(self, inputs):
            return nn.functional.linear(inputs, self.weight, self.bias)

    quantized.get_submodule(DOWN).__class__ = Bypass
    assert findings_of(quantized, held_out) == (f"{DOWN} activations never passed their quantizer",)


def test_a_quantizer_that_ran_once_must_run_again_for_the_audit(quantized, held_out, logits):
    logits(quantized, held_out)
    quantized.get_submodule(DOWN).forward = lambda inputs: torch.zeros(*inputs.shape[:-1], 32)
    assert findings_of(quantized, held_out) == (f"{DOWN} activations never passed their quantizer",)


def test_an_activation_quantizer_that_rounds_nothing_is_found(quantized, held_out):
    class Idle(DynamicQuantizer):
        def forward(self, values):
            self.exercised = True
            return values

    idle = Idle(Quantizer(num_bits=4, granularity="token"))
    quantized.get_submodule(DOWN).activation = idle
    (finding,) = findings_of(quantized, held_out)
    assert finding.startswith(f"{DOWN} activations take ")
    assert finding.endswith("more than 4 bits allow")


@pytest.mark.parametrize(
    ("other", "finding"),
    [
        ("w3a4kv4g16", f"{DOWN} has 4-bit weights, not 3"),
        ("w4a4kv4g32", f"{DOWN} has group size 16, not 32"),
        ("w4a4kv4", f"{DOWN} has group size 16, not None"),
        ("w4a8kv4g16", f"{DOWN} has 4-bit activations, not 8"),
        ("w4a16kv4g16", f"{DOWN} has 4-bit activations, not 16"),
        ("w4a4kv8g16", "model.layers.1.self_attn has key operands of 4 bits, not 8"),
        ("w4a4g16", "model.layers.0.self_attn has value operands of 4 bits, not 16"),
        ("w4a4kv4q4g16", "model.layers.0.self_attn has query operands of 16 bits, not 4"),
    ],
)
def test_another_label_than_the_models_is_refused(quantized, held_out, other, finding):
    assert finding in findings_of(quantized, held_out, other)


def test_a_model_that_was_never_quantized_fails_at_every_linear(build_model, held_out):
    assert sum("is not quantized" in finding for finding in findings_of(build_model(), held_out, "w4a16")) == 14


def test_attention_that_no_longer_rounds_its_operands_is_found(quantized, held_out):
    quantized.set_attn_implementation("sdpa")
    findings = findings_of(quantized, held_out)
    assert "attention operands are not quantized: the model uses another attention function" in findings
    assert "model.layers.0.self_attn key never passed their quantizer" in findings


def test_one_attention_without_value_quantizer_is_found(quantized, held_out):
    quantized.model.layers[1].self_attn.operands.value = None
    assert findings_of(quantized, held_out) == ("model.layers.1.self_attn has value operands of 16 bits, not 4",)


def test_scales_that_are_not_finite_and_logits_that_follow_are_found(quantized, held_out):
    linear = quantized.get_submodule(DOWN)
    linear.scale[0, 0] = float("inf")
    linear.weight.copy_(linear.quantized_weight.dequantize())
    findings = findings_of(quantized, held_out)
    assert f"{DOWN} has scales that are not positive and finite" in findings
    assert "logits are not finite" in findings


def test_scales_of_the_wrong_granularity_are_found(quantized, held_out):
    linear = quantized.get_submodule(DOWN)
    linear.scale, linear.zero = linear.scale[:, :1], linear.zero[:, :1]
    assert findings_of(quantized, held_out)[0] == f"{DOWN} has scales of shape (32, 1), not (32, 4)"


def test_every_finding_is_told_at_once(quantized, held_out):
    quantized.get_submodule(DOWN).activation = None
    quantized.get_submodule("model.layers.0.self_attn.q_proj").weight[0, 0] += 0.01
    assert len(findings_of(quantized, held_out)) == 2


def test_the_audit_leaves_no_hook_behind(quantized, held_out):
    audit(quantized, parse_scheme(SCHEME), held_out)
    assert not any(module._forward_hooks for module in quantized.modules())


def test_what_is_said_to_be_left_out_must_be_at_full_precision_and_exist(quantized, held_out):
    with pytest.raises(AuditError) as caught:
        audit(quantized, parse_scheme(SCHEME), held_out, left_out=(DOWN, "key", "model.layers.9.mlp.down_proj"))
    assert f"{DOWN} has 4-bit weights, not 16" in caught.value.findings
    assert "model.layers.0.self_attn has key operands of 4 bits, not 16" in caught.value.findings
    assert "model.layers.9.mlp.down_proj is said to be left out, but there is no such linear" in caught.value.findings
