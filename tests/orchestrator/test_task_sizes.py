from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from grids import TaskInfo
from grids.task_data import TaskData
from orchestrator.task_sizes import task_size
from tests.orchestrator.conftest import make_cell

ROWS = [{"question": "q" * 40, "answers": {"text": ["a" * 8, "b" * 8, "c" * 8]}, "label": "2"}] * 6


def info_of(name: str, **files: Path) -> TaskInfo:
    return replace(make_cell(task=name).task.info, data_files={split: str(file) for split, file in files.items()})


@pytest.fixture
def local(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n\n" for row in ROWS))
    return file


def test_the_study_tasks_have_their_published_sizes() -> None:
    published = {
        "gsm8k": 1319,
        "minerva_math": 5000,
        "humaneval": 164,
        "mbpp": 500,
        "mmlu": 14042,
        "piqa": 1838,
        "hellaswag": 10042,
        "winogrande": 1267,
        "arc_easy": 2376,
        "arc_challenge": 1172,
    }
    assert {name: task_size(info_of(name)).num_items for name in published} == published


def test_local_rows_are_counted_and_their_lengths_estimated(local: Path) -> None:
    size = task_size(info_of("of_ones_own", test=local))
    assert size.source == "file"
    assert (size.num_items, size.num_choices, size.target_tokens) == (6, 3, 2)
    # Four characters a token: 40 of the question and one of the label.
    assert size.prompt_tokens == pytest.approx(41 / 4)


def test_parquet_rows_are_counted_too(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS * 3), tmp_path / "rows.parquet")
    size = task_size(info_of("of_ones_own", test=tmp_path / "rows.parquet"))
    assert (size.num_items, size.num_choices) == (18, 3)


def test_a_grids_own_data_take_the_place_of_the_tables_count_and_keep_its_lengths(local: Path) -> None:
    info = replace(info_of("gsm8k"), given_files={"test": str(local)})
    assert task_size(info) == replace(task_size(info_of("gsm8k")), num_items=6, source="file")


def test_the_evaluated_split_counts_and_no_other(local: Path, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"question": "?"}\n')
    info = replace(info_of("x", train=tmp_path / "train.jsonl", held=local), data=TaskData(evaluated_split="held"))
    assert task_size(info).num_items == 6


def test_a_task_that_nothing_is_known_of_is_a_guess_and_says_so() -> None:
    assert task_size(info_of("somewhere_else")).source == "guess"
