"""Where a task's items come from: the hub, or the files that a grid gives in their place, and what these must hold."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grids.errors import GridError, unknown_name
from grids.identity import canonical_json

if TYPE_CHECKING:
    from grids.tasks import TaskInfo

SUFFIXES = (".jsonl", ".parquet")


@dataclass(frozen=True, slots=True)
class TaskData:
    """What a task file says of its data.

    `columns` maps each column that the task reads to `text`, `integer`, `texts`, or to the columns of a nested one;
    empty where the file does not say. Of the `splits` it names two are read at most. `fewshot_split` is None where the
    examples are written in the task file (`num_written`, None for a number that only lm-eval finds out), or where there
    are none. `subject` is the column whose items belong together.
    """

    path: str = ""
    subsets: tuple[str | None, ...] = (None,)
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    splits: tuple[str, ...] = ("test",)
    evaluated_split: str = "test"
    fewshot_split: str | None = None
    num_written: int | None = 0
    columns: Mapping[str, Any] = field(default_factory=dict)
    subject: str | None = None
    fewshot_by_subject: bool = False


def read_task_data(config: Mapping[str, Any]) -> TaskData:
    """From a task's configuration, by lm-eval's rules of which split is read for what."""
    metadata = config.get("metadata") or {}
    fewshot = config.get("fewshot_config") or {}
    evaluated = config.get("test_split") or config.get("validation_split") or "test"
    split = fewshot.get("split") or config.get("fewshot_split")
    samples = fewshot.get("samples") or []
    if split is None and not samples:
        split = config.get("training_split") or config.get("validation_split")
    declared = [config.get(f"{use}_split") for use in ("training", "validation", "test", "fewshot")]
    return TaskData(
        path=str(config.get("dataset_path") or ""),
        subsets=tuple(metadata.get("subsets") or [config.get("dataset_name")]),
        kwargs=config.get("dataset_kwargs") or {},
        splits=tuple(dict.fromkeys(name for name in [evaluated, split, *declared] if name)),
        evaluated_split=evaluated,
        fewshot_split=split,
        num_written=len(samples) if isinstance(samples, list) else None,
        columns=metadata.get("columns") or {},
        subject=metadata.get("subject"),
        fewshot_by_subject=bool(metadata.get("fewshot_by_subject")),
    )


def check_fewshot(info: TaskInfo, num_fewshot: int) -> None:
    """Raise ValueError where a task cannot have that many examples, as far as its file tells."""
    data = info.data
    if num_fewshot and data.fewshot_split is None and data.num_written is not None and num_fewshot > data.num_written:
        raise ValueError(
            f"task {info.name!r} has {data.num_written} few-shot examples of its own and no split to draw others from; "
            f"{num_fewshot} are asked for"
        )


def with_data(info: TaskInfo, given: str | Mapping[str, str], folder: Path, num_fewshot: int) -> TaskInfo:
    """The task with its data as the grid says: a file, a folder, a file per split, or `{revision: COMMIT}` of the hub.

    Files are relative to `folder`. Of local files the splits that are read are kept, and their content becomes part of
    the digest; no path does. Raises GridError that names file, row and column.
    """
    key = f"data.{info.name}"
    if not isinstance(given, str) and "revision" in given:
        return _pinned(info, given, key)
    files = _files(info, given, folder, num_fewshot, key)
    rows = {split: checked_rows(info, file, key=key) for split, file in files.items()}
    _check_examples(info, files, rows, num_fewshot, key)
    content = {split: hashlib.sha256(file.read_bytes()).hexdigest() for split, file in sorted(files.items())}
    return dataclasses.replace(
        info,
        data_files={},
        given_files={split: str(file) for split, file in files.items()},
        digest=_digest(info.digest, content),
    )


def _pinned(info: TaskInfo, given: Mapping[str, str], key: str) -> TaskInfo:
    if len(given) > 1:
        raise GridError("give a revision of the hub's data set, or local files, not both", key=key)
    if info.data_files:
        raise GridError(f"task {info.name!r} has local data, which has no revision", key=key)
    pinned = dataclasses.replace(info.data, kwargs=dict(info.data.kwargs) | dict(given))
    return dataclasses.replace(info, data=pinned, digest=_digest(info.digest, dict(given)))


def _digest(of_task: str, content: Mapping[str, str]) -> str:
    return hashlib.sha256(f"{of_task}{canonical_json(content)}".encode()).hexdigest()[:16]


def _files(info: TaskInfo, given: str | Mapping[str, str], folder: Path, num_fewshot: int, key: str) -> dict[str, Path]:
    """The file of each split that is read."""
    data = info.data
    needed = [data.evaluated_split]
    if num_fewshot and data.fewshot_split is not None and data.fewshot_split not in needed:
        needed.append(data.fewshot_split)
    if isinstance(given, str):
        path = _resolved(folder, given)
        given_files = _folder_files(path, data.splits, key) if path.is_dir() else {data.evaluated_split: path}
    else:
        given_files = {split: _resolved(folder, text) for split, text in given.items()}
        for split in given_files:
            if split not in data.splits:
                raise GridError(unknown_name(f"split of task {info.name!r}", split, data.splits), key=key)
    for split in needed:
        if split not in given_files:
            use = "its items" if split == data.evaluated_split else f"its {num_fewshot} few-shot examples"
            raise GridError(
                f"task {info.name!r} takes {use} from split {split!r}, for which there is no file (given: {given}); "
                f"write {info.name}: {{{', '.join(f'{name}: FILE' for name in needed)}}}",
                key=key,
            )
    return {split: given_files[split] for split in needed}


def _resolved(folder: Path, text: str) -> Path:
    return (folder / Path(text).expanduser()).resolve()


def _folder_files(folder: Path, splits: Iterable[str], key: str) -> dict[str, Path]:
    """SPLIT.jsonl or SPLIT.parquet in a folder."""
    found: dict[str, Path] = {}
    for split in splits:
        for file in (folder / f"{split}{suffix}" for suffix in SUFFIXES):
            if file.is_file():
                if split in found:
                    raise GridError(f"two files for one split: {found[split]} and {file}", key=key)
                found[split] = file
    return found


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a jsonl or parquet file. Raises ValueError that names the file and the line."""
    if file.suffix not in SUFFIXES:
        raise ValueError(f"cannot read {file}; a data file ends in {' or '.join(SUFFIXES)}")
    if not file.is_file():
        raise ValueError(f"no such data file: {file}")
    if file.suffix == ".parquet":
        import pyarrow.parquet

        try:
            table: list[dict[str, Any]] = pyarrow.parquet.read_table(file).to_pylist()
        except (pyarrow.ArrowException, OSError) as error:
            raise ValueError(f"cannot read {file}: {error}") from error
        return table
    rows = []
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"cannot read {file}, line {number}: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"cannot read {file}, line {number}: it holds {type(row).__name__}, not an object")
        rows.append(row)
    return rows


def checked_rows(info: TaskInfo, file: Path, *, key: str = "data") -> list[dict[str, Any]]:
    """The rows of a file in place of the hub's: at least one, each with every column that the task reads."""
    try:
        rows = read_rows(file)
    except ValueError as error:
        raise GridError(str(error), key=key) from error
    if not rows:
        raise GridError(f"{file} is empty; task {info.name!r} needs items", key=key)
    for number, row in enumerate(rows, start=1):
        problem = _problem(row, info.data.columns)
        if problem:
            raise GridError(f"{file}, row {number}: {problem}, which task {info.name!r} reads", key=key)
    return rows


def _problem(row: Mapping[str, Any], columns: Mapping[str, Any], prefix: str = "") -> str | None:
    for name, kind in columns.items():
        if name not in row:
            return f"there is no column {prefix + name!r} (found: {', '.join(prefix + other for other in row)})"
        value = row[name]
        if isinstance(kind, Mapping):
            if not isinstance(value, Mapping):
                return f"column {prefix + name!r} holds {value!r}, not an object with {', '.join(kind)}"
            inner = _problem(value, kind, f"{prefix}{name}.")
            if inner:
                return inner
        elif not _KINDS[kind][1](value):
            return f"column {prefix + name!r} holds {value!r}, not {_KINDS[kind][0]}"
    return None


_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "text": ("a text", lambda value: isinstance(value, str)),
    "integer": ("an integer", lambda value: isinstance(value, int) and not isinstance(value, bool)),
    "texts": (
        "a list of texts",
        lambda value: isinstance(value, list) and all(isinstance(text, str) for text in value),
    ),
}


def _check_examples(
    info: TaskInfo,
    files: Mapping[str, Path],
    rows: Mapping[str, Sequence[Mapping[str, Any]]],
    num_fewshot: int,
    key: str,
) -> None:
    """Enough rows in the few-shot split, of each subject where examples are of the item's subject."""
    data = info.data
    if not num_fewshot or data.fewshot_split is None:
        return
    file, examples = files[data.fewshot_split], rows[data.fewshot_split]
    # An item is never an example of itself.
    needed = num_fewshot + (data.fewshot_split == data.evaluated_split)
    if len(examples) < needed:
        raise GridError(
            f"task {info.name!r} needs {needed} rows for {num_fewshot} few-shot examples; {file} has {len(examples)}",
            key=key,
        )
    if data.fewshot_by_subject and data.subject is not None:
        available = Counter(row[data.subject] for row in examples)
        for subject in dict.fromkeys(row[data.subject] for row in rows[data.evaluated_split]):
            if available[subject] < num_fewshot:
                raise GridError(
                    f"task {info.name!r} needs {num_fewshot} few-shot examples of {data.subject} {subject!r}; "
                    f"{file} has {available[subject]}",
                    key=key,
                )
