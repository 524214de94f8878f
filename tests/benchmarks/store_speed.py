"""How fast a study's store grows and opens, and how many files it keeps.

    python tests/benchmarks/store_speed.py                    # 10,000 and 100,000 finished cells: some minutes
    python tests/benchmarks/store_speed.py --cells 10000

Each study is recorded as the driver does it: two metrics of every cell, a row of each variant of ten cells, and, of the
first 10,000 cells, a batch of samples and the scores, for opening reads none of these. It is then opened in a process
of its own, so that the peak of memory is its own: all rows of cells and variants (what `plan` looks at), then with the
study's description (`status`). Targets: 10,000 cells within 2 s, 100,000 within 10 s, at most 1 GB.
"""

from __future__ import annotations

import argparse
import datetime
import json
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from orchestrator.study_directory import write_description
from orchestrator.study_state import study_status
from reports import ResultStore

CELLS_PER_VARIANT = 10
NUM_ITEMS = 4
NUM_WITH_ITEMS = 10_000
NOW = datetime.datetime.now(datetime.UTC)
PROVENANCE = {
    "qstudy_version": "0.1.0",
    "package_versions": json.dumps({f"package{index}": "1.2.3" for index in range(10)}),
    "git_revision": "0" * 40,
    "device": "NVIDIA H100 80GB HBM3",
    "seeds": "[0]",
    "host": "node17.cluster",
}


def names_of(index: int) -> dict[str, Any]:
    """The names and ids of one cell, in the order of a grid."""
    variant, task = divmod(index, CELLS_PER_VARIANT)
    return {
        "cell_id": f"{index:016x}",
        "variant_id": f"{variant:016x}",
        "model": f"model-{variant % 7}",
        "method": "gptq",
        "method_label": f"gptq-{variant % 11}",
        "scheme": f"w{variant % 7 + 2}a16g128",
        "task": f"task_{task}",
        "task_group": "general",
    }


def record(folder: Path, num_cells: int) -> None:
    """A study in which every cell is done."""
    store = ResultStore(folder)
    # As long as the identity of a cell that was run with a method's full parameters.
    config = json.dumps({"variant": {"seed": 0, "parameters": {f"parameter_{index}": index for index in range(80)}}})
    for index in range(num_cells):
        names = names_of(index)
        cell_id = names["cell_id"]
        common = PROVENANCE | {"config": f'{config[:-1]}, "task": "{cell_id}"}}'}
        if index % CELLS_PER_VARIANT == 0:
            variant = {key: names[key] for key in ("variant_id", "model", "method", "scheme")}
            audit = json.dumps([{"linear": f"layers.{linear}", "error": 0.1} for linear in range(28)])
            store.record_variant(
                common | variant | {"parameters": "{}", "status": "done", "created_at": NOW, "audit": audit}
            )
        if index < NUM_WITH_ITEMS:
            record_items(store, cell_id)
        cell = common | names | {"filter": "none", "value": index / num_cells, "stderr": 0.01, "num_items": NUM_ITEMS}
        cell |= {"status": "done", "seconds": 10.0, "finished_at": NOW}
        metrics = [("acc", True), ("acc_norm", False)]
        store.record_cell([cell | {"metric": metric, "is_primary": primary} for metric, primary in metrics])
    expected = [names_of(index) | {"seed": 0, "metric": "acc", "filter": "none"} for index in range(num_cells)]
    cells = [cell | {"not_applicable": None} for cell in expected]
    write_description(folder, name="store-speed", grid="", cells=cells, variants={}, tasks={})


def record_items(store: ResultStore, cell_id: str) -> None:
    sample = {"request_type": "loglikelihood", "arguments": "[]", "logprob": -1.0}
    items = range(NUM_ITEMS)
    store.append_samples(cell_id, [sample | {"request_key": f"key{item}", "request_index": item} for item in items])
    score = {"filter": "none", "metric": "acc", "value": 1.0}
    store.record_scores(cell_id, [score | {"doc_id": item} for item in items])


def open_store(folder: Path) -> tuple[float, float]:
    """Seconds, and the peak of the process in GB."""
    began = time.perf_counter()
    store = ResultStore(folder)
    rows, variants = store.cells(), store.variants()
    seconds = time.perf_counter() - began
    assert len(rows) == 2 * CELLS_PER_VARIANT * len(variants)
    return seconds, peak_gigabytes()


def open_status(folder: Path) -> tuple[float, float]:
    began = time.perf_counter()
    status = study_status(folder)
    seconds = time.perf_counter() - began
    assert status.is_complete
    return seconds, peak_gigabytes()


def peak_gigabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def measure(num_cells: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        began = time.perf_counter()
        record(folder, num_cells)
        seconds = time.perf_counter() - began
        print(f"{num_cells} cells recorded in {seconds:.1f} s: {num_cells / seconds:.0f} a second")
        for table in ("cells", "variants", "scores"):
            files = list((folder / "results" / table).iterdir())
            print(f"  {table}: {len(files)} files, {sum(file.stat().st_size for file in files) / 1e6:.1f} MB")
        for what, opened in (("rows of cells and variants", open_store), ("status", open_status)):
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                seconds, peak = process.submit(opened, folder).result()
            print(f"  {what}: {seconds:.2f} s, peak {peak:.2f} GB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, nargs="+", default=[10_000, 100_000])
    for num_cells in parser.parse_args().cells:
        measure(num_cells)


if __name__ == "__main__":
    main()
