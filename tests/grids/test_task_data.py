"""A grid's `data`: files in place of the hub's, checked when the study is planned."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from grids import GridError, Study, find_tasks
from grids.task_data import check_fewshot, with_data

StudyOf = Callable[..., Study]
QUIZ = """
task: quiz
tag: general
dataset_path: someone/quiz
dataset_name: main
output_type: multiple_choice
training_split: train
validation_split: validation
test_split: test
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata:
  version: 1
  columns: {question: text, choices: {text: texts}, answer: integer}
"""
BY_SUBJECT = """
task: exam
dataset_path: someone/exam
output_type: multiple_choice
test_split: test
fewshot_split: dev
metadata: {columns: {subject: text}, subject: subject, fewshot_by_subject: true}
"""
WRITTEN = """
task: written
dataset_path: someone/written
output_type: generate_until
test_split: test
fewshot_config: {samples: [{question: "1?"}, {question: "2?"}]}
"""
ROW = {"question": "?", "choices": {"text": ["a", "b"]}, "answer": 1}
GRID = """
name: local
models: [tiny]
tasks: [{name: quiz, num_fewshot: 2}]
data: {quiz: {test: test.jsonl, train: train.jsonl}}
"""


@pytest.fixture
def folder(tmp_path: Path, study_of: StudyOf) -> Path:
    for name, text in (("quiz", QUIZ), ("exam", BY_SUBJECT), ("written", WRITTEN)):
        (tmp_path / "tasks" / f"{name}.yaml").write_text(text)
    write(tmp_path / "test.jsonl", ROW)
    write(tmp_path / "train.jsonl", ROW, ROW | {"question": "Why?"})
    return tmp_path


def write(file: Path, *rows: Any) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def digest(study: Study) -> str:
    return study.cells[0].task.info.digest


def test_local_files_take_the_place_of_the_hub(folder: Path, study_of: StudyOf) -> None:
    info = study_of(GRID).cells[0].task.info
    assert info.given_files == {"test": str(folder / "test.jsonl"), "train": str(folder / "train.jsonl")}
    assert not info.is_on_hub
    hub = study_of(GRID.partition("data:")[0]).cells[0].task.info
    assert hub.is_on_hub
    assert (hub.data.path, hub.data.subsets, hub.data.fewshot_split) == ("someone/quiz", ("main",), "train")


def test_the_content_of_a_file_is_identity_and_its_place_is_not(folder: Path, study_of: StudyOf) -> None:
    before = digest(study_of(GRID))
    assert before != digest(study_of(GRID.partition("data:")[0]))
    (folder / "elsewhere").mkdir()
    for split in ("test", "train"):
        (folder / f"{split}.jsonl").rename(folder / "elsewhere" / f"{split}.jsonl")
    moved = GRID.replace("{test: test.jsonl, train: train.jsonl}", "elsewhere")
    assert digest(study_of(moved)) == before
    write(folder / "elsewhere" / "train.jsonl", ROW, ROW | {"question": "Where?"})
    assert digest(study_of(moved)) != before


def test_a_split_that_is_not_read_is_not_identity(folder: Path, study_of: StudyOf) -> None:
    zero = GRID.replace(", num_fewshot: 2", "")
    before = digest(study_of(zero))
    (folder / "train.jsonl").write_text("not even JSON\n")
    assert digest(study_of(zero)) == before
    assert digest(study_of(zero.replace(", train: train.jsonl", ""))) == before
    assert digest(study_of(zero.replace("{test: test.jsonl, train: train.jsonl}", "test.jsonl"))) == before


def test_the_same_rows_under_another_split_are_another_task(folder: Path) -> None:
    write(folder / "train.jsonl", ROW, ROW)
    write(folder / "test.jsonl", ROW, ROW, ROW)
    info = find_tasks([folder / "tasks"])["quiz"]
    straight = with_data(info, {"test": "test.jsonl", "train": "train.jsonl"}, folder, 1)
    crossed = with_data(info, {"test": "train.jsonl", "train": "test.jsonl"}, folder, 1)
    assert straight.digest != crossed.digest


def test_a_pinned_revision_is_identity(folder: Path, study_of: StudyOf) -> None:
    hub = digest(study_of(GRID.partition("data:")[0]))
    pins = {
        digest(study_of(GRID.partition("data:")[0] + f"data: {{quiz: {{revision: {pin}}}}}")) for pin in ("a1", "b2")
    }
    assert len(pins | {hub}) == 3


def test_parquet_is_read_too(folder: Path, study_of: StudyOf) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([ROW]), folder / "test.parquet")
    grid = GRID.replace("test.jsonl", "test.parquet").replace(", num_fewshot: 2", "")
    assert study_of(grid).cells[0].task.info.given_files == {"test": str(folder / "test.parquet")}
    (folder / "test.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(GridError, match=r"cannot read .*test\.parquet"):
        study_of(grid)


BAD_ROWS = [
    (
        [{key: value for key, value in ROW.items() if key != "answer"}],
        r"no column 'answer' \(found: question, choices\)",
    ),
    ([ROW, ROW | {"choices": {"label": ["A"]}}], r"row 2: there is no column 'choices.text' \(found: choices.label\)"),
    ([ROW | {"choices": ["a"]}], r"column 'choices' holds \['a'\], not an object with text"),
    ([ROW | {"choices": {"text": "ab"}}], r"column 'choices.text' holds 'ab', not a list of texts"),
    ([ROW | {"answer": "1"}], "column 'answer' holds '1', not an integer"),
    ([ROW | {"answer": True}], "column 'answer' holds True, not an integer"),
    ([ROW | {"question": None}], "column 'question' holds None, not a text"),
    ([], r"test\.jsonl is empty; task 'quiz' needs items"),
    (["text"], "line 1: it holds str, not an object"),
]


@pytest.mark.parametrize(("rows", "complaint"), BAD_ROWS)
def test_bad_rows_are_named_by_file_row_and_column(
    folder: Path, study_of: StudyOf, rows: list[Any], complaint: str
) -> None:
    write(folder / "test.jsonl", *rows)
    with pytest.raises(GridError, match=complaint) as error:
        study_of(GRID)
    assert str(error.value).startswith(f"{folder / 'grid.yaml'}: data.quiz: ")
    assert str(folder / "test.jsonl") in str(error.value)


BAD_GRIDS = [
    ("train.jsonl", "gone.jsonl", r"no such data file: .*gone\.jsonl"),
    ("test.jsonl", "test.csv", r"test\.csv; a data file ends in \.jsonl or \.parquet"),
    (", train: train.jsonl", "", r"takes its 2 few-shot examples from split 'train', for which there is no file"),
    ("test: test.jsonl, ", "", r"takes its items from split 'test'.*write quiz: \{test: FILE, train: FILE\}"),
    ("train: ", "trian: ", "unknown split of task 'quiz' 'trian'; did you mean 'train'?"),
    ("data: {quiz:", "data: {quizz:", "unknown task of this grid 'quizz'; did you mean 'quiz'?"),
    ("num_fewshot: 2", "num_fewshot: 3", r"needs 3 rows for 3 few-shot examples; .*train\.jsonl has 2"),
    ("train: train.jsonl", "revision: abc", "a revision of the hub's data set, or local files, not both"),
]


@pytest.mark.parametrize(("old", "new", "complaint"), BAD_GRIDS)
def test_what_is_wrong_with_the_data_key_is_said_when_the_study_is_planned(
    folder: Path, study_of: StudyOf, old: str, new: str, complaint: str
) -> None:
    with pytest.raises(GridError, match=complaint):
        study_of(GRID.replace(old, new))


def test_a_folder_with_two_files_of_a_split_is_refused(folder: Path, study_of: StudyOf) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([ROW]), folder / "test.parquet")
    with pytest.raises(GridError, match=r"two files for one split: .*test\.jsonl and .*test\.parquet"):
        study_of(GRID.replace("{test: test.jsonl, train: train.jsonl}", "."))


def test_local_data_of_a_task_file_has_no_revision(study_of: StudyOf) -> None:
    with pytest.raises(GridError, match="task 'capitals' has local data, which has no revision"):
        study_of("name: x\nmodels: [tiny]\ntasks: [capitals]\ndata: {capitals: {revision: abc}}\n")


def test_each_subject_needs_its_examples(folder: Path) -> None:
    info = find_tasks([folder / "tasks"])["exam"]
    write(folder / "test.jsonl", {"subject": "law"}, {"subject": "art"})
    write(folder / "dev.jsonl", *[{"subject": "law"}] * 2, {"subject": "art"})
    with_data(info, ".", folder, 1)
    with pytest.raises(GridError, match=r"2 few-shot examples of subject 'art'; .*dev\.jsonl has 1"):
        with_data(info, ".", folder, 2)


def test_no_more_examples_than_a_task_file_has_written(folder: Path, study_of: StudyOf) -> None:
    info = find_tasks([folder / "tasks"])["written"]
    check_fewshot(info, 2)
    with pytest.raises(ValueError, match="has 2 few-shot examples of its own"):
        check_fewshot(info, 3)
    with pytest.raises(GridError, match=r"tasks\[0\]\.num_fewshot: task 'written' has 2 few-shot examples"):
        study_of("name: x\nmodels: [tiny]\ntasks: [{name: written, num_fewshot: 3}]\n")
    # A task without any split to draw from would show an item its own answer.
    with pytest.raises(GridError, match="task 'capitals' has 0 few-shot examples"):
        study_of("name: x\nmodels: [tiny]\ntasks: [{name: capitals, num_fewshot: 1}]\n")


def test_a_file_in_place_of_a_task_files_own_data(folder: Path, study_of: StudyOf) -> None:
    write(folder / "other.jsonl", {"question": "!"})
    grid = "name: x\nmodels: [tiny]\ntasks: [capitals]\n"
    given = study_of(grid + "data: {capitals: other.jsonl}\n").cells[0].task.info
    assert (given.data_files, list(given.given_files)) == ({}, ["test"])
    assert given.digest != digest(study_of(grid))


def test_a_task_declares_metrics_by_the_names_that_lm_eval_gives_them_and_filters(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(
        "task: own\nmetric_list: [{metric: !function scoring.closeness}, {metric: bleu.v2}]\n"
        "filter_list: [{name: strict}, {name: loose}]\n"
    )
    (tmp_path / "bare.yaml").write_text("task: bare\n")
    tasks = find_tasks([tmp_path])
    assert (tasks["own"].metrics, tasks["own"].metric) == (("closeness", "bleu.v2"), "closeness")
    assert (tasks["own"].filters, tasks["own"].filter) == (("strict", "loose"), "strict")
    assert (tasks["bare"].metrics, tasks["bare"].metric, tasks["bare"].filters) == ((), "acc", ("none",))
