"""A quantized model as tensors and a JSON-able layout, and back."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from methods.attention import OperandQuantizers, attention_operands, quantize_attention
from methods.blocks import block_linears, decoder_blocks, replace_module
from methods.linear import QuantLinear
from methods.packing import pack_codes, unpack_codes
from methods.quantized_weight import QuantizedWeight
from methods.quantizer import Quantizer
from methods.transforms import TRANSFORMS, OnlineTransform

LAYOUT_VERSION = 2


def quantized_state(
    model: nn.Module, *, changed_parameters: Collection[str] = ()
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What a quantized model has and its full-precision model has not: tensors on the CPU, and how to read them.

    changed_parameters: the report's list of parameters that the method changed beyond the blocks' linears.
    Codes and zeros are packed to their bits, scales are float16. Raises ValueError for a linear that is not quantized.
    """
    tensors: dict[str, Tensor] = {}
    linears: dict[str, Any] = {}
    transforms: dict[str, Any] = {}
    for name, linear in block_linears(model).items():
        if not isinstance(linear, QuantLinear):
            raise ValueError(f"{name} is not quantized: there is no state to save")
        linears[name] = _save_linear(name, linear, tensors)
    for name, (transform, users) in _shared_transforms(model).items():
        transforms[name] = {"kind": transform.kind, "options": transform.options(), "linears": users}
        for key, tensor in transform.state_dict().items():
            tensors[f"{name}.transform.{key}"] = _detached(tensor)
    for name in changed_parameters:
        tensors[name] = _detached(model.get_parameter(name))
    layout = {
        "layout_version": LAYOUT_VERSION,
        "linears": linears,
        "transforms": transforms,
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
    transforms = _restore_transforms(tensors, layout["transforms"])
    for name, linear in originals.items():
        if not isinstance(linear, nn.Linear):
            raise ValueError(f"{name} is quantized already: restore into a freshly loaded model")
        restored = _restore_linear(name, linear, tensors, layout["linears"][name], transforms.get(name))
        replace_module(model, name, restored)
    for name in layout["changed_parameters"]:
        parameter, saved = model.get_parameter(name), _tensor(tensors, name)
        if parameter.shape != saved.shape:
            raise ValueError(
                f"{name} has shape {tuple(saved.shape)} in the state, {tuple(parameter.shape)} in the model"
            )
        # A parameter of its own: a tied head may have been changed apart from the embeddings.
        owner, _, attribute = name.rpartition(".")
        restored_parameter = nn.Parameter(saved.to(parameter), requires_grad=parameter.requires_grad)
        setattr(model.get_submodule(owner), attribute, restored_parameter)
    quantize_attention(model, _restore_operands(layout["attention"]))


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
        "activation": None if linear.activation is None else asdict(linear.activation.quantizer),
    }


def _restore_linear(
    name: str,
    linear: nn.Linear,
    tensors: Mapping[str, Tensor],
    layout: Mapping[str, Any],
    transform: OnlineTransform | None,
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
        transform=transform,
    )
    return restored.to(linear.weight.device)


def _shared_transforms(model: nn.Module) -> dict[str, tuple[OnlineTransform, list[str]]]:
    """Each transform by the name of the first linear that has it, with all that share it."""
    found: dict[int, tuple[OnlineTransform, list[str]]] = {}
    for name, linear in block_linears(model).items():
        transform = linear.transform
        if isinstance(transform, OnlineTransform):
            found.setdefault(id(transform), (transform, []))[1].append(name)
    return {users[0]: (transform, users) for transform, users in found.values()}


def _restore_transforms(tensors: Mapping[str, Tensor], layouts: Mapping[str, Any]) -> dict[str, OnlineTransform]:
    """The transform of each linear that has one; linears that shared one share it again."""
    restored: dict[str, OnlineTransform] = {}
    for name, layout in layouts.items():
        if layout["kind"] not in TRANSFORMS:
            raise ValueError(
                f"{name} has the transform {layout['kind']!r} in the state; known: {', '.join(TRANSFORMS)}"
            )
        kind, prefix = TRANSFORMS[layout["kind"]], f"{name}.transform."
        own = {key: _tensor(tensors, prefix + key) for key in kind.tensor_names}
        transform = kind.restore(layout["options"], own)
        restored |= dict.fromkeys(layout["linears"], transform)
    return restored


def _attention_layout(model: nn.Module) -> dict[str, Any]:
    """The operand quantizers, which are the same in every block."""
    operands = [attention_operands(block) for block in decoder_blocks(model)]
    layouts = [asdict(OperandQuantizers() if found is None else found.quantizers) for found in operands]
    assert all(layout == layouts[0] for layout in layouts), "blocks differ in their attention operands"
    return layouts[0]


def _restore_operands(layout: Mapping[str, Any]) -> OperandQuantizers:
    return OperandQuantizers(
        key=_quantizer(layout["key"]),
        value=_quantizer(layout["value"]),
        query=_quantizer(layout["query"]),
        rotate_keys=layout["rotate_keys"],
    )


def _quantizer(layout: Mapping[str, Any] | None) -> Quantizer | None:
    return None if layout is None else Quantizer(**layout)


def _tensor(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise ValueError(f"the state lacks the tensor {name}")
    return tensors[name]


def _detached(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous()
