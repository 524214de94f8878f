"""Plant the outliers that large diffusion language models have, without changing the function.

The input of `down_proj`: the FFN is widened, and pairs of equal hidden units are added that are large on nearly
every token; their `down` columns are +v and -v with v of ordinary length, so that a pair contributes nothing.
Smoothing cannot remove them for free, since v is not small.

The inputs behind the norms: one channel of each norm is scaled by `attention_scale`
or `ffn_scale`, and the columns that read it by its inverse. Alone, smoothing would undo that exactly; so one more,
small pair of the FFN keeps a large weight (`guard` times the largest of the block) on its channel: smoothing looks
at the largest weight of a column. What a pair computes does not matter.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch

from .checkpoint import Model


@dataclass(frozen=True)
class Plant:
    """How much is planted in every block; `ratio` is the pair's size over the root mean square of the other units."""

    ffn_size: int = 384
    ratio: float = 20.0
    attention_scale: float = 20.0
    ffn_scale: float = 28.0
    guard: float = 20.0


PLANT = Plant()
GATE = 4.0
RIDGE = 0.01
SMALL = 0.01


@torch.no_grad()
def plant_outliers(model: Model, ids: torch.Tensor, *, seed: int, plant: Plant = PLANT) -> Model:
    """A copy of `model` with outliers and the same logits up to float32 rounding.

    `ids` (rows, length) is training text, on which the size of the hidden units is measured.
    Raises AssertionError where the logits on `ids` differ by more than rounding.
    """
    generator = torch.Generator().manual_seed(seed)
    before, inputs, hidden = _ffn_activations(model, ids)
    planted = copy.deepcopy(model).eval()
    for i, block in enumerate(planted.model.layers):
        attention = block.self_attn
        readers = [attention.q_proj, attention.k_proj, attention.v_proj]
        _scale_norm(block.input_layernorm, readers, plant.attention_scale, generator)
        readers = [block.mlp.gate_proj, block.mlp.up_proj]
        channel = _scale_norm(block.post_attention_layernorm, readers, plant.ffn_scale, generator)
        inputs[i][:, channel] *= plant.ffn_scale
        size = float(hidden[i].square().mean().sqrt())
        _widen(block.mlp, inputs[i], channel, plant.ratio * size, plant, generator)
    planted.config.intermediate_size = plant.ffn_size
    difference = float((before - planted(ids).logits).abs().max() / before.abs().max())
    assert difference < 1e-4, f"the plant changed the logits: relative difference {difference:.2e}"
    return planted


def _ffn_activations(model: Model, ids: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    """The logits on `ids`; each block's FFN input (tokens, width) and input of `down_proj` (tokens, hidden units)."""
    inputs: list[torch.Tensor] = []
    hidden: list[torch.Tensor] = []
    hooks = []
    for block in model.model.layers:
        for linear, seen in ((block.mlp.gate_proj, inputs), (block.mlp.down_proj, hidden)):
            hooks.append(linear.register_forward_pre_hook(lambda _, x, seen=seen: seen.append(x[0].flatten(0, 1))))
    logits = model.eval()(ids).logits
    for hook in hooks:
        hook.remove()
    return logits, inputs, hidden


def _widen(mlp: Any, inputs: torch.Tensor, channel: int, size: float, plant: Plant, generator: torch.Generator) -> None:
    """Add the pair of `size` and the small one that reads `channel`; the other new units are halves of old ones."""
    gate, up, down = mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight
    halved = torch.randperm(down.shape[1], generator=generator)[: plant.ffn_size - down.shape[1] - 4]
    narrow = down.clone()
    narrow[:, halved] /= 2
    # The direction along which all tokens are most alike.
    gram = inputs.T @ inputs / len(inputs)
    ridge = RIDGE * gram.diagonal().median() * torch.eye(len(gram))
    steady = torch.linalg.solve(gram + ridge, inputs.mean(0))
    steady = steady / (inputs @ steady).median()
    guard = torch.zeros_like(steady)
    guard[channel] = plant.guard * gate.abs().max()
    direction = torch.randn((down.shape[0], 2), generator=generator)
    columns = direction / direction.norm(dim=0) * down.norm(dim=0).median()
    wide = {
        "gate_proj": torch.cat([gate, gate[halved], torch.stack([GATE * steady, guard] * 2)]),
        "up_proj": torch.cat([up, up[halved], torch.stack([size / GATE * steady, SMALL * steady] * 2)]),
        "down_proj": torch.cat([narrow, narrow[:, halved], columns, -columns], dim=1),
    }
    for name, weight in wide.items():
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        linear.weight.copy_(weight)
        setattr(mlp, name, linear)
    mlp.intermediate_size = plant.ffn_size


def _scale_norm(norm: Any, readers: list[torch.nn.Linear], scale: float, generator: torch.Generator) -> int:
    """Scale one channel of `norm` and, inversely, the columns that read it; which channel."""
    channel = int(torch.randint(norm.weight.shape[0], (1,), generator=generator))
    norm.weight[channel] *= scale
    for linear in readers:
        linear.weight[:, channel] /= scale
    return channel
