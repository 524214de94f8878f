"""What the planner must know of an lm-eval task, read from its YAML file without importing lm-eval."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from grids.errors import GridError
from grids.identity import canonical_json
from grids.task_data import TaskData, read_task_data

GROUPS = ("general", "math", "code")


class _TaskLoader(yaml.SafeLoader):
    """Safe YAML in which `!function module.name` stays text."""


_TaskLoader.add_constructor("!function", lambda loader, node: f"!function {node.value}")


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """One task file: what decides its score, and how tables show it.

    `digest` covers the resolved configuration, its Python functions and its local data; no path and no comment.
    `metrics` and `filters` are those that the file declares; no metrics where it leaves them to lm-eval. `data_files`
    are the task file's own, which lm-eval loads; `given_files` are the grid's, in place of the hub's.
    """

    name: str
    file: Path
    version: str
    output_type: str
    group: str
    metric: str
    filter: str
    num_fewshot: int
    data_files: Mapping[str, str]
    digest: str
    data: TaskData = field(default_factory=TaskData)
    given_files: Mapping[str, str] = field(default_factory=dict)
    runs_code: bool = False
    metrics: tuple[str, ...] = ()
    filters: tuple[str, ...] = ()

    @property
    def is_generation(self) -> bool:
        return self.output_type == "generate_until"

    @property
    def is_on_hub(self) -> bool:
        """Whether its items have to be fetched."""
        return not self.data_files and not self.given_files


def find_tasks(folders: list[Path]) -> dict[str, TaskInfo]:
    """All tasks below the folders, by name. Raises GridError for a missing folder or an unreadable file."""
    tasks: dict[str, TaskInfo] = {}
    for folder in folders:
        if not folder.is_dir():
            raise GridError(f"no such folder: {folder}", key="task_path")
        for file in sorted(folder.rglob("*.yaml")):
            config = _read_config(file)
            if isinstance(config.get("task"), str):
                info = _describe(file, config)
                if info.name in tasks:
                    raise GridError(
                        f"task {info.name!r} is defined in {tasks[info.name].file} and in {file}", key="task_path"
                    )
                tasks[info.name] = info
    return tasks


def _read_config(file: Path) -> dict[str, Any]:
    """A task file with the files that it includes laid under it."""
    try:
        config = _TaskLoader(file.read_text(encoding="utf-8")).get_single_data()
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise GridError(f"cannot read task file {file}: {error}", key="task_path") from error
    if not isinstance(config, dict):
        return {}
    included = config.pop("include", None)
    base = _read_config(file.parent / included) if included else {}
    return base | config


def _describe(file: Path, config: dict[str, Any]) -> TaskInfo:
    data_files = _data_files(file, config)
    tags = config.get("tag") or []
    tags = [tags] if isinstance(tags, str) else tags
    filters = tuple(str(entry["name"]) for entry in config.get("filter_list") or [{"name": "none"}])
    metrics = tuple(_metric_name(entry["metric"]) for entry in config.get("metric_list") or [])
    metadata = config.get("metadata") or {}
    return TaskInfo(
        name=config["task"],
        file=file,
        version=str(metadata.get("version", "0")),
        output_type=config.get("output_type", "generate_until"),
        group=next((tag for tag in tags if tag in GROUPS), "other"),
        metric=metrics[0] if metrics else "acc",
        filter=filters[0],
        num_fewshot=int(config.get("num_fewshot") or 0),
        data_files=data_files,
        digest=_digest(
            config, sorted(file.parent.glob("*.py")) + [Path(data_files[split]) for split in sorted(data_files)]
        ),
        data=read_task_data(config),
        runs_code=bool(metadata.get("runs_code")),
        metrics=metrics,
        filters=filters,
    )


def _metric_name(text: str) -> str:
    """What lm-eval calls a metric: of a function, its name."""
    return text.rpartition(".")[2] if text.startswith("!function") else text


def _data_files(file: Path, config: dict[str, Any]) -> dict[str, str]:
    """Local data by split, as absolute paths: lm-eval itself would read them relative to the working directory."""
    given = (config.get("dataset_kwargs") or {}).get("data_files") or {}
    if isinstance(given, str):
        given = {"train": given}
    paths = {split: (file.parent / path).resolve() for split, path in given.items()}
    for split, path in paths.items():
        if not path.is_file():
            raise GridError(
                f"task {config['task']!r} in {file}: data file of split {split!r} is missing: {path}", key="tasks"
            )
    return {split: str(path) for split, path in paths.items()}


def _digest(config: dict[str, Any], files: list[Path]) -> str:
    digest = hashlib.sha256(canonical_json(config).encode())
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]
