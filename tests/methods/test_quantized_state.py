from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load, save

from grids.schemes import parse_scheme
from methods.audit import audit
from methods.gptq import Gptq, GptqParameters
from methods.packing import pack_codes, unpack_codes
from methods.rtn import Rtn, RtnParameters
from methods.state import quantized_state, restore_quantized


@pytest.mark.parametrize("num_bits", [2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("shape", [(8,), (3, 7), (5, 16), (1, 1)])
def test_packing_keeps_every_code_in_its_bits(num_bits, shape):
    codes = torch.randint(0, 2**num_bits, shape, dtype=torch.uint8)
    packed = pack_codes(codes, num_bits)
    assert packed.dtype == torch.uint8
    assert packed.numel() == -(-codes.numel() // 8) * num_bits
    assert torch.equal(unpack_codes(packed, num_bits, shape), codes)


def test_four_bit_codes_lie_two_in_a_byte_low_half_first():
    codes = torch.arange(8, dtype=torch.uint8)
    assert pack_codes(codes, 4).tolist() == [0x10, 0x32, 0x54, 0x76]


def test_unpacking_the_wrong_number_of_bytes_is_refused():
    with pytest.raises(ValueError, match="3 bytes for 8 codes of 4 bits; expected 4"):
        unpack_codes(torch.zeros(3, dtype=torch.uint8), 4, (8,))


def through_bytes(tensors, layout):
    """What a file would give back."""
    return load(save(tensors)), json.loads(json.dumps(layout))


@pytest.mark.parametrize("family", ["llada", "dream"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scheme", ["w4a16g16", "w3a16", "w8a8", "w4a4kv4q8g16", "w16a8"])
def test_restored_model_has_the_same_logits_bit_for_bit(build_model, logits, token_ids, family, dtype, scheme):
    model = build_model(family, dtype=dtype)
    Rtn(RtnParameters(activation_symmetric=True, kv_clip_ratio=0.9)).quantize(model, parse_scheme(scheme), None, seed=0)
    tensors, layout = through_bytes(*quantized_state(model))
    restored = build_model(family, dtype=dtype)
    restore_quantized(restored, tensors, layout)
    assert torch.equal(logits(restored, token_ids), logits(model, token_ids))
    audit(restored, parse_scheme(scheme), token_ids)


@pytest.mark.parametrize("symmetric", [False, True])
def test_restored_act_order_model_has_the_same_logits_bit_for_bit(build_model, logits, token_ids, symmetric):
    model = build_model()
    parameters = GptqParameters(act_order=True, symmetric=symmetric)
    Gptq(parameters).quantize(model, parse_scheme("w4a8g16"), token_ids, seed=0)
    tensors, layout = through_bytes(*quantized_state(model))
    assert "model.layers.0.mlp.up_proj.group_index" in tensors
    assert ("model.layers.0.mlp.up_proj.zero" in tensors) != symmetric
    restored = build_model()
    restore_quantized(restored, tensors, layout)
    assert torch.equal(logits(restored, token_ids), logits(model, token_ids))


def test_state_holds_as_many_bits_as_the_audit_counts(build_model, token_ids):
    model = build_model("llada")
    Rtn(RtnParameters()).quantize(model, parse_scheme("w3a16g16"), None, seed=0)
    tensors, _ = quantized_state(model)
    num_bits = sum(tensor.numel() * tensor.element_size() * 8 for tensor in tensors.values())
    num_weights = sum(m.codes.numel() for m in model.modules() if getattr(m, "codes", None) is not None)
    assert num_bits / num_weights == audit(model, parse_scheme("w3a16g16"), token_ids).effective_bits


def test_parameters_changed_beyond_the_linears_are_part_of_the_state(build_model, logits, token_ids):
    model = build_model()
    changed = ("model.norm.weight", "model.embed_tokens.weight")
    Rtn(RtnParameters()).quantize(model, parse_scheme("w4a16"), None, seed=0)
    with torch.no_grad():
        for name in changed:
            model.get_parameter(name).mul_(1.5)
    tensors, layout = through_bytes(*quantized_state(model, changed_parameters=changed))
    restored = build_model()
    restore_quantized(restored, tensors, layout)
    assert torch.equal(logits(restored, token_ids), logits(model, token_ids))
    assert not set(changed) & set(quantized_state(model)[0])


def test_a_model_that_is_not_quantized_has_no_state(build_model):
    with pytest.raises(ValueError, match=r"model\.layers\.0\.self_attn\.q_proj is not quantized"):
        quantized_state(build_model())


@pytest.fixture
def state(build_model):
    model = build_model()
    Rtn(RtnParameters()).quantize(model, parse_scheme("w4a16"), None, seed=0)
    return quantized_state(model)


def test_state_of_another_model_is_refused(build_model, state):
    with pytest.raises(ValueError, match=r"has shape \(64, 32\) in the state, \(48, 32\) in the model"):
        restore_quantized(build_model(intermediate_size=48), *state)
    with pytest.raises(ValueError, match="different linears"):
        restore_quantized(build_model(num_hidden_layers=1), *state)


def test_incomplete_state_and_unknown_layout_are_refused(build_model, state):
    tensors, layout = state
    with pytest.raises(ValueError, match="layout version 3, not 2"):
        restore_quantized(build_model(), tensors, layout | {"layout_version": 3})
    del tensors["model.layers.1.mlp.up_proj.scale"]
    with pytest.raises(ValueError, match=r"lacks the tensor model\.layers\.1\.mlp\.up_proj\.scale"):
        restore_quantized(build_model(), tensors, layout)


def test_a_transform_of_a_kind_that_is_not_known_is_refused_by_name(build_model, state):
    tensors, layout = state
    name = "model.layers.0.mlp.down_proj"
    transforms = {name: {"kind": "butterfly", "options": {}, "linears": [name]}}
    with pytest.raises(ValueError, match=r"down_proj has the transform 'butterfly' in the state; known: hadamard"):
        restore_quantized(build_model(), tensors, layout | {"transforms": transforms})


def test_restoring_twice_is_refused(build_model, state):
    model = build_model()
    restore_quantized(model, *state)
    with pytest.raises(ValueError, match="quantized already"):
        restore_quantized(model, *state)
