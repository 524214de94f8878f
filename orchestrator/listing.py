"""What `qstudy list` shows: names that a grid may use, with a line each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rich.table import Table

from grids import Grid, GridError, TaskInfo, find_tasks
from grids.errors import unknown_name
from orchestrator.catalog import TASK_FOLDERS, shipped_models
from workers.presets import read_presets

SCHEMES = {
    "fp16": "full precision, the row that every model has (in the grid's dtype)",
    "w4a16g128": "4-bit weights in groups of 128 input channels",
    "w3a16g128": "3-bit weights in groups of 128 input channels",
    "w8a8": "8-bit weights per output channel, 8-bit activations per token",
    "w4a4": "4-bit weights per output channel, 4-bit activations per token",
    "w4a8": "4-bit weights per output channel, 8-bit activations per token",
    "w4a4kv4": "w4a4, and keys and values at 4 bits per token and head",
    "w4a4kv4q4": "w4a4kv4, and queries too",
}


@dataclass(frozen=True)
class Listing:
    """Names with what they mean."""

    rows: list[tuple[str, str]]

    def to_json(self) -> list[dict[str, str]]:
        return [{"name": name, "about": about} for name, about in self.rows]

    def to_table(self) -> Table:
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(style="bold", no_wrap=True)
        table.add_column()
        for name, about in self.rows:
            table.add_row(name, about)
        return table


def list_names(what: str) -> Listing:
    """Raises GridError for another word than models, methods, schemes, tasks, presets."""
    if what not in _LISTINGS:
        raise GridError(unknown_name("list", what, _LISTINGS))
    return Listing(_LISTINGS[what]())


def _models() -> list[tuple[str, str]]:
    from workers.models.info import inspect_model

    rows = []
    for name, folder in shipped_models().items():
        info = inspect_model(str(folder))
        rows.append(
            (name, f"ships with qstudy; {info.family}, {info.num_layers} blocks, hidden size {info.hidden_size}")
        )
    rows.append(("FOLDER", "a local checkpoint of LLaDA, Dream, Llama or Qwen2 (config.json, tokenizer, safetensors)"))
    rows.append(("ORG/NAME + revision", "the same on the hub, as in GSAI-ML/LLaDA-8B-Base"))
    return rows


def _methods() -> list[tuple[str, str]]:
    import methods

    return [(name, (kind.__doc__ or "").strip().splitlines()[0]) for name, kind in methods.available_methods().items()]


def _tasks() -> list[tuple[str, str]]:
    """Shots are those of the preset that a grid gets where it names none."""
    preset = read_presets()[Grid.model_fields["preset"].default]
    return [
        (task.name, _about_task(task, int(preset.tasks.get(task.name, {}).get("num_fewshot", task.num_fewshot))))
        for task in find_tasks(list(TASK_FOLDERS)).values()
    ]


def _about_task(task: TaskInfo, num_fewshot: int) -> str:
    kind = "generation" if task.is_generation else "likelihood"
    metric = task.metric if task.filter == "none" else f"{task.metric} ({task.filter})"
    subset = task.data.subsets[0] if len(task.data.subsets) == 1 else f"{len(task.data.subsets)} subsets"
    source = " ".join(filter(None, [task.data.path, subset])) if task.is_on_hub else "ships with qstudy"
    return f"{task.group}, {kind}, metric {metric}, {num_fewshot}-shot, {source}"


def _presets() -> list[tuple[str, str]]:
    return [(name, preset.about) for name, preset in read_presets().items()]


_LISTINGS: dict[str, Callable[[], list[tuple[str, str]]]] = {
    "models": _models,
    "methods": _methods,
    "schemes": lambda: list(SCHEMES.items()),
    "tasks": _tasks,
    "presets": _presets,
}
