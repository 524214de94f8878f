"""Whole runs through the command, on the models that ship: resume, workers, failures."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.logs import study_log
from reports import ResultStore
from tests.orchestrator.ray_machine import wait_until

GRID = """
name: little
models: [tiny-llada-base, tiny-dream-base]
methods: [rtn]
schemes: [w4a4]
tasks:
  - {name: demo_facts, likelihood: {mc_num: 4}}
  - {name: demo_math, generation: {gen_length: 16, steps: 8, llada: {block_length: 8}}}
limit: 12
dtype: float32
"""

Numbers = dict[tuple[str, str, str], Any]


def qstudy(folder: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """The command as a process of its own, in `folder`."""
    return subprocess.Popen(
        [sys.executable, "-c", "from orchestrator.cli import main; main()", *arguments],
        cwd=folder,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def wait_for_samples(process: subprocess.Popen[str], study: Path) -> None:
    """Until the run has saved three batches of samples."""
    deadline = time.monotonic() + 240
    while len(list(study.glob("results/samples/*/*.parquet"))) < 3:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def cells_of(study: Path) -> Numbers:
    return {
        (row["cell_id"], row["metric"], row["filter"]): (row["value"], row["stderr"], row["num_items"])
        for row in ResultStore(study).cells()
    }


def samples_of(study: Path) -> Numbers:
    store = ResultStore(study)
    return {
        (row["cell_id"], str(row["request_index"]), row["request_key"]): (row["logprob"], row["response"])
        for cell_id in {row["cell_id"] for row in store.cells()}
        for row in store.samples(cell_id)
    }


def num_forwards(study: Path, cell_id: str) -> int:
    """Of the attempt that ended the cell."""
    return int(ResultStore(study).cell(cell_id)[0]["num_forwards"])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study after one run with one worker."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "grid.yaml").write_text(GRID)
    code, _, err = finish(qstudy(folder, "run", "grid.yaml", "--workers", "1", "--batch-size", "2"))
    assert code == 0, err
    return folder / "studies" / "little"


def test_two_workers_give_the_same_scores_and_the_same_samples_as_one(undisturbed: Path, tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text(GRID)
    code, _, err = finish(qstudy(tmp_path, "run", "grid.yaml", "--workers", "2", "--batch-size", "2"))
    assert code == 0, err
    study = tmp_path / "studies" / "little"
    assert len(cells_of(undisturbed)) >= 8
    assert cells_of(study) == cells_of(undisturbed)
    assert samples_of(study) == samples_of(undisturbed)


def test_a_killed_run_resumes_to_exactly_the_numbers_of_an_undisturbed_one(undisturbed: Path, tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text(GRID)
    study = tmp_path / "studies" / "little"
    process = qstudy(tmp_path, "run", "grid.yaml", "--workers", "1", "--batch-size", "2")
    wait_for_samples(process, study)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    finished = cells_of(study)
    store = ResultStore(study)
    begun = store.cells_with_samples() - {cell_id for cell_id, _, _ in finished}
    saved = {cell_id: store.samples(cell_id) for cell_id in begun}
    assert len(finished) < len(cells_of(undisturbed)), "the kill came after the run's end"

    code, _, err = finish(qstudy(tmp_path, "run", "grid.yaml", "--workers", "1", "--batch-size", "2"))
    assert code == 0, err
    assert cells_of(study) == cells_of(undisturbed)
    assert samples_of(study) == samples_of(undisturbed)
    # Nothing that was saved before the kill was computed again.
    assert sum(map(len, saved.values())) > 0
    for cell_id, rows in saved.items():
        assert f"{len(rows)} responses were saved before" in "".join(study_log(study, cell_id))
        assert num_forwards(study, cell_id) < num_forwards(undisturbed, cell_id)


def test_a_lost_worker_is_replaced_and_its_cell_goes_on(undisturbed: Path, tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text(GRID)
    study = tmp_path / "studies" / "little"
    process = qstudy(tmp_path, "run", "grid.yaml", "--workers", "1", "--batch-size", "2")
    wait_for_samples(process, study)
    assert wait_until(lambda: busy_workers(process.pid) != [])
    for pid in busy_workers(process.pid):
        os.kill(pid, signal.SIGKILL)
    code, _, err = finish(process)
    assert code == 0, err
    assert "lost, will be tried again (worker_lost)" in err
    assert cells_of(study) == cells_of(undisturbed)
    assert samples_of(study) == samples_of(undisturbed)
    assert max(row["attempts"] for row in ResultStore(study).cells()) == 2


def busy_workers(pid: int) -> list[int]:
    """Ray names a busy process after what it runs: here, the cell's id."""
    return [worker for worker in descendants(pid) if re.match("ray::[0-9a-f]{16}", command_of(worker))]


def descendants(pid: int) -> list[int]:
    """A process's children, and theirs."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found: list[int] = []
    waiting = [pid]
    while waiting:
        found += children.get(waiting[0], [])
        waiting = waiting[1:] + children.get(waiting[0], [])
    return found


def command_of(pid: int) -> str:
    try:
        return (Path("/proc") / str(pid) / "cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def test_the_same_command_again_computes_nothing(undisturbed: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (undisturbed / "results").rglob("*.parquet")}
    code, out, err = finish(qstudy(undisturbed.parent.parent, "run", "grid.yaml", "--workers", "1"))
    assert (code, "to run" in err) == (0, False), err
    assert "rtn" in out
    assert {path: path.stat().st_mtime_ns for path in (undisturbed / "results").rglob("*.parquet")} == before


def test_plan_as_json_lists_every_cell_with_its_action(undisturbed: Path) -> None:
    folder = undisturbed.parent.parent
    code, out, err = finish(qstudy(folder, "plan", "grid.yaml", "--set", "schemes=[w4a4,w8a8]", "--json"))
    assert code == 0, err
    cells = json.loads(out)["cells"]
    assert {cell["action"] for cell in cells if cell["scheme"] == "w8a8"} == {"run"}
    assert {cell["action"] for cell in cells if cell["scheme"] != "w8a8"} == {"reuse"}
    assert all(set(cell) >= {"cell_id", "model", "method", "scheme", "task", "action", "reason"} for cell in cells)


def test_a_method_that_raises_leaves_marked_cells_and_exit_code_3(tmp_path: Path) -> None:
    (tmp_path / "broken_method.py").write_text(
        "from methods import Method, MethodParameters\n"
        "class Broken(Method):\n"
        "    '''Raises.'''\n"
        "    name, version, needs_calibration, Parameters = 'broken', 1, False, MethodParameters\n"
        "    def refusal(self, scheme):\n        return None\n"
        "    def quantize_blocks(self, job):\n        raise ArithmeticError('no weight is good enough')\n"
    )
    metadata = tmp_path / "broken_method-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-method\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[qstudy.methods]\nbroken = broken_method:Broken\n")
    (tmp_path / "grid.yaml").write_text(
        GRID.replace("methods: [rtn]", "methods: [broken]")
        .replace(", tiny-dream-base", "")
        .replace("limit: 12", "limit: 2")
    )
    python_path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    code, out, err = finish(qstudy(tmp_path, "run", "grid.yaml", "--workers", "1", PYTHONPATH=python_path))
    assert code == 3, err
    study = tmp_path / "studies" / "little"
    failed = [row for row in ResultStore(study).cells() if row["status"] == "failed"]
    assert {(row["method"], row["task"]) for row in failed} == {("broken", "demo_facts"), ("broken", "demo_math")}
    assert {row["failure_message"] for row in failed} == {"ArithmeticError: no weight is good enough"}
    assert all(row["value"] is None for row in failed)
    done = [row for row in ResultStore(study).cells() if row["status"] == "done" and row["is_primary"]]
    assert {row["method"] for row in done} == {"none"}
    assert "no weight is good enough" in out
    assert "no weight is good enough" in (study / "report" / "report.md").read_text()
    assert any("quantize_blocks" in line for line in study_log(study, failed[0]["cell_id"]))
    assert finish(qstudy(tmp_path, "status", str(study)))[0] == 3


def test_reports_are_written_on_a_python_without_torch_and_ray(undisturbed: Path, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'ray', 'transformers', 'lm_eval'):\n"
        "            raise ImportError(name + ' is not here')\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "from orchestrator.cli import main\n"
        "main()\n"
    )
    arguments = ["report", str(undisturbed), "-f", "markdown,latex,csv,json,html", "-o", str(tmp_path)]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    written = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    in_latex = {"report.tex", "findings.tex", "main.tex", "differences.tex", "numbers.tex"}
    assert written == {"report.md", "report.csv", "report.json", "report.html"} | in_latex
    for name in ("report.md", "report.html"):
        assert (tmp_path / name).read_text() == (undisturbed / "report" / name).read_text()
