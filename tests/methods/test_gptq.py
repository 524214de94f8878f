"""GPTQ against a float64 transcription that follows the paper's equations 2 and 3, with no Cholesky factor, no lazy
batches and no code of ours: each step inverts what is left of the Hessian."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

import methods.gptq
from grids.schemes import parse_scheme
from methods.audit import AuditError, audit, original_weights
from methods.contract import ComputeSettings
from methods.gptq import Gptq, GptqParameters, InverseFactor, accumulate_hessian, factorize, gptq, output_error
from methods.quantized_weight import quantize_weight
from methods.quantizer import NonFiniteError, Quantizer
from methods.rtn import Rtn, RtnParameters


def correlated_inputs(num_inputs: int, num_features: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(num_features, num_features, generator=generator, dtype=torch.float64)
    mixing[: num_features // 2] *= 4
    return torch.randn(num_inputs, num_features, generator=generator, dtype=torch.float64) @ mixing


def random_weight(num_rows: int, num_columns: int) -> Tensor:
    return torch.randn(num_rows, num_columns, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def transcribed_grid(w: Tensor, num_bits: int, *, symmetric: bool) -> tuple[Tensor, Tensor]:
    top = 2**num_bits - 1
    if symmetric:
        scale = (w.abs().max(1).values / (2 ** (num_bits - 1) - 1)).half().double()
        return scale, torch.full_like(scale, 2 ** (num_bits - 1))
    low, high = w.min(1).values.clamp(max=0), w.max(1).values.clamp(min=0)
    scale = ((high - low) / top).half().double()
    return scale, (-low / scale).round().clamp(0, top)


def transcribed_gptq(
    W: Tensor,
    X: Tensor,
    num_bits: int,
    group_size: int | None,
    *,
    symmetric: bool,
    act_order: bool = False,
    static_groups: bool = False,
) -> tuple[Tensor, Tensor]:
    """Codes and dequantized weight, both [out, in], float64."""
    H = torch.zeros(X.shape[1], X.shape[1], dtype=torch.float64)
    for x in X:
        H += 2 * torch.outer(x, x) / len(X)
    W = W.clone()
    for j in range(len(H)):
        if H[j, j] == 0:
            H[j, j] = 1
            W[:, j] = 0
    order = sorted(range(len(H)), key=lambda j: -H[j, j].item()) if act_order else list(range(len(H)))
    H = H + 0.01 * H.diagonal().mean() * torch.eye(len(H), dtype=torch.float64)
    given = W.clone()
    codes, dequantized = torch.zeros_like(W), torch.zeros_like(W)
    scale = zero = torch.zeros(0)
    for step, j in enumerate(order):
        left = order[step:]
        if group_size is None:
            scale, zero = transcribed_grid(given, num_bits, symmetric=symmetric)
        elif static_groups:
            first = j // group_size * group_size
            scale, zero = transcribed_grid(given[:, first : first + group_size], num_bits, symmetric=symmetric)
        elif step % group_size == 0:
            scale, zero = transcribed_grid(W[:, left[:group_size]], num_bits, symmetric=symmetric)
        codes[:, j] = (torch.round(W[:, j] / scale) + zero).clamp(0, 2**num_bits - 1)
        dequantized[:, j] = scale * (codes[:, j] - zero)
        inverse = torch.linalg.inv(H[left][:, left])
        error = (W[:, j] - dequantized[:, j]) / inverse[0, 0]
        W[:, left] -= error[:, None] * inverse[0][None, :]
    return codes, dequantized


def solve(
    W: Tensor, X: Tensor, num_bits: int, group_size: int | None, *, symmetric: bool, act_order: bool = False, **kw
):
    quantizer = Quantizer(
        num_bits=num_bits,
        granularity="channel" if group_size is None else "group",
        group_size=group_size,
        symmetric=symmetric,
        half_scale=True,
    )
    hessian = accumulate_hessian(iter(X.split(7)), dtype=X.dtype)
    factor = factorize(hessian, damp_percent=0.01, act_order=act_order, name="w")
    return gptq(W, factor, quantizer, name="w", **kw)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("num_bits", [2, 3, 4, 8])
@pytest.mark.parametrize(
    ("shape", "group_size", "block_size"),
    [
        ((6, 24), None, 128),
        ((6, 24), None, 7),
        ((9, 48), 16, 128),
        ((9, 48), 16, 16),
        ((9, 48), 24, 8),
        ((9, 48), 16, 20),
        ((9, 48), 24, 20),
        ((1, 40), 8, 16),
    ],
)
def test_codes_equal_a_direct_transcription_of_the_equations(shape, group_size, block_size, num_bits, symmetric):
    W, X = random_weight(*shape), correlated_inputs(90, shape[1])
    codes, dequantized = transcribed_gptq(W, X, num_bits, group_size, symmetric=symmetric)
    ours = solve(W, X, num_bits, group_size, symmetric=symmetric, block_size=block_size)
    assert torch.equal(ours.codes.double(), codes)
    torch.testing.assert_close(ours.dequantize().double(), dequantized, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("group_size", [None, 12])
@pytest.mark.parametrize("static_groups", [False, True])
def test_act_order_and_static_groups_equal_the_transcription(symmetric, group_size, static_groups):
    W, X = random_weight(7, 48), correlated_inputs(90, 48)
    for act_order in (False, True):
        options = {"symmetric": symmetric, "act_order": act_order, "static_groups": static_groups}
        codes, dequantized = transcribed_gptq(W, X, 3, group_size, **options)
        ours = solve(W, X, 3, group_size, block_size=24, **options)
        assert torch.equal(ours.codes.double(), codes)
        torch.testing.assert_close(ours.dequantize().double(), dequantized, rtol=1e-6, atol=1e-6)
        moved_groups = act_order and group_size is not None and not static_groups
        assert (ours.group_index is not None) == moved_groups


def test_float32_agrees_with_the_float64_transcription_but_for_rare_ties():
    W, X = random_weight(32, 64), correlated_inputs(400, 64)
    codes, _ = transcribed_gptq(W, X, 4, 16, symmetric=False)
    ours = solve(W.float(), X.float(), 4, 16, symmetric=False)
    assert (ours.codes.double() != codes).float().mean() < 0.005


@pytest.mark.parametrize("group_size", [None, 16])
def test_dead_columns_are_zero_and_do_not_disturb_the_others(group_size):
    W, X = random_weight(6, 32), correlated_inputs(80, 32)
    X[:, [3, 17]] = 0
    ours = solve(W, X, 4, group_size, symmetric=False)
    codes, _ = transcribed_gptq(W, X, 4, group_size, symmetric=False)
    assert (ours.dequantize()[:, [3, 17]] == 0).all()
    assert torch.equal(ours.codes.double(), codes)


@pytest.mark.parametrize("num_bits", [2, 3, 4])
@pytest.mark.parametrize("group_size", [None, 16])
@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_output_error_is_below_round_to_nearests_on_correlated_inputs(num_bits, group_size, act_order, seed):
    W, X = random_weight(24, 64), correlated_inputs(300, 64, seed)
    granularity = "channel" if group_size is None else "group"
    quantizer = Quantizer(num_bits=num_bits, granularity=granularity, group_size=group_size, half_scale=True)
    nearest = quantize_weight(W, quantizer, "w").dequantize().double()
    ours = solve(W, X, num_bits, group_size, symmetric=False, act_order=act_order).dequantize().double()
    assert (X @ (W - ours).T).norm() < 0.9 * (X @ (W - nearest).T).norm()


def test_hessian_is_twice_the_mean_outer_product_whatever_the_batches():
    X = correlated_inputs(30, 8)
    expected = 2 * X.T @ X / 30
    torch.testing.assert_close(accumulate_hessian(iter([X.view(5, 6, 8)]), dtype=torch.float64), expected)
    torch.testing.assert_close(accumulate_hessian(iter([X[:1], X[1:20], X[20:]]), dtype=torch.float64), expected)


def test_output_error_from_the_hessian_is_the_relative_error_of_the_outputs():
    W, X = random_weight(6, 24), correlated_inputs(50, 24)
    Q = (W * 4).round() / 4
    expected = (X @ (W - Q).T).norm() / (X @ W.T).norm()
    hessian = accumulate_hessian(iter([X]), dtype=torch.float64)
    assert output_error(W, Q, hessian) == pytest.approx(expected.item())


def test_too_few_inputs_are_damped_enough_and_the_damping_is_told():
    X = correlated_inputs(3, 32)
    factor = factorize(accumulate_hessian(iter([X]), dtype=torch.float64), damp_percent=0.01, act_order=False, name="w")
    assert factor.damp_percent == 0.01
    assert factor.U.isfinite().all()


def test_damping_is_raised_until_the_hessian_is_positive_definite():
    hessian = torch.diag(torch.tensor([1.0, 1.0, -0.03], dtype=torch.float64))
    factor = factorize(hessian, damp_percent=0.01, act_order=False, name="w")
    assert factor.damp_percent == pytest.approx(0.1)


def test_hessian_that_stays_indefinite_is_refused_by_name():
    hessian = torch.diag(torch.tensor([1.0, 1.0, -9.0]))
    with pytest.raises(NonFiniteError, match="up_proj: the Hessian is not positive definite, even damped by 1 "):
        factorize(hessian, damp_percent=0.01, act_order=False, name="up_proj")
    with pytest.raises(NonFiniteError, match="up_proj: the Hessian is not finite"):
        factorize(hessian * float("nan"), damp_percent=0.01, act_order=False, name="up_proj")


@pytest.mark.parametrize("family", ["llada", "dream"])
@pytest.mark.parametrize("scheme", ["w4a16g16", "w3a16", "w4a4", "w4a8kv4g16"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_a_whole_model_passes_the_audit(build_model, token_ids, held_out, family, scheme, symmetric):
    model = build_model(family)
    original = original_weights(model)
    parameters = GptqParameters(symmetric=symmetric, act_order=symmetric)
    steps: list[tuple[int, int]] = []
    report = Gptq(parameters).quantize(
        model, parse_scheme(scheme), token_ids, seed=0, progress=lambda done, total: steps.append((done, total))
    )
    found = audit(model, parse_scheme(scheme), held_out, original=original)
    assert found.num_linears == len(report.linears) == 14
    assert steps == [(done, 14) for done in range(1, 15)]
    assert all(linear.output_error > 0 and linear.damp_percent == 0.01 for linear in report.linears)
    assert report.changed_parameters == ()


@pytest.mark.parametrize("scheme", ["w3a16g16", "w2a16g16", "w3a16"])
def test_a_whole_models_logits_are_nearer_than_round_to_nearests(build_model, logits, token_ids, scheme):
    expected = logits(build_model(), token_ids)
    errors = {}
    for method in (Gptq(GptqParameters()), Rtn(RtnParameters())):
        model = build_model()
        method.quantize(model, parse_scheme(scheme), token_ids, seed=0)
        errors[method.name] = (logits(model, token_ids) - expected).norm().item()
    assert errors["gptq"] < errors["rtn"]


def test_every_linear_is_solved_with_what_enters_it_in_the_quantized_model(build_model, token_ids):
    model = build_model()
    plain = original_weights(model)
    report = Gptq(GptqParameters()).quantize(model, parse_scheme("w4a4"), token_ids, seed=0)
    seen = {}
    for name in plain:
        module = model.get_submodule(name)
        # What the product sees is the rounded input, so it is what the Hessian must have seen.
        module.activation.register_forward_hook(lambda _, __, output, name=name: seen.update({name: output}))
    with torch.no_grad():
        model(input_ids=token_ids, use_cache=False)
    for linear in report.linears:
        X, W = seen[linear.name].reshape(-1, plain[linear.name].shape[1]), plain[linear.name]
        Q = model.get_submodule(linear.name).weight
        expected = (X @ (W - Q).T).norm() / (X @ W.T).norm()
        assert linear.output_error == pytest.approx(expected.item(), rel=1e-3), linear.name


def test_result_hardly_depends_on_batches_and_not_on_the_cache(build_model, token_ids):
    codes = []
    for compute in (ComputeSettings(batch_size=12), ComputeSettings(batch_size=5, cache_device=torch.device("cpu"))):
        model = build_model()
        Gptq(GptqParameters()).quantize(model, parse_scheme("w4a16g16"), token_ids, seed=0, compute=compute)
        codes.append(torch.cat([module.codes.flatten() for module in model.modules() if hasattr(module, "codes")]))
    assert (codes[0] != codes[1]).float().mean() < 0.01


def test_calibration_decides_the_result(build_model, token_ids):
    models = [build_model(), build_model()]
    for model, calibration in zip(models, (token_ids, token_ids[:4]), strict=True):
        Gptq(GptqParameters()).quantize(model, parse_scheme("w4a16g16"), calibration, seed=0)
    codes = [model.model.layers[1].mlp.down_proj.codes for model in models]
    assert not torch.equal(*codes)


def test_bfloat16_models_are_quantized_in_their_dtype(build_model, token_ids, held_out):
    model = build_model(dtype=torch.bfloat16)
    Gptq(GptqParameters()).quantize(model, parse_scheme("w4a16g16"), token_ids, seed=0)
    assert model.model.layers[0].mlp.down_proj.weight.dtype == torch.bfloat16
    audit(model, parse_scheme("w4a16g16"), held_out)


def test_schemes_with_full_precision_weights_are_refused_with_the_reason():
    method = Gptq(GptqParameters())
    assert method.refusal(parse_scheme("w4a16g16")) is None
    assert "leaves them at 16 bits" in method.refusal(parse_scheme("w16a8"))
    assert "quantizes nothing" in method.refusal(parse_scheme("fp16"))


def test_missing_calibration_and_odd_groups_are_refused_before_anything_changes(build_model, logits, token_ids):
    model, expected = build_model(), logits(build_model(), token_ids)
    method = Gptq(GptqParameters())
    with pytest.raises(ValueError, match="gptq needs calibration data"):
        method.quantize(model, parse_scheme("w4a16g16"), None, seed=0)
    with pytest.raises(ValueError, match=r"model\.layers\.0\.self_attn\.q_proj: group size 24 does not divide its 32"):
        method.quantize(model, parse_scheme("w4a16kv4g24"), token_ids, seed=0)
    with pytest.raises(ValueError, match="gptq does not serve w16a8"):
        method.quantize(model, parse_scheme("w16a8"), token_ids, seed=0)
    assert torch.equal(logits(model, token_ids), expected)


@pytest.mark.parametrize("skip", [["q_proj", "k_proj", "v_proj"], ["q_proj"], ["up_proj"]])
def test_skipped_linears_keep_their_weights_and_the_others_of_their_stage_are_solved(
    build_model, token_ids, held_out, skip
):
    model, whole = build_model(), build_model()
    plain = original_weights(build_model())
    report = Gptq(GptqParameters(skip=skip)).quantize(model, parse_scheme("w4a16"), token_ids, seed=0)
    Gptq(GptqParameters()).quantize(whole, parse_scheme("w4a16"), token_ids, seed=0)
    skipped = {name for name in plain if name.rpartition(".")[2] in skip}
    assert set(report.left_out) == skipped
    audit(model, parse_scheme("w4a16"), held_out, left_out=report.left_out)
    assert all(torch.equal(model.get_submodule(name).weight, plain[name]) for name in skipped)
    first_kept = next(name for name in plain if name not in skipped)
    if first_kept.endswith("k_proj"):
        assert torch.equal(model.get_submodule(first_kept).weight, whole.get_submodule(first_kept).weight)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("act_order", [False, True])
def test_linears_that_share_an_input_are_solved_together_as_each_alone(symmetric, act_order):
    X, weights = correlated_inputs(64, 32), [random_weight(rows, 32) for rows in (6, 3, 5)]
    together = solve(torch.cat(weights), X, 3, 16, symmetric=symmetric, act_order=act_order).split([6, 3, 5])
    for W, part in zip(weights, together, strict=True):
        alone = solve(W, X, 3, 16, symmetric=symmetric, act_order=act_order)
        assert torch.equal(part.codes, alone.codes)
        assert torch.equal(part.dequantize(), alone.dequantize())
        # A view would keep the whole solver's result alive for each linear.
        assert part.codes.untyped_storage().nbytes() == part.codes.numel()


def test_seeded_defect_errors_that_are_not_carried_on_leave_rtns_error(build_model, token_ids, monkeypatch):
    def output_errors() -> list[float]:
        model = build_model()
        report = Gptq(GptqParameters()).quantize(model, parse_scheme("w3a16g16"), token_ids, seed=0)
        return [linear.output_error for linear in report.linears]

    def without_feedback(hessian: Tensor, **settings) -> InverseFactor:
        factor = factorize(hessian, **settings)
        return dataclasses.replace(factor, U=torch.diag(factor.U.diagonal()))

    sound = output_errors()
    monkeypatch.setattr(methods.gptq, "factorize", without_feedback)
    assert sum(output_errors()) > 1.1 * sum(sound)


def test_seeded_defect_a_stage_that_is_forgotten_is_refused_by_the_audit(build_model, token_ids, held_out, monkeypatch):
    round_stage = Gptq.round_stage

    def without_attention(self, stage, job):
        if not any("q_proj" in name for name in stage.linears):
            round_stage(self, stage, job)

    monkeypatch.setattr(Gptq, "round_stage", without_attention)
    model = build_model()
    Gptq(GptqParameters()).quantize(model, parse_scheme("w4a16g16"), token_ids, seed=0)
    with pytest.raises(AuditError, match=r"layers\.1\.self_attn\.k_proj is not quantized"):
        audit(model, parse_scheme("w4a16g16"), held_out)
