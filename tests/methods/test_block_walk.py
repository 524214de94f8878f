from __future__ import annotations

import pytest
import torch
from torch import nn

from methods.blocks import STAGES, BlockWalk, ComputeSettings, block_linears

FAMILIES = ["llada", "dream"]


class Doubled(nn.Module):
    """A linear with twice the output."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return 2 * self.linear(inputs)


def recorded_inputs(model: nn.Module, token_ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """What enters each block and each linear in a plain forward."""
    seen: dict[str, torch.Tensor] = {}
    handles = []
    for name, module in model.named_modules():
        if name.startswith("model.layers.") and (name.count(".") == 2 or name.endswith("_proj")):

            def record(_, arguments, name=name):
                seen[name] = arguments[0]

            handles.append(module.register_forward_pre_hook(record))
    with torch.no_grad():
        model(input_ids=token_ids, use_cache=False)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("batch_size", [5, 12])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_walk_meets_the_inputs_of_a_plain_forward(build_model, token_ids, family, is_causal, batch_size, attention):
    model = build_model(family, is_causal=is_causal)
    model.set_attn_implementation(attention)
    expected = recorded_inputs(model, token_ids)
    met: dict[str, torch.Tensor] = {}
    for block in BlockWalk(model, token_ids, compute=ComputeSettings(batch_size=batch_size)):
        met[block.name] = torch.cat(list(block.inputs()))
        for stage in block.stages():
            inputs = torch.cat(list(stage.inputs()))
            met |= dict.fromkeys(stage.linears, inputs)
    assert met.keys() == expected.keys()
    for name, inputs in met.items():
        torch.testing.assert_close(inputs, expected[name], rtol=1e-5, atol=1e-5, msg=name)


def test_walk_follows_the_data_flow_through_all_seven_linears(build_model, token_ids):
    model = build_model()
    names = [name for block in BlockWalk(model, token_ids) for stage in block.stages() for name in stage.linears]
    assert names == list(block_linears(model))
    assert [name.rpartition(".")[2] for name in names[:7]] == [
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    ]  # fmt: skip


@pytest.mark.parametrize("propagate_error", [True, False])
def test_later_inputs_come_through_replaced_linears_only_if_errors_propagate(build_model, token_ids, propagate_error):
    model, plain = build_model(), build_model()
    met: dict[str, torch.Tensor] = {}
    for block in BlockWalk(model, token_ids, propagate_error=propagate_error):
        for stage in block.stages():
            linears = stage.linears
            met |= dict.fromkeys(linears, torch.cat(list(stage.inputs())))
            for name, linear in linears.items():
                stage.replace(name, Doubled(linear))
    assert all(isinstance(module, Doubled) for module in block_linears(model).values())
    expected = recorded_inputs(plain, token_ids)
    changed = {name for name, inputs in met.items() if not torch.allclose(inputs, expected[name], atol=1e-5)}
    untouched = {f"model.layers.0.{name}" for name in STAGES[0]}
    assert changed == (set(met) - untouched if propagate_error else set())
    final = recorded_inputs(model, token_ids)
    if propagate_error:
        for name, inputs in met.items():
            torch.testing.assert_close(inputs, final[f"{name}"], rtol=1e-5, atol=1e-5, msg=name)


def test_walk_visits_every_block_in_order(build_model, token_ids):
    shallow, deep = build_model(num_hidden_layers=1), build_model(num_hidden_layers=3)
    assert len(list(BlockWalk(shallow, token_ids))) == 1
    assert [block.index for block in BlockWalk(deep, token_ids)] == [0, 1, 2]


def test_hidden_states_wait_where_they_are_asked_to(build_model, token_ids):
    compute = ComputeSettings(cache_device=torch.device("cpu"), device=torch.device("cpu"), batch_size=4)
    for block in BlockWalk(build_model(), token_ids, compute=compute):
        assert all(inputs.device.type == "cpu" and inputs.shape == (4, 16, 32) for inputs in block.inputs())


def test_walk_leaves_no_hook_behind(build_model, token_ids):
    model = build_model()
    for block in BlockWalk(model, token_ids):
        for stage in block.stages():
            list(stage.inputs())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_model_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"Linear has no blocks at model\.layers"):
        block_linears(nn.Linear(2, 2))


def test_missing_linear_is_named(build_model):
    model = build_model()
    del model.model.layers[1].mlp.up_proj
    with pytest.raises(ValueError, match=r"lacks the linears model\.layers\.1\.mlp\.up_proj"):
        block_linears(model)


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        (torch.zeros(0, 4, dtype=torch.long), "calibration must be token ids"),
        (torch.zeros(4, dtype=torch.long), "calibration must be token ids"),
        (torch.zeros(2, 4), r"not torch\.float32 values"),
        (torch.full((2, 4), 61), "token 61, outside the model's vocabulary of 61"),
        (torch.full((2, 4), -1), "token -1"),
    ],
)
def test_calibration_that_is_no_batch_of_tokens_is_refused(build_model, calibration, message):
    with pytest.raises(ValueError, match=message):
        BlockWalk(build_model(), calibration)


def test_blocks_with_different_attention_are_refused(build_model, token_ids):
    model = build_model(use_sliding_window=True, sliding_window=4, max_window_layers=1)
    with pytest.raises(ValueError, match="full_attention, sliding_attention"):
        BlockWalk(model, token_ids)
