from __future__ import annotations

import pytest
import torch
from torch import nn

from methods.attention import OperandQuantizers, attention_operands, quantize_attention, uses_quantized_attention
from methods.quantizer import Quantizer

FAMILIES = ["llada", "dream"]


def per_token(num_bits: int) -> Quantizer:
    return Quantizer(num_bits=num_bits, granularity="token")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("is_causal", [False, True])
def test_sixteen_bit_operands_give_the_plain_models_logits(build_model, logits, token_ids, family, is_causal):
    model = build_model(family, is_causal=is_causal)
    expected = logits(model, token_ids)
    quantize_attention(model, OperandQuantizers(key=per_token(16), value=per_token(16), query=per_token(16)))
    assert torch.equal(logits(model, token_ids), expected)
    mask = torch.ones_like(token_ids)
    mask[:5, :4] = 0
    plain = build_model(family, is_causal=is_causal)
    assert torch.equal(logits(model, token_ids, attention_mask=mask), logits(plain, token_ids, attention_mask=mask))


@pytest.mark.parametrize("family", FAMILIES)
def test_fewer_bits_of_keys_and_values_change_the_logits_more(build_model, logits, token_ids, family):
    expected = logits(build_model(family), token_ids)
    errors = []
    for num_bits in (8, 4, 2):
        model = build_model(family)
        quantize_attention(model, OperandQuantizers(key=per_token(num_bits), value=per_token(num_bits)))
        errors.append((logits(model, token_ids) - expected).norm().item())
    assert 0 < errors[0] < errors[1] < errors[2]


def test_queries_are_rounded_only_where_asked(build_model, logits, token_ids):
    keys_only, both = build_model(), build_model()
    quantize_attention(keys_only, OperandQuantizers(key=per_token(4), value=per_token(4)))
    quantize_attention(both, OperandQuantizers(key=per_token(4), value=per_token(4), query=per_token(3)))
    assert not torch.allclose(logits(keys_only, token_ids), logits(both, token_ids), atol=1e-4)
    assert attention_operands(keys_only.model.layers[0]).query is None


@pytest.mark.parametrize("family", FAMILIES)
def test_left_padding_leaves_the_logits_of_real_tokens_alone(build_model, logits, token_ids, family):
    model = build_model(family)
    quantize_attention(model, OperandQuantizers(key=per_token(4), value=per_token(4)))
    padded = torch.cat([torch.zeros(12, 5, dtype=torch.long), token_ids], dim=1)
    mask = torch.cat([torch.zeros(12, 5, dtype=torch.long), torch.ones_like(token_ids)], dim=1)
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    with_padding = logits(model, padded, attention_mask=mask, position_ids=positions)[:, 5:]
    torch.testing.assert_close(with_padding, logits(model, token_ids), rtol=1e-4, atol=1e-4)
    unmasked = logits(model, padded, position_ids=positions)[:, 5:]
    assert not torch.allclose(unmasked, with_padding, atol=1e-3)


@pytest.mark.parametrize("is_causal", [False, True])
def test_the_first_token_sees_the_last_one_in_bidirectional_models_only(build_model, logits, token_ids, is_causal):
    model = build_model(is_causal=is_causal)
    quantize_attention(model, OperandQuantizers(key=per_token(8), value=per_token(8)))
    changed = token_ids.clone()
    changed[:, -1] = (changed[:, -1] + 1) % 61
    same = torch.equal(logits(model, token_ids)[:, 0], logits(model, changed)[:, 0])
    assert same == is_causal


def test_keys_are_rounded_after_the_rotary_embedding_per_token_and_head(build_model, logits, token_ids):
    model = build_model()
    quantize_attention(model, OperandQuantizers(key=per_token(2), value=per_token(2)))
    seen: list[torch.Tensor] = []
    model.model.layers[0].self_attn.operands.key.register_forward_hook(lambda _, __, output: seen.append(output))
    logits(model, token_ids)
    (keys,) = seen
    assert keys.shape == (12, 2, 16, 8)
    assert max(vector.unique().numel() for vector in keys.reshape(-1, 8)) == 4
    position_ids = torch.arange(16) + 3
    shifted: list[torch.Tensor] = []
    model.model.layers[0].self_attn.operands.key.register_forward_hook(lambda _, __, output: shifted.append(output))
    logits(model, token_ids, position_ids=position_ids[None])
    assert not torch.equal(shifted[0], keys)


def test_no_operand_to_quantize_leaves_the_model_as_it_is(build_model):
    model: nn.Module = build_model()
    quantize_attention(model, OperandQuantizers())
    assert not uses_quantized_attention(model)
    assert attention_operands(model.model.layers[0]) is None


def test_one_models_quantized_attention_does_not_reach_another(build_model, logits, token_ids):
    plain = build_model()
    expected = logits(plain, token_ids)
    quantize_attention(build_model(), OperandQuantizers(key=per_token(2), value=per_token(2)))
    assert torch.equal(logits(plain, token_ids), expected)
