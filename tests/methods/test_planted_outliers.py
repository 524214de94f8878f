"""Rotations against outliers that neither smoothing nor clipping can remove: pairs of FFN units that cancel."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from grids.schemes import parse_scheme
from methods.audit import audit
from methods.duquant import Duquant, DuquantParameters
from methods.quarot import Quarot, QuarotParameters
from methods.rtn import Rtn, RtnParameters
from methods.smoothquant import SmoothQuant, SmoothQuantParameters

METHODS = {
    "rtn": Rtn(RtnParameters()),
    "smoothquant": SmoothQuant(SmoothQuantParameters(smooth="all")),
    "quarot": Quarot(QuarotParameters()),
    "quarot with rtn": Quarot(QuarotParameters(weights="rtn")),
    "duquant": Duquant(DuquantParameters(block_size="largest", num_steps=64)),
}


@torch.no_grad()
def plant_pair(model: nn.Module, *, size: float = 100.0, norm_scale: float = 30.0) -> nn.Module:
    """Adds a pair of equal hidden units, `size` times too large, whose columns of `down_proj` are +v and -v.

    The pair contributes nothing. One channel of each norm is scaled up, and the columns that read it down.
    """
    for block in model.model.layers:
        mlp, attention = block.mlp, block.self_attn
        gate, up, down = mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight
        mlp.gate_proj.weight = nn.Parameter(torch.cat([gate, gate[:1].expand(2, -1)]))
        mlp.up_proj.weight = nn.Parameter(torch.cat([up, size * up[:1].expand(2, -1)]))
        mlp.down_proj.weight = nn.Parameter(torch.cat([down, down[:, :1], -down[:, :1]], dim=1))
        for norm, linears in (
            (block.input_layernorm, (attention.q_proj, attention.k_proj, attention.v_proj)),
            (block.post_attention_layernorm, (mlp.gate_proj, mlp.up_proj)),
        ):
            norm.weight[3] *= norm_scale
            for linear in linears:
                linear.weight[:, 3] /= norm_scale
        mlp.gate_proj.out_features = mlp.up_proj.out_features = mlp.down_proj.in_features = mlp.up_proj.weight.shape[0]
    return model


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_at_four_bits_rotations_survive_outliers_that_rounding_and_smoothing_do_not(
    build_model, logits, token_ids, held_out, family
):
    sizes = {"hidden_size": 64, "intermediate_size": 510, "num_hidden_layers": 1}
    expected = logits(build_model(family, **sizes), held_out)
    planted = plant_pair(build_model(family, **sizes))
    torch.testing.assert_close(logits(planted, held_out), expected, rtol=1e-3, atol=1e-3)
    errors = {}
    for name, method in METHODS.items():
        model = plant_pair(build_model(family, **sizes))
        report = method.quantize(model, parse_scheme("w4a4"), token_ids, seed=0)
        audit(model, parse_scheme("w4a4"), held_out, left_out=report.left_out)
        errors[name] = float((logits(model, held_out) - expected).norm() / expected.norm())
    for name in ("quarot", "quarot with rtn", "duquant"):
        assert errors[name] < 0.6 * errors["rtn"], errors
        assert errors[name] < 0.9 * errors["smoothquant"], errors
    assert errors["smoothquant"] < errors["rtn"], errors
