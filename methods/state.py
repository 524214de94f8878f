"""A quantized model as tensors and a JSON-able layout, and back."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from methods.attention import attention_operands, quantize_attention
from methods.blocks import block_linears, decoder_blocks, replace_module
from methods.dynamic import DynamicQuantizer
from methods.linear import QuantLinear
from methods.packing import pack_codes, unpack_codes
from methods.quantized_weight import QuantizedWeight
from methods.quantizer import Quantizer

LAYOUT_VERSION = 1


def quantized_state(
    model: nn.Module, *, changed_parameters: Collection[str] = ()
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What a quantized model has and its full-precision model has not: tensors on the CPU, and how to read them.

    changed_parameters: the report's list of parameters that the method changed beyond the blocks' linears.
    Codes and zeros are packed to their bits, scales are float16. Raises ValueError for a linear that is not quantized.
    """
    tensors: dict[str, Tensor] = {}
    linears: dict[str, Any] = {}
    for name, linear in block_linears(model).items():
        if not isinstance(linear, QuantLinear):
            raise ValueError(f"{name} is not quantized: there is no state to save")
        linears[name] = _save_linear(name, linear, tensors)
    for name in changed_parameters:
        tensors[name] = _detached(model.get_parameter(name))
    layout = {
        "layout_version": LAYOUT_VERSION,
        "linears": linears,
        "attention": _attention_layout(model),
        "changed_parameters": sorted(changed_parameters),
    }
    return tensors, layout


@torch.no_grad()
def restore_quantized(model: nn.Module, tensors: Mapping[str, Tensor], layout: Mapping[str, Any]) -> None:
    """Turns the full-precision model that was quantized into the quantized one: the same logits, bit for bit.

    The model keeps its dtype and device. Raises ValueError where state and model do not belong together.
    """
    if layout.get("layout_version") != LAYOUT_VERSION:
        raise ValueError(f"the state has layout version {layout.get('layout_version')}, not {LAYOUT_VERSION}")
    originals = block_linears(model)
    if originals.keys() != layout["linears"].keys():
        odd = sorted(originals.keys() ^ layout["linears"].keys())
        raise ValueError(f"state and model have different linears: {odd[0]} and {len(odd) - 1} more")
    for name, linear in originals.items():
        if not isinstance(linear, nn.Linear):
            raise ValueError(f"{name} is quantized already: restore into a freshly loaded model")
        replace_module(model, name, _restore_linear(name, linear, tensors, layout["linears"][name]))
    for name in layout["changed_parameters"]:
        parameter, saved = model.get_parameter(name), _tensor(tensors, name)
        if parameter.shape != saved.shape:
            raise ValueError(
                f"{name} has shape {tuple(saved.shape)} in the state, {tuple(parameter.shape)} in the model"
            )
        parameter.copy_(saved)
    attention = layout["attention"]
    quantize_attention(model, kv=_quantizer(attention["kv"]), query=_quantizer(attention["query"]))


def _save_linear(name: str, linear: QuantLinear, tensors: dict[str, Tensor]) -> dict[str, Any]:
    stored = linear.quantized_weight
    if linear.bias is not None:
        tensors[f"{name}.bias"] = _detached(linear.bias)
    if stored is None:
        tensors[f"{name}.weight"] = _detached(linear.weight)
    else:
        tensors[f"{name}.codes"] = pack_codes(stored.codes, stored.num_bits).cpu()
        tensors[f"{name}.scale"] = _detached(stored.scale)
        if stored.zero is not None:
            tensors[f"{name}.zero"] = pack_codes(stored.zero, stored.num_bits).cpu()
        if stored.group_index is not None:
            tensors[f"{name}.group_index"] = _detached(stored.group_index)
    return {
        "shape": [linear.out_features, linear.in_features],
        "weight_bits": linear.weight_bits,
        "group_size": linear.group_size,
        "has_codes": stored is not None,
        "symmetric": stored is not None and stored.symmetric,
        "has_group_index": stored is not None and stored.group_index is not None,
        "activation": _quantizer_layout(linear.activation),
    }


def _restore_linear(
    name: str, linear: nn.Linear, tensors: Mapping[str, Tensor], layout: Mapping[str, Any]
) -> QuantLinear:
    shape = tuple(layout["shape"])
    if shape != linear.weight.shape:
        raise ValueError(f"{name} has shape {shape} in the state, {tuple(linear.weight.shape)} in the model")
    weight: QuantizedWeight | Tensor
    if layout["has_codes"]:
        num_bits, scale = layout["weight_bits"], _tensor(tensors, f"{name}.scale")
        weight = QuantizedWeight(
            codes=unpack_codes(_tensor(tensors, f"{name}.codes"), num_bits, shape),
            scale=scale,
            zero=None
            if layout["symmetric"]
            else unpack_codes(_tensor(tensors, f"{name}.zero"), num_bits, tuple(scale.shape)),
            num_bits=num_bits,
            group_size=layout["group_size"],
            group_index=_tensor(tensors, f"{name}.group_index") if layout["has_group_index"] else None,
        )
    else:
        weight = _tensor(tensors, f"{name}.weight")
    restored = QuantLinear(
        weight,
        bias=_tensor(tensors, f"{name}.bias") if linear.bias is not None else None,
        activation=_quantizer(layout["activation"]),
        dtype=linear.weight.dtype,
    )
    return restored.to(linear.weight.device)


def _attention_layout(model: nn.Module) -> dict[str, Any]:
    """The operand quantizers, which are the same in every block."""
    operands = [attention_operands(block) for block in decoder_blocks(model)]
    layouts = [
        {
            "kv": None if found is None else _quantizer_layout(found.key),
            "query": None if found is None else _quantizer_layout(found.query),
        }
        for found in operands
    ]
    assert all(layout == layouts[0] for layout in layouts), "blocks differ in their attention operands"
    return layouts[0]


def _quantizer_layout(quantizer: DynamicQuantizer | None) -> dict[str, Any] | None:
    return None if quantizer is None else asdict(quantizer.quantizer)


def _quantizer(layout: Mapping[str, Any] | None) -> Quantizer | None:
    return None if layout is None else Quantizer(**layout)


def _tensor(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise ValueError(f"the state lacks the tensor {name}")
    return tensors[name]


def _detached(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous()
