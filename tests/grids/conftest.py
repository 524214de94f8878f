"""A catalog without torch: two methods, one task, any folder is a LLaDA model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from grids import Catalog, Model, ModelEntry, Preset, Scheme, Study, read_grid, resolve

TASK = """
task: capitals
tag: general
dataset_path: json
dataset_kwargs: {data_files: {test: capitals.jsonl}}
output_type: multiple_choice
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata: {version: 2}
"""
SUMS = """
task: sums
tag: math
dataset_path: json
dataset_kwargs: {data_files: {test: capitals.jsonl}}
output_type: generate_until
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
filter_list: [{name: strict, filter: [{function: take_first}]}]
metadata: {version: 1}
"""


class _Parameters(BaseModel):
    model_config = ConfigDict(extra="forbid")
    symmetric: bool = False
    damp_percent: float = 0.01


@dataclass(frozen=True)
class FakeMethod:
    version: int = 1
    needs_calibration: bool = False

    def resolve(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        return _Parameters.model_validate(dict(parameters)).model_dump()

    def refusal(self, parameters: Mapping[str, Any], scheme: Scheme) -> str | None:
        return "weights only" if self.needs_calibration and scheme.activation_bits < 16 else None


def _find_model(entry: ModelEntry, folder: Path, dtype: str) -> Model:
    path = folder / entry.path
    if not path.is_dir():
        raise ValueError(f"no such model folder: {path}")
    digest = hashlib.sha256((path / "config.json").read_bytes()).hexdigest()[:16]
    return Model(entry.label, str(path), entry.revision, digest, "llada", dtype, entry.chat_template, (256, 768), 2048)


@pytest.fixture
def study_of(tmp_path: Path) -> Callable[..., Study]:
    """Writes a grid beside a model and two tasks, and resolves it."""
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.json").write_text('{"model_type": "llada"}')
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "capitals.yaml").write_text(TASK)
    (tmp_path / "tasks" / "sums.yaml").write_text(SUMS)
    (tmp_path / "tasks" / "capitals.jsonl").write_text('{"question": "?"}\n')
    (tmp_path / "text.txt").write_text("some text to calibrate on")
    catalog = Catalog(
        methods={"rtn": FakeMethod(), "gptq": FakeMethod(needs_calibration=True)},
        presets={"paper": Preset(about="the paper", methods={"gptq": {"damp_percent": 0.02}})},
        task_folders=(tmp_path / "tasks",),
        find_model=_find_model,
    )

    def make(text: str, overrides: tuple[str, ...] = ()) -> Study:
        file = tmp_path / "grid.yaml"
        file.write_text(text)
        return resolve(read_grid(file, overrides), file, catalog)

    return make


GRID = """
name: small
models: [tiny]
methods: [rtn, gptq]
schemes: [w4a16g128, w4a4]
tasks:
  - capitals
  - {name: sums, generation: {gen_length: 32, steps: 32}}
calibration: {dataset: text.txt, num_samples: 4, length: 8}
limit: 10
dtype: float32
"""


@pytest.fixture
def small_grid() -> str:
    return GRID
