"""The grid file as typed data. Unknown keys are refused; a plain string stands for an entry with only a name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from grids.durations import Duration
from grids.needs import Needs
from grids.protocol import Settings
from grids.schemes import parse_scheme

Dtype = Literal["float32", "bfloat16", "float16"]
# Policies that need no model, and all.
TokenMaskPolicy = Literal["none", "uniform", "timestep"]
MaskPolicy = Literal["none", "uniform", "timestep", "on-policy"]
_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


def _entry(key: str) -> BeforeValidator:
    """Let `text` stand for `{key: text}`."""
    return BeforeValidator(lambda value: {key: value} if isinstance(value, str) else value)


class ModelEntry(Settings):
    """A hub id with a revision, or a local folder (relative to the grid file)."""

    path: str = Field(min_length=1)
    revision: str | None = None
    name: str | None = Field(None, pattern=_NAME_PATTERN, description="how tables call it; default: last part of path")
    chat_template: bool = False
    needs: Needs = Needs()

    @property
    def label(self) -> str:
        return self.name or self.path.rstrip("/").rsplit("/", 1)[-1]


class MethodEntry(Settings):
    """A method, and the parameters that differ from the preset's."""

    name: str
    parameters: dict[str, Any] = {}
    label: str | None = Field(None, description="how tables call it; default: the name and its given parameters")


class TaskEntry(Settings):
    """A task, and what differs from its own configuration and from the grid's protocol."""

    name: str
    num_fewshot: int | None = Field(None, ge=0)
    limit: int | None = Field(None, ge=1)
    group: str | None = Field(None, description="column group of the tables; default: the task's own")
    metric: str | None = Field(None, description="the metric that tables show; default: the task's first")
    filter: str | None = Field(None, description="the answer filter that tables show; default: the task's first")
    likelihood: dict[str, Any] = {}
    generation: dict[str, Any] = {}


class CalibrationEntry(Settings):
    """What methods calibrate on: windows of a text, drawn by seed."""

    dataset: str = Field(min_length=1, description="wikitext2, pileval, or a local file, relative to the grid file")
    field: str = Field("text", description="the column that holds the text in a jsonl or parquet file")
    name: str | None = Field(None, pattern=_NAME_PATTERN, description="how tables call it; default: its mask policy")
    num_samples: int = Field(128, ge=1)
    length: int = Field(2048, ge=2)
    seed: int = 0
    mask: MaskPolicy = "none"

    @property
    def label(self) -> str:
        return self.name or self.mask


class Exclusion(Settings):
    """Leaves out each cell that agrees with every key given here."""

    model: str | None = None
    method: str | None = None
    calibration: str | None = None
    scheme: str | None = None
    task: str | None = None
    seed: int | None = None


class ProtocolEntry(Settings):
    """Settings laid over the preset's, for all tasks."""

    likelihood: dict[str, Any] = {}
    generation: dict[str, Any] = {}


class Retries(Settings):
    """How often a unit is tried again after a failure of each kind; what is not named here is not.

    Before the n-th further try the unit rests for `backoff` times 2^(n-1). What was lost with its worker or node goes
    to another node where there is one; after a host ran out of memory the unit runs alone on its node, and after a GPU
    did, with half the batch.
    """

    worker_lost: int = Field(2, ge=0)
    node_lost: int = Field(5, ge=0)
    oom_host: int = Field(1, ge=0)
    oom_gpu: int = Field(2, ge=0)
    timeout: int = Field(1, ge=0)
    backoff: Duration = 5.0


class Grid(Settings):
    """A study: models x methods x schemes x tasks."""

    name: str = Field(pattern=_NAME_PATTERN)
    models: list[Annotated[ModelEntry, _entry("path")]] = Field(min_length=1)
    methods: list[Annotated[MethodEntry, _entry("name")]] = []
    schemes: list[str] = []
    tasks: list[Annotated[TaskEntry, _entry("name")]] = Field(min_length=1)
    task_path: list[str] = Field([], description="folders of lm-eval task files, relative to the grid file")
    data: dict[str, str | dict[str, str]] = Field(
        {}, description="per task, in place of the hub's: a file, a folder, a file per split; or {revision: COMMIT}"
    )
    preset: str = "paper"
    protocol: ProtocolEntry = ProtocolEntry()
    calibrations: list[Annotated[CalibrationEntry, _entry("dataset")]] = []
    seeds: list[int] = Field([0], min_length=1)
    exclude: list[Exclusion] = []
    limit: int | None = Field(None, ge=1, description="items per task")
    dtype: Dtype = "bfloat16"
    retries: Retries = Retries()
    timeout: Duration | None = Field(None, description="a unit (a quantization, a cell, a shard) past it is ended: 2h")
    allow_mixed_devices: bool = Field(False, description="a model's cells may run on different kinds of device")

    @model_validator(mode="before")
    @classmethod
    def _one_calibration_is_a_list_of_one(cls, values: Any) -> Any:
        """`calibration: X` stands for `calibrations: [X]`."""
        if isinstance(values, dict) and values.get("calibration") is not None:
            if "calibrations" in values:
                raise ValueError("give calibration or calibrations, not both")
            values = dict(values)
            values["calibrations"] = [values.pop("calibration")]
        return values

    @field_validator("schemes")
    @classmethod
    def _schemes_parse(cls, schemes: list[str]) -> list[str]:
        return [parse_scheme(scheme).name for scheme in schemes]
