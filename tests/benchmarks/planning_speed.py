"""Planning a grid of 100,000 cells: twenty 8B models, six methods, the ten study tasks, as many schemes as it takes.

    python tests/benchmarks/planning_speed.py                    # 100,000 cells
    python tests/benchmarks/planning_speed.py --cells 10000

Prints processor seconds per step. Imports are not counted; nothing is measured, run or written but the grid file.
"""

from __future__ import annotations

import argparse
import io
import itertools
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import TypeVar

import yaml

from grids import read_grid, resolve
from orchestrator.catalog import make_catalog
from orchestrator.plan_view import print_plan
from orchestrator.planning import make_plan
from orchestrator.priced_plan import price_plan

Result = TypeVar("Result")

MODELS = [{"path": "GSAI-ML/LLaDA-8B-Base", "revision": f"r{number}", "name": f"m{number}"} for number in range(20)]
METHODS = ["rtn", "gptq", "awq", "smoothquant", "quarot", "duquant"]
TASKS = ["winogrande", "piqa", "arc_challenge", "arc_easy", "hellaswag", "mmlu"]
TASKS += ["gsm8k", "minerva_math", "humaneval", "mbpp"]


def write_grid(folder: Path, num_cells: int) -> Path:
    """A grid of at least so many cells."""
    num_schemes = -(-num_cells // (len(MODELS) * len(METHODS) * len(TASKS)))
    bits = itertools.product(range(2, 9), range(2, 9), range(2, 9))
    schemes = [f"w{w}a{a}kv{kv}" for w, a, kv in itertools.islice(bits, num_schemes)]
    (folder / "text.txt").write_text("text")
    content = {
        "name": "large",
        "models": MODELS,
        "methods": METHODS,
        "schemes": schemes,
        "tasks": TASKS,
        "calibration": "text.txt",
        "exclude": [{"method": "awq", "task": "mmlu"}, {"scheme": schemes[0], "model": "m3", "task": "piqa"}],
    }
    file = folder / "grid.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def timed(title: str, work: Callable[[], Result]) -> tuple[Result, float]:
    start = time.process_time()
    result = work()
    seconds = time.process_time() - start
    print(f"{title:40} {seconds:6.2f} s")
    return result, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=100_000)
    num_cells = parser.parse_args().cells
    catalog = make_catalog()
    with tempfile.TemporaryDirectory() as folder:
        file = write_grid(Path(folder), num_cells)
        study, resolving = timed("read and resolve the grid", lambda: resolve(read_grid(file), file, catalog))
    plan, planning = timed("ids and actions", lambda: make_plan(study, None))
    _, hashing = timed("every id", lambda: [planned.cell.cell_id for planned in plan.cells])
    priced = price_plan(plan, device="H100")
    _, pricing = timed("prices by variant and in sum", lambda: priced.total)
    print(f"{len(plan.cells):,} cells planned and priced in {resolving + planning + hashing + pricing:.2f} s")

    def printed(*, as_json: bool) -> int:
        with redirect_stdout(io.StringIO()) as text:
            print_plan(priced, as_json=as_json)
        return len(text.getvalue())

    timed("the tables as text", lambda: printed(as_json=False))
    timed("the plan as JSON", lambda: printed(as_json=True))
    timed("a run on 512 workers, simulated", lambda: priced.simulate(512))


if __name__ == "__main__":
    main()
