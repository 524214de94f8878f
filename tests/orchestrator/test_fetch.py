"""`qstudy fetch` with a hub that is made up, and the real one's boundary with its libraries replaced."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pytest

from grids import GridError
from orchestrator import fetching
from orchestrator.cli import main
from orchestrator.fetching import Item, fetch_grid
from orchestrator.hub import HuggingFaceHub

COMMIT = "c" * 40
GRID = f"""
name: away
models: [tiny-llada-base, {{path: GSAI-ML/LLaDA-8B-Base, revision: main, name: big}}]
methods: [gptq]
schemes: [w4a16g128]
tasks: [gsm8k, minerva_math, piqa, demo_math]
data: {{piqa: piqa.jsonl, gsm8k: {{revision: {COMMIT}}}}}
calibration: wikitext2
"""
PIQA = {"goal": "g", "sol1": "a", "sol2": "b", "label": 0}


class FakeHub:
    """Holds some names; what is `away` can be downloaded, what is in neither cannot."""

    def __init__(self, cached: set[str], away: set[str]) -> None:
        self.cached, self.away = cached, away
        self.asked: list[tuple[str, str | None, str | None]] = []

    def model(self, path: str, revision: str | None, *, download: bool) -> Path:
        return self._find(path, None, revision, download=download)

    def data(self, path: str, subset: str | None, revision: str | None, *, download: bool) -> Path:
        return self._find(path, subset, revision, download=download)

    def _find(self, path: str, subset: str | None, revision: str | None, *, download: bool) -> Path:
        if download:
            self.asked.append((path, subset, revision))
        if path not in self.cached | (self.away if download else set()):
            raise ValueError(f"neither CACHE nor HUB gave {path}")
        return Path("cache") / path / COMMIT


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "piqa.jsonl").write_text(json.dumps(PIQA) + "\n")
    (tmp_path / "away.yaml").write_text(GRID)
    return Path("away.yaml")


def states(items: tuple[Item, ...]) -> dict[tuple[str, str | None], str]:
    return {(item.name, item.subset): item.state for item in items}


def test_each_item_is_present_fetched_or_missing_and_only_the_absent_are_downloaded(grid: Path) -> None:
    hub = FakeHub({"openai/gsm8k"}, {"GSAI-ML/LLaDA-8B-Base", "Salesforce/wikitext"})
    made, _ = fetch_grid(grid, hub=hub)
    found = states(made.items)
    assert found["tiny-llada-base", None] == found["gsm8k", "main"] == "present"
    assert found["piqa", None] == found["demo_math", None] == "present"
    assert found["big", None] == found["calibration", "wikitext-2-raw-v1"] == "fetched"
    assert [state for (name, _), state in found.items() if name == "minerva_math"] == ["missing"] * 7
    assert not made.is_complete
    assert [path for path, _, _ in hub.asked if path != "EleutherAI/hendrycks_math"] == [
        "GSAI-ML/LLaDA-8B-Base",
        "Salesforce/wikitext",
    ]


def test_the_record_names_the_commits_that_were_got(grid: Path) -> None:
    hub = FakeHub({"openai/gsm8k", "EleutherAI/hendrycks_math", "Salesforce/wikitext"}, {"GSAI-ML/LLaDA-8B-Base"})
    made, record = fetch_grid(grid, hub=hub)
    assert made.is_complete
    assert record == Path("away.fetched.json")
    written = json.loads(record.read_text())
    assert written == made.to_json()
    big = next(item for item in written["items"] if item["name"] == "big")
    assert (big["asked"], big["revision"], big["state"]) == ("main", COMMIT, "fetched")
    gsm8k = next(item for item in written["items"] if item["name"] == "gsm8k")
    assert gsm8k["asked"] == COMMIT


@pytest.mark.parametrize(("away", "code"), [(set[str](), 3), ({"GSAI-ML/LLaDA-8B-Base"}, 0)])
def test_the_command_says_what_is_missing_where_it_looked_and_exits_3(
    grid: Path, away: set[str], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = FakeHub({"openai/gsm8k", "EleutherAI/hendrycks_math", "Salesforce/wikitext"}, away)
    monkeypatch.setattr(fetching, "HuggingFaceHub", lambda: hub)
    monkeypatch.setattr(sys, "argv", ["qstudy", "fetch", str(grid)])
    with pytest.raises(SystemExit) as exit_:
        main()
    told = capsys.readouterr()
    assert exit_.value.code == code
    assert ("missing  model  big" in told.out) == (code == 3)
    assert ("neither CACHE nor HUB gave GSAI-ML/LLaDA-8B-Base" in told.out) == (code == 3)
    assert "away.fetched.json" in told.err


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("piqa.jsonl", "nowhere.jsonl", "no such data file"),
        ("gsm8k, minerva", "gsm8kk, minerva", "unknown task 'gsm8kk'"),
        (", revision: main", "", "a hub id needs a revision"),
        ("calibration: wikitext2", "calibration: wikitext3", "unknown data set 'wikitext3'"),
    ],
)
def test_a_bad_grid_asks_the_hub_for_nothing_and_writes_nothing(grid: Path, old: str, new: str, complaint: str) -> None:
    grid.write_text(GRID.replace(old, new))
    hub = FakeHub(set(), set())
    with pytest.raises(GridError, match=complaint):
        fetch_grid(grid, hub=hub)
    assert hub.asked == []
    assert not Path("away.fetched.json").exists()


def test_a_model_is_here_when_all_that_a_worker_reads_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / COMMIT
    snapshot.mkdir()
    asked: list[dict[str, Any]] = []

    def snapshot_download(repo_id: str, **options: Any) -> str:
        asked.append({"repo_id": repo_id} | options)
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    hub = HuggingFaceHub()
    (snapshot / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"missing tokenizer files .* safetensors weights"):
        hub.model("some/model", "main", download=False)
    (snapshot / "tokenizer.json").write_text("{}")
    (snapshot / "model.safetensors").write_text("")
    assert hub.model("some/model", "main", download=True) == snapshot
    assert [(call["repo_id"], call["revision"], call["local_files_only"]) for call in asked] == [
        ("some/model", "main", True),
        ("some/model", "main", False),
    ]
    # No code, no pickled weights.
    assert asked[1]["allow_patterns"] == ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]


def test_a_data_set_is_here_when_datasets_has_prepared_it_at_that_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    hub = HuggingFaceHub()
    with pytest.raises(ValueError, match="does not hold it"):
        hub.data("Some/MyData", "main", None, download=False)
    prepared = tmp_path / "Some___my_data" / "main" / "0.0.0" / COMMIT
    prepared.mkdir(parents=True)
    with pytest.raises(ValueError, match="does not hold it"):
        hub.data("Some/MyData", "main", None, download=False)
    (prepared / "dataset_info.json").write_text("{}")
    for revision in (None, "main", COMMIT):
        assert hub.data("Some/MyData", "main", revision, download=False) == prepared
    assert hub.data("Some/MyData", None, None, download=False) == prepared
    for subset, revision in (("main", "d" * 40), ("other", None)):
        with pytest.raises(ValueError, match="does not hold it"):
            hub.data("Some/MyData", subset, revision, download=False)


def test_a_data_set_is_downloaded_by_its_builder_and_a_failure_says_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = []
    builder = types.SimpleNamespace(
        download_and_prepare=lambda: prepared.append(True), cache_dir=str(tmp_path / COMMIT)
    )

    def load(path: str, name: str | None, revision: str | None) -> Any:
        if path != "some/data":
            raise ConnectionError("no network")
        return builder

    monkeypatch.setattr(datasets, "load_dataset_builder", load)
    hub = HuggingFaceHub()
    assert hub.data("some/data", "main", None, download=True).name == COMMIT
    assert prepared == [True]
    with pytest.raises(
        ValueError, match=r"'other/data main', revision 'v1': neither the cache .* nor https?://.*no net"
    ):
        hub.data("other/data", "main", "v1", download=True)
