"""From a grid to its variants and cells, each with the identity that decides its number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from grids.identity import content_id
from grids.protocol import PROTOCOL_VERSION, Family, Protocol
from grids.schema import MaskPolicy
from grids.schemes import Scheme
from grids.tasks import TaskInfo

FULL_PRECISION = "none"


@dataclass(frozen=True)
class Model:
    """A model of the grid, found.

    `digest` is a hub revision or the hash of a local folder's files; `linear_inputs` are the numbers of input features
    that the linears of a block have.
    """

    label: str
    path: str
    revision: str | None
    digest: str
    family: Family
    dtype: str
    chat_template: bool
    linear_inputs: tuple[int, ...]

    def identity(self) -> dict[str, Any]:
        return {"digest": self.digest, "dtype": self.dtype, "chat_template": self.chat_template}


@dataclass(frozen=True)
class Calibration:
    """What a method calibrates on.

    `source` is a local file, or the name of a hub data set; `digest` is the hash of the file and of the column that is
    read, or the data set's hub id and split; `label` tells the calibrations of a grid apart, empty where there is one.
    """

    source: str
    field: str
    label: str
    digest: str
    num_samples: int
    length: int
    seed: int
    mask: MaskPolicy

    def identity(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key not in ("source", "field", "label")}


@dataclass(frozen=True)
class Variant:
    """One quantized model: model x method with its parameters x scheme x calibration x seed."""

    model: Model
    method: str
    method_name: str
    method_version: int
    parameters: Mapping[str, Any]
    scheme: Scheme
    calibration: Calibration | None
    seed: int

    @property
    def is_full_precision(self) -> bool:
        return self.method == FULL_PRECISION

    @property
    def method_label(self) -> str:
        """How tables call the method: with its calibration where the grid has several."""
        calibration = self.calibration.label if self.calibration else ""
        return f"{self.method_name}, {calibration}" if calibration else self.method_name

    def identity(self) -> dict[str, Any]:
        return {
            "model": self.model.identity(),
            "method": {"name": self.method, "version": self.method_version, "parameters": dict(self.parameters)},
            "scheme": self.scheme.name,
            "calibration": self.calibration.identity() if self.calibration else None,
            "seed": self.seed,
        }

    @cached_property
    def variant_id(self) -> str:
        return content_id(self.identity())

    def __str__(self) -> str:
        return f"{self.model.label} {self.method_label} {self.scheme}"


@dataclass(frozen=True)
class CellTask:
    """A task with the settings of one cell. Metric, filter and group only decide how tables show it."""

    info: TaskInfo
    num_fewshot: int
    limit: int | None
    protocol: Protocol
    metric: str
    filter: str
    group: str

    def identity(self, family: Family) -> dict[str, Any]:
        return {
            "name": self.info.name,
            "version": self.info.version,
            "digest": self.info.digest,
            "num_fewshot": self.num_fewshot,
            "limit": self.limit,
            "protocol": {"version": PROTOCOL_VERSION} | self.protocol.identity(family, self.info.output_type),
        }


@dataclass(frozen=True)
class Cell:
    """Variant x task: one number of a table. `not_applicable` says why a method does not serve it."""

    variant: Variant
    task: CellTask
    not_applicable: str | None = field(default=None, compare=False)

    def identity(self) -> dict[str, Any]:
        return {"variant": self.variant.identity(), "task": self.task.identity(self.variant.model.family)}

    @cached_property
    def cell_id(self) -> str:
        return content_id(self.identity())

    def names(self) -> dict[str, Any]:
        """How people call the cell; also what `exclude` and `--only` match against."""
        variant = self.variant
        return {
            "model": variant.model.label,
            "method": variant.method_name,
            "calibration": variant.calibration.label if variant.calibration else "",
            "scheme": variant.scheme.name,
            "task": self.task.info.name,
            "seed": variant.seed,
        }

    def __str__(self) -> str:
        return f"{self.variant} {self.task.info.name}"


@dataclass(frozen=True)
class Study:
    """A grid, resolved: what `plan` and `run` work on."""

    name: str
    cells: tuple[Cell, ...]

    def variants(self) -> Iterator[Variant]:
        """Each variant with at least one applicable cell, once, in the grid's order."""
        seen: set[str] = set()
        for cell in self.cells:
            if cell.not_applicable is None and cell.variant.variant_id not in seen:
                seen.add(cell.variant.variant_id)
                yield cell.variant
