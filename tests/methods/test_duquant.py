from __future__ import annotations

import copy
import json
from collections import Counter

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load, save
from torch.utils._python_dispatch import TorchDispatchMode

from grids.schemes import Scheme, parse_scheme
from methods import duquant
from methods.attention import attention_operands
from methods.audit import AuditError, audit, original_weights
from methods.blocks import STAGES, BlockWalk, ComputeSettings, block_linears
from methods.contract import QuantizationJob, no_progress
from methods.duquant import Duquant, DuquantParameters
from methods.greedy_rotation import RotationSearch, random_factor, uniform_rotation, zigzag
from methods.quantizer import Quantizer
from methods.state import quantized_state, restore_quantized
from methods.transforms import BlockRotation

FAMILIES = ["llada", "dream"]
SCHEMES = ["w4a4", "w4a4kv4q4", "w8a8", "w4a8g16", "w16a4"]
SMALL = {"block_size": 16, "num_steps": 12}


def quantized(model, token_ids, scheme="w4a4", *, seed=0, compute=None, **parameters):
    method = Duquant(DuquantParameters(**(SMALL | parameters)))
    return model, method.quantize(model, parse_scheme(scheme), token_ids, seed=seed, compute=compute)


def transform_only(model, token_ids, **parameters):
    """Everything that DuQuant does, and nothing rounded."""
    job = QuantizationJob(
        model=model,
        scheme=Scheme(),
        calibration=token_ids,
        seed=0,
        compute=ComputeSettings(),
        progress=no_progress,
        num_linears=14,
    )
    with torch.no_grad():
        Duquant(DuquantParameters(**(SMALL | parameters))).quantize_blocks(job)
    return model


def search(block_size=8, num_steps=12, seed=0, peak="absolute", outlier_index="column"):
    return RotationSearch.of_block(block_size, num_steps, seed, peak=peak, outlier_index=outlier_index)


def outlier_tokens(num_tokens=40, num_features=24, dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randn(num_tokens, num_features, generator=generator, dtype=torch.float64)
    tokens[:, 13] *= 30
    tokens[7, 2] = -90
    return tokens.to(dtype)


@pytest.mark.parametrize("size", [2, 8, 128])
def test_the_base_rotation_is_orthogonal_and_spreads_its_first_feature_evenly(size):
    R = uniform_rotation(size)
    torch.testing.assert_close(R @ R.T, torch.eye(size, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(R[0], torch.full((size,), size**-0.5, dtype=torch.float64))


def test_random_factors_keep_the_first_feature_and_depend_on_seed_and_step():
    Q = random_factor(8, 0, 0)
    torch.testing.assert_close(Q @ Q.T, torch.eye(8, dtype=torch.float64), rtol=0, atol=1e-12)
    assert Q[0].tolist() == Q[:, 0].tolist() == [1.0, *[0.0] * 7]
    assert torch.equal(Q, random_factor(8, 0, 0))
    assert not torch.allclose(Q, random_factor(8, 0, 1))
    assert not torch.allclose(Q, random_factor(8, 1, 0))


@pytest.mark.parametrize("peak", ["absolute", "range"])
@pytest.mark.parametrize("outlier_index", ["column", "row"])
def test_greedy_rotation_equals_a_transcription_of_the_paper(peak, outlier_index):
    X = outlier_tokens().reshape(-1, 8)
    R, best, least = torch.eye(8, dtype=torch.float64), None, float("inf")
    for step in range(12):
        flat = int(X.abs().argmax())
        d = flat % 8 if outlier_index == "column" else (flat // 8) % 8
        E = torch.eye(8, dtype=torch.float64)
        E[[0, d]] = E[[d, 0]]
        R_i = E @ uniform_rotation(8) @ random_factor(8, 4, step) @ E
        X, R = X @ R_i, R @ R_i
        value = float(X.abs().max() if peak == "absolute" else X.max() - X.min())
        if value < least:
            best, least = R, value
    actual = search(seed=4, peak=peak, outlier_index=outlier_index).rotation(outlier_tokens())
    torch.testing.assert_close(actual, best, rtol=1e-10, atol=1e-10)


def test_the_rotation_is_orthogonal_and_lowers_the_peak():
    X = outlier_tokens()
    R = search().rotation(X)
    torch.testing.assert_close(R @ R.T, torch.eye(8, dtype=torch.float64), rtol=0, atol=1e-10)
    assert (X.reshape(-1, 8) @ R).abs().max() < 0.7 * X.abs().max()


def test_more_steps_never_raise_the_peak():
    X = outlier_tokens()
    peaks = [(X.reshape(-1, 8) @ search(num_steps=steps).rotation(X)).abs().max() for steps in (1, 4, 16, 64)]
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[-1] < peaks[0]


def test_absolute_and_range_peaks_choose_by_what_they_say():
    differences = 0
    for seed in range(8):
        X = outlier_tokens()[:, :8] * (1 + seed)
        by_peak = {peak: X @ search(seed=seed, peak=peak).rotation(X) for peak in ("absolute", "range")}
        assert by_peak["absolute"].abs().max() <= by_peak["range"].abs().max()
        ranges = {peak: float(values.max() - values.min()) for peak, values in by_peak.items()}
        assert ranges["range"] <= ranges["absolute"]
        differences += ranges["range"] < 0.99 * ranges["absolute"]
    assert differences > 0


def test_row_and_column_pick_other_features():
    X = torch.zeros(5, 8)
    X[3, 6] = 10
    low, high = X.amin(0), X.amax(0)
    assert search()._outlier(X, low, high) == 6
    assert search(outlier_index="row")._outlier(X, low, high) == 3


def test_zigzag_deals_the_largest_features_back_and_forth():
    largest = torch.tensor([1.0, 9.0, 3.0, 8.0, 5.0, 7.0, 2.0, 6.0, 4.0, 0.5, 0.4, 0.3])
    # By size: 1 3 5 7 4 8 2 6 0 9 10 11, dealt over three blocks of four.
    assert zigzag(largest, 4).view(3, 4).tolist() == [[1, 8, 2, 11], [3, 4, 6, 10], [5, 7, 0, 9]]


def test_zigzag_evens_out_the_blocks():
    largest = torch.rand(64, generator=torch.Generator().manual_seed(0)).exp()
    permutation = zigzag(largest, 8)
    assert sorted(permutation.tolist()) == list(range(64))
    sums = largest[permutation].view(8, 8).sum(1)
    assert sums.max() - sums.min() < 0.2 * (largest.view(8, 8).sum(1).max() - largest.view(8, 8).sum(1).min())


def test_a_transform_is_rotation_permutation_rotation_of_what_each_left():
    X, found = outlier_tokens(dtype=torch.float32), search()
    transform = found.transform(X)
    first = found.rotation(X).float()
    rotated = X @ torch.block_diag(first, first, first)
    torch.testing.assert_close(transform.first, first)
    assert torch.equal(transform.permutation, zigzag(rotated.abs().amax(0), 8))
    torch.testing.assert_close(transform.second, found.rotation(rotated[:, transform.permutation]).float())
    assert transform(X).abs().max() < 0.5 * X.abs().max()


class Counting(TorchDispatchMode):
    """Counts operations; those that read a value back from the device are named."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("outlier_index", ["column", "row"])
def test_the_search_reads_nothing_back_from_the_device(outlier_index):
    found, X = search(outlier_index=outlier_index), outlier_tokens(dtype=torch.float32)
    with Counting() as counting:
        found.transform(X)
    assert counting.counts["mm"] >= 24
    assert not {"_local_scalar_dense", "item", "nonzero", "masked_select", "equal"} & set(counting.counts)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"mean_sequence": True, "peak": "range", "outlier_index": "row", "anchor_only": True, "min_scale": 0.01},
        {"smooth": "norms", "block_size": "largest"},
        {"block_size": 8, "num_search_tokens": 5},
    ],
)
def test_the_transformed_model_gives_the_originals_logits(build_model, logits, token_ids, family, parameters):
    model = build_model(family)
    expected, plain = logits(model, token_ids), original_weights(build_model(family))
    transform_only(model, token_ids, **parameters)
    assert float((logits(model, token_ids) - expected).abs().max() / expected.abs().max()) < 1e-4
    for name, linear in block_linears(model).items():
        assert isinstance(linear.transform, BlockRotation)
        assert not torch.allclose(linear.weight, plain[name])


@pytest.mark.parametrize("weights", ["rtn", "gptq"])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("family", FAMILIES)
def test_quantized_models_pass_the_audit_and_are_restored_bit_for_bit(
    build_model, logits, token_ids, held_out, family, scheme, weights
):
    if scheme == "w16a4" and weights == "gptq":
        assert "16 bits" in Duquant(DuquantParameters(weights="gptq")).refusal(parse_scheme(scheme))
        return
    model = build_model(family)
    original = original_weights(model)
    _, report = quantized(model, token_ids, scheme, weights=weights)
    found = audit(model, parse_scheme(scheme), held_out, original=original, left_out=report.left_out)
    assert 0 < found.max_output_error < 0.5
    assert {row.transform for row in found.linears} == {"block_rotation"}
    tensors, layout = quantized_state(model, changed_parameters=report.changed_parameters)
    restored = build_model(family)
    restore_quantized(restored, load(save(tensors)), json.loads(json.dumps(layout)))
    assert torch.equal(logits(restored, token_ids), logits(model, token_ids))
    audit(restored, parse_scheme(scheme), held_out)


def test_linears_that_share_an_input_share_a_transform_that_is_saved_once(build_model, token_ids):
    model, report = quantized(build_model(), token_ids)
    tensors, layout = quantized_state(model, changed_parameters=report.changed_parameters)
    restored = build_model()
    restore_quantized(restored, tensors, layout)
    for one in (model, restored):
        attention, mlp = one.model.layers[0].self_attn, one.model.layers[0].mlp
        assert attention.q_proj.transform is attention.k_proj.transform is attention.v_proj.transform
        assert mlp.gate_proj.transform is mlp.up_proj.transform
        assert mlp.up_proj.transform is not mlp.down_proj.transform
    assert sum(name.endswith("transform.first") for name in tensors) == 2 * len(STAGES)


def test_operands_are_rounded_as_the_paper_says(build_model, token_ids):
    model, _ = quantized(build_model(), token_ids, "w4a4kv4q8")
    for linear in block_linears(model).values():
        assert not linear.quantized_weight.symmetric
        assert linear.activation.quantizer == Quantizer(num_bits=4, granularity="token", clip_ratio=0.9)
    operands = attention_operands(model.model.layers[1])
    assert operands.key.quantizer == Quantizer(num_bits=4, granularity="token", clip_ratio=0.9)
    assert operands.value.quantizer == Quantizer(num_bits=4, granularity="token")
    assert operands.query.quantizer == Quantizer(num_bits=8, granularity="token", clip_ratio=0.9)
    assert operands.rotation is not None
    assert attention_operands(quantized(build_model(), token_ids, "w4a4")[0].model.layers[0]) is None


def test_rounded_weights_are_those_of_the_clipped_grid(build_model, token_ids):
    plain = transform_only(build_model(), token_ids)
    model, _ = quantized(build_model(), token_ids, "w4a8", weights="rtn")
    name = "model.layers.0.mlp.down_proj"
    expected = Quantizer(num_bits=4, granularity="channel", clip_ratio=0.8, half_scale=True)(
        plain.get_submodule(name).weight
    )
    torch.testing.assert_close(model.get_submodule(name).weight, expected)


def test_the_search_sees_the_tokens_with_the_largest_values_or_their_mean(build_model, token_ids):
    step = next(iter(BlockWalk(build_model(), token_ids, compute=ComputeSettings(batch_size=5))))
    name = "mlp.down_proj"
    entered = torch.cat(list(step.inputs_of(step.block.get_submodule(name))))
    with torch.no_grad():
        few = Duquant(DuquantParameters(num_search_tokens=9))._search_inputs(step)[name]
        every = Duquant(DuquantParameters())._search_inputs(step)[name]
        mean = Duquant(DuquantParameters(mean_sequence=True))._search_inputs(step)[name]
    peaks = entered.flatten(0, 1).abs().amax(1)
    assert sorted(few.abs().amax(1).tolist()) == sorted(peaks.topk(9).values.tolist())
    assert torch.equal(every, entered.flatten(0, 1))
    torch.testing.assert_close(mean / 12, entered.mean(0))


def test_the_batch_size_does_not_change_what_is_found(build_model, logits, token_ids):
    models = [
        quantized(build_model(), token_ids, "w8a8", compute=ComputeSettings(batch_size=size), num_search_tokens=50)[0]
        for size in (5, 12)
    ]
    torch.testing.assert_close(logits(models[0], token_ids), logits(models[1], token_ids), rtol=1e-3, atol=1e-3)


def test_the_seed_decides_the_rotations(build_model, token_ids):
    name = "model.layers.0.self_attn.q_proj"
    first, same, other = (
        quantized(build_model(), token_ids, seed=seed)[0].get_submodule(name).transform.first for seed in (0, 0, 1)
    )
    assert torch.equal(first, same)
    assert not torch.allclose(first, other)


@pytest.mark.parametrize(
    ("block_size", "message"),
    [
        (128, r"self_attn\.q_proj: blocks of 128 features do not divide its 32 input features"),
        (64, r"self_attn\.q_proj: blocks of 64"),
        (12, "blocks of 12"),
        (1, "blocks of 1 "),
        (0, "blocks of 0 "),
    ],
)
def test_blocks_that_do_not_divide_the_features_are_refused_and_the_model_is_unchanged(
    build_model, token_ids, block_size, message
):
    model = build_model()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        quantized(model, token_ids, block_size=block_size)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_heads_without_a_hadamard_matrix_are_refused_where_keys_are_rounded(build_model, token_ids):
    sizes = {"head_dim": 6, "num_attention_heads": 8}
    with pytest.raises(ValueError, match="no Hadamard matrix of order 6 "):
        quantized(build_model("llada", **sizes), token_ids, "w4a4kv4")
    quantized(build_model("llada", **sizes), token_ids, "w4a4")


def test_the_largest_block_is_a_power_of_two_up_to_128_that_divides_the_features():
    parameters = DuquantParameters(block_size="largest")
    sizes = {96: 32, 4096: 128, 18944: 128, 384: 128, 320: 64, 32: 32}
    assert {size: parameters.block_size_of(size) for size in sizes} == sizes


def test_refusals_and_impossible_parameters_name_the_reason():
    assert "quantizes nothing" in Duquant(DuquantParameters()).refusal(parse_scheme("fp16"))
    for parameters in ({"num_steps": 0}, {"peak": "max"}, {"block_size": "small"}, {"outlier_index": "both"}):
        with pytest.raises(ValidationError):
            DuquantParameters(**parameters)


def test_mutant_a_permutation_that_weights_do_not_follow_is_found_before_anything_is_rounded(
    build_model, token_ids, monkeypatch
):
    def forget_permutation(self, values):
        self.exercised = True
        features = torch.arange(values.shape[-1])
        return BlockRotation(self.first, features, self.second).apply_to(values)

    monkeypatch.setattr(BlockRotation, "forward", forget_permutation)
    with pytest.raises(AuditError, match=r"layers\.0 changes its output by .* its inputs are rotated"):
        quantized(build_model(), token_ids)


def test_mutant_linears_that_share_an_input_but_no_transform_are_found(build_model, token_ids, held_out, monkeypatch):
    rotate = duquant.with_transform

    def forget_online_transform(linear, transform, *, device):
        transformed = rotate(linear, transform, device=device)
        return linear if linear.out_features == 16 else transformed

    monkeypatch.setattr(duquant, "with_transform", forget_online_transform)
    with pytest.raises(AuditError, match="its inputs are rotated"):
        quantized(build_model("dream"), token_ids)


def test_mutant_one_linear_of_a_stage_that_skips_the_shared_transform_is_found_by_the_audit(
    build_model, token_ids, held_out
):
    model, _ = quantized(build_model(), token_ids)
    k = model.get_submodule("model.layers.0.self_attn.k_proj")
    k.forward = lambda inputs: torch.nn.functional.linear(k.activation(inputs), k.weight, k.bias)
    with pytest.raises(AuditError) as caught:
        audit(model, parse_scheme("w4a4"), held_out)
    assert caught.value.findings == ("model.layers.0.self_attn.k_proj activations are rounded without their transform",)
