"""Write the demo's data files: the tasks' splits (JSON lines) and the calibration text."""

from __future__ import annotations

import json
from pathlib import Path

from .problems import TASKS, World, seeded

NUM_TEST = 200
NUM_TRAIN = 20
NUM_CALIBRATION = 600


def write_data(folder: Path, world: World | None = None) -> None:
    """Write `tasks/data/NAME.{test,train}.jsonl` and `calibration.txt` under `folder`.

    The train rows are for few-shot prompts; the calibration text is of the train split, one problem a paragraph.
    """
    world = world or World()
    data = folder / "tasks" / "data"
    data.mkdir(parents=True, exist_ok=True)
    for task in TASKS:
        rng = seeded(f"{world.seed}-shots-{task}")
        splits = {
            "test": world.test_problems(task, NUM_TEST),
            "train": [world.sample_train(task, rng) for _ in range(NUM_TRAIN)],
        }
        for split, problems in splits.items():
            rows = [json.dumps({"id": i, **p.doc}, ensure_ascii=False) for i, p in enumerate(problems)]
            (data / f"{task}.{split}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    rng = seeded(f"{world.seed}-calibration")
    problems = [world.sample_train(TASKS[i % len(TASKS)], rng) for i in range(NUM_CALIBRATION)]
    text = "\n\n".join(problem.prompt + problem.answer for problem in problems)
    (folder / "calibration.txt").write_text(text + "\n", encoding="utf-8")
