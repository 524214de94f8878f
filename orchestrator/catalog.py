"""Everything that a grid may name on this installation: methods, presets, tasks, shipped models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grids
import methods
from grids import Catalog, Model, ModelEntry, Scheme
from grids.errors import unknown_name
from workers.models.checkpoint import check_files
from workers.models.info import ModelError, inspect_model, model_digest
from workers.presets import read_presets

DEMO_FOLDER = Path(grids.__file__).parent / "demo"
DEMO_GRID = DEMO_FOLDER / "grid.yaml"
# The tasks of the study, and the demo's.
TASK_FOLDERS = (Path(grids.__file__).parent / "study_tasks", DEMO_FOLDER / "tasks")


def make_catalog() -> Catalog:
    """What `methods` registers, the presets beside it, and the tasks and models that ship."""
    return Catalog(
        methods={name: _MethodInfo(kind) for name, kind in methods.available_methods().items()},
        presets=read_presets(),
        task_folders=TASK_FOLDERS,
        find_model=find_model,
    )


class _MethodInfo:
    """A method class as the planner sees it."""

    def __init__(self, kind: type[methods.Method[Any]]) -> None:
        self._kind = kind
        self.version = kind.version
        self.needs_calibration = kind.needs_calibration

    def resolve(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        resolved: dict[str, Any] = self._kind.Parameters.model_validate(dict(parameters)).model_dump(mode="json")
        return resolved

    def refusal(self, parameters: Mapping[str, Any], scheme: Scheme) -> str | None:
        return self._kind(self._kind.Parameters.model_validate(dict(parameters))).refusal(scheme)


def shipped_models() -> dict[str, Path]:
    """The demo's models, by name."""
    return {folder.name: folder for folder in sorted((DEMO_FOLDER / "models").iterdir()) if folder.is_dir()}


def local_model(entry: ModelEntry, folder: Path) -> Path | None:
    """The folder of a local or shipped model; None for a hub id with a revision. Raises ModelError otherwise."""
    local = (folder / Path(entry.path).expanduser()).resolve()
    if not local.is_dir() and entry.path in shipped_models():
        local = shipped_models()[entry.path]
    if local.is_dir():
        if entry.revision is not None:
            raise ModelError(f"{entry.path!r} is a local folder, which has no revision")
        check_files(local)
        return local
    if entry.revision is None:
        hint = unknown_name("model", entry.path, shipped_models())
        raise ModelError(f"no such model folder: {local}; a hub id needs a revision; or a shipped model: {hint}")
    return None


def find_model(entry: ModelEntry, folder: Path, dtype: str) -> Model:
    """A grid's model: a local folder, a hub id with a revision, or a shipped model's name. Raises ModelError."""
    local = local_model(entry, folder)
    path = str(local or entry.path)
    digest = model_digest(local) if local else f"{entry.path}@{entry.revision}"
    info = inspect_model(path, revision=entry.revision)
    inputs = (info.hidden_size, info.num_heads * info.head_dim, info.intermediate_size)
    return Model(
        entry.label, path, entry.revision, digest, info.family, dtype, entry.chat_template, inputs, info.max_length
    )
