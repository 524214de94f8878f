"""The walk over a model's blocks: one block on the compute device at a time, stage by stage in dataflow order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from methods.calibration import check_calibration
from methods.transforms import online_transform

# Linears that share an input, in the order of the data flow.
STAGES: tuple[tuple[str, ...], ...] = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)
BLOCK_LINEARS: tuple[str, ...] = tuple(name for stage in STAGES for name in stage)
_BLOCKS = "model.layers"


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeSettings:
    """Where a method computes and in what portions: what decides speed and memory, not what is computed.

    device: where blocks are quantized, None for where the model is. cache_device: where hidden states wait between
    blocks, None for the compute device. batch_size: calibration samples per forward.
    """

    device: torch.device | None = None
    cache_device: torch.device | None = None
    batch_size: int = 8


def decoder_blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks of a Llama- or Qwen2-shaped causal LM, first to last. Raises ValueError for another shape."""
    blocks = getattr(getattr(model, "model", None), "layers", None)
    if not isinstance(blocks, nn.ModuleList) or len(blocks) == 0:
        raise ValueError(f"{type(model).__name__} has no blocks at {_BLOCKS}: not a Llama- or Qwen2-shaped model")
    return list(blocks)


def block_linears(model: nn.Module) -> dict[str, nn.Module]:
    """Every linear of every block by its full name, in dataflow order. Raises ValueError that names missing ones."""
    linears: dict[str, nn.Module] = {}
    missing = []
    for index, block in enumerate(decoder_blocks(model)):
        modules = dict(block.named_modules())
        for name in BLOCK_LINEARS:
            full_name = f"{_BLOCKS}.{index}.{name}"
            if name in modules:
                linears[full_name] = modules[name]
            else:
                missing.append(full_name)
    if missing:
        raise ValueError(f"{type(model).__name__} lacks the linears {', '.join(missing)}")
    return linears


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Puts `module` where the submodule of that full name is."""
    model.set_submodule(name, module, strict=True)


class Stage:
    """Linears of one block that share an input."""

    def __init__(self, step: BlockStep, names: tuple[str, ...]) -> None:
        self._step = step
        self._names = names

    @property
    def linears(self) -> dict[str, nn.Linear]:
        """The stage's linears by full name."""
        found = {}
        for name in self._names:
            linear = self._step.block.get_submodule(name)
            assert isinstance(linear, nn.Linear), f"{name} has been replaced already"
            found[f"{self._step.name}.{name}"] = linear
        return found

    def inputs(self) -> Iterator[Tensor]:
        """The shared input of each calibration batch, [batch, length, in_features], on the compute device.

        It is what meets the weights: where the linears transform their input, the transformed one.
        """
        first = self._step.block.get_submodule(self._names[0])
        transform = online_transform(first)
        for inputs in self._step.inputs_of(first):
            yield inputs if transform is None else transform(inputs)

    def replace(self, name: str, module: nn.Module) -> None:
        """Puts `module` in the place of the linear of that full name (later, where errors are not propagated)."""
        self._step.replace(name, module)


class BlockStep:
    """One block of the walk, with the hidden states that enter it."""

    def __init__(self, walk: BlockWalk, index: int, block: nn.Module, hidden: list[Tensor]) -> None:
        self.index = index
        self.name = f"{_BLOCKS}.{index}"
        self.block = block
        self._walk = walk
        self._hidden = hidden
        self._waiting: dict[str, nn.Module] = {}

    def stages(self) -> Iterator[Stage]:
        """The block's stages in dataflow order; each one's inputs come through what was replaced before it."""
        for names in STAGES:
            yield Stage(self, names)

    def inputs(self) -> Iterator[Tensor]:
        """The hidden states that enter the block, a batch [batch, length, hidden_size] at a time."""
        for hidden in self._hidden:
            yield hidden.to(self._walk.device)

    @torch.no_grad()
    def calls_of(self, module: nn.Module) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
        """How the block calls a submodule, batch by batch; the rest of the block's forward is not computed."""
        for hidden in self.inputs():
            yield _call_of(module, partial(self.forward, hidden))

    def inputs_of(self, module: nn.Module) -> Iterator[Tensor]:
        """What enters a submodule of the block, batch by batch."""
        for arguments, kwargs in self.calls_of(module):
            entered = arguments[0] if arguments else kwargs["hidden_states"]
            assert isinstance(entered, Tensor)
            yield entered

    @torch.no_grad()
    def outputs(self) -> Iterator[Tensor]:
        """What leaves the block as it is now, batch by batch."""
        for hidden in self.inputs():
            yield self.forward(hidden)

    def forward(self, hidden: Tensor) -> Tensor:
        """The block applied to one batch of hidden states, with the model's own mask and positions."""
        output = self.block(hidden, **self._walk.block_kwargs(hidden.shape[0]))
        assert isinstance(output, Tensor)
        return output

    def replace(self, name: str, module: nn.Module) -> None:
        """Puts `module` in the place of a submodule by full name, at once or after the walk has left the block."""
        local_name = name.removeprefix(f"{self.name}.")
        if self._walk.propagate_error:
            replace_module(self.block, local_name, module)
        else:
            self._waiting[local_name] = module

    def write_back(self) -> None:
        """Writes the linears' weights, changed in place on another device, into the memory where the model was."""
        for name, weight in self._walk.weights_at_home(self.name).items():
            weight.copy_(self.block.get_submodule(name).get_parameter("weight"))

    def finish(self, *, is_last: bool) -> None:
        """Turns the cached hidden states into the next block's inputs, then makes waiting replacements."""
        if not is_last:
            for index, output in enumerate(self.outputs()):
                self._hidden[index] = output.to(self._walk.cache_device)
        for name, module in self._waiting.items():
            replace_module(self.block, name, module)


class BlockWalk:
    """Iterates over a model's blocks, each with its calibration inputs, from the first to the last.

    With `propagate_error` the next block's inputs have passed through what the loop's body did to this one; without it
    they are those of the unquantized model. Masks and position embeddings are the model's own, taken where its first
    block receives them, so causal and bidirectional models both walk as they run.
    """

    def __init__(
        self,
        model: nn.Module,
        calibration: Tensor,
        *,
        compute: ComputeSettings | None = None,
        propagate_error: bool = True,
    ) -> None:
        compute = compute or ComputeSettings()
        config: Any = model.config
        check_calibration(calibration, vocab_size=config.vocab_size)
        kinds = set(getattr(config, "layer_types", None) or ())
        if len(kinds) > 1:
            raise ValueError(f"blocks with different attention ({', '.join(sorted(kinds))}) cannot share one mask")
        self._model = model
        self._home = next(model.parameters()).device
        self._batches = torch.split(calibration, compute.batch_size)
        self._kwargs: dict[int, dict[str, Any]] = {}
        self.device = compute.device or self._home
        self.cache_device = compute.cache_device or self.device
        self.propagate_error = propagate_error
        # A block on another device is a copy. Who holds a weight at home (the audit) must still see what becomes of it.
        self._weights = {
            name: linear.get_parameter("weight").detach()
            for name, linear in block_linears(model).items()
            if self.device.type != self._home.type
        }

    def __iter__(self) -> Iterator[BlockStep]:
        blocks = decoder_blocks(self._model)
        hidden = [self._enter_first_block(blocks[0], token_ids) for token_ids in self._batches]
        for index, block in enumerate(blocks):
            block.to(self.device)
            step = BlockStep(self, index, block, hidden)
            yield step
            step.finish(is_last=index == len(blocks) - 1)
            block.to(self._home)

    def block_kwargs(self, batch_size: int) -> dict[str, Any]:
        """What the model hands a block besides hidden states, for a batch of that many samples."""
        return self._kwargs[batch_size]

    def weights_at_home(self, block_name: str) -> dict[str, Tensor]:
        """The full-precision weights of a block by local name, as they lie where the model was; none if it stayed."""
        prefix = f"{block_name}."
        return {name.removeprefix(prefix): weight for name, weight in self._weights.items() if name.startswith(prefix)}

    @torch.no_grad()
    def _enter_first_block(self, block: nn.Module, token_ids: Tensor) -> Tensor:
        run = partial(self._model, input_ids=token_ids.to(self._home), use_cache=False)
        arguments, kwargs = _call_of(block, run)
        self._kwargs[token_ids.shape[0]] = {key: _to_device(value, self.device) for key, value in kwargs.items()}
        hidden = arguments[0]
        assert isinstance(hidden, Tensor)
        return hidden.to(self.cache_device)


class _StopForwardError(Exception):
    """Ends a forward pass at the module that was waited for."""


def _call_of(module: nn.Module, run: Callable[[], object]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of the first call of `module` while `run` runs; the rest of the run is left out."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def catch(_: nn.Module, arguments: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append((arguments, kwargs))
        raise _StopForwardError

    handle = module.register_forward_pre_hook(catch, with_kwargs=True)
    try:
        with suppress(_StopForwardError):
            run()
    finally:
        handle.remove()
    assert calls, f"{type(module).__name__} was not called"
    return calls[0]


def _to_device(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, tuple):
        return tuple(_to_device(item, device) for item in value)
    return value
