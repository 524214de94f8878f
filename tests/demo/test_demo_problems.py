"""The demo's problems and tasks: reproducible, disjoint, and scored right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import grids
from grids import CellTask, find_tasks
from grids.demo.data import write_data
from grids.demo.problems import TASKS, World, seeded
from grids.protocol import Protocol
from workers.tasks import load_task

DEMO = Path(grids.__file__).parent / "demo"


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_data_that_ships_is_what_the_generators_make(tmp_path: Path) -> None:
    write_data(tmp_path)
    made = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    assert len(made) == 2 * len(TASKS) + 1
    assert made == {name: (DEMO / name).read_text() for name in made}


@pytest.mark.parametrize("task", TASKS)
def test_no_test_problem_is_ever_drawn_for_training(task: str) -> None:
    world = World()
    test = {problem.prompt for problem in world.test_problems(task)}
    rng = seeded("any stream")
    train = {world.sample_train(task, rng).prompt for _ in range(4000)}
    assert len(test) >= 150
    assert len(train) > 200
    assert test.isdisjoint(train)


def test_no_held_out_sum_is_trained_in_either_order() -> None:
    world = World()
    for operation in "+-":
        assert set(world.math_train[operation]).isdisjoint(world.math_test[operation])
    swapped = {(b, a) for a, b in world.math_test["+"]}
    assert swapped.isdisjoint(world.math_train["+"])


def score(task: str, answer_of: Any) -> dict[str, float]:
    """The mean of each metric when every item of the test split is answered by `answer_of(doc)`."""
    info = find_tasks([DEMO / "tasks"])[task]
    built = load_task(CellTask(info, 0, 40, Protocol(), info.metric, info.filter, info.group))
    built.build_all_requests(limit=40)
    for instance in built.instances:
        instance.resps = [answer_of(instance.doc)]
    built.apply_filters()
    totals: dict[str, list[float]] = {}
    for instance in built.instances:
        for metric, value in built.process_results(
            instance.doc, [instance.filtered_resps[name] for name in instance.filtered_resps][:1]
        ).items():
            totals.setdefault(metric, []).append(float(value))
    return {metric: sum(values) / len(values) for metric, values in totals.items()}


def test_right_answers_score_one_and_wrong_ones_zero() -> None:
    assert score("demo_math", lambda doc: " " + doc["answer"]) == {"exact_match": 1.0}
    assert score("demo_math", lambda doc: " 1+1\n#### 99999") == {"exact_match": 0.0}
    assert score("demo_code", lambda doc: doc["canonical_solution"]) == {"pass@1": 1.0}
    assert score("demo_code", lambda doc: " None") == {"pass@1": 0.0}


@pytest.mark.parametrize(
    "answer",
    [
        " exit(0)",
        " __import__('os')._exit(0)",
        " [0 for _ in iter(int, 1)]",
        " 'x' * 10**10",
        " open('/proc/self/oom_adj', 'w')",
    ],
)
def test_code_that_leaves_early_loops_or_takes_too_much_fails(answer: str) -> None:
    info = find_tasks([DEMO / "tasks"])["demo_code"]
    task = load_task(CellTask(info, 0, 1, Protocol(), info.metric, info.filter, info.group))
    doc = rows(DEMO / "tasks" / "data" / "demo_code.test.jsonl")[0]
    assert task.process_results(doc, [answer]) == {"pass@1": 0.0}
