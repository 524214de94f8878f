"""What is said and done about nodes that lack code, packages, inputs or the place of artifacts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from grids import Cell, GridError
from orchestrator import node_probe
from orchestrator.catalog import shipped_models
from orchestrator.commands import load_grid
from orchestrator.preflight import Preflight, artifact_location, local_inputs
from orchestrator.ray_cluster import RayCluster
from tests.orchestrator.fake_pool import write_grid
from workers.shipped_files import SHIPPED, with_own_files
from workers.units import EvaluateUnit, QuantizeUnit, WorkerSettings

OWN_FILES = """
name: own
models: [tiny-llada-base, {path: ./model, name: mine}]
methods: [gptq]
schemes: [w4a4]
tasks: [demo_facts, mine]
task_path: [./tasks]
calibration: {dataset: ./text.txt, num_samples: 2, length: 16}
limit: 2
dtype: float32
"""
TASK = """
task: mine
dataset_path: json
dataset_kwargs: {data_files: {test: items.jsonl}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{question}}"
doc_to_choice: ["yes", "no"]
doc_to_target: 0
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata: {version: 1}
"""
Report = dict[str, Any]


class FakeCluster:
    """Nodes that answer as this machine does, but for what `changes` does to their reports."""

    def __init__(self, *changes: Callable[[Report], object], sent_code_helps: bool = True) -> None:
        self._changes, self._sent_code_helps = changes, sent_code_helps
        self.rejoined: dict[str, Any] | None = None

    def ask_nodes(self, question: Callable[..., Report], *arguments: object) -> dict[str, Report]:
        reports = {}
        for number, change in enumerate(self._changes):
            report = question(*arguments) | {"host": f"node-{number}"}
            own = report["code"]
            change(report)
            if self.rejoined is not None and self._sent_code_helps:
                report["code"] = own
            reports[str(number)] = report
        return reports

    def rejoin(self, runtime_env: dict[str, Any]) -> None:
        self.rejoined = runtime_env


def same(report: Report) -> None:
    pass


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_probe.time, "sleep", lambda seconds: None)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return tmp_path / "study"


def cells_of(folder: Path, grid: str | None = None) -> list[Cell]:
    file = write_grid(folder, grid) if grid else write_grid(folder)
    return list(load_grid(file).cells)


def own_files(folder: Path) -> list[Cell]:
    """Cells of a grid with a model, a task and a calibration text beside it."""
    shutil.copytree(shipped_models()["tiny-llada-base"], folder / "model")
    (folder / "tasks").mkdir()
    (folder / "tasks" / "mine.yaml").write_text(TASK)
    (folder / "tasks" / "items.jsonl").write_text(json.dumps({"question": "Is it?"}) + "\n")
    (folder / "text.txt").write_text("Once upon a time. " * 100)
    return cells_of(folder, OWN_FILES)


def settle(
    cluster: FakeCluster, cells: list[Cell], study: Path, artifacts: str | None = None
) -> tuple[WorkerSettings, list[str]]:
    """The settings that workers get, and what was said."""
    said: list[str] = []
    preflight = Preflight(cells, study, artifacts=artifacts, say=said.append)
    settings = preflight(cast(RayCluster, cluster), WorkerSettings(preflight.location))
    assert settings.artifact_dir == preflight.location
    # Nothing of the question is left where artifacts go.
    assert not list(study.parent.rglob(".tmp-*"))
    return settings, said


def refusal(cluster: FakeCluster, cells: list[Cell], study: Path, artifacts: str | None = None) -> GridError:
    with pytest.raises(GridError) as caught:
        settle(cluster, cells, study, artifacts)
    assert not list(study.parent.rglob(".tmp-*"))
    return caught.value


def test_nodes_that_share_everything_work_in_the_studys_folder(tmp_path: Path, study: Path) -> None:
    cluster = FakeCluster(same, same)
    settings, said = settle(cluster, own_files(tmp_path), study)
    assert settings.artifact_dir == str(study / "artifacts")
    assert said == [f"artifacts go to {study / 'artifacts'}, which every node sees (2)"]
    assert cluster.rejoined is None


def blind(report: Report) -> None:
    report.update(sees_artifacts=False, why_not="FileNotFoundError: no such folder")


def test_where_some_do_not_share_the_studys_folder_artifacts_are_rebuilt_per_node(tmp_path: Path, study: Path) -> None:
    settings, said = settle(FakeCluster(same, blind, blind, blind), cells_of(tmp_path), study)
    assert settings.artifact_dir.startswith("node:")
    assert said == ["3 of 4 nodes do not share the study's folder: artifacts are rebuilt per node"]
    # The same study has the same place again, another has another.
    assert settle(FakeCluster(blind), cells_of(tmp_path), study)[0].artifact_dir == settings.artifact_dir
    assert settle(FakeCluster(blind), cells_of(tmp_path), tmp_path / "b")[0].artifact_dir != settings.artifact_dir


def test_a_place_that_was_asked_for_must_be_seen(tmp_path: Path, study: Path) -> None:
    for place in (f"file://{tmp_path / 'bucket'}", str(tmp_path / "shared")):
        error = refusal(FakeCluster(same, blind), cells_of(tmp_path), study, place)
        assert error.key == "--artifacts"
        assert error.message == f"1 of 2 nodes do not see {place}: node-1 (FileNotFoundError: no such folder)"
        assert settle(FakeCluster(same), cells_of(tmp_path), study, place)[0].artifact_dir == place


def test_each_nodes_own_disk_can_be_asked_for(tmp_path: Path, study: Path) -> None:
    settings, said = settle(FakeCluster(blind, blind), cells_of(tmp_path), study, "node")
    assert settings.artifact_dir == artifact_location("node", study)
    assert said == ["artifacts stay on the disk of each node (2), which makes those that it needs"]


def test_a_place_that_cannot_be_written_is_refused_before_a_cluster_is_asked(tmp_path: Path, study: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(GridError, match="cannot write to ") as caught:
        Preflight([], study, artifacts=str(tmp_path / "file" / "x"), say=print)
    assert caught.value.key == "--artifacts"


def test_code_travels_to_nodes_without_it_and_takes_only_the_shipped_models_that_are_used(
    tmp_path: Path, study: Path
) -> None:
    cluster = FakeCluster(same, lambda report: report.update(code=None, version=None))
    _, said = settle(cluster, cells_of(tmp_path), study)
    assert cluster.rejoined is not None
    modules = cluster.rejoined["py_modules"]
    assert [Path(module).name for module in modules] == ["orchestrator", "workers", "reports", "methods", "grids"]
    assert all(Path(module).is_dir() for module in modules)
    assert cluster.rejoined["excludes"] == [
        "__pycache__",
        "demo/models/tiny-dream-base",
        "demo/models/tiny-llada-instruct",
    ]
    assert said[0].startswith("1 of 2 nodes have no qstudy: its code travels to them (")
    megabytes = float(said[0].rpartition("(")[2].split()[0])
    assert 4.5 < megabytes < 9


def test_code_that_did_not_arrive_ends_the_run(tmp_path: Path, study: Path) -> None:
    gone = FakeCluster(lambda report: report.update(code=None, version=None), sent_code_helps=False)
    assert refusal(gone, cells_of(tmp_path), study).message == "1 of 1 nodes did not get the code: node-0; install it"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"code": "x", "version": "0.0.9"}, "1 of 2 nodes have another qstudy than the driver (version 0.0.9, not "),
        ({"code": "x"}, "1 of 2 nodes have another qstudy than the driver (its files are not the same): node-1; inst"),
        ({"code": None, "lacks": ["torch", "lm_eval"]}, "1 of 2 nodes lack lm_eval, torch: node-1; install qstudy the"),
    ],
)
def test_another_qstudy_and_missing_packages_are_refused(
    tmp_path: Path, study: Path, change: Report, message: str
) -> None:
    error = refusal(FakeCluster(same, lambda report: report.update(change)), cells_of(tmp_path), study)
    assert error.key == "--address"
    assert message in error.message


def test_models_tasks_and_data_must_be_seen_by_all_nodes_and_be_the_same(tmp_path: Path, study: Path) -> None:
    cells = own_files(tmp_path)
    inputs = {str(tmp_path / name) for name in ("model", "tasks/mine.yaml", "tasks/items.jsonl", "text.txt")}
    assert local_inputs(cells) == inputs
    model, text = str(tmp_path / "model"), str(tmp_path / "text.txt")

    missing = FakeCluster(same, lambda report: report["inputs"].update({model: None, text: None}))
    assert refusal(missing, cells, study).message.startswith(f"1 of 2 nodes do not see {model}, {text}: node-1; ")
    (tmp_path / "elsewhere.txt").write_text("Once upon a time? " * 100)
    other = node_probe.fingerprint(str(tmp_path / "elsewhere.txt"))
    assert other is not None
    changed = FakeCluster(same, lambda report: report["inputs"].update({text: other}))
    assert refusal(changed, cells, study).message.startswith(f"1 of 2 nodes have other files at {text}: node-1; ")
    half = [[name, size // 2] for name, size in node_probe.fingerprint(model) or []]
    truncated = FakeCluster(same, lambda report: report["inputs"].update({model: half}))
    assert f"have other files at {model}" in refusal(truncated, cells, study).message


def test_a_token_is_read_where_it_is_and_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("abc")
    assert node_probe.read_token(str(tmp_path / "token"), "abc") == (True, "")
    assert node_probe.read_token(f"file://{tmp_path / 'token'}", "abc") == (True, "")
    assert node_probe.read_token(str(tmp_path / "token"), "abd") == (False, "another file is there")
    sees, why_not = node_probe.read_token(str(tmp_path / "late"), "abc")
    assert (sees, why_not) == (False, "OSError: the folder is there, and what the driver wrote into it is not")
    assert not node_probe.read_token(str(tmp_path / "nowhere" / "token"), "abc")[0]


def test_a_file_that_a_network_disk_shows_late_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_probe.time, "sleep", lambda seconds: (tmp_path / "token").write_text("abc"))
    assert node_probe.read_token(str(tmp_path / "token"), "abc") == (True, "")


def test_the_digest_of_the_code_is_of_all_that_ships_and_of_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = node_probe.code_digest()
    assert before is not None
    for package in node_probe.PACKAGES:
        shutil.copytree(SHIPPED.parent / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    specs = {
        name: type("Spec", (), {"submodule_search_locations": [str(tmp_path / name)]}) for name in node_probe.PACKAGES
    }
    monkeypatch.setattr(node_probe.importlib.util, "find_spec", specs.get)
    (tmp_path / "grids" / ".loading.py.swp").write_text("an editor's")
    (tmp_path / "grids" / "__pycache__").mkdir(exist_ok=True)
    (tmp_path / "grids" / "__pycache__" / "x.py").touch()
    assert node_probe.code_digest() == before
    with (tmp_path / "methods" / "rtn.py").open("a") as file:
        file.write("\n")
    assert node_probe.code_digest() != before
    del specs["methods"]
    assert node_probe.code_digest() is None


def test_a_worker_reads_its_own_copies_of_what_ships(tmp_path: Path) -> None:
    cells = own_files(tmp_path)
    shipped = next(
        cell for cell in cells if cell.variant.model.label == "tiny-llada-base" and cell.task.info.name == "demo_facts"
    )
    own = next(cell for cell in cells if cell.variant.model.label == "mine" and cell.task.info.name == "mine")
    assert with_own_files(EvaluateUnit(shipped), str(SHIPPED)).unit_id == shipped.cell_id

    # As a driver would send it whose package is elsewhere.
    text, other = str(SHIPPED), "/opt/site-packages/grids"

    def moved(path: str) -> str:
        return path.replace(text, other)

    info = shipped.task.info
    data_files = {split: moved(path) for split, path in info.data_files.items()}
    info = replace(info, file=Path(moved(str(info.file))), data_files=data_files)
    model = replace(shipped.variant.model, path=moved(shipped.variant.model.path))
    sent = replace(shipped, variant=replace(shipped.variant, model=model), task=replace(shipped.task, info=info))
    received = with_own_files(EvaluateUnit(sent), other)
    assert isinstance(received, EvaluateUnit)
    assert received.cell == shipped
    assert received.unit_id == shipped.cell_id
    quantize = with_own_files(QuantizeUnit(sent.variant), other)
    assert isinstance(quantize, QuantizeUnit)
    assert quantize.variant == shipped.variant
    # What the user has brought is where the user has put it.
    assert with_own_files(EvaluateUnit(own), other) == EvaluateUnit(own)
