"""QuaRot's rotations of a whole full-precision model, none of which changes its function (arXiv 2404.00456, section 4).

Q = diag(s) H / sqrt(n), with random signs s, rotates the residual stream: embeddings E become E Q, weights [out, in]
that read the stream W diag(g) Q, with g the gain of the norm before them, and weights that write to it Q^T W. An RMS
norm without a gain commutes with Q. Weights are changed in place, in float64, and rounded to their dtype once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from methods.blocks import STAGES, decoder_blocks, replace_module
from methods.hadamard import core_order, hadamard_transform
from methods.randomness import random_signs
from methods.transforms import HadamardTransform, TransformedLinear, map_rows_

MapRows = Callable[[Tensor], Tensor]

_QKV, (_O,), _GATE_UP, (_DOWN,) = STAGES
_V = "self_attn.v_proj"
_NORM_FED = (("input_layernorm", _QKV), ("post_attention_layernorm", _GATE_UP))


def check_rotatable(model: nn.Module) -> None:
    """Raises ValueError that names a dimension of the model for which no Hadamard matrix is known."""
    first = decoder_blocks(model)[0]
    size = head_size(first)
    sizes = {
        "hidden size": _ends(model)[0].embedding_dim,
        "intermediate size": _linear(first, _DOWN).in_features,
        "number of attention heads": _linear(first, _O).in_features // size,
        "head size": size,
    }
    for name, value in sizes.items():
        try:
            core_order(value)
        except ValueError as error:
            raise ValueError(f"the model's {name} {value} cannot be rotated: {error}") from error


@torch.no_grad()
def rotate_model(model: nn.Module, *, seed: int, device: torch.device | None) -> list[str]:
    """Rotates a model and gives the full names of the parameters that changed beyond the blocks' linears.

    Rotated are the residual stream, each head of the values, the features between gate and down, and, across heads,
    the attention's output. The last two online: `o_proj` and `down_proj` transform their inputs from then on. A head
    that is tied to the embeddings is untied.
    """
    _untie_head(model)
    embeddings, head = _ends(model)
    signs = random_signs(embeddings.embedding_dim, seed, "residual_stream")

    def rotate(rows: Tensor) -> Tensor:
        return hadamard_transform(rows * signs.to(rows))

    final_norm = model.get_submodule("model.norm")
    map_rows_(embeddings.weight, rotate, device)
    map_rows_(head.weight, _after_gain(final_norm, rotate), device)
    norms = [final_norm]
    for block in decoder_blocks(model):
        _rotate_block(block, rotate, device)
        norms += [block.get_submodule(norm) for norm, _ in _NORM_FED]
    for norm in norms:
        norm.get_parameter("weight").fill_(1)
    names = {id(module): name for name, module in model.named_modules()}
    return [f"{names[id(module)]}.weight" for module in (embeddings, head, *norms)]


def _rotate_block(block: nn.Module, rotate: MapRows, device: torch.device | None) -> None:
    size = head_size(block)
    o, down = _linear(block, _O), _linear(block, _DOWN)
    # With the transform of each head that values bring along, this is a Hadamard transform of all of o's input.
    across_heads, inner = HadamardTransform(num_heads=o.in_features // size), HadamardTransform()

    def rotate_heads(rows: Tensor) -> Tensor:
        return hadamard_transform(rows.reshape(rows.shape[0], -1, size)).reshape(rows.shape)

    for norm, names in _NORM_FED:
        for name in names:
            reads = _after_gain(block.get_submodule(norm), rotate)
            _transform_linear_(_linear(block, name), reads, rotate_heads if name == _V else None, device)
    # Attention copies a key-value head to its query heads: each head of its output is transformed as its values were.
    _transform_linear_(o, lambda rows: across_heads.apply_to(rotate_heads(rows)), rotate, device)
    _transform_linear_(down, inner.apply_to, rotate, device)
    replace_module(block, _O, TransformedLinear(o, across_heads))
    replace_module(block, _DOWN, TransformedLinear(down, inner))


def head_size(block: nn.Module) -> int:
    """Features of one attention head."""
    attention: Any = block.get_submodule("self_attn")
    return int(attention.head_dim)


def _after_gain(norm: nn.Module, rotate: MapRows) -> MapRows:
    gain = norm.get_parameter("weight")
    return lambda rows: rotate(rows * gain.to(rows))


def _transform_linear_(
    linear: nn.Linear, inputs: MapRows, outputs: MapRows | None, device: torch.device | None
) -> None:
    """A weight for transformed inputs, and outputs transformed in the weight and bias, in place."""
    W = inputs(linear.weight.to(device=device or linear.weight.device, dtype=torch.float64))
    if outputs is not None:
        W = outputs(W.T).T
        if linear.bias is not None:
            map_rows_(linear.bias[None], outputs, device)
    linear.weight.copy_(W)


def _untie_head(model: nn.Module) -> None:
    embeddings, head = _ends(model)
    if head.weight is embeddings.weight:
        head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=head.weight.requires_grad)
        config: Any = model.config
        config.tie_word_embeddings = False


def _ends(model: nn.Module) -> tuple[nn.Embedding, nn.Linear]:
    causal_lm: Any = model
    embeddings, head = causal_lm.get_input_embeddings(), causal_lm.get_output_embeddings()
    assert isinstance(embeddings, nn.Embedding)
    assert isinstance(head, nn.Linear)
    return embeddings, head


def _linear(block: nn.Module, name: str) -> nn.Linear:
    linear = block.get_submodule(name)
    assert isinstance(linear, nn.Linear), f"{name} has been replaced already"
    return linear
