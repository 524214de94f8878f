from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from grids import Cell, GridError, Study
from grids.identity import content_id
from orchestrator.cli import main
from orchestrator.explaining import explain_cell
from orchestrator.study_directory import StudyDirectory
from tests.orchestrator.conftest import FAILED, cell_row, make_cell


@pytest.fixture
def study(tmp_path: Path, grid_cells: list[Cell]) -> StudyDirectory:
    """One cell done, one failed, one of other settings, one that does not apply, the rest missing."""
    directory = StudyDirectory(tmp_path / "study")
    refused = make_cell(scheme="w4a4kv4", task="facts", not_applicable="no keys here")
    directory.describe(Study("s", (*grid_cells, refused)), "name: s")
    directory.store.record_cell([cell_row(grid_cells[0], attempts=2)])
    directory.store.record_cell([cell_row(grid_cells[1], **FAILED, attempts=1)])
    directory.store.record_cell([cell_row(make_cell(scheme="w8a8", task="sums", limit=7))])
    directory.store.append_samples(
        grid_cells[2].cell_id, [{"request_key": "k", "request_index": 0, "request_type": "loglikelihood"}]
    )
    directory.log.add("a trace", about=grid_cells[1].cell_id)
    return directory


def test_a_done_cell_will_not_run_and_its_identity_is_what_its_id_hashes(
    study: StudyDirectory, grid_cells: list[Cell]
) -> None:
    made = explain_cell(study.root, grid_cells[0].cell_id)
    assert (made.action, made.reason, made.attempts) == ("reuse", "done", 2)
    assert made.identity == grid_cells[0].identity()
    assert content_id(made.identity) == made.cell_id == grid_cells[0].cell_id
    assert content_id(made.identity["variant"]) == made.variant_id
    assert made.log is None


def test_a_failed_cell_tells_its_kind_its_message_and_its_log(study: StudyDirectory, grid_cells: list[Cell]) -> None:
    made = explain_cell(study.root, grid_cells[1].cell_id[:10])
    assert (made.action, made.reason) == ("failed", "audit: x")
    assert (made.failure_kind, made.failure_message, made.attempts) == ("audit", "x", 1)
    assert made.log is not None
    assert made.log.read_text().endswith(f" {made.cell_id} a trace\n")


def test_a_cell_that_began_tells_where_its_samples_are(study: StudyDirectory, grid_cells: list[Cell]) -> None:
    made = explain_cell(study.root, "scheme=w4a4,task=facts")
    assert (made.action, made.reason, made.num_samples) == ("run", "no result yet", 1)
    assert made.samples is not None
    assert len(list(made.samples.glob("*.parquet"))) == 1


def test_a_stale_cell_names_the_change_and_a_refused_one_its_reason(study: StudyDirectory) -> None:
    stale = explain_cell(study.root, "scheme=w8a8,task=sums")
    assert (stale.action, stale.reason) == ("stale", "task.limit 7 -> None")
    refused = explain_cell(study.root, "scheme=w4a4kv4")
    assert (refused.action, refused.reason) == ("not_applicable", "no keys here")


def test_a_variant_that_failed_explains_its_cells(study: StudyDirectory, grid_cells: list[Cell]) -> None:
    row = {key: cell_row(grid_cells[2])[key] for key in ("qstudy_version", "package_versions", "seeds", "config")}
    study.store.record_variant(
        row
        | {
            "variant_id": grid_cells[2].variant.variant_id,
            "model": "tiny",
            "method": "rtn",
            "scheme": "w4a4",
            "parameters": "{}",
            "created_at": cell_row(grid_cells[2])["finished_at"],
            "status": "failed",
            "failure_kind": "oom_gpu",
            "failure_message": "no room",
        }
    )
    assert explain_cell(study.root, grid_cells[2].cell_id).variant_failure == "oom_gpu: no room"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("zz", "no cell has an id that begins with 'zz'"),
        ("", "no cell has an id that begins with ''"),
        ("task=facts", "names 4 cells; "),
        ("task=fact", "unknown task 'fact'; did you mean 'facts'?"),
        ("colour=red", "unknown key 'colour' (known: calibration, method, model, scheme, seed, task)"),
        ("scheme=w4a4kv4,task=sums", "no cell agrees with all of 'scheme=w4a4kv4,task=sums'"),
    ],
)
def test_what_names_no_cell_or_several_is_refused(study: StudyDirectory, text: str, complaint: str) -> None:
    with pytest.raises(GridError) as error:
        explain_cell(study.root, text)
    assert complaint in str(error.value)


def test_the_command_prints_the_same_as_text_and_as_json(
    study: StudyDirectory,
    grid_cells: list[Cell],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["qstudy", "explain", str(study.root), *arguments])
        with pytest.raises(SystemExit) as exit_:
            main()
        assert exit_.value.code == 0
        return capsys.readouterr().out

    cell_id = grid_cells[1].cell_id
    text, document = run(cell_id), json.loads(run(cell_id, "--json"))
    assert "will not run (--retry-failed runs it again): audit: x" in text
    assert json.loads(text[text.index("{") :]) == grid_cells[1].identity()
    assert document["identity"] == grid_cells[1].identity()
    assert document["log"] == str(study.log.path)
    assert f"log: qstudy logs {study.root} {cell_id} (of {study.log.path})\n" in text
