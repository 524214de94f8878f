"""How many items a task has and how long they are: from its local data, else from a table of the study's tasks."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from grids import TaskInfo

_FACTS = Path(__file__).parent / "facts" / "tasks.yaml"
# Rows that are read for their lengths, and how many characters a token has there.
_NUM_ROWS, _CHARACTERS_PER_TOKEN = 64, 4


@dataclass(frozen=True, slots=True)
class TaskSize:
    """Items of a task, and mean lengths in tokens: of a prompt without examples, of an example, of one choice.

    `source` says where the numbers are from: `file`, `table`, or `guess` where neither is there.
    """

    num_items: int
    prompt_tokens: float
    shot_tokens: float
    num_choices: float = 1
    target_tokens: float = 1
    source: str = "table"


_GUESS = TaskSize(num_items=1000, prompt_tokens=100, shot_tokens=100, num_choices=4, target_tokens=5, source="guess")


def task_size(info: TaskInfo) -> TaskSize:
    """The size of a task. Items of local data are counted; its lengths are estimated unless the table has them."""
    known = _table().get(info.name)
    file = _evaluated_file(info)
    if file is None:
        return known or _GUESS
    if known is not None:
        return replace(known, num_items=_num_rows(file), source="file")
    return _estimate(file, _num_rows(file))


@cache
def _table() -> dict[str, TaskSize]:
    return {name: TaskSize(**size) for name, size in yaml.safe_load(_FACTS.read_text(encoding="utf-8")).items()}


def _evaluated_file(info: TaskInfo) -> Path | None:
    """The local data of the split that is evaluated, where a grid or the task file gives it."""
    files = {**info.data_files, **info.given_files}
    file = files.get(info.data.evaluated_split)
    return None if file is None else Path(file)


def _num_rows(file: Path) -> int:
    if file.suffix == ".parquet":
        import pyarrow.parquet as pq

        return int(pq.ParquetFile(file).metadata.num_rows)
    if file.suffix == ".json":
        content = json.loads(file.read_text(encoding="utf-8"))
        return len(content) if isinstance(content, list) else 1
    with file.open("rb") as lines:
        return sum(1 for line in lines if line.strip())


def _estimate(file: Path, num_items: int) -> TaskSize:
    """Lengths from the first rows: every text of a row is its prompt, the longest list of texts its choices."""
    rows = list(_first_rows(file))
    if not rows:
        return replace(_GUESS, num_items=num_items)
    choices = [max((list(_lists_of_texts(row)) or [[]]), key=len) for row in rows]
    num_choices = sum(map(len, choices)) / len(rows)
    chosen_tokens = _tokens(sum(len(text) for texts in choices for text in texts)) / max(1, sum(map(len, choices)))
    row_tokens = _tokens(sum(len(text) for row in rows for text in _texts(row))) / len(rows)
    prompt_tokens = max(1.0, row_tokens - num_choices * chosen_tokens)
    return TaskSize(
        num_items=num_items,
        prompt_tokens=prompt_tokens,
        shot_tokens=prompt_tokens + chosen_tokens,
        num_choices=max(1.0, num_choices),
        target_tokens=max(1.0, chosen_tokens),
        source="file",
    )


def _first_rows(file: Path) -> Iterable[dict[str, Any]]:
    if file.suffix == ".parquet":
        import pyarrow.parquet as pq

        batch = next(pq.ParquetFile(file).iter_batches(batch_size=_NUM_ROWS), None)
        return [] if batch is None else batch.to_pylist()
    if file.suffix == ".json":
        content = json.loads(file.read_text(encoding="utf-8"))
        return content[:_NUM_ROWS] if isinstance(content, list) else [content]
    with file.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in islice((line for line in lines if line.strip()), _NUM_ROWS)]


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


def _lists_of_texts(value: Any) -> Iterable[list[str]]:
    if isinstance(value, list) and value and all(isinstance(text, str) for text in value):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _lists_of_texts(inner)


def _tokens(num_characters: int) -> float:
    return num_characters / _CHARACTERS_PER_TOKEN
