from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from grids.schemes import parse_scheme
from methods import scaling
from methods.audit import AuditError, original_weights
from methods.blocks import BlockStep, BlockWalk, ComputeSettings, decoder_blocks
from methods.contract import QuantizationJob, no_progress
from methods.quantizer import NonFiniteError
from methods.scaling import PLACES, fold, fold_block, has_own_channels, largest_per_channel, spread_to_inputs

FAMILIES = ["llada", "dream"]


def random_scale(block: nn.Module, place: scaling.Place, seed: int = 0) -> Tensor:
    """Scales from about 1/20 to 20, one per producer channel."""
    num_channels = len(block.get_submodule(PLACES[place].producer).weight)
    return torch.exp(torch.randn(num_channels, generator=torch.Generator().manual_seed(seed)))


def relative_difference(actual: Tensor, expected: Tensor) -> float:
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def first_step(model: nn.Module, token_ids: Tensor) -> tuple[BlockStep, QuantizationJob]:
    job = QuantizationJob(
        model=model,
        scheme=parse_scheme("w4a16"),
        calibration=token_ids,
        seed=0,
        compute=ComputeSettings(),
        progress=no_progress,
        num_linears=14,
    )
    return next(iter(BlockWalk(model, token_ids))), job


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("place", PLACES)
def test_a_fold_changes_weights_and_keeps_the_logits(build_model, logits, token_ids, family, place):
    model, plain = build_model(family), build_model(family)
    expected = logits(model, token_ids)
    for index, block in enumerate(decoder_blocks(model)):
        fold(block, place, random_scale(block, place, index))
    changed = {
        name.removeprefix("model.layers.0.").rpartition(".")[0]
        for (name, parameter), other in zip(model.named_parameters(), plain.parameters(), strict=True)
        if not torch.equal(parameter, other) and name.startswith("model.layers.0.")
    }
    assert changed == {PLACES[place].producer, *PLACES[place].consumers}
    assert relative_difference(logits(model, token_ids), expected) < 1e-4


def test_a_fold_keeps_the_logits_where_every_linear_has_a_bias(build_model, logits, token_ids):
    model = build_model("llada", attention_bias=True, mlp_bias=True)
    assert model.model.layers[0].mlp.up_proj.bias.abs().max() > 0.01
    expected = logits(model, token_ids)
    for block in decoder_blocks(model):
        for place in PLACES:
            fold(block, place, random_scale(block, place))
    assert relative_difference(logits(model, token_ids), expected) < 1e-4


def test_a_fold_is_a_division_of_rows_and_a_multiplication_of_columns(build_model):
    folded, plain = (build_model("dream", dtype=torch.float64).model.layers[0] for _ in range(2))
    for place in PLACES:
        fold(folded, place, random_scale(folded, place).double())
    s = {place: random_scale(plain, place).double() for place in PLACES}
    v, up = plain.self_attn.v_proj, plain.mlp.up_proj
    shared = torch.stack([s["v_o"].view(2, 8)[head // 2] for head in range(4)]).flatten()
    expected = {
        "input_layernorm": plain.input_layernorm.weight / s["qkv"],
        "self_attn.q_proj": plain.self_attn.q_proj.weight * s["qkv"],
        "self_attn.v_proj": torch.diag(1 / s["v_o"]) @ v.weight @ torch.diag(s["qkv"]),
        "self_attn.o_proj": plain.self_attn.o_proj.weight @ torch.diag(shared),
        "mlp.gate_proj": plain.mlp.gate_proj.weight * s["gate_up"],
        "mlp.up_proj": torch.diag(1 / s["up_down"]) @ up.weight @ torch.diag(s["gate_up"]),
        "mlp.down_proj": plain.mlp.down_proj.weight @ torch.diag(s["up_down"]),
    }
    for name, weight in expected.items():
        torch.testing.assert_close(folded.get_submodule(name).weight, weight, msg=name)
    torch.testing.assert_close(folded.self_attn.v_proj.bias, v.bias / s["v_o"])
    torch.testing.assert_close(folded.self_attn.q_proj.bias, plain.self_attn.q_proj.bias)


def test_query_heads_of_a_group_share_the_channels_of_their_value_head(build_model):
    llada, dream = build_model("llada").model.layers[0], build_model("dream").model.layers[0]
    assert all(has_own_channels(llada, place) for place in PLACES)
    assert [place for place in PLACES if not has_own_channels(dream, place)] == ["v_o"]
    values = torch.rand(32)
    heads = values.view(4, 8)
    shared = largest_per_channel(dream, "v_o", values)
    torch.testing.assert_close(shared, torch.cat([heads[:2].amax(0), heads[2:].amax(0)]))
    spread = spread_to_inputs(dream, "v_o", shared).view(4, 8)
    assert torch.equal(spread[0], spread[1])
    assert torch.equal(spread[2], shared[8:])
    assert torch.equal(largest_per_channel(llada, "v_o", values), values)


def test_weights_taken_before_are_those_that_the_rounding_starts_from(build_model, token_ids):
    model = build_model()
    original = original_weights(model)
    step, job = first_step(model, token_ids)
    fold_block(step, {"qkv": random_scale(step.block, "qkv"), "up_down": random_scale(step.block, "up_down")}, job)
    assert all(torch.equal(original[name], weight) for name, weight in original_weights(model).items())
    assert job.changed_parameters == ["model.layers.0.input_layernorm.weight"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_proof_of_an_unchanged_function_allows_rounding_in_the_models_dtype(build_model, token_ids, dtype):
    step, job = first_step(build_model(dtype=dtype), token_ids)
    fold_block(step, {place: random_scale(step.block, place) for place in PLACES}, job)


def test_weights_at_home_follow_a_block_that_is_folded_on_another_device(build_model, token_ids):
    model = build_model()
    original = original_weights(model)
    _, job = first_step(model, token_ids)
    walk = BlockWalk(model, token_ids)
    # As a move to another device does: the block's parameters are copies, and the walk knows the weights they come of.
    walk._weights = original_weights(model)
    step = next(iter(walk))
    for parameter in step.block.parameters():
        parameter.data = parameter.data.clone()
    fold_block(step, {place: random_scale(step.block, place) for place in PLACES}, job)
    assert all(torch.equal(original[name], weight) for name, weight in original_weights(model).items())


def lose_the_bias(producer: nn.Module, scale: Tensor) -> None:
    producer.weight.data /= scale.view(-1, *[1] * (producer.weight.ndim - 1))


def lose_the_producer(producer: nn.Module, scale: Tensor) -> None:
    pass


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("embedding", [1.0, 100.0])
@pytest.mark.parametrize("mutant", ["only q is folded", "the bias is forgotten", "the producer is forgotten"])
def test_a_seeded_defect_of_the_fold_is_refused(build_model, token_ids, monkeypatch, mutant, embedding, dtype):
    if mutant == "only q is folded":
        monkeypatch.setitem(
            PLACES, "qkv", scaling.ScalePlace("input_layernorm", ("self_attn.q_proj",), "self_attn.q_proj")
        )
    else:
        broken = lose_the_bias if mutant == "the bias is forgotten" else lose_the_producer
        monkeypatch.setattr(scaling, "_divide_producer", broken)
    model = build_model(dtype=dtype)
    for block in decoder_blocks(model):
        block.self_attn.v_proj.bias.data.normal_(0, 1, generator=torch.Generator().manual_seed(3))
    # A residual stream far above what the block adds must not hide what the block adds.
    model.model.embed_tokens.weight.data *= embedding
    step, job = first_step(model, token_ids)
    with pytest.raises(
        AuditError, match=r"model\.layers\.0 changes its output by .* of its update: its inputs are scaled"
    ):
        fold_block(step, {place: random_scale(step.block, place) for place in ("qkv", "v_o")}, job)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_is_not_positive_and_finite_is_refused_before_anything_changes(build_model, token_ids, value):
    model = build_model()
    before = {name: weight.clone() for name, weight in original_weights(model).items()}
    step, job = first_step(model, token_ids)
    scale = torch.ones(32)
    scale[5] = value
    with pytest.raises(NonFiniteError, match=r"model\.layers\.0: the scales of gate_up are not positive and finite"):
        fold_block(step, {"qkv": torch.full((32,), 2.0), "gate_up": scale}, job)
    assert all(torch.equal(before[name], weight) for name, weight in original_weights(model).items())
