"""What a study hands out, and what is found when it was tampered with; through the commands themselves."""

from __future__ import annotations

import json
import math
import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest

from grids import Cell, Study
from orchestrator.recording import Recorder
from orchestrator.study_directory import StudyDirectory
from reports import ResultStore
from tests.orchestrator.conftest import Command
from workers.units import Evaluated, EvaluateUnit, Quantized, QuantizeUnit


@pytest.fixture
def finished_study(tmp_path: Path, grid_cells: list[Cell]) -> StudyDirectory:
    """A study of `grid_cells` as the driver leaves it: four items a cell, with samples, scores and variants."""
    directory = StudyDirectory(tmp_path / "tiny-study")
    directory.describe(Study("tiny-study", tuple(grid_cells)), "name: tiny-study\n")
    recorder = Recorder(directory)
    for variant in {cell.variant.variant_id: cell.variant for cell in grid_cells}.values():
        if not variant.is_full_precision:
            row = {"num_linears": 2, "effective_bits": 4.25, "max_relative_error": 0.1, "audit": "{}", "device": "cpu"}
            recorder.quantized(QuantizeUnit(variant), Quantized(row))
    for index, cell in enumerate(grid_cells):
        unit = EvaluateUnit(cell)
        recorder.samples(unit, [_sample(doc_id) for doc_id in range(4)])
        values = [1.0, 0.0, float(index % 2), 1.0]
        scores = [
            {"doc_id": doc_id, "filter": "none", "metric": "acc", "value": value} for doc_id, value in enumerate(values)
        ]
        metric = {
            "metric": "acc",
            "filter": "none",
            "value": statistics.fmean(values),
            "stderr": statistics.stdev(values) / math.sqrt(len(values)),
            "num_items": len(values),
            "higher_is_better": True,
        }
        assert recorder.evaluated(unit, Evaluated([metric], scores, 8, 1.5, "cpu"), attempts=1) is None
        recorder.save()
    return directory


def _sample(doc_id: int) -> dict[str, object]:
    return {
        "request_key": f"{doc_id:064x}",
        "request_index": doc_id,
        "doc_id": doc_id,
        "request_type": "generate_until",
        "arguments": json.dumps([f"question {doc_id}", {"until": ["."]}]),
        "response": f"answer {doc_id}",
        "logprob": None,
    }


@pytest.fixture
def capsule(finished_study: StudyDirectory, tmp_path: Path, qstudy: Command) -> Path:
    code, out, _ = qstudy("export", finished_study.root, "--capsule", "-o", tmp_path / "out")
    assert code == 0
    path = Path(out.splitlines()[-1])
    assert path.name == "tiny-study.capsule.tar.gz"
    return path


def test_export_writes_beside_the_study_and_prints_what_it_wrote(
    finished_study: StudyDirectory, qstudy: Command
) -> None:
    code, out, _ = qstudy("export", finished_study.root, "--samples")
    assert code == 0
    names = ["results.parquet", "results.csv", "samples.parquet", "README.md"]
    assert [Path(line) for line in out.splitlines()] == [finished_study.root / "export" / name for name in names]
    assert all(Path(line).is_file() for line in out.splitlines())


def test_a_study_without_results_is_not_exported(tmp_path: Path, grid_cells: list[Cell], qstudy: Command) -> None:
    directory = StudyDirectory(tmp_path / "empty")
    directory.describe(Study("empty", tuple(grid_cells)), "name: empty\n")
    code, out, err = qstudy("export", directory.root, "--capsule", "-o", tmp_path / "out")
    assert (code, out) == (2, "")
    assert "no results in" in err
    assert not (tmp_path / "out").exists()


def test_a_capsule_of_the_same_study_has_the_same_bytes(
    capsule: Path, finished_study: StudyDirectory, tmp_path: Path, qstudy: Command
) -> None:
    qstudy("export", finished_study.root, "--capsule", "-o", tmp_path / "again")
    assert (tmp_path / "again" / capsule.name).read_bytes() == capsule.read_bytes()


def test_a_capsule_holds_grid_results_tables_data_set_environment_and_checksums(capsule: Path, tmp_path: Path) -> None:
    folder = unpacked(capsule, tmp_path / "capsule")
    assert (folder / "grid.yaml").read_text() == "name: tiny-study\n"
    assert len(json.loads((folder / "study.json").read_text())["cells"]) == 6
    assert json.loads((folder / "environment.json").read_text())["package_versions"]["python"]
    for name in ("README.md", "dataset/results.csv", "dataset/README.md", "report/report.md", "report/tables/main.tex"):
        assert (folder / name).is_file(), name
    assert len(ResultStore(folder).cells()) == 6


def rewrite(store: ResultStore, cell: Cell, **changes: Any) -> None:
    rows = [row | changes for row in store.cell(cell.cell_id)]
    for row in rows:
        del row["schema_version"]
    store.record_cell(rows)


def test_a_capsule_and_the_study_behind_it_hold(capsule: Path, finished_study: StudyDirectory, qstudy: Command) -> None:
    for path in (capsule, finished_study.root):
        code, out, err = qstudy("verify", path)
        assert (code, out) == (0, "")
        assert "6 cells and 2 variants" in err
        assert "6 values" in err
        assert "all of it holds" in err


def test_verifying_a_study_changes_no_file_of_it(finished_study: StudyDirectory, qstudy: Command) -> None:
    def contents() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in finished_study.root.rglob("*") if path.is_file()}

    before = contents()
    assert qstudy("verify", finished_study.root)[0] == 0
    assert contents() == before


def test_a_changed_byte_anywhere_in_a_capsule_is_found(capsule: Path, tmp_path: Path, qstudy: Command) -> None:
    content = capsule.read_bytes()
    places = [0, 3, 5, 8, 9, len(content) // 3, len(content) // 2, len(content) - 9, len(content) - 5, len(content) - 1]
    for place in places:
        damaged = tmp_path / "damaged.tar.gz"
        damaged.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        code, out, _ = qstudy("verify", damaged)
        assert code == 1, f"byte {place} of {len(content)}"
        assert out


def test_a_capsule_that_was_cut_short_is_found(capsule: Path, tmp_path: Path, qstudy: Command) -> None:
    content = capsule.read_bytes()
    cut = tmp_path / "cut.tar.gz"
    for length in (0, 5, len(content) // 2, len(content) - 1):
        cut.write_bytes(content[:length])
        assert qstudy("verify", cut)[0] == 1, f"{length} of {len(content)} bytes"


def unpacked(capsule: Path, folder: Path) -> Path:
    shutil.unpack_archive(capsule, folder, filter="data")
    return folder


def test_a_missing_an_added_and_a_changed_file_of_a_capsule_are_named(
    capsule: Path, tmp_path: Path, qstudy: Command
) -> None:
    folder = unpacked(capsule, tmp_path / "capsule")
    assert qstudy("verify", folder)[0] == 0
    (folder / "report" / "report.md").unlink()
    (folder / "dataset" / "more.csv").touch()
    (folder / "grid.yaml").write_text("name: other\n")
    code, out, _ = qstudy("verify", folder)
    assert code == 1
    complaints = out.splitlines()
    assert "report/report.md: missing" in complaints
    assert "dataset/more.csv: not in the manifest" in complaints
    assert any(line.startswith("grid.yaml: its content is not that of the manifest") for line in complaints)
    assert len(complaints) == 3


def test_a_capsule_made_of_a_study_with_a_changed_score_has_right_checksums_and_is_found(
    finished_study: StudyDirectory, grid_cells: list[Cell], tmp_path: Path, qstudy: Command
) -> None:
    cell = grid_cells[3]
    scores = finished_study.store.scores(cell.cell_id)
    changed = [
        {key: value for key, value in row.items() if key in ("doc_id", "filter", "metric", "value")} for row in scores
    ]
    changed[1]["value"] = 1.0
    finished_study.store.record_scores(cell.cell_id, changed)
    qstudy("export", finished_study.root, "--capsule", "-o", tmp_path / "out")
    code, out, _ = qstudy("verify", tmp_path / "out" / "tiny-study.capsule.tar.gz")
    assert code == 1
    lines = out.splitlines()
    assert len(lines) == 2
    assert all(cell.cell_id in line for line in lines)
    assert "value is 0.75; the items' scores give 1.0" in lines[0]
    assert "stderr is 0.25; the items' scores give 0.0" in lines[1]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"value": 0.76}, "value is 0.76; the items' scores give 0.75"),
        ({"stderr": 0.2}, "stderr is 0.2; the items' scores give 0.25"),
        ({"stderr": None}, "stderr is None; the items' scores give 0.25"),
        ({"num_items": 5}, "num_items is 5; scores of 4 items are stored"),
        ({"scheme": "w8a8"}, "scheme is 'w8a8'; its config says 'w4a4'"),
        ({"method": "gptq"}, "method is 'gptq'; its config says 'rtn'"),
        ({"model": "large"}, "model is 'large'; the study's description says 'tiny'"),
        ({"num_fewshot": 5}, "num_fewshot is 5; its config says 0"),
        ({"metric": "acc_norm"}, "no scores of its items are stored"),
        ({"config": "[]"}, "its config is not a JSON object"),
        ({"config": '{"task": NaN}'}, "its config is not a JSON object"),
    ],
)
def test_a_changed_field_of_a_cell_is_named(
    changes: dict[str, Any],
    complaint: str,
    finished_study: StudyDirectory,
    grid_cells: list[Cell],
    qstudy: Command,
) -> None:
    rewrite(finished_study.store, grid_cells[3], **changes)
    code, out, _ = qstudy("verify", finished_study.root)
    assert code == 1
    assert complaint in out
    assert all(grid_cells[3].cell_id in line for line in out.splitlines())


def test_a_changed_config_no_longer_has_the_id_of_its_cell(
    finished_study: StudyDirectory, grid_cells: list[Cell], qstudy: Command
) -> None:
    cell = grid_cells[2]
    config = cell.identity()
    config["task"]["protocol"]["mc_num"] = 1
    rewrite(finished_study.store, cell, config=json.dumps(config))
    code, out, _ = qstudy("verify", finished_study.root)
    assert code == 1
    assert len(out.splitlines()) == 1
    assert f"cell {cell.cell_id} (tiny rtn w4a4 facts): its config has the id " in out


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"config": '{"seed":1}'}, "its config has the id "),
        ({"parameters": '{"clip_ratio":0.5}'}, "parameters is {'clip_ratio': 0.5}; its config says {}"),
        ({"seed": 3}, "seed is 3; its config says 0"),
        ({"model": "large"}, "its variant is one of 'large', not of 'tiny'"),
    ],
)
def test_a_changed_variant_is_named(
    changes: dict[str, Any], complaint: str, finished_study: StudyDirectory, grid_cells: list[Cell], qstudy: Command
) -> None:
    row = finished_study.store.variant(grid_cells[3].variant.variant_id)
    assert row is not None
    del row["schema_version"]
    finished_study.store.record_variant(row | changes)
    code, out, _ = qstudy("verify", finished_study.root)
    assert code == 1
    assert complaint in out


def only_file_of(folder: Path, identity: str) -> Path:
    (path,) = folder.rglob(f"*{identity}*.parquet")
    return path


def test_a_missing_file_of_a_study_is_found(
    finished_study: StudyDirectory, grid_cells: list[Cell], qstudy: Command
) -> None:
    results, cell = finished_study.store.results_dir, grid_cells[3]
    missing = {
        "no scores of its items are stored": only_file_of(results / "scores", cell.cell_id),
        "it has scores and no value": only_file_of(results / "cells", cell.cell_id),
        "is not recorded": only_file_of(results / "variants", cell.variant.variant_id),
        "4 items have scores and no samples": only_file_of(results / "short_samples", cell.cell_id),
    }
    for complaint, path in missing.items():
        content = path.read_bytes()
        path.unlink()
        code, out, _ = qstudy("verify", finished_study.root)
        assert code == 1, complaint
        assert complaint in out
        path.write_bytes(content)
    assert qstudy("verify", finished_study.root)[0] == 0


def test_a_damaged_file_of_a_study_is_named(
    finished_study: StudyDirectory, grid_cells: list[Cell], qstudy: Command
) -> None:
    path = only_file_of(finished_study.store.results_dir / "scores", grid_cells[3].cell_id)
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    code, out, _ = qstudy("verify", finished_study.root)
    assert code == 1
    assert path.name in out


def test_an_unfinished_study_holds_and_says_what_is_missing(
    finished_study: StudyDirectory, grid_cells: list[Cell], qstudy: Command
) -> None:
    results = finished_study.store.results_dir
    for table in ("cells", "scores"):
        only_file_of(results / table, grid_cells[0].cell_id).unlink()
    code, _, err = qstudy("verify", finished_study.root)
    assert code == 0
    assert "1 cells of the grid have no result" in err


def test_a_metric_that_is_no_mean_of_items_is_left_alone_and_counted(
    finished_study: StudyDirectory, grid_cells: list[Cell], qstudy: Command
) -> None:
    store, cell = finished_study.store, grid_cells[0]
    store.record_scores(
        cell.cell_id,
        [{"doc_id": index, "filter": "none", "metric": "perplexity", "value": -2.0} for index in range(4)],
    )
    rewrite(store, cell, metric="perplexity", value=7.4)
    code, _, err = qstudy("verify", finished_study.root)
    assert code == 0
    assert "1 values are no means" in err


@pytest.mark.parametrize("text", ["no such file", "a folder that is no study"])
def test_a_path_that_is_neither_is_bad_input(text: str, tmp_path: Path, qstudy: Command) -> None:
    path = tmp_path / "x"
    if "folder" in text:
        path.mkdir()
    code, out, err = qstudy("verify", path)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")


def test_a_capsule_with_a_strange_study_json_is_a_problem_and_no_trace(
    capsule: Path, tmp_path: Path, qstudy: Command
) -> None:
    folder = unpacked(capsule, tmp_path / "capsule")
    for text in ("[]", "{", '{"version": 1, "cells": 3}', '{"version": 1}'):
        (folder / "study.json").write_text(text)
        code, out, _ = qstudy("verify", folder)
        assert code == 1
        assert "the study cannot be read" in out
