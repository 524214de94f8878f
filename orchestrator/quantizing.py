"""`qstudy quantize`: one variant without a study, quantized and audited in this process."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from rich.console import Console

from grids import Grid, GridError, Variant, resolve
from grids.loading import dotted
from orchestrator.catalog import DEMO_FOLDER, make_catalog
from orchestrator.failures import Failure
from orchestrator.pools import InProcessPool
from workers.artifacts import ArtifactStore
from workers.units import Progress, Quantized, QuantizeUnit, WorkerSettings

NUM_WORST = 5
# Where people gave what the grid's keys hold.
_OPTIONS = {
    "models": "MODEL",
    "methods": "--method",
    "schemes": "--scheme",
    "calibration": "--calibration",
    "calibrations": "--calibration",
    "preset": "--preset",
    "dtype": "--dtype",
}
_PARAMETERS = "methods[0].parameters"


@dataclass(frozen=True, kw_only=True)
class QuantizeOptions:
    """Which variant to make. `parameters` are `KEY=VALUE` over the preset's; without `calibration` there is none."""

    model: str
    method: str
    scheme: str
    revision: str | None = None
    calibration: str | None = None
    num_samples: int = 128
    length: int = 2048
    parameters: Sequence[str] = ()
    preset: str = "paper"
    dtype: str = "bfloat16"
    seed: int = 0


@dataclass(frozen=True)
class QuantizedVariant:
    """A variant on disk, and what its audit found (the fields of the store's `variants`)."""

    variant: Variant
    folder: Path
    row: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        audit = json.loads(self.row["audit"])
        return {
            "variant_id": self.variant.variant_id,
            "artifact": str(self.folder),
            "config": self.variant.identity(),
            **{key: value for key, value in self.row.items() if key != "audit"},
            "audit": audit,
        }

    def summary(self) -> list[str]:
        """The audit in lines."""
        audit = json.loads(self.row["audit"])
        left_out = audit["left_out"]
        lines = [
            f"{self.variant}",
            f"linears quantized: {self.row['num_linears']}; left out: {', '.join(left_out) if left_out else 'none'}",
            f"bits per weight, with scales and zero points: {self.row['effective_bits']:.3f}",
        ]
        errors = {linear["name"]: linear["output_error"] for linear in audit["linears"]}
        known = {name: error for name, error in errors.items() if error is not None}
        worst = sorted(known, key=lambda name: -known[name])[:NUM_WORST]
        lines += [f"relative output error of {name}: {known[name]:.4f}" for name in worst]
        return [*lines, f"quantized and audited in {self.row['quantize_seconds']:.1f} s on {self.row['device']}"]


class QuantizeFailedError(RuntimeError):
    """A variant that could not be made, or that is not what its label says."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def quantize_model(options: QuantizeOptions, output: Path, *, console: Console | None = None) -> QuantizedVariant:
    """Quantize a model, audit it, and write it to `output/VARIANT_ID`, as a study's `artifacts` holds it.

    How far it is, is told on `console`, if there is one. What is there already is not made again. Raises GridError for
    bad input, QuantizeFailedError for what goes wrong later.
    """
    variant = requested_variant(options)
    pool = InProcessPool(WorkerSettings(artifact_dir=str(output.resolve())))
    (slot,) = pool.slots
    pool.start(slot, QuantizeUnit(variant))
    row: Mapping[str, Any] = {}
    with (console or Console(quiet=True)).status(f"{variant}: load") as status:
        while slot.unit is not None:
            for _, message in pool.poll(0):
                if isinstance(message, Progress):
                    status.update(f"{variant}: {message.phase} {message.done} of {message.total}")
                elif isinstance(message, Quantized):
                    row = message.row
                elif isinstance(message, Failure):
                    if message.kind == "bad_input":
                        raise GridError(message.message)
                    raise QuantizeFailedError(message)
    return QuantizedVariant(variant, ArtifactStore(output).path(variant.variant_id), row)


def requested_variant(options: QuantizeOptions) -> Variant:
    """The variant that the options mean: that of a grid with one model, method and scheme. Raises GridError."""
    content: dict[str, Any] = {
        "name": "quantize",
        "models": [{"path": options.model, "revision": options.revision}],
        "methods": [{"name": options.method, "parameters": _parameters(options.parameters)}],
        "schemes": [options.scheme],
        # A grid has a task; this one's is never asked.
        "tasks": ["demo_facts"],
        "task_path": [str(DEMO_FOLDER / "tasks")],
        "preset": options.preset,
        "dtype": options.dtype,
        "seeds": [options.seed],
    }
    if options.calibration is not None:
        data = {"dataset": options.calibration, "num_samples": options.num_samples, "length": options.length}
        content["calibrations"] = [data]
    try:
        study = resolve(Grid.model_validate(content), Path.cwd() / "command line", make_catalog())
    except ValidationError as error:
        problem = error.errors()[0]
        raise GridError(problem["msg"].removeprefix("Value error, "), key=_option(dotted(problem["loc"]))) from error
    except GridError as error:
        raise GridError(error.message, key=_option(error.key)) from error
    quantized = [cell for cell in study.cells if not cell.variant.is_full_precision]
    if not quantized:
        raise GridError("full precision: nothing is quantized", key="--scheme")
    if quantized[0].not_applicable is not None:
        raise GridError(quantized[0].not_applicable, key="--scheme")
    return quantized[0].variant


def _parameters(given: Sequence[str]) -> dict[str, Any]:
    parameters = {}
    for text in given:
        key, separator, value = text.partition("=")
        if not (key and separator):
            raise GridError(f"cannot read {text!r}; write KEY=VALUE, as in symmetric=false", key="--set")
        try:
            parameters[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise GridError(f"the value of {text!r} is not valid YAML", key="--set") from error
    return parameters


def _option(key: str) -> str:
    """What a person gave on the command line for a key of the grid."""
    if key.startswith(_PARAMETERS):
        return f"--set {key.removeprefix(_PARAMETERS).lstrip('.')}".strip()
    return _OPTIONS.get(key.partition("[")[0].partition(".")[0], key)
