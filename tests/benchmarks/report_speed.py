"""How long a report takes, stage by stage, and how much memory: every format, every figure.

    OMP_NUM_THREADS=1 python tests/benchmarks/report_speed.py             # makes a large study: some minutes
    OMP_NUM_THREADS=1 python tests/benchmarks/report_speed.py STUDY ...   # of studies that are there
    ... --keep FOLDER                                                     # leaves the large study there

The large study has 300 variants (6 models: full precision, and 7 methods at 7 schemes each), 10 tasks and 14,000 items
a cell. An item is answered as by its model at full precision, except for a share that grows with the loss of bits; one
task's items lie in 57 subjects, the samples of another are there. It is recorded as the driver does it, in a folder
that is deleted afterwards. The report is made in a process of its own, from its folder alone. Targets: the large study
within 60 s and 2 GB, the demo within 20 s.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import resource
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.study_directory import write_description
from reports import ResultStore

MODELS = tuple(f"org/model-{name}" for name in "abcdef")
METHODS = ("rtn", "gptq", "awq", "smoothquant", "quarot", "duquant", "flatquant")
SCHEMES = ("w8a8", "w4a16g128", "w3a16g128", "w2a16g128", "w4a8", "w4a4", "w4a4kv4")
# Task to its group.
TASKS = {
    **dict.fromkeys(("mmlu", "piqa", "winogrande", "hellaswag", "arc_easy", "arc_challenge"), "general"),
    **dict.fromkeys(("gsm8k", "minerva_math"), "math"),
    **dict.fromkeys(("humaneval", "mbpp"), "code"),
}
NUM_SUBJECTS = 57
# The responses to this task's requests are there for the page to open.
SAMPLED_TASK = "gsm8k"
NUM_BLOCKS = 32
LINEARS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
LINEARS += ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
NOW = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
PROVENANCE = {
    "qstudy_version": "0.1.0",
    "package_versions": json.dumps({f"package{index}": "1.2.3" for index in range(10)}),
    "git_revision": "0" * 40,
    "device": "NVIDIA H100 80GB HBM3",
    "seeds": "[0]",
    "config": json.dumps({"variant": {}, "task": {}}),
    "host": "node17.cluster",
}


def variants() -> list[tuple[str, str, str]]:
    """Model, method and scheme of each variant."""
    kinds = [("none", "fp16"), *itertools.product(METHODS, SCHEMES)]
    return [(model, method, scheme) for model in MODELS for method, scheme in kinds]


def record(folder: Path, num_items: int) -> None:
    """The large study, every cell done."""
    store = ResultStore(folder)
    baselines: dict[tuple[str, str], np.ndarray[Any, Any]] = {}
    expected = []
    for number, (model, method, scheme) in enumerate(variants()):
        names = {"model": model, "method": method, "scheme": scheme, "variant_id": f"{number:016x}"}
        loss = 0.0 if scheme == "fp16" else loss_of(method, scheme)
        if loss:
            store.record_variant(PROVENANCE | names | variant_facts(scheme, loss))
        for place, (task, group) in enumerate(TASKS.items()):
            cell_id = f"{number * len(TASKS) + place:016x}"
            generator = np.random.default_rng([number, place])
            if (model, task) not in baselines:
                baselines[model, task] = generator.random(num_items) < 0.5 + 0.04 * place
            right = np.where(generator.random(num_items) < loss, generator.random(num_items) < 0.3, True)
            right &= baselines[model, task]
            store.record_scores(cell_id, score_rows(task, right))
            if task == SAMPLED_TASK:
                store.append_samples(cell_id, sample_rows(right))
            cell = names | {"cell_id": cell_id, "method_label": method, "task": task, "task_group": group}
            store.record_cell([PROVENANCE | cell | cell_facts(right, generator)])
            expected.append(cell | {"seed": 0, "metric": "acc", "filter": "none", "not_applicable": None})
    write_description(folder, name="report-speed", grid="", cells=expected, variants={}, tasks={})


def loss_of(method: str, scheme: str) -> float:
    """The share of items that a variant answers anew."""
    return 0.02 * (1 + SCHEMES.index(scheme)) * (1 + 0.5 * (len(METHODS) - METHODS.index(method)))


def variant_facts(scheme: str, loss: float) -> dict[str, Any]:
    linears = [
        {"name": f"model.layers.{block}.{linear}", "output_error": loss * (1 + block / NUM_BLOCKS)}
        for block in range(NUM_BLOCKS)
        for linear in LINEARS
    ]
    return {
        "parameters": "{}",
        "seed": 0,
        "status": "done",
        "num_linears": len(linears),
        "effective_bits": int(scheme[1]) + 0.125,
        "max_relative_error": 2 * loss,
        "audit": json.dumps({"linears": linears}),
        "quantize_seconds": 100 * (1 + loss),
        "peak_memory_bytes": 1 << 34,
        "created_at": NOW,
    }


def cell_facts(right: np.ndarray[Any, Any], generator: np.random.Generator) -> dict[str, Any]:
    value = float(right.mean())
    return {
        "task_version": "1",
        "num_fewshot": 0,
        "metric": "acc",
        "filter": "none",
        "value": value,
        "stderr": float(np.sqrt(value * (1 - value) / (len(right) - 1))),
        "num_items": len(right),
        "higher_is_better": True,
        "is_primary": True,
        "status": "done",
        "attempts": 1,
        "seconds": float(generator.uniform(900, 1100)),
        "num_forwards": int(generator.integers(90_000, 110_000)),
        "finished_at": NOW,
    }


def score_rows(task: str, right: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
    common = {"filter": "none", "metric": "acc"}
    rows = [common | {"doc_id": item, "value": float(value)} for item, value in enumerate(right.tolist())]
    if task == "mmlu":
        for item, row in enumerate(rows):
            row["cluster"] = f"subject {item % NUM_SUBJECTS}"
    return rows


def sample_rows(right: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
    common = {"request_type": "generate_until", "arguments": json.dumps(["What is six times seven?" * 20])}
    return [
        common | {"request_key": f"key{item}", "request_index": item, "doc_id": item, "response": f"It is {value}."}
        for item, value in enumerate(right.tolist())
    ]


@dataclass
class Stage:
    """Wall and processor seconds, and the highest memory meanwhile."""

    name: str
    seconds: float
    processor_seconds: float
    peak_gigabytes: float

    def print(self) -> None:
        print(
            f"{self.name:36} {self.seconds:7.1f} s  processor {self.processor_seconds:6.1f} s  "
            f"peak {self.peak_gigabytes:.2f} GB"
        )


class Stages:
    """What is done one after the other."""

    def __init__(self) -> None:
        self.done: list[Stage] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        _reset_peak()
        began, processor = time.perf_counter(), time.process_time()
        yield
        spent, used = time.perf_counter() - began, time.process_time() - processor
        self.done.append(Stage(name, spent, used, _peak_gigabytes()))


def report(folder: Path, out_dir: Path) -> list[Stage]:
    """Make the report of a study below `out_dir`, and tell its stages."""
    stages = Stages()
    with stages.stage("imports"):
        from orchestrator.study_directory import StudyDirectory
        from reports import REPORT_FORMATS, build_report
        from reports.figures import FIGURE_FORMATS, FIGURE_NAMES, NoFigure
        from reports.figures.drawing import draw_figure
        from reports.report import PRINTERS
    with stages.stage("statistics and tables"):
        directory = StudyDirectory.existing(folder)
        expected = directory.description()["cells"]
        made = build_report(directory.store, study=folder.name, expected=expected, with_figures=True)
    assert made.figure_source is not None
    pages = []
    for name in FIGURE_NAMES:
        with stages.stage(f"figure {name}"):
            found = draw_figure(name, made.figure_source, FIGURE_FORMATS)
            pages += [] if isinstance(found, NoFigure) else found
            for page in found if isinstance(found, list) else ():
                for path, content in page.files.items():
                    write(out_dir / path, content)
    made = replace(made, figures=tuple(pages))
    for name in REPORT_FORMATS:
        with stages.stage(f"as {name}"):
            for path, text in PRINTERS[name](made).items():
                write(out_dir / path, text.encode())
    return stages.done


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _reset_peak() -> None:
    # Linux forgets the peak of a process that asks for it; elsewhere each stage shows the highest so far.
    if (file := Path("/proc/self/clear_refs")).exists():
        file.write_text("5")


def _peak_gigabytes() -> float:
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1e6


def measure(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as out_dir, ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        stages = process.submit(report, folder, Path(out_dir)).result()
    for stage in stages:
        stage.print()
    seconds, used = sum(stage.seconds for stage in stages), sum(stage.processor_seconds for stage in stages)
    Stage("all", seconds, used, max(stage.peak_gigabytes for stage in stages)).print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", type=Path, nargs="*")
    parser.add_argument("--keep", type=Path, help="a new folder for the large study")
    parser.add_argument("--items", type=int, default=14_000)
    options = parser.parse_args()
    for folder in options.studies:
        print(folder)
        measure(folder)
    if options.studies:
        return
    with tempfile.TemporaryDirectory() as name:
        folder = options.keep or Path(name) / "large"
        began = time.perf_counter()
        record(folder, options.items)
        num_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        print(
            f"{len(variants())} variants, {len(TASKS)} tasks, {options.items} items a cell: {num_bytes / 1e6:.0f} MB, "
        )
        print(f"recorded in {time.perf_counter() - began:.0f} s")
        measure(folder)


if __name__ == "__main__":
    main()
