"""How long the findings of a large study take, beside the main table that they share their draws with.

    python tests/benchmarks/findings_speed.py                 # 300 variants x 10 tasks x 14,000 items
    python tests/benchmarks/findings_speed.py --items 1000

The scores are made in memory: reading them is the store's matter. The findings are timed alone, with all draws still to
be made, and after the main table, as a report makes them. Target: 5 s after the table.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from reports import build_study_table
from reports.findings import build_findings
from reports.schemas import Row
from reports.statistics import ScoreMatrix

METHODS = ("rtn", "gptq", "awq", "smoothquant", "quarot", "duquant")
SCHEMES = ("w4a16g128", "w3a16g128", "w2a16g128", "w8a8", "w4a4")
GROUPS = ("general",) * 6 + ("math",) * 2 + ("code",) * 2


def study_cells(num_variants: int, num_items: int) -> Iterator[dict[str, Any]]:
    """A row for each cell of models in full precision and under all methods and schemes."""
    made = [("none", "fp16"), *((method, scheme) for method in METHODS for scheme in SCHEMES)]
    for variant in range(num_variants):
        number, place = divmod(variant, len(made))
        model = f"family{number // 2}-8b-{('base', 'instruct')[number % 2]}"
        method, scheme = made[place]
        for task, group in enumerate(GROUPS):
            yield {
                "cell_id": f"{variant}-{task}",
                "variant_id": f"v{variant}",
                "model": model,
                "method": method,
                "method_label": method,
                "scheme": scheme,
                "task": f"task{task}",
                "task_group": group,
                "num_fewshot": 0,
                "seeds": "[0]",
                "config": "{}",
                "metric": "acc",
                "filter": "none",
                "is_primary": True,
                "higher_is_better": True,
                "status": "done",
                "value": 0.0,
                "stderr": None,
                "num_items": num_items,
                "finished_at": datetime(2026, 1, 1, tzinfo=UTC),
            }


def scores_of(cells: Sequence[dict[str, Any]], num_items: int) -> dict[str, dict[str, np.ndarray]]:
    """Scores of every task and variant that a method's harm takes from its model's; each cell's value is set."""
    generator = np.random.default_rng(0)
    harm = {scheme: 0.002 * (place + 1) for place, scheme in enumerate(SCHEMES)}
    full: dict[tuple[str, str], np.ndarray] = {}
    scores: dict[str, dict[str, np.ndarray]] = {}
    for cell in cells:
        place = cell["model"], cell["task"]
        if place not in full:
            full[place] = (generator.random(num_items) < 0.7).astype(float)
        changed = generator.random(num_items) < harm.get(cell["scheme"], 0.0)
        values = np.where(changed, 1.0 - full[place], full[place])
        cell["value"] = float(values.mean())
        scores.setdefault(cell["task"], {})[cell["variant_id"]] = values
    return scores


def timed(what: str, act: Callable[[], Any]) -> None:
    start = time.process_time()
    act()
    print(f"{what}: {time.process_time() - start:.1f} s of processor time")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variants", type=int, default=300)
    parser.add_argument("--items", type=int, default=14_000)
    options = parser.parse_args()
    cells = list(study_cells(options.variants, options.items))
    scores = scores_of(cells, options.items)

    def source() -> Callable[[str, Mapping[str, Row]], Sequence[ScoreMatrix]]:
        matrices = {task: (ScoreMatrix(task, columns),) for task, columns in scores.items()}
        return lambda task, _: matrices[task]

    fresh, shared = source(), source()
    timed("findings alone", lambda: build_findings(cells, matrices=fresh))
    timed("main table", lambda: build_study_table(cells, matrices=shared))
    timed("findings after it", lambda: build_findings(cells, matrices=shared))
    print(f"peak memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
