"""The ten tasks of the study against lm-eval's own of those names: prompts, stops, examples and scores."""

from __future__ import annotations

import importlib.util
import json
import socket
import subprocess
import sys
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets
import evaluate
import lm_eval.tasks
import numpy
import pyarrow
import pyarrow.parquet
import pytest
from lm_eval.tasks import TaskManager

from grids import CellTask, TaskInfo, find_tasks
from grids.protocol import Protocol
from grids.task_data import with_data
from orchestrator.catalog import TASK_FOLDERS
from tests.workers.study_documents import DOCUMENTS, Rows
from workers.lm import request_key
from workers.tasks import BuiltTask
from workers.units import Response

# Where lm-eval keeps the task, and its name there for the rows of one subject.
STOCK_FOLDERS = {"arc_easy": "arc", "arc_challenge": "arc", "mmlu": "mmlu/default"}
STOCK_MATH = {"Algebra": "algebra", "Geometry": "geometry", "Prealgebra": "prealgebra"}
STUDY_SHOTS = {"mmlu": 5, "gsm8k": 4, "minerva_math": 0, "humaneval": 0, "mbpp": 3}
SHOTS = [(name, STUDY_SHOTS.get(name, 0)) for name in DOCUMENTS] + [
    *(
        ("piqa", 2),
        ("hellaswag", 1),
        ("winogrande", 1),
        ("arc_easy", 1),
        ("minerva_math", 4),
        ("gsm8k", 5),
        ("mmlu", 1),
    ),
]


def run_here(program: str) -> bool:
    """What the sandbox answers, for programs of these tests, which are harmless."""
    return subprocess.run([sys.executable, "-c", program], stderr=subprocess.DEVNULL, check=False).returncode == 0


class _CodeEval:
    """The metric that lm-eval's own code tasks fetch from the hub: pass@1 of programs followed by their tests."""

    @staticmethod
    def compute(references: list[str], predictions: list[list[str]], k: list[int]) -> tuple[dict[str, float], None]:
        passed = [run_here(f"{program}\n{test}") for test, (program,) in zip(references, predictions, strict=True)]
        return {"pass@1": sum(passed) / len(passed)}, None


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a local task asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(evaluate, "load", lambda _: _CodeEval)
    monkeypatch.setitem(sys.modules, "workers.sandbox", types.SimpleNamespace(passes=run_here))


def write(folder: Path, splits: dict[str, Rows]) -> dict[str, str]:
    for split, rows in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {split: f"{split}.jsonl" for split in splits}


def study_task(name: str, folder: Path, num_fewshot: int, limit: int | None = None) -> BuiltTask:
    info = with_data(find_tasks(list(TASK_FOLDERS))[name], write(folder, DOCUMENTS[name]), folder, num_fewshot)
    return built(info, num_fewshot, limit)


def built(info: TaskInfo, num_fewshot: int, limit: int | None = None) -> BuiltTask:
    lm: Any = types.SimpleNamespace(request_key=request_key)
    return BuiltTask(CellTask(info, num_fewshot, limit, Protocol(), "", "", ""), lm, chat_template=False)


def stock_tasks(name: str, num_fewshot: int) -> Iterable[Any]:
    """lm-eval's own task, or its tasks of each subject, on the same rows."""
    splits = DOCUMENTS[name]
    if name == "mmlu":
        for subject in dict.fromkeys(row["subject"] for row in splits["test"]):
            of_subject = {split: [r for r in rows if r["subject"] == subject] for split, rows in splits.items()}
            yield _stock(name, f"mmlu_{subject}", of_subject, num_fewshot)
    elif name == "minerva_math":
        for kind, subject in STOCK_MATH.items():
            of_subject = {split: [r for r in rows if r["type"] == kind] for split, rows in splits.items()}
            yield _stock(name, f"minerva_math_{subject}", of_subject, num_fewshot)
    else:
        yield _stock(name, name, splits, num_fewshot)


def _stock(name: str, stock_name: str, splits: dict[str, Rows], num_fewshot: int) -> Any:
    folder = Path(lm_eval.tasks.__file__).parent / STOCK_FOLDERS.get(name, name)
    loaded = {split: datasets.Dataset.from_list(rows) for split, rows in splits.items()}
    entry = {"task": stock_name, "num_fewshot": num_fewshot, "custom_dataset": lambda **_: loaded}
    manager = TaskManager(include_defaults=False, include_path=str(folder))
    task = manager.load({"group": "stock", "task": [entry]})["tasks"][stock_name]
    task.set_fewshot_seed(1234)
    task.build_all_requests()
    return task


@pytest.mark.parametrize(("name", "num_fewshot"), SHOTS)
def test_prompts_continuations_and_stops_are_lm_evals_own(name: str, num_fewshot: int, tmp_path: Path) -> None:
    ours = [request.arguments for request in study_task(name, tmp_path, num_fewshot).requests]
    stock = [instance.args for task in stock_tasks(name, num_fewshot) for instance in task.instances]
    assert sorted(ours, key=str) == sorted(stock, key=str)
    if name not in ("mmlu", "minerva_math"):
        assert ours == stock


def test_the_request_type_is_lm_evals_own(tmp_path: Path) -> None:
    for name in DOCUMENTS:
        kinds = {request.request_type for request in study_task(name, tmp_path, 0).requests}
        assert kinds == {instance.request_type for task in stock_tasks(name, 0) for instance in task.instances}


TARGETS = {
    "piqa": "Fill them with paper.",
    "hellaswag": "pushes it over the grass.",
    "winogrande": "The cup did not fit the box because the cup",
    "arc_easy": "ice",
    "mmlu": "A",
}


@pytest.mark.parametrize("name", TARGETS)
def test_a_request_tells_the_right_answer_as_text_and_not_as_a_number(name: str, tmp_path: Path) -> None:
    assert TARGETS[name] in {request.target for request in study_task(name, tmp_path, 0).requests}


def test_the_right_answer_of_a_generation_is_what_lm_eval_compares_with(tmp_path: Path) -> None:
    (stock,) = stock_tasks("gsm8k", 0)
    expected = [stock.doc_to_target(instance.doc) for instance in stock.instances]
    assert [request.target for request in study_task("gsm8k", tmp_path, 0).requests] == expected


@pytest.mark.parametrize(("name", "column"), [("mmlu", "subject"), ("minerva_math", "type"), ("piqa", None)])
def test_scores_name_the_subject_that_items_share(name: str, column: str | None, tmp_path: Path) -> None:
    task = study_task(name, tmp_path, 0)
    responses = {
        request.index: Response(request.key, logprob=-1.0, text="", is_greedy=False) for request in task.requests
    }
    if task.requests[0].request_type == "loglikelihood":
        responses = {index: Response(each.key, logprob=-1.0, is_greedy=False) for index, each in responses.items()}
    scores = task.score(responses)[1]
    found = sorted({(row["doc_id"], row["cluster"]) for row in scores}, key=str)
    rows = DOCUMENTS[name].get("test") or DOCUMENTS[name]["validation"]
    expected = sorted(str(row[column]) if column else "None" for row in rows)
    assert sorted(str(cluster) for _, cluster in found) == expected


MATH_RESPONSES = (
    "Final Answer: The final answer is $\\frac{\\pi}{2}$. I hope it is correct.",
    "so $\\boxed{\\frac{1}{2}\\pi}$",
    "Final Answer: The final answer is 1200 ways. I hope it is correct.",
    "Final Answer: The final answer is $x = 1,200$.",
    "The answer is $(1, \\frac{1}{2})$",
    "Final Answer: The final answer is $(1,\\frac12)$. I hope it is correct.",
    "\\boxed{7}",
    "Final Answer: The final answer is $7 \\text{ dollars}$. I hope it is correct.",
    "Final Answer: The final answer is \\text{blue}. I hope it is correct.",
    "Final Answer: The final answer is $\\sqrt{2}+\\sqrt[3]{4}$ cm. I hope it is correct.",
    "Final Answer: The final answer is $\\frac{{{. I hope it is correct.",
    "$\\left( \\frac{",
    "",
)
# Right, wrong and malformed; of each task every one is given to every item.
RESPONSES = {
    "gsm8k": (
        "#### 6",
        "2*3 = 6 nuts\n#### 1,200",
        "He has $21.",
        "The answer is 6.",
        "#### 21.",
        "####21",
        "####",
        "none",
        "",
        "- 6 , 7",
        "#### -6",
    ),
    "minerva_math": MATH_RESPONSES,
    "humaneval": ("    return x + 1\n", "    return 2 + x", "    return", "  if x:\n oops", ""),
    "mbpp": ("def times(x):\n    return 3 * x\n", "def times(x): return x*5", "def times(x) return 3", ""),
}


@pytest.mark.parametrize("name", sorted(RESPONSES))
def test_generated_answers_get_lm_evals_own_scores(name: str, tmp_path: Path) -> None:
    task = study_task(name, tmp_path, STUDY_SHOTS[name])
    stock = list(stock_tasks(name, STUDY_SHOTS[name]))
    seen = set()
    for text in RESPONSES[name]:
        ours = scores_of(task, {request.index: Response(request.key, text=text) for request in task.requests})
        assert ours == stock_scores(stock, lambda _, text=text: text)
        seen |= set(ours.values())
    assert seen == {0, 1}


@pytest.mark.parametrize("name", sorted(DOCUMENTS.keys() - RESPONSES.keys()))
def test_likelihoods_get_lm_evals_own_scores(name: str, tmp_path: Path) -> None:
    task = study_task(name, tmp_path, STUDY_SHOTS.get(name, 0))
    stock = list(stock_tasks(name, STUDY_SHOTS.get(name, 0)))
    seen = set()
    for draw in range(8):

        def logprob(arguments: tuple[Any, ...], draw: int = draw) -> float:
            return -(int(request_key(str(draw), arguments)[:6], 16) % 977) / 100 - len(arguments[1])

        ours = scores_of(
            task,
            {request.index: Response(request.key, logprob=logprob(request.arguments)) for request in task.requests},
        )
        assert ours == stock_scores(stock, lambda arguments: (logprob(arguments), False))
        seen |= set(ours.values())
    assert seen == {0.0, 1.0}


def scores_of(task: BuiltTask, responses: dict[int, Response]) -> dict[tuple[str, str, str], float]:
    """Scores by (first request of the item, filter, metric)."""
    first = {request.doc_id: str(request.arguments) for request in reversed(task.requests)}
    return {(first[row["doc_id"]], row["filter"], row["metric"]): row["value"] for row in task.score(responses)[1]}


def stock_scores(tasks: list[Any], respond: Any) -> dict[tuple[str, str, str], float]:
    scores = {}
    for task in tasks:
        for instance in task.instances:
            instance.resps = [respond(instance.args)]
        task.apply_filters()
        for doc_id in dict.fromkeys(instance.doc_id for instance in task.instances):
            instances = [instance for instance in task.instances if instance.doc_id == doc_id]
            for name in instances[0].filtered_resps:
                responses = [instance.filtered_resps[name] for instance in instances]
                for metric, value in task.process_results(instances[0].doc, responses).items():
                    scores[str(instances[0].args), name, metric] = float(value)
    return scores


def test_normalised_answers_are_lm_evals_own_on_a_thousand_jumbles() -> None:
    ours = load_module(Path(TASK_FOLDERS[0]) / "minerva_math" / "scoring.py")
    stock = load_module(Path(lm_eval.tasks.__file__).parent / "minerva_math" / "utils.py")
    pieces = [*stock.REMOVED_EXPRESSIONS, *(old for old, _ in stock.SUBSTITUTIONS), *" ".join(MATH_RESPONSES).split()]
    pieces += [
        "\\sqrt2",
        "\\sqrt[3]8",
        "\\textbf{b}",
        "\\overline{AB}",
        "\\left(",
        "12,000",
        "1,2",
        "=",
        "$",
        "\\picm",
        "x",
    ]
    chance = numpy.random.default_rng(0)
    for _ in range(1000):
        text = chance.choice(["", " "]).join(chance.choice(pieces, size=chance.integers(1, 7)))
        assert ours.normalized(text) == stock.normalize_final_answer(text), text


def load_module(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"loaded_{file.parent.name}_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_subjects_take_turns_so_that_a_limited_run_sees_all(tmp_path: Path) -> None:
    task = study_task("mmlu", tmp_path, 0, limit=3)
    contexts = dict.fromkeys(request.arguments[0] for request in task.requests)
    assert len(contexts) == 3
    for subject in ("abstract algebra", "high school us history", "virology"):
        assert sum(subject in context.partition("\n")[0] for context in contexts) == 1


def test_every_row_and_both_kinds_of_file_mean_the_same_requests(tmp_path: Path) -> None:
    for name, splits in DOCUMENTS.items():
        shots = STUDY_SHOTS.get(name, 0)
        expected = [request.arguments for request in study_task(name, tmp_path, shots).requests]
        folder = tmp_path / name
        folder.mkdir()
        for split, rows in splits.items():
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / f"{split}.parquet")
        info = with_data(find_tasks(list(TASK_FOLDERS))[name], name, tmp_path, shots)
        assert [request.arguments for request in built(info, shots).requests] == expected


def test_zero_shots_need_no_split_of_examples(tmp_path: Path) -> None:
    known = find_tasks(list(TASK_FOLDERS))
    for name, splits in DOCUMENTS.items():
        evaluated = known[name].data.evaluated_split
        write(tmp_path, {evaluated: splits[evaluated]})
        info = with_data(known[name], f"{evaluated}.jsonl", tmp_path, 0)
        assert {request.doc_id for request in built(info, 0).requests} == set(range(len(splits[evaluated])))


def test_math_subsets_of_the_hub_are_joined_with_their_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(path: str, name: str, revision: str | None) -> dict[str, datasets.Dataset]:
        asked.append((path, name, revision))
        row = {"problem": name, "solution": "\\boxed{1}", "type": name, "level": "Level 1"}
        return {split: datasets.Dataset.from_list([row]) for split in ("train", "test")}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    info = with_data(find_tasks(list(TASK_FOLDERS))["minerva_math"], {"revision": "abc"}, Path(), 0)
    contexts = [request.arguments[0] for request in built(info, 0).requests]
    assert contexts == [f"Problem:\n{subset}\n\nSolution:" for subset in info.data.subsets]
    assert asked == [("EleutherAI/hendrycks_math", subset, "abc") for subset in info.data.subsets]


def test_a_solution_of_math_without_its_box_is_named(tmp_path: Path) -> None:
    write(tmp_path, {"test": [{"problem": "?", "solution": "It is \\boxed{1.", "type": "Algebra"}]})
    info = with_data(find_tasks(list(TASK_FOLDERS))["minerva_math"], "test.jsonl", tmp_path, 0)
    with pytest.raises(ValueError, match=r"boxes its answer, and this one does not: 'It is"):
        built(info, 0)


def test_a_pinned_revision_reaches_the_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(path: str, name: str | None, **options: Any) -> dict[str, datasets.Dataset]:
        asked.append((path, name, options))
        return {split: datasets.Dataset.from_list(rows) for split, rows in DOCUMENTS["gsm8k"].items()}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    built(with_data(find_tasks(list(TASK_FOLDERS))["gsm8k"], {"revision": "abc"}, Path(), 0), 0)
    assert asked == [("openai/gsm8k", "main", {"revision": "abc"})]
