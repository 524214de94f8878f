"""AWQ against a float64 transcription of its two searches: deep copies of modules for the scales, loops over rows and
groups with every token's partial sum for the ranges."""

from __future__ import annotations

import copy
import json
from functools import partial

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from grids.schemes import parse_scheme
from methods import awq, scaling
from methods.audit import AuditError, audit, original_weights
from methods.awq import Awq, AwqParameters, Inspection, clip_ranges, sample_tokens, search_scale
from methods.blocks import BlockWalk, ComputeSettings, decoder_blocks
from methods.quantized_weight import QuantizedWeight
from methods.quantizer import NonFiniteError, Quantizer
from methods.rtn import Rtn, RtnParameters
from methods.scaling import PLACES
from methods.state import quantized_state, restore_quantized

FAMILIES = ["llada", "dream"]
# Place: the producer, the linears that are scaled, the module whose output decides.
GROUPS = {
    "qkv": ("input_layernorm", ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], "self_attn"),
    "v_o": ("self_attn.v_proj", ["self_attn.o_proj"], "self_attn.o_proj"),
    "gate_up": ("post_attention_layernorm", ["mlp.gate_proj", "mlp.up_proj"], "mlp"),
    "up_down": ("mlp.up_proj", ["mlp.down_proj"], "mlp.down_proj"),
}


@pytest.fixture
def plant_salience():
    """Makes some input channels of every linear carry large activations, with weights as they were."""

    def plant(model: nn.Module, factor: float = 5.0) -> nn.Module:
        for block in model.model.layers:
            for norm in (block.input_layernorm, block.post_attention_layernorm):
                norm.weight.data[[3, 17]] *= factor
            for linear in (block.self_attn.v_proj, block.mlp.up_proj):
                linear.weight.data[[5, 11]] *= factor
        return model

    return plant


def quantized(model, token_ids, scheme="w3a16g16", *, compute=None, **parameters):
    method = Awq(AwqParameters(**parameters))
    return model, method.quantize(model, parse_scheme(scheme), token_ids, seed=0, compute=compute)


def transcribed_rounding(weight: Tensor, num_bits: int, group_size: int | None) -> Tensor:
    groups = weight.reshape(len(weight), -1, group_size or weight.shape[1])
    low, high = groups.amin(-1, keepdim=True).clamp(max=0), groups.amax(-1, keepdim=True).clamp(min=0)
    scale = ((high - low) / (2**num_bits - 1)).half().double()
    scale[scale == 0] = 1
    zero = (-low / scale).round()
    return (scale * (((groups / scale).round() + zero).clamp(0, 2**num_bits - 1) - zero)).view_as(weight)


def calls_in_plain_forward(model: nn.Module, token_ids: Tensor, index: int) -> dict[str, tuple]:
    """The arguments of every submodule of a block, and its output, in one plain forward."""
    seen: dict[str, tuple] = {}
    block = decoder_blocks(model)[index]
    handles = []
    for name, module in block.named_modules():

        def record(_, arguments, kwargs, output, name=name):
            seen[name] = (arguments, kwargs, output)

        handles.append(module.register_forward_hook(record, with_kwargs=True))
    with torch.no_grad():
        model(input_ids=token_ids, use_cache=False)
    for handle in handles:
        handle.remove()
    return seen


def first_of(output):
    return output[0] if isinstance(output, tuple) else output


@torch.no_grad()
def transcribed_scales(block: nn.Module, calls: dict[str, tuple], num_bits: int, group_size: int | None, inspect: str):
    """For each place the losses of all ratios, and the best scale."""
    found = {}
    for place, (producer, linears, inspected) in GROUPS.items():
        x = calls[linears[0]][0][0]
        if len(block.get_submodule(producer).weight) != x.shape[-1]:
            continue
        arguments, kwargs, output = calls[inspected]
        if inspect == "block" and place in ("qkv", "gate_up"):
            # The block is given what the linears are given, as if that were its hidden states.
            inspected, arguments, kwargs = "", (x,), calls[""][1]
            output = block(x, **kwargs)
        losses, scales = [], []
        for step in range(20):
            s = (x.abs().flatten(0, -2).mean(0) ** (step / 20)).clamp(min=1e-4)
            s = s / (s.max() * s.min()).sqrt()
            copied = copy.deepcopy(block)
            for name in linears:
                weight = copied.get_submodule(name).weight
                weight.copy_(transcribed_rounding(weight @ torch.diag(s), num_bits, group_size) @ torch.diag(1 / s))
            module = copied.get_submodule(inspected)
            losses.append(((first_of(module(*arguments, **kwargs)) - first_of(output)) ** 2).mean().item())
            scales.append(s)
        found[place] = (losses, scales[losses.index(min(losses))])
    return found


def transcribed_clip(W: Tensor, X: Tensor, num_bits: int, group_size: int | None) -> Tensor:
    """W with each group clamped to the best of ten ranges."""
    W, size = W.clone(), group_size or W.shape[1]
    for row in range(W.shape[0]):
        for start in range(0, W.shape[1], size):
            w, x = W[row, start : start + size].clone(), X[:, start : start + size]
            least = float("inf")
            for step in range(10):
                bound = w.abs().max() * (1 - step / 20)
                clamped = w.clamp(-bound, bound)
                rounded = transcribed_rounding(clamped[None], num_bits, None)[0]
                error = ((x @ rounded - x @ w) ** 2).mean()
                if error < least:
                    least, W[row, start : start + size] = error, clamped
    return W


def transcribed_block(model: nn.Module, token_ids: Tensor, index: int, num_bits: int, group_size: int | None):
    """The rounded weights of one block by name, and its norm gains."""
    block, calls = decoder_blocks(model)[index], calls_in_plain_forward(model, token_ids, index)
    tensors = {name: p.data.clone() for name, p in block.named_parameters()}
    scales = {
        place: scale for place, (_, scale) in transcribed_scales(block, calls, num_bits, group_size, "module").items()
    }
    for place, s in scales.items():
        producer, linears, _ = GROUPS[place]
        for name in linears:
            tensors[f"{name}.weight"] *= s
        for kind in ("weight", "bias"):
            if f"{producer}.{kind}" in tensors:
                tensor = tensors[f"{producer}.{kind}"]
                tensors[f"{producer}.{kind}"] = tensor / s.view(-1, *[1] * (tensor.ndim - 1))
    for place, (_, linears, _) in GROUPS.items():
        for name in linears:
            W, X = tensors[f"{name}.weight"], calls[name][0][0].flatten(0, -2)
            X = X[:: max(1, len(X) // 512)] / scales.get(place, torch.ones(1))
            if name.rpartition(".")[2] not in ("q_proj", "k_proj"):
                W = transcribed_clip(W, X, num_bits, group_size)
            tensors[f"{name}.weight"] = transcribed_rounding(W, num_bits, group_size)
    return tensors


def quantizer_of(num_bits: int, group_size: int | None) -> Quantizer:
    granularity = "channel" if group_size is None else "group"
    return Quantizer(num_bits=num_bits, granularity=granularity, group_size=group_size, half_scale=True)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("scheme", "num_bits", "group_size"), [("w3a16g16", 3, 16), ("w4a16", 4, None)])
def test_weights_biases_and_norms_equal_a_transcription_of_both_searches(
    build_model, plant_salience, token_ids, family, scheme, num_bits, group_size
):
    plain = plant_salience(build_model(family, dtype=torch.float64))
    compute = ComputeSettings(batch_size=5)
    model, _ = quantized(plant_salience(build_model(family, dtype=torch.float64)), token_ids, scheme, compute=compute)
    for index, block in enumerate(decoder_blocks(model)):
        for name, expected in transcribed_block(plain, token_ids, index, num_bits, group_size).items():
            module, _, kind = name.rpartition(".")
            actual = getattr(block.get_submodule(module), kind).double()
            torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-7, msg=f"{index} {name}")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("inspect", ["module", "block"])
def test_losses_scales_and_ratios_are_those_of_the_inspected_module(
    build_model, plant_salience, token_ids, family, inspect
):
    model = plant_salience(build_model(family, dtype=torch.float64))
    calls = calls_in_plain_forward(model, token_ids, 0)
    transcribed = transcribed_scales(model.model.layers[0], calls, 3, 16, inspect)
    step = next(iter(BlockWalk(model, token_ids, compute=ComputeSettings(batch_size=5))))
    ratios = [index / 20 for index in range(20)]
    assert set(transcribed) == set(PLACES) - ({"v_o"} if family == "dream" else set())
    for place, (losses, scale) in transcribed.items():
        inspection = Awq(AwqParameters(inspect=inspect))._inspection(step, place)
        linears = list(scaling.place_linears(step.block, place).values())
        found = search_scale(linears, inspection, quantizer_of(3, 16), ratios, "x")
        torch.testing.assert_close(found.losses, torch.tensor(losses, dtype=torch.float64), rtol=1e-8, atol=0)
        torch.testing.assert_close(found.scale, scale)
        assert found.ratio == losses.index(min(losses)) / 20
        assert found.ratio > 0


@pytest.mark.parametrize("group_size", [None, 8])
@pytest.mark.parametrize("num_bits", [2, 3, 4])
@pytest.mark.parametrize("num_tokens", [5, 40])
def test_clipped_ranges_equal_the_transcription(num_bits, group_size, num_tokens):
    generator = torch.Generator().manual_seed(num_bits)
    W = torch.randn(7, 24, generator=generator, dtype=torch.float64) ** 3
    X = torch.randn(num_tokens, 24, generator=generator, dtype=torch.float64)
    expected = transcribed_clip(W, X, num_bits, group_size)
    actual = clip_ranges(W, X, quantizer_of(num_bits, group_size), clip_grid=20, max_shrink=0.5)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=0)
    assert not torch.equal(actual, W)
    assert torch.equal(clip_ranges(W, X, quantizer_of(num_bits, group_size), clip_grid=20, max_shrink=0), W)


def test_the_search_leaves_the_block_as_it_was_and_touches_no_other_weight(build_model, token_ids):
    model = build_model()
    before = {name: (p.data_ptr(), p.clone()) for name, p in model.named_parameters()}
    step = next(iter(BlockWalk(model, token_ids, compute=ComputeSettings(batch_size=12))))
    linears = list(scaling.place_linears(step.block, "qkv").values())
    moved = []

    def run(index: int) -> Tensor:
        moved.append({name for name, p in model.named_parameters() if p.data_ptr() != before[name][0]})
        return step.forward(torch.ones(12, 16, 32))

    search_scale(linears, Inspection([torch.randn(12, 16, 32)], run), quantizer_of(3, 16), [0.0, 0.5], "x")
    own = {f"model.layers.0.self_attn.{name}_proj.weight" for name in "qkv"}
    assert moved == [set(), own, own]
    assert all(torch.equal(p, before[n][1]) and p.data_ptr() == before[n][0] for n, p in model.named_parameters())


@pytest.mark.parametrize("lengths", [[3], [40], [7, 9, 24], [512, 512], [600, 600]])
def test_sampled_tokens_are_every_nth_of_all_batches(lengths):
    batches = torch.arange(float(sum(lengths)))[:, None].split(lengths)
    whole = torch.arange(float(sum(lengths)))[:, None]
    for num_tokens in (1, 10, 512):
        expected = whole[:: max(1, len(whole) // num_tokens)]
        assert torch.equal(sample_tokens(batches, num_tokens), expected)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("inspect", ["module", "block"])
def test_the_scaled_but_unrounded_model_gives_the_originals_logits(
    build_model, plant_salience, logits, token_ids, monkeypatch, family, inspect
):
    model = plant_salience(build_model(family))
    expected = logits(model, token_ids)
    before = {name: p.clone() for name, p in model.named_parameters() if "layernorm" in name}
    monkeypatch.setattr(Awq, "_round_stage", lambda self, stage, inputs, job, ratio: None)
    quantized(model, token_ids, inspect=inspect)
    assert max((p / model.get_parameter(name)).log().abs().max() for name, p in before.items()) > 0.3
    assert ((logits(model, token_ids) - expected).abs().max() / expected.abs().max()).item() < 1e-4


def test_the_report_names_the_chosen_ratio_where_there_is_a_scale(build_model, plant_salience, token_ids):
    # With grouped-query attention nothing is scaled between v and o.
    for family, has_own in (("llada", True), ("dream", False)):
        _, report = quantized(plant_salience(build_model(family)), token_ids)
        ratios = {linear.name: linear.scale_ratio for linear in report.linears}
        places = [ratios[f"model.layers.0.{name}"] for name in ("self_attn.q_proj", "mlp.gate_proj", "mlp.down_proj")]
        assert all(0 <= ratio < 1 for ratio in places)
        assert max(places) > 0
        assert (ratios["model.layers.0.self_attn.o_proj"] is not None) == has_own


def block_error(model: nn.Module, plain: nn.Module, token_ids: Tensor) -> float:
    """The relative error of the first block's update."""
    outputs = [calls_in_plain_forward(m, token_ids, 0)[""] for m in (model, plain)]
    (output, _), (expected, hidden) = [(first_of(call[2]), call[0][0]) for call in outputs]
    return ((output - expected).norm() / (expected - hidden).norm()).item()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scheme", ["w3a16g16", "w3a16", "w2a16g16"])
def test_salient_channels_survive_better_than_by_rounding_to_nearest(
    build_model, plant_salience, token_ids, held_out, family, scheme
):
    plain = plant_salience(build_model(family))
    rounded = plant_salience(build_model(family))
    Rtn(RtnParameters()).quantize(rounded, parse_scheme(scheme), None, seed=0)
    floor = block_error(rounded, plain, held_out)
    for clip, share in ((True, 0.9), (False, 0.95)):
        model, _ = quantized(plant_salience(build_model(family)), token_ids, scheme, clip=clip)
        assert block_error(model, plain, held_out) < share * floor


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scheme", ["w4a16g16", "w3a16", "w4a8kv4g16"])
def test_a_whole_model_passes_the_audit_and_comes_back_bit_for_bit(
    build_model, logits, token_ids, held_out, family, dtype, scheme
):
    model = build_model(family, dtype=dtype)
    original = original_weights(model)
    steps: list[tuple[int, int]] = []
    report = Awq(AwqParameters()).quantize(
        model, parse_scheme(scheme), token_ids, seed=0, progress=lambda done, total: steps.append((done, total))
    )
    found = audit(model, parse_scheme(scheme), held_out, original=original)
    assert found.num_linears == len(report.linears) == 14
    # The audit compares with the scaled weights, so what it measures is the rounding alone.
    assert 0 < found.max_output_error < 0.3
    assert steps == [(done, 14) for done in range(1, 15)]
    assert all(0 < linear.output_error < 0.3 for linear in report.linears)
    tensors, layout = quantized_state(model, changed_parameters=report.changed_parameters)
    assert "model.layers.1.post_attention_layernorm.weight" in tensors
    restored = build_model(family, dtype=dtype)
    restore_quantized(restored, tensors, json.loads(json.dumps(layout)))
    assert torch.equal(logits(restored, token_ids), logits(model, token_ids))


def test_the_public_codes_inspection_changes_scales_after_norms_and_no_others(
    build_model, plant_salience, token_ids, monkeypatch
):
    scales: list[dict[str, Tensor]] = []

    def record(step, found, job):
        scales.append(found)
        scaling.fold_block(step, found, job)

    monkeypatch.setattr(awq, "fold_block", record)
    for inspect in ("module", "block"):
        quantized(plant_salience(build_model("llada")), token_ids, inspect=inspect)
    module, block = scales[0], scales[2]
    changed = {place for place in PLACES if not torch.equal(module[place], block[place])}
    assert changed
    assert changed <= {"qkv", "gate_up"}


def test_errors_reach_later_blocks_only_if_they_propagate(build_model, token_ids):
    models = [quantized(build_model(), token_ids, propagate_error=propagate)[0] for propagate in (False, True)]
    first, second = ([m.model.layers[index].mlp.down_proj.codes for m in models] for index in (0, 1))
    assert torch.equal(*first)
    assert not torch.equal(*second)


def test_clipping_leaves_the_linears_that_are_skipped_alone(build_model, token_ids):
    models = {
        "default": quantized(build_model(), token_ids)[0],
        "none": quantized(build_model(), token_ids, clip=False)[0],
        "all": quantized(build_model(), token_ids, clip_skip=[])[0],
    }
    weights = {key: model.model.layers[0].self_attn for key, model in models.items()}
    for name in ("q_proj", "k_proj"):
        codes = {key: attention.get_submodule(name).codes for key, attention in weights.items()}
        assert torch.equal(codes["default"], codes["none"])
        assert not torch.equal(codes["default"], codes["all"])
    assert not torch.equal(weights["default"].v_proj.codes, weights["none"].v_proj.codes)


def test_activations_and_attention_operands_are_rounded_as_the_scheme_says(build_model, token_ids, held_out):
    model, _ = quantized(build_model(), token_ids, "w4a8kv4", activation_symmetric=True)
    audit(model, parse_scheme("w4a8kv4"), held_out)
    assert model.model.layers[0].mlp.up_proj.activation.quantizer.symmetric


def test_result_hardly_depends_on_batches(build_model, token_ids):
    codes = []
    for compute in (ComputeSettings(batch_size=12), ComputeSettings(batch_size=5, cache_device=torch.device("cpu"))):
        model, _ = quantized(build_model(), token_ids, compute=compute)
        codes.append(torch.cat([module.codes.flatten() for module in model.modules() if hasattr(module, "codes")]))
    assert (codes[0] != codes[1]).float().mean() < 0.01


def test_seeded_defect_folding_into_q_alone_is_refused(build_model, plant_salience, token_ids, monkeypatch):
    honest = scaling.spread_to_inputs

    def fold_into_first(block: nn.Module, place: scaling.Place, scale: Tensor) -> None:
        linear = next(iter(scaling.place_linears(block, place).values()))
        linear.weight.mul_(honest(block, place, scale))
        scaling._divide_producer(block.get_submodule(PLACES[place].producer), scale)

    monkeypatch.setattr(scaling, "fold", fold_into_first)
    with pytest.raises(AuditError, match=r"model\.layers\.0 changes its output"):
        quantized(plant_salience(build_model()), token_ids)


def test_seeded_defect_scaling_weights_without_their_producer_is_refused(
    build_model, plant_salience, token_ids, monkeypatch
):
    monkeypatch.setattr(scaling, "_divide_producer", lambda producer, scale: None)
    with pytest.raises(AuditError, match=r"model\.layers\.0 changes its output"):
        quantized(plant_salience(build_model()), token_ids)


def test_seeded_defect_wrong_bits_in_down_fail_the_audit(build_model, token_ids, held_out, monkeypatch):
    def too_many(weight: Tensor, quantizer: Quantizer, name: str, *, real=awq.quantize_weight) -> QuantizedWeight:
        return real(weight, quantizer_of(4, 16) if name.endswith("down_proj") else quantizer, name)

    monkeypatch.setattr(awq, "quantize_weight", too_many)
    model, _ = quantized(build_model(), token_ids)
    with pytest.raises(AuditError, match="down_proj has 4-bit weights, not 3"):
        audit(model, parse_scheme("w3a16g16"), held_out)


def test_seeded_defect_clipping_without_the_inputs_fails_the_transcription():
    generator = torch.Generator().manual_seed(1)
    W = torch.randn(7, 24, generator=generator, dtype=torch.float64) ** 3
    X = torch.randn(40, 24, generator=generator, dtype=torch.float64) * torch.logspace(-2, 2, 24, dtype=torch.float64)
    expected = transcribed_clip(W, X, 3, 8)
    clip = partial(clip_ranges, quantizer=quantizer_of(3, 8), clip_grid=20, max_shrink=0.5)
    torch.testing.assert_close(clip(W, X), expected)
    blind = torch.eye(24, dtype=torch.float64)
    assert not torch.allclose(clip(W, blind), expected)


def test_activations_that_are_not_finite_are_named_with_their_linears(build_model, token_ids):
    model = build_model()
    model.model.layers[1].input_layernorm.weight.data[3] = float("inf")
    with pytest.raises(NonFiniteError, match=r"model\.layers\.1\.self_attn\.q_proj, .*: no scale gives finite outputs"):
        quantized(model, token_ids)


def test_schemes_are_refused_with_the_reason():
    method = Awq(AwqParameters())
    for scheme in ("w4a16g128", "w3a16", "w4a8", "w4a4kv4"):
        assert method.refusal(parse_scheme(scheme)) is None
    assert "rounds weights" in method.refusal(parse_scheme("w16a8"))
    assert "quantizes nothing" in method.refusal(parse_scheme("fp16"))


def test_clip_search_and_fixed_ratios_need_awqs_own_search_switched_off():
    for parameters in ({"clip_search": True}, {"clip_ratio": 0.8}):
        with pytest.raises(ValidationError, match="clip is AWQ's own search"):
            AwqParameters(**parameters)
        AwqParameters(clip=False, **parameters)
    assert AwqParameters(clip_skip=["k_proj", "q_proj"]) == AwqParameters()


@pytest.mark.parametrize(
    "parameters", [{"num_ratios": 0}, {"inspect": "layer"}, {"max_shrink": 1}, {"clip_skip": ["lm_head"]}]
)
def test_impossible_parameters_are_refused(parameters):
    with pytest.raises(ValidationError):
        AwqParameters(**parameters)
