"""The audit: a quantized model proves what its label says before it may be evaluated."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from grids.schemes import FULL_PRECISION_BITS, Scheme
from methods.attention import attention_operands, uses_quantized_attention
from methods.blocks import BLOCK_LINEARS, block_linears, decoder_blocks
from methods.dynamic import DynamicQuantizer
from methods.linear import QuantLinear
from methods.quantized_weight import QuantizedWeight
from methods.transforms import OnlineTransform


class AuditError(RuntimeError):
    """The model is not what its label says; `findings` are all the reasons."""

    def __init__(self, scheme: Scheme, findings: list[str]) -> None:
        # Both stay the exception's arguments, so that it can be pickled on its way from a worker to the driver.
        super().__init__(scheme, findings)
        self.scheme, self.findings = scheme, tuple(findings)

    def __str__(self) -> str:
        return f"the model is not {self.scheme}:\n" + "\n".join(f"- {finding}" for finding in self.findings)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearAudit:
    """What was found at one linear.

    num_levels: the most distinct codes of any weight group, None for a weight at 16 bits.
    activation_levels: the most distinct values of any token after rounding, None at 16 bits.
    output_error: ||y - y'||_F / ||y||_F over the held-out batches, y' the linear's output and y that of the original
    weight with the unrounded input, for the same input; None where the original weight was not given.
    transform: the kind of online transform that inputs go through before they are rounded, None where there is none.
    """

    name: str
    weight_bits: int
    group_size: int | None
    effective_bits: float
    num_levels: int | None
    activation_bits: int
    activation_levels: int | None
    output_error: float | None
    transform: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """A passed audit: a row per linear, and what sums them up.

    left_out: what is at 16 bits although the scheme says otherwise; empty where the label is true without exception.
    """

    scheme: str
    linears: tuple[LinearAudit, ...]

    effective_bits: float
    max_output_error: float | None
    left_out: tuple[str, ...] = ()

    @property
    def num_linears(self) -> int:
        return len(self.linears)

    def to_json(self) -> dict[str, Any]:
        """The audit as JSON-able data."""
        return asdict(self) | {"num_linears": self.num_linears}


def original_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights of a model's block linears by full name, for `audit` to compare with; take them before quantizing.

    They share the model's memory and keep it alive. Rounding replaces weights and never writes into them; a transform
    that keeps the model's function, such as a folded scale, does, so that errors are those of the rounding.
    """
    return {name: linear.get_parameter("weight").detach() for name, linear in block_linears(model).items()}


@torch.no_grad()
def audit(
    model: nn.Module,
    scheme: Scheme,
    token_ids: Tensor,
    *,
    original: Mapping[str, Tensor] | None = None,
    left_out: Collection[str] = (),
    batch_size: int = 8,
) -> Audit:
    """Proves that every linear of every block is what the scheme says, and that the model runs through it.

    token_ids: [num_samples, length] that no method was calibrated on.  original: full-precision weights by full name of
    the linear (`original_weights`), to measure output errors.  left_out: the report's list of what the method's
    parameters leave at 16 bits; it must be at 16 bits, and the audit lists it.

    Raises AuditError with every finding: linears that are not quantized, other bits or groups than the label's, weights
    off their grid, activations, keys, values or queries that are not rounded, inputs that pass their transform by,
    logits that are not finite.
    """
    findings: list[str] = []
    linears: dict[str, QuantLinear] = {}
    for index, block in enumerate(decoder_blocks(model)):
        linears |= _quantized_linears(f"model.layers.{index}", block, findings)
        _check_operands(f"model.layers.{index}.self_attn", block, scheme, left_out, findings)
    claims_operands = min(scheme.kv_bits, scheme.query_bits) < FULL_PRECISION_BITS
    if claims_operands and not uses_quantized_attention(model):
        findings.append("attention operands are not quantized: the model uses another attention function")
    for name, linear in linears.items():
        _check_linear(name, linear, scheme, left_out, findings)
    unknown = sorted(set(left_out) - {"key", *linears})
    findings.extend(f"{name} is said to be left out, but there is no such linear" for name in unknown)

    with _observed(model, linears, original or {}) as observations:
        for batch in torch.split(token_ids, batch_size):
            logits = model(input_ids=batch.to(next(model.parameters()).device), use_cache=False).logits
            if not torch.isfinite(logits).all():
                findings.append("logits are not finite")
                break
    _check_exercised(observations, findings)
    if findings:
        raise AuditError(scheme, findings)

    rows = tuple(_row(name, linear, observations) for name, linear in linears.items())
    num_weights = {name: linear.weight.numel() for name, linear in linears.items()}
    errors = [row.output_error for row in rows if row.output_error is not None]
    return Audit(
        scheme=scheme.name,
        linears=rows,
        effective_bits=sum(row.effective_bits * num_weights[row.name] for row in rows) / sum(num_weights.values()),
        max_output_error=max(errors) if errors else None,
        left_out=tuple(left_out),
    )


def _quantized_linears(place: str, block: nn.Module, findings: list[str]) -> dict[str, QuantLinear]:
    modules = dict(block.named_modules())
    found: dict[str, QuantLinear] = {}
    for name in BLOCK_LINEARS:
        module = modules.get(name)
        if isinstance(module, QuantLinear):
            found[f"{place}.{name}"] = module
        else:
            kind = "missing" if module is None else type(module).__name__
            findings.append(f"{place}.{name} is not quantized: it is {kind}")
    others = [name for name, module in modules.items() if isinstance(module, nn.Linear) and name not in BLOCK_LINEARS]
    findings.extend(f"{place}.{name} is not quantized: no method knows this linear" for name in others)
    return found


def _check_operands(
    place: str, block: nn.Module, scheme: Scheme, left_out: Collection[str], findings: list[str]
) -> None:
    operands = attention_operands(block)
    key_bits = FULL_PRECISION_BITS if "key" in left_out else scheme.kv_bits
    for operand, claimed in (("key", key_bits), ("value", scheme.kv_bits), ("query", scheme.query_bits)):
        quantizer = None if operands is None else getattr(operands, operand)
        num_bits = FULL_PRECISION_BITS if quantizer is None else quantizer.num_bits
        if num_bits != claimed:
            findings.append(f"{place} has {operand} operands of {num_bits} bits, not {claimed}")


def _check_linear(
    name: str, linear: QuantLinear, scheme: Scheme, left_out: Collection[str], findings: list[str]
) -> None:
    is_left_out = name in left_out
    weight_bits = FULL_PRECISION_BITS if is_left_out else scheme.weight_bits
    group_size = None if is_left_out else scheme.group_size
    if linear.weight_bits != weight_bits:
        findings.append(f"{name} has {linear.weight_bits}-bit weights, not {weight_bits}")
    if linear.group_size != group_size:
        findings.append(f"{name} has group size {linear.group_size}, not {group_size}")
    if linear.activation_bits != scheme.activation_bits:
        findings.append(f"{name} has {linear.activation_bits}-bit activations, not {scheme.activation_bits}")
    stored = linear.quantized_weight
    if stored is None:
        if not torch.isfinite(linear.weight).all():
            findings.append(f"{name} has weights that are not finite")
        return
    findings.extend(f"{name} {finding}" for finding in _check_grid(linear, stored))


def _check_grid(linear: QuantLinear, stored: QuantizedWeight) -> Iterator[str]:
    num_groups = 1 if stored.group_size is None else linear.in_features // stored.group_size
    if stored.scale.shape != (linear.out_features, num_groups):
        yield f"has scales of shape {tuple(stored.scale.shape)}, not {(linear.out_features, num_groups)}"
        return
    groups = stored.column_groups()
    group_sizes = torch.bincount(groups, minlength=num_groups)
    if group_sizes.numel() != num_groups or not (group_sizes == group_sizes[0]).all():
        yield "has groups of unequal size"
        return
    if not (torch.isfinite(stored.scale).all() and (stored.scale > 0).all()):
        yield "has scales that are not positive and finite"
    if stored.scale.dtype != torch.float16:
        yield f"stores scales as {stored.scale.dtype}, not 16-bit"
    if int(stored.codes.max()) >= 2**stored.num_bits:
        yield f"has code {int(stored.codes.max())}, beyond {stored.num_bits} bits"
    num_off_grid = int((linear.weight != stored.dequantize().to(linear.weight.dtype)).sum())
    if num_off_grid:
        yield f"has {num_off_grid} weights off their grid"


@dataclass
class _Observation:
    """What hooks saw of one linear or of one attention operand's quantizer.

    transform: what the quantizer's input must come from.  rounds_transformed: whether it always did.
    """

    quantizer: DynamicQuantizer | None
    transform: OnlineTransform | None = None
    rounds_transformed: bool = True
    num_levels: int = 0
    squared_error: float = 0.0
    squared_norm: float = 0.0
    has_original: bool = False


@dataclass
class _Observations:
    linears: dict[str, _Observation] = field(default_factory=dict)
    operands: dict[str, _Observation] = field(default_factory=dict)
    rotations: dict[str, OnlineTransform] = field(default_factory=dict)
    # The identity of what a transform gave last, until a quantizer has taken it.
    transformed: dict[OnlineTransform, int] = field(default_factory=dict)


@contextmanager
def _observed(
    model: nn.Module, linears: Mapping[str, QuantLinear], original: Mapping[str, Tensor]
) -> Iterator[_Observations]:
    """Watches each activation and operand quantizer, and compares each linear's output with the original's."""
    observations, handles = _Observations(), []
    for name, linear in linears.items():
        observation = _Observation(linear.activation, linear.transform)
        observations.linears[name] = observation
        if linear.transform is not None:
            handles.append(_watch_transform(linear.transform, observations))
        if linear.activation is not None:
            handles.append(_watch_quantizer(linear.activation, observation, observations))
        if name in original:
            handles.append(_watch_output(linear, original[name], observation))
    for index, block in enumerate(decoder_blocks(model)):
        operands, place = attention_operands(block), f"model.layers.{index}.self_attn"
        for operand, module in () if operands is None else operands.named_children():
            if isinstance(module, DynamicQuantizer):
                observation = _Observation(module)
                observations.operands[f"{place} {operand}"] = observation
                handles.append(_watch_quantizer(module, observation, observations))
            else:
                assert isinstance(module, OnlineTransform)
                observations.rotations[f"{place} {operand}"] = module
                handles.append(_watch_transform(module, observations))
    try:
        yield observations
    finally:
        for handle in handles:
            handle.remove()


def _watch_transform(transform: OnlineTransform, observations: _Observations) -> RemovableHandle:
    # The flag must say that this audit's batches went through, not that some batch once did.
    transform.exercised = False

    def watch(_: OnlineTransform, __: tuple[Tensor, ...], output: Tensor) -> None:
        observations.transformed[transform] = id(output)

    return transform.register_forward_hook(watch)


def _watch_quantizer(
    quantizer: DynamicQuantizer, observation: _Observation, observations: _Observations
) -> RemovableHandle:
    quantizer.exercised = False

    def watch(_: DynamicQuantizer, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        if observation.transform is not None:
            # Taken out, so that a linear that shares the transform with another must have called it itself.
            made = observations.transformed.pop(observation.transform, None)
            observation.rounds_transformed &= made == id(arguments[0])
        observation.num_levels = max(observation.num_levels, _distinct_values(output))

    return quantizer.register_forward_hook(watch)


def _watch_output(linear: QuantLinear, weight: Tensor, observation: _Observation) -> RemovableHandle:
    observation.has_original = True

    def watch(module: QuantLinear, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        inputs = arguments[0] if module.transform is None else module.transform.apply_to(arguments[0])
        expected = F.linear(inputs, weight.to(inputs), module.bias).float()
        observation.squared_error += float((output.float() - expected).square().sum())
        observation.squared_norm += float(expected.square().sum())

    return linear.register_forward_hook(watch)


def _distinct_values(values: Tensor) -> int:
    """The most distinct values of any slice of the last dimension."""
    in_order = values.sort(-1).values
    return int((in_order.diff(dim=-1) != 0).sum(-1).max()) + 1


def _check_exercised(observations: _Observations, findings: list[str]) -> None:
    transforms = {name: seen.transform for name, seen in observations.linears.items()} | observations.rotations
    for name, transform in transforms.items():
        if transform is not None and not transform.exercised:
            findings.append(f"{name} inputs never passed their {transform.kind} transform")
    watched = [(f"{name} activations", seen) for name, seen in observations.linears.items()]
    watched += list(observations.operands.items())
    for what, seen in watched:
        if seen.quantizer is None:
            continue
        num_bits = seen.quantizer.num_bits
        if not seen.quantizer.exercised:
            findings.append(f"{what} never passed their quantizer")
        elif seen.num_levels > 2**num_bits:
            findings.append(f"{what} take {seen.num_levels} values in a token, more than {num_bits} bits allow")
        elif not seen.rounds_transformed:
            findings.append(f"{what} are rounded without their transform")


def _row(name: str, linear: QuantLinear, observations: _Observations) -> LinearAudit:
    stored, seen = linear.quantized_weight, observations.linears[name]
    return LinearAudit(
        name=name,
        weight_bits=linear.weight_bits,
        group_size=linear.group_size,
        effective_bits=linear.effective_bits,
        num_levels=None if stored is None else stored.num_levels(),
        activation_bits=linear.activation_bits,
        activation_levels=None if linear.activation is None else seen.num_levels,
        output_error=_relative(seen) if seen.has_original else None,
        transform=None if linear.transform is None else linear.transform.kind,
    )


def _relative(seen: _Observation) -> float:
    if seen.squared_error == 0:
        return 0.0
    return float((seen.squared_error / max(seen.squared_norm, torch.finfo(torch.float32).tiny)) ** 0.5)
