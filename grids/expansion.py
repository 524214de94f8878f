"""From a grid to its variants and cells, each with the identity that decides its number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from grids.identity import canonical_json, text_id
from grids.needs import Needs
from grids.protocol import PROTOCOL_VERSION, Family, Protocol
from grids.schema import MaskPolicy, Retries
from grids.schemes import Scheme
from grids.tasks import TaskInfo

FULL_PRECISION = "none"
# What people call a cell by: the keys of `Cell.names`.
CELL_KEYS = ("model", "method", "calibration", "scheme", "task", "seed")


@dataclass(frozen=True)
class Model:
    """A model of the grid, found.

    `digest` is a hub revision or the hash of a local folder's files; `linear_inputs` are the numbers of input features
    that the linears of a block have; `max_length` is the longest sequence in tokens, None where nobody says.
    """

    label: str
    path: str
    revision: str | None
    digest: str
    family: Family
    dtype: str
    chat_template: bool
    linear_inputs: tuple[int, ...]
    max_length: int | None = None

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
    def identity_json(self) -> str:
        """The canonical JSON of `identity`, which all cells of the variant share."""
        return canonical_json(self.identity())

    @cached_property
    def variant_id(self) -> str:
        return text_id(self.identity_json)

    def names(self) -> dict[str, Any]:
        """How people call the variant."""
        return {
            "model": self.model.label,
            "method": self.method_name,
            "calibration": self.calibration.label if self.calibration else "",
            "scheme": self.scheme.name,
            "seed": self.seed,
        }

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
    _identity_jsons: dict[Family, str] = field(default_factory=dict, init=False, repr=False, compare=False)

    def identity(self, family: Family) -> dict[str, Any]:
        return {
            "name": self.info.name,
            "version": self.info.version,
            "digest": self.info.digest,
            "num_fewshot": self.num_fewshot,
            "limit": self.limit,
            "protocol": {"version": PROTOCOL_VERSION} | self.protocol.identity(family, self.info.output_type),
        }

    def identity_json(self, family: Family) -> str:
        """The canonical JSON of `identity`, which the task's cells of that family share."""
        if family not in self._identity_jsons:
            self._identity_jsons[family] = canonical_json(self.identity(family))
        return self._identity_jsons[family]


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
        # The canonical JSON of `identity`, of which both parts are shared with many cells.
        task = self.task.identity_json(self.variant.model.family)
        return text_id(f'{{"task":{task},"variant":{self.variant.identity_json}}}')

    def names(self) -> dict[str, Any]:
        """How people call the cell; also what `exclude` and `--only` match against."""
        return self.variant.names() | {"task": self.task.info.name}

    def __str__(self) -> str:
        return f"{self.variant} {self.task.info.name}"


@dataclass(frozen=True)
class Study:
    """A grid, resolved: what `plan` and `run` work on.

    timeout: what a unit may take, in seconds.  needs: what models ask of machines, by label; all of it may be empty.
    """

    name: str
    cells: tuple[Cell, ...]
    retries: Retries = field(default_factory=Retries)
    timeout: float | None = None
    needs: Mapping[str, Needs] = field(default_factory=dict)
    allow_mixed_devices: bool = False

    def variants(self) -> Iterator[Variant]:
        """Each variant with at least one applicable cell, once, in the grid's order."""
        seen: set[str] = set()
        for cell in self.cells:
            if cell.not_applicable is None and cell.variant.variant_id not in seen:
                seen.add(cell.variant.variant_id)
                yield cell.variant
