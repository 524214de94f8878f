"""What a task's metrics read of its likelihoods: the greedy flag, and which choices may race."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grids import Cell, CellTask, Model, Variant, find_tasks, parse_scheme
from grids.protocol import Protocol
from tests.models import original_layouts
from workers.engine import Worker, response_of
from workers.likelihood import Contender
from workers.lm import DiffusionLM
from workers.models import LoadedModel
from workers.tasks import BuiltTask
from workers.units import Evaluated, EvaluateUnit, Samples, WorkerSettings

MakeLoaded = Callable[..., LoadedModel]
MakeTask = Callable[..., BuiltTask]
LAST_WORD = """
output_type: loglikelihood
doc_to_text: "{{question}}"
doc_to_target: " {{answer}}"
metric_list: [{metric: perplexity, aggregation: perplexity}, {metric: acc}]
"""
CHOICE = """
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: choices
doc_to_target: 0
metric_list: [METRICS]
"""
PROTOCOL = Protocol.model_validate({"likelihood": {"mc_num": 4}})


@pytest.fixture
def make_task(tmp_path: Path, make_loaded: MakeLoaded) -> MakeTask:
    def make(config: str, items: list[dict[str, Any]]) -> BuiltTask:
        (tmp_path / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
        (tmp_path / "ask.yaml").write_text(
            "task: ask\ndataset_path: json\ndataset_kwargs: {data_files: {test: items.jsonl}}\ntest_split: test\n"
            f"metadata: {{version: 1}}\n{config}"
        )
        info = find_tasks([tmp_path])["ask"]
        lm = DiffusionLM(make_loaded("llada"), PROTOCOL)
        return BuiltTask(CellTask(info, 0, None, PROTOCOL, info.metric, info.filter, "other"), lm, chat_template=False)

    return make


def choice_task(make_task: MakeTask, *metrics: str, choices: tuple[str, ...] = ("ja", "nein")) -> BuiltTask:
    listed = ", ".join(f"{{metric: {metric}}}" for metric in metrics)
    items = [{"question": "Q?", "choices": ["one", "zwölf"]}, {"question": "R?", "choices": choices}]
    return make_task(CHOICE.replace("METRICS", listed), items)


def test_the_accuracy_of_a_last_word_is_whether_it_is_greedy(
    make_task: MakeTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the model's flags through the rows of samples and back to a score."""
    assert make_task(LAST_WORD, [{"question": f"{name}?", "answer": "a"} for name in "ABCD"]).reads_greedy
    monkeypatch.setattr(
        DiffusionLM, "greedy_flags", lambda lm, requests: ((i, pair[0] != "B?") for i, pair in enumerate(requests))
    )
    original_layouts.write_checkpoint(
        tmp_path / "model", original_layouts.llada_config(), original_layouts.llada_tensors()
    )
    model = Model("tiny", str(tmp_path / "model"), None, "digest", "llada", "float32", False, (32, 48))
    variant = Variant(model, "none", "none", 1, {}, parse_scheme("fp16"), None, 0)
    info = find_tasks([tmp_path])["ask"]
    cell = Cell(variant, CellTask(info, 0, None, PROTOCOL, info.metric, info.filter, "other"))
    worker = Worker(WorkerSettings(artifact_dir=str(tmp_path / "artifacts"), device="cpu", batch_size=3))
    events = list(worker.run(EvaluateUnit(cell)))
    rows = [row for event in events if isinstance(event, Samples) for row in event.rows]
    assert {row["request_index"]: row["is_greedy"] for row in rows} == {0: True, 1: False, 2: True, 3: True}
    assert response_of(rows[0]).is_greedy == rows[0]["is_greedy"]
    assert isinstance(events[-1], Evaluated)
    assert {row["metric"]: row["value"] for row in events[-1].metrics}["acc"] == 0.75


@pytest.mark.parametrize(("metrics", "reads_greedy"), [(["acc", "acc_norm"], False), (["acc", "exact_match"], True)])
def test_multiple_choice_reads_the_greedy_flag_only_for_an_exact_match(
    metrics: list[str], reads_greedy: bool, make_task: MakeTask
) -> None:
    assert choice_task(make_task, *metrics).reads_greedy == reads_greedy


def test_choices_race_under_what_their_metrics_divide_by(make_task: MakeTask) -> None:
    # Metrics in order of their names: acc, acc_bytes, acc_norm.
    assert choice_task(make_task, "acc_norm", "acc", "acc_bytes").contenders == [
        Contender(0, (1.0, 3.0, 3.0)),
        Contender(0, (1.0, 6.0, 5.0)),
        Contender(1, (1.0, 2.0, 2.0)),
        Contender(1, (1.0, 4.0, 4.0)),
    ]


@pytest.mark.parametrize("metric", ["brier_score", "exact_match"])
def test_choices_do_not_race_where_a_metric_reads_more_than_the_best(metric: str, make_task: MakeTask) -> None:
    assert choice_task(make_task, "acc", metric).contenders is None


def test_choices_without_a_length_do_not_race(make_task: MakeTask) -> None:
    assert choice_task(make_task, "acc_norm", choices=("", "b")).contenders is None


def test_other_likelihoods_do_not_race(make_task: MakeTask) -> None:
    assert make_task(LAST_WORD, [{"question": "Q?", "answer": "a"}]).contenders is None
