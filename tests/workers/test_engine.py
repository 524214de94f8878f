"""A worker in this process, on a random LLaDA checkpoint and two small tasks."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import workers.lm
from grids import Cell, CellTask, Model, Variant, find_tasks, parse_scheme
from grids.protocol import Protocol
from methods import NonFiniteError, available_methods
from tests.models import original_layouts
from workers.artifacts import ArtifactStore
from workers.engine import Worker, response_of
from workers.units import (
    Evaluated,
    EvaluateUnit,
    Event,
    Progress,
    Quantized,
    QuantizeUnit,
    Samples,
    ShardDone,
    WorkerSettings,
)

CHOICE = """
task: choose
dataset_path: json
dataset_kwargs: {data_files: {test: items.jsonl}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{question}}"
doc_to_choice: ["yes", "no", "perhaps"]
doc_to_target: 0
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata: {version: 1}
"""
WRITE = """
task: write
dataset_path: json
dataset_kwargs: {data_files: {test: items.jsonl}}
output_type: generate_until
test_split: test
doc_to_text: "{{question}}"
doc_to_target: "yes"
generation_kwargs: {until: ["."]}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
metadata: {version: 1}
"""
PROTOCOL = Protocol.model_validate(
    {"likelihood": {"mc_num": 3}, "generation": {"gen_length": 8, "steps": 4, "llada": {"block_length": 4}}}
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    original_layouts.write_checkpoint(
        tmp_path / "model", original_layouts.llada_config(), original_layouts.llada_tensors()
    )
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "choose.yaml").write_text(CHOICE)
    (tasks / "write.yaml").write_text(WRITE)
    items = [{"question": f"Is {number} {'even' * (number % 3)}?"} for number in range(7)]
    (tasks / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    return tmp_path


def make_cell(folder: Path, task: str, scheme: str = "fp16") -> Cell:
    info = find_tasks([folder / "tasks"])[task]
    model = Model("tiny", str(folder / "model"), None, "digest", "llada", "float32", False, (32, 48))
    method = "none" if scheme == "fp16" else "rtn"
    parameters = {} if method == "none" else available_methods()[method].Parameters().model_dump()
    variant = Variant(model, method, method, 1, parameters, parse_scheme(scheme), None, 0)
    return Cell(variant, CellTask(info, 0, None, PROTOCOL, info.metric, info.filter, "other"))


def make_worker(folder: Path) -> Worker:
    return Worker(WorkerSettings(artifact_dir=str(folder / "artifacts"), device="cpu", batch_size=2))


def rows_of(events: Sequence[Event]) -> list[dict[str, Any]]:
    """Every sample, in the order of the requests: they are finished in another."""
    rows = [row for event in events if isinstance(event, Samples) for row in event.rows]
    return sorted(rows, key=lambda row: row["request_index"])


@pytest.mark.parametrize("task", ["choose", "write"])
def test_a_cell_streams_its_samples_and_ends_with_its_scores(folder: Path, task: str) -> None:
    events = list(make_worker(folder).run(EvaluateUnit(make_cell(folder, task))))
    rows, last = rows_of(events), events[-1]
    num_requests = 21 if task == "choose" else 7
    assert [row["request_index"] for row in rows] == list(range(num_requests))
    # Saved in groups of the batch size: a kill loses no more than one.
    sizes = [len(event.rows) for event in events if isinstance(event, Samples)]
    assert sizes == [2] * (num_requests // 2) + [1]
    # Samples tell how far it is; before them, how many there will be.
    assert [event for event in events if isinstance(event, Progress)] == [Progress("evaluate", 0, num_requests)]
    assert events[0] == Progress("evaluate", 0, num_requests)
    assert isinstance(last, Evaluated)
    assert [(row["metric"], row["num_items"]) for row in last.metrics] == [
        ("acc" if task == "choose" else "exact_match", 7)
    ]
    assert last.metrics[0]["value"] == sum(row["value"] for row in last.scores) / 7


@pytest.mark.parametrize("task", ["choose", "write"])
def test_a_resumed_cell_answers_only_what_is_missing_and_ends_with_the_same_numbers(folder: Path, task: str) -> None:
    cell = make_cell(folder, task)
    whole = list(make_worker(folder).run(EvaluateUnit(cell)))
    saved = rows_of(whole)[:4]
    done = {row["request_index"]: response_of(row) for row in saved}
    rest = list(make_worker(folder).run(EvaluateUnit(cell, done)))
    assert {row["request_index"] for row in rows_of(rest)}.isdisjoint(done)
    assert saved + rows_of(rest) == rows_of(whole)
    assert len(rows_of(rest)) == len(rows_of(whole)) - 4
    before, after = whole[-1], rest[-1]
    assert isinstance(before, Evaluated)
    assert isinstance(after, Evaluated)
    assert (after.metrics, after.scores) == (before.metrics, before.scores)
    assert after.num_forwards <= before.num_forwards


def test_a_saved_response_to_another_question_is_not_used(folder: Path) -> None:
    cell = make_cell(folder, "choose")
    whole = rows_of(list(make_worker(folder).run(EvaluateUnit(cell))))
    foreign = {row["request_index"]: dataclasses.replace(response_of(row), key="of another task") for row in whole}
    again = rows_of(list(make_worker(folder).run(EvaluateUnit(cell, foreign))))
    assert again == whole


def test_a_variant_is_quantized_once_and_its_artifact_answers_the_same(folder: Path) -> None:
    cell = make_cell(folder, "choose", "w4a4")
    worker = make_worker(folder)
    first = list(worker.run(QuantizeUnit(cell.variant)))
    assert isinstance(first[-1], Quantized)
    assert first[-1].row["num_linears"] == 14
    assert 4 < first[-1].row["effective_bits"] < 5
    assert any(isinstance(event, Progress) and event.phase == "quantize" for event in first)
    resident = rows_of(list(worker.run(EvaluateUnit(cell))))

    other = make_worker(folder)
    assert list(other.run(QuantizeUnit(cell.variant))) == first[-1:]
    assert rows_of(list(other.run(EvaluateUnit(cell)))) == resident
    full = rows_of(list(other.run(EvaluateUnit(make_cell(folder, "choose")))))
    assert [row["request_key"] for row in full] == [row["request_key"] for row in resident]
    assert [row["logprob"] for row in full] != [row["logprob"] for row in resident]


@pytest.mark.parametrize("task", ["choose", "write"])
def test_numbers_that_are_not_finite_fail_the_cell(folder: Path, task: str) -> None:
    cell = make_cell(folder, task)
    worker = make_worker(folder)
    next(worker.run(EvaluateUnit(cell)))
    assert worker._resident is not None
    with torch.no_grad():
        worker._resident[1].model.get_output_embeddings().weight.fill_(torch.nan)
    with pytest.raises(NonFiniteError):
        list(worker.run(EvaluateUnit(cell)))


def test_an_artifact_of_a_faster_worker_is_left_alone(tmp_path: Path, folder: Path) -> None:
    store = ArtifactStore(tmp_path / "artifacts")
    variant = make_cell(folder, "choose", "w4a4").variant
    store.save(variant, {"codes": torch.ones(3)}, {"kind": "first"}, {"num_linears": 1})
    store.save(variant, {"codes": torch.zeros(3)}, {"kind": "second"}, {"num_linears": 2})
    tensors, layout = store.load(variant.variant_id)
    assert (tensors["codes"].tolist(), layout, store.row(variant.variant_id)) == (
        [1, 1, 1],
        {"kind": "first"},
        {"num_linears": 1},
    )
    assert [path.name for path in (tmp_path / "artifacts").iterdir()] == [variant.variant_id]


@pytest.mark.parametrize("task", ["choose", "write"])
@pytest.mark.parametrize("num_shards", [2, 3])
def test_shards_answer_each_request_once_and_are_scored_as_the_whole(folder: Path, task: str, num_shards: int) -> None:
    cell = make_cell(folder, task)
    whole = list(make_worker(folder).run(EvaluateUnit(cell)))
    rows: list[dict[str, Any]] = []
    # Shards run on workers of their own, in any order, and some are resumed.
    for index in reversed(range(num_shards)):
        done = {row["request_index"]: response_of(row) for row in rows}
        events = list(make_worker(folder).run(EvaluateUnit(cell, done, shard=(index, num_shards))))
        assert isinstance(events[-1], ShardDone)
        assert events[-1].num_requests == len(rows_of(events))
        # An item's requests are in one shard.
        assert {row["doc_id"] % num_shards for row in rows_of(events)} == {index}
        rows += rows_of(events)
    by_index = {row["request_index"]: row for row in rows}
    assert len(by_index) == len(rows) == len(rows_of(whole))
    # Bit for bit: the company in a batch changes nothing.
    assert all(by_index[row["request_index"]] == row for row in rows_of(whole))
    done = {row["request_index"]: response_of(row) for row in rows}
    merged = list(make_worker(folder).run(EvaluateUnit(cell, done)))
    assert rows_of(merged) == []
    assert isinstance(merged[-1], Evaluated)
    assert isinstance(whole[-1], Evaluated)
    assert (merged[-1].metrics, merged[-1].scores) == (whole[-1].metrics, whole[-1].scores)
    assert merged[-1].num_forwards == 0


def test_a_resumed_race_runs_an_unfinished_item_again(folder: Path) -> None:
    cell = make_cell(folder, "choose")
    race = {"likelihood": {"mc_num": 8, "race": 0.05}}
    task = dataclasses.replace(cell.task, protocol=Protocol.model_validate(race))
    racing = dataclasses.replace(cell, task=task)
    saved = [row for row in rows_of(make_worker(folder).run(EvaluateUnit(racing))) if row["request_index"] != 1]
    done = {row["request_index"]: response_of(row) for row in saved}
    again = rows_of(make_worker(folder).run(EvaluateUnit(racing, done)))
    assert sorted(row["request_index"] for row in again) == [0, 1, 2]


def test_after_memory_ran_out_batches_are_parts_of_whole_ones(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rtn, seen = available_methods()["rtn"], []
    quantize_blocks, generate = rtn.quantize_blocks, workers.lm.generate

    def watched_quantization(self: Any, job: Any) -> None:
        seen.append(job.compute.batch_size)
        quantize_blocks(self, job)

    def watched_generation(*arguments: Any, max_rows: int | None, **options: Any) -> Any:
        seen.append(max_rows)
        return generate(*arguments, max_rows=max_rows, **options)

    monkeypatch.setattr(rtn, "quantize_blocks", watched_quantization)
    monkeypatch.setattr(workers.lm, "generate", watched_generation)
    worker, variant = make_worker(folder), make_cell(folder, "write", "w4a4").variant
    list(worker.run(QuantizeUnit(variant, batch_divisor=2)))
    for divisor in (1, 2, 4):
        list(worker.run(EvaluateUnit(make_cell(folder, "write"), batch_divisor=divisor)))
    assert seen == [4, 2, 1, 1]
