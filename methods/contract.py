"""What a quantization method is: typed parameters, the schemes it serves, and one verb."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Generic, TypeVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from grids.schemes import FULL_PRECISION_BITS, Scheme
from methods.blocks import ComputeSettings, block_linears
from methods.calibration import check_calibration
from methods.costs import CostMeter
from methods.linear import QuantLinear
from methods.quantized_weight import check_weight

Progress = Callable[[int, int], None]


class MethodParameters(BaseModel):
    """A method's parameters; all of them decide the result, so all are part of a variant's identity."""

    model_config = ConfigDict(extra="forbid", frozen=True)


P = TypeVar("P", bound=MethodParameters)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearReport:
    """What became of one linear.

    weight_error: ||W - Q||_F / ||W||_F.  output_error: ||X(W - Q)^T||_F / ||XW^T||_F over the calibration inputs as the
    method saw them; None where it saw none.  damp_percent: GPTQ's damping that made the Hessian positive definite.
    scale_ratio: AWQ's alpha of what the linear takes in.  seconds: since the linear before; what linears share counts
    for the first.  peak_memory_bytes: on a GPU the most that was allocated in that time, on a CPU the most that the
    process has held so far. The job fills in the last two.
    """

    name: str
    effective_bits: float
    weight_error: float
    output_error: float | None = None
    damp_percent: float | None = None
    scale_ratio: float | None = None
    seconds: float | None = None
    peak_memory_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationReport:
    """What a method did to a model.

    changed_parameters: full names of parameters outside the blocks' linears that the method changed (a rotation's
    embeddings and norms); they belong to the artifact. left_out: what the method's parameters leave at 16 bits although
    the scheme says otherwise, as the audit must be told: full names of linears (their weights), and `key` for all keys.
    """

    method: str
    method_version: int
    scheme: str
    linears: tuple[LinearReport, ...]
    changed_parameters: tuple[str, ...]
    seconds: float
    left_out: tuple[str, ...] = ()

    @property
    def peak_memory_bytes(self) -> int:
        """The largest of the linears' peaks."""
        return max((linear.peak_memory_bytes or 0 for linear in self.linears), default=0)

    def to_json(self) -> dict[str, Any]:
        """The report as JSON-able data."""
        return asdict(self)


@dataclass(kw_only=True)
class QuantizationJob:
    """One call of a method: what it works on, and what it reports as it goes."""

    model: nn.Module
    scheme: Scheme
    calibration: Tensor | None
    seed: int
    compute: ComputeSettings
    progress: Progress
    num_linears: int
    linears: list[LinearReport] = field(default_factory=list)
    changed_parameters: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    _meter: CostMeter = field(init=False)

    def __post_init__(self) -> None:
        self._meter = CostMeter(self.compute.device or next(self.model.parameters()).device)

    def report(self, linear: LinearReport) -> None:
        """Notes a finished linear with what it cost, and tells the caller how far the method is."""
        seconds, peak_memory_bytes = self._meter.lap()
        self.linears.append(replace(linear, seconds=seconds, peak_memory_bytes=peak_memory_bytes))
        self.progress(len(self.linears), self.num_linears)


def no_progress(done: int, total: int) -> None:
    """The progress callback of a caller who does not ask."""


class Method(ABC, Generic[P]):
    """A quantization method. A subclass sets the four class variables and writes `refusal` and `quantize_blocks`.

    name: how grids call it.  version: raised when the same parameters would give other numbers.
    Parameters: its parameter class.  needs_calibration: whether `quantize` must be given token ids.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    Parameters: ClassVar[type[MethodParameters]]
    needs_calibration: ClassVar[bool]

    def __init__(self, parameters: P) -> None:
        self.parameters = parameters

    @abstractmethod
    def refusal(self, scheme: Scheme) -> str | None:
        """Why the method does not serve a scheme, in words for the planner's table; None if it does."""

    @abstractmethod
    def quantize_blocks(self, job: QuantizationJob) -> None:
        """Turns every linear of every block of `job.model` into a QuantLinear and reports each to the job."""

    @torch.no_grad()
    def quantize(
        self,
        model: nn.Module,
        scheme: Scheme,
        calibration: Tensor | None,
        *,
        seed: int,
        progress: Progress = no_progress,
        compute: ComputeSettings | None = None,
    ) -> QuantizationReport:
        """Quantizes a full-precision model in place and says what was done.

        calibration: token ids [num_samples, length], None for a method that needs none. progress: called with linears
        done and all linears. compute: where and in what portions, which does not change what is computed.

        Raises ValueError for a scheme, calibration or model that the method cannot work with, before anything is
        changed, and NonFiniteError where the arithmetic breaks down; the model is then of no use.
        """
        linears = self._check(model, scheme, calibration)
        job = QuantizationJob(
            model=model,
            scheme=scheme,
            calibration=calibration,
            seed=seed,
            compute=compute or ComputeSettings(),
            progress=progress,
            num_linears=len(linears),
        )
        start = time.monotonic()
        self.quantize_blocks(job)
        return QuantizationReport(
            method=self.name,
            method_version=self.version,
            scheme=scheme.name,
            linears=tuple(job.linears),
            changed_parameters=tuple(job.changed_parameters),
            seconds=time.monotonic() - start,
            left_out=tuple(job.left_out),
        )

    def _check(self, model: nn.Module, scheme: Scheme, calibration: Tensor | None) -> dict[str, nn.Module]:
        reason = self.refusal(scheme)
        if reason is not None:
            raise ValueError(f"{self.name} does not serve {scheme}: {reason}")
        if self.needs_calibration and calibration is None:
            raise ValueError(f"{self.name} needs calibration data, and none was given")
        config: Any = model.config
        if calibration is not None:
            check_calibration(calibration, vocab_size=config.vocab_size)
        linears = block_linears(model)
        quantized = [name for name, linear in linears.items() if isinstance(linear, QuantLinear)]
        if quantized:
            raise ValueError(f"the model is quantized already ({quantized[0]} and {len(quantized) - 1} more linears)")
        for name, linear in linears.items():
            assert isinstance(linear.weight, Tensor)
            check_weight(linear.weight, scheme.group_size, name)
        return linears


def refuse_full_precision(scheme: Scheme) -> str | None:
    """The refusal that every method shares."""
    return "it quantizes nothing" if scheme.is_full_precision else None


def refuse_full_precision_weights(scheme: Scheme) -> str | None:
    """The refusal of methods that are about how weights are rounded."""
    if scheme.weight_bits == FULL_PRECISION_BITS:
        return "it rounds weights, and the scheme leaves them at 16 bits"
    return None


def refuse_full_precision_activations(scheme: Scheme, work: str) -> str | None:
    """The refusal of methods that prepare activations for rounding; `work` says how, such as "smooths activations"."""
    if scheme.activation_bits == FULL_PRECISION_BITS and not scheme.is_full_precision:
        return f"it {work} to be rounded, and the scheme leaves them at 16 bits"
    return None
