"""lm-eval tasks from their files: all requests of a cell, built once, and the scores of its responses."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager

from grids import CellTask, TaskInfo
from grids.task_data import checked_rows
from workers.causal import CausalLM
from workers.likelihood import Contender
from workers.lm import DiffusionLM
from workers.units import Response

Evaluator = CausalLM | DiffusionLM
# lm-eval's own default, so that few-shot prompts agree with its command line.
FEWSHOT_SEED = 1234
# What lm-eval divides a choice's log-likelihood by before a metric takes the best: 1, characters or UTF-8 bytes.
_DIVISORS: dict[str, Callable[[str], float]] = {
    "acc": lambda choice: 1.0,
    "f1": lambda choice: 1.0,
    "mcc": lambda choice: 1.0,
    "acc_norm": lambda choice: float(len(choice)),
    "acc_bytes": lambda choice: float(len(choice.encode())),
}


@dataclass(frozen=True)
class Request:
    """One question to the model: a context and a continuation, or a context and generation settings.

    `target` is the item's right answer, for people to read; scoring takes it from the task.
    """

    index: int
    doc_id: int
    request_type: str
    arguments: tuple[Any, ...]
    key: str
    target: str | None = None

    @property
    def arguments_json(self) -> str:
        return json.dumps(self.arguments, ensure_ascii=False, sort_keys=True)


class BuiltTask:
    """A task whose requests are built: few-shot prompts depend on all items in order, so shards share one building."""

    def __init__(self, cell_task: CellTask, lm: Evaluator, *, chat_template: bool) -> None:
        self._task = load_task(cell_task)
        self._runs_code = cell_task.info.runs_code
        self._subject = cell_task.info.data.subject
        self._task.build_all_requests(
            limit=cell_task.limit,
            apply_chat_template=chat_template,
            chat_template=lm.apply_chat_template if chat_template else None,
            tokenizer_name=lm.tokenizer_name if chat_template else "",
        )
        self._instances = self._task.instances
        if any((instance.repeats or 1) != 1 for instance in self._instances):
            raise ValueError(f"task {cell_task.info.name!r}: repeats above 1 are not supported")
        docs = {instance.doc_id: instance.doc for instance in self._instances}
        targets = {doc_id: self._target(doc) for doc_id, doc in docs.items()}
        self.requests = [
            Request(
                index=index,
                doc_id=int(instance.doc_id),
                request_type=instance.request_type,
                arguments=instance.args,
                key=lm.request_key(instance.request_type, instance.args),
                target=targets[instance.doc_id],
            )
            for index, instance in enumerate(self._instances)
        ]

    @property
    def reads_greedy(self) -> bool:
        """Whether a metric reads lm-eval's second answer to a likelihood: is it what greedy decoding gives."""
        if self._task.OUTPUT_TYPE == "loglikelihood":
            return callable(self._task.config.process_results) or "acc" in self._metrics
        return self._task.OUTPUT_TYPE == "multiple_choice" and "exact_match" in self._metrics

    @property
    def contenders(self) -> list[Contender] | None:
        """The requests as choices that can race; None where a metric reads more than which choice is the best."""
        if self._task.OUTPUT_TYPE != "multiple_choice" or callable(self._task.config.process_results):
            return None
        if not self._metrics <= _DIVISORS.keys():
            return None
        choices = [self._task.doc_to_choice(instance.doc)[instance.idx] for instance in self._instances]
        if not all(choices):
            return None
        return [
            Contender(int(instance.doc_id), tuple(_DIVISORS[metric](choice) for metric in sorted(self._metrics)))
            for instance, choice in zip(self._instances, choices, strict=True)
        ]

    def _target(self, doc: Mapping[str, Any]) -> str:
        """The right answer as text; of a choice that is given by its number, the choice."""
        # Where the choices make contexts, lm-eval has the right one's number in place of the question.
        target = self._task.doc_to_text(doc) if self._task.multiple_input else self._task.doc_to_target(doc)
        choices = self._task.doc_to_choice(doc) if self._task.config.doc_to_choice is not None else []
        texts = [
            str(choices[each]) if isinstance(each, int) and 0 <= each < len(choices) else str(each)
            for each in (target if isinstance(target, list) else [target])
        ]
        return " | ".join(texts)

    @property
    def _metrics(self) -> set[str]:
        return set(self._task.aggregation())

    def score(self, responses: Mapping[int, Response]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Rows of metrics and of per-item scores, once every request has its response."""
        for request, instance in zip(self.requests, self._instances, strict=True):
            response = responses[request.index]
            likelihood = (response.logprob, bool(response.is_greedy))
            instance.resps = [response.text if response.text is not None else likelihood]
        self._task.apply_filters()
        by_doc: dict[int, list[Any]] = defaultdict(list)
        for instance in self._instances:
            by_doc[instance.doc_id].append(instance)
        clusters = {doc_id: self._cluster(instances[0].doc) for doc_id, instances in by_doc.items()}
        scores = [
            {"doc_id": int(doc_id), "filter": name, "metric": metric, "value": value, "cluster": clusters[doc_id]}
            for name in self._instances[0].filtered_resps
            for doc_id, results in zip(by_doc, self._results(list(by_doc.values()), name), strict=True)
            for metric, value in results.items()
        ]
        return self._aggregate(scores), [row | {"value": float(row["value"])} for row in scores if _is_number(row)]

    def _cluster(self, doc: Mapping[str, Any]) -> str | None:
        """What an item shares with others: the task's subject column, where its file names one."""
        return None if self._subject is None else str(doc[self._subject])

    def _results(self, items: list[list[Any]], filter_name: str) -> list[dict[str, Any]]:
        """The metrics of each item, from its instances' responses as one filter leaves them."""

        def process(instances: list[Any]) -> dict[str, Any]:
            ordered = sorted(instances, key=lambda instance: instance.idx)
            responses = [instance.filtered_resps[filter_name] for instance in ordered]
            results: dict[str, Any] = self._task.process_results(instances[0].doc, responses)
            return results

        if not self._runs_code:
            return [process(instances) for instances in items]
        # Each program is a process of its own that a thread waits for; more of them than cores would run out of time.
        with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
            return list(pool.map(process, items))

    def _aggregate(self, scores: list[dict[str, Any]]) -> list[dict[str, Any]]:
        columns: dict[tuple[str, str], list[Any]] = defaultdict(list)
        for row in scores:
            columns[row["metric"], row["filter"]].append(row["value"])
        higher_is_better = self._task.higher_is_better()
        return [
            {
                "metric": metric,
                "filter": name,
                "value": float(self._task.aggregation()[metric](values)),
                "stderr": _standard_error(values),
                "num_items": len(values),
                "higher_is_better": bool(higher_is_better.get(metric, True)),
            }
            for (metric, name), values in columns.items()
        ]


def load_task(cell_task: CellTask) -> Task:
    """The lm-eval task of a cell, with its data: the hub's, the task file's own, or the files that the grid gives."""
    info = cell_task.info
    manager = TaskManager(include_defaults=False, include_path=str(info.file.parent))
    overrides: dict[str, Any] = {"task": info.name, "num_fewshot": cell_task.num_fewshot}
    if info.given_files:
        splits = _given_splits(info)
        overrides |= {"custom_dataset": lambda **_: splits, "dataset_kwargs": None}
    elif info.data_files:
        overrides["dataset_kwargs"] = dict(info.data.kwargs) | {"data_files": dict(info.data_files)}
    elif info.data.kwargs:
        overrides["dataset_kwargs"] = dict(info.data.kwargs)
    # lm-eval merges overrides into a named task only inside a group.
    task: Task = manager.load({"group": "cell", "task": [overrides]})["tasks"][info.name]
    task.set_fewshot_seed(FEWSHOT_SEED)
    return task


def _given_splits(info: TaskInfo) -> dict[str, datasets.Dataset]:
    """The grid's files as lm-eval's data sets: in memory, so that no builder, cache or hub is asked.

    Of a file the columns that the task reads are kept, where it says which.
    """
    splits = {}
    for split, file in info.given_files.items():
        rows = checked_rows(info, Path(file))
        columns = list(info.data.columns or rows[0])
        splits[split] = datasets.Dataset.from_list([{name: row.get(name) for name in columns} for row in rows])
    # lm-eval looks into the few-shot split even where no example is drawn, and then it need not be given.
    if info.data.fewshot_split is not None:
        splits.setdefault(info.data.fewshot_split, splits[info.data.evaluated_split])
    return splits


def _is_number(row: Mapping[str, Any]) -> bool:
    return isinstance(row["value"], int | float)


def _standard_error(values: list[Any]) -> float | None:
    """Of the mean of per-item scores; None where a metric is no such mean."""
    if len(values) < 2 or not all(isinstance(value, int | float) for value in values):
        return None
    return float(statistics.stdev(values)) / math.sqrt(len(values))
