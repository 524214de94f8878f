"""The names of `qstudy` in Python: each command as a function with a typed result."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from typer.main import get_command

import orchestrator
from orchestrator.cli import app

ROOT = Path(__file__).parents[2]
GRID = """
name: door
models: [tiny-llada-base]
methods: [rtn]
schemes: [w4a4]
tasks: [{name: demo_facts, likelihood: {mc_num: 4}}]
limit: 4
dtype: float32
"""


@pytest.fixture(scope="module")
def qstudy() -> ModuleType:
    """The file that pyproject.toml has installed as the module `qstudy`."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    (file,) = [
        ROOT / source for source, target in build["targets"]["wheel"]["force-include"].items() if target == "qstudy.py"
    ]
    spec = importlib.util.spec_from_file_location("qstudy", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_study_from_grid_to_verified_results_in_python(
    qstudy: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    grid, study = tmp_path / "grid.yaml", tmp_path / "study"
    grid.write_text(GRID)

    assert [str(cell) for cell in qstudy.load_grid(grid).cells] == [
        "tiny-llada-base none fp16 demo_facts",
        "tiny-llada-base rtn w4a4 demo_facts",
    ]
    priced = qstudy.plan(grid, study)
    assert isinstance(priced, qstudy.PricedPlan)
    assert [planned.action for planned in priced.plan.cells] == ["run", "run"]
    assert priced.total.num_forwards > 0
    assert not study.exists()

    result = qstudy.run(str(grid), str(study), only=["scheme=fp16"], in_process=True)
    assert isinstance(result, qstudy.RunResult)
    assert (result.num_done, result.num_failed, result.counts) == (1, 0, {"done": 1, "missing": 1})
    assert not result.is_complete
    again = qstudy.run(grid, study, in_process=True)
    assert (again.num_done, again.counts, again.failures) == (1, {"done": 2}, ())
    assert again.is_complete
    assert 0 < again.seconds < 300
    assert again.study == study
    assert {path.name for path in again.report_paths} >= {"report.md", "report.tex"}

    status = qstudy.status(study)
    assert isinstance(status, qstudy.Status)
    assert status.is_complete
    assert not status.is_running
    (csv,) = qstudy.report(study, formats=["csv"], output=tmp_path / "tables")
    assert csv.parent == tmp_path / "tables"
    assert "demo_facts" in csv.read_text()
    assert qstudy.explain(study, "scheme=w4a4").to_json()["action"] == "reuse"
    assert qstudy.study_failures(str(study)) == []
    assert "--- run ended, cells done: 1, failed: 0" in list(qstudy.study_log(str(study)))[-1]
    assert "=== attempt 1 on here: tiny-llada-base rtn w4a4" in "".join(qstudy.study_log(study, "scheme=w4a4"))
    exported = qstudy.export(study, tmp_path / "export", capsule=True)
    assert exported.paths[-1].is_file()
    assert len(exported.capsule_digest) == 64
    assert qstudy.verify(exported.paths[-1]).problems == ()
    # Printing is the command's; the bars of other libraries are theirs.
    out, err = capfd.readouterr()
    assert out == ""
    assert not re.search(r"(?m)^(wrote |cells: |study |\[\d+/)", err)


def test_a_mistake_raises_an_error_that_names_the_file_and_the_key(qstudy: ModuleType, tmp_path: Path) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text(GRID.replace("w4a4", "w4b4"))
    with pytest.raises(qstudy.GridError, match="w4b4") as error:
        qstudy.run(grid, tmp_path / "study", in_process=True)
    assert (error.value.file, error.value.key) == (str(grid), "schemes")
    assert not (tmp_path / "study").exists()


def test_every_public_name_is_there_and_none_is_hidden_by_a_file_of_that_name(qstudy: ModuleType) -> None:
    assert {"load_grid", "plan", "run", "status", "report"} <= set(qstudy.__all__)
    for name in qstudy.__all__:
        assert getattr(qstudy, name) is getattr(orchestrator, name)
        assert not isinstance(getattr(orchestrator, name), ModuleType), name
    with pytest.raises(AttributeError, match="'orchestrator' has no attribute 'no_such_name'"):
        _ = qstudy.no_such_name


def test_every_command_has_its_function(qstudy: ModuleType) -> None:
    functions = {
        "demo": "run",
        "list": "list_names",
        "fetch": "fetch_grid",
        "quantize": "quantize_model",
        "failures": "study_failures",
        "logs": "study_log",
    }
    # lm-eval's own command line has lm-eval's functions.
    commands = {str(name) for name in get_command(app).commands} - {"lm-eval"}  # type: ignore[attr-defined]
    assert len(commands) >= 14
    assert {functions.get(name, name.replace("-", "_")) for name in commands} <= set(qstudy.__all__)


def test_what_looks_at_results_loads_no_torch_and_no_ray() -> None:
    program = (
        "import sys; from orchestrator import explain, export, report, run, status, verify; "
        "sys.exit(bool({'torch', 'ray', 'transformers', 'lm_eval'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0
