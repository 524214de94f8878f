"""The results store: what is written comes back, and only complete, known files count."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reports import CELLS, ResultStore, StorageError
from reports.part_folder import MERGE_AT


def test_opening_and_reading_a_store_writes_nothing(tmp_path: Path) -> None:
    store = ResultStore(tmp_path / "study")
    assert store.cells() == []
    assert store.variants() == []
    assert store.variant("v1") is None
    assert store.samples("c1") == []
    assert store.scores("c1") == []
    assert store.num_samples("c1") == 0
    assert list(tmp_path.iterdir()) == []


def test_a_cell_comes_back_as_it_was_recorded(tmp_path: Path, cell_row: Any) -> None:
    rows = [cell_row(cell_id="c1", metric="f1", is_primary=False, value=1 / 3, stderr=None), cell_row(cell_id="c1")]
    ResultStore(tmp_path).record_cell(rows)
    read = ResultStore(tmp_path).cell("c1")
    assert [row["metric"] for row in read] == ["acc", "f1"]
    for row, recorded in zip(read, reversed(rows), strict=True):
        assert row.pop("schema_version") == CELLS.version
        assert {name: row[name] for name in recorded} == recorded
        assert all(row[name] is None for name in set(row) - set(recorded))


def test_a_variant_comes_back_as_it_was_recorded_and_the_later_record_counts(tmp_path: Path, variant_row: Any) -> None:
    store = ResultStore(tmp_path)
    store.record_variant(variant_row(status="failed", failure_kind="audit", failure_message="a linear was left out"))
    store.record_variant(variant_row(effective_bits=4.5))
    row = variant_row(effective_bits=4.5)
    assert [{name: read[name] for name in row} for read in ResultStore(tmp_path).variants()] == [row]
    assert store.variant("v1") == store.variants()[0]


def test_a_cell_recorded_again_takes_the_place_of_its_failure(tmp_path: Path, cell_row: Any, failed_row: Any) -> None:
    store = ResultStore(tmp_path)
    store.record_cell([failed_row(cell_id="c1")])
    assert [(row["status"], row["value"]) for row in store.cells()] == [("failed", None)]
    store.record_cell([cell_row(cell_id="c1"), cell_row(cell_id="c1", filter="strict", is_primary=False)])
    assert [(row["status"], row["filter"]) for row in store.cells()] == [("done", "none"), ("done", "strict")]


def test_samples_of_several_appends_and_runs_come_back_once_each_in_request_order(
    tmp_path: Path, sample_row: Any
) -> None:
    store = ResultStore(tmp_path)
    store.append_samples("c1", [sample_row(3), sample_row(1)])
    store.append_samples("c1", [])
    store.append_samples("c2", [sample_row(0, response="other cell")])
    # A second run of the same command appends to the same folder.
    resumed = ResultStore(tmp_path)
    resumed.append_samples("c1", [sample_row(0), sample_row(1, logprob=-9.0)])
    read = resumed.samples("c1")
    assert [(row["request_index"], row["logprob"]) for row in read] == [(0, 0.0), (1, -9.0), (3, -1.5)]
    assert {row["cell_id"] for row in read} == {"c1"}
    assert resumed.num_samples("c1") == 3
    assert len(list((tmp_path / "results/samples/c1").iterdir())) == 2


def test_two_items_with_the_same_request_are_two_samples(tmp_path: Path, sample_row: Any) -> None:
    store = ResultStore(tmp_path)
    store.append_samples("c1", [sample_row(0, request_key="same"), sample_row(1, request_key="same")])
    assert store.num_samples("c1") == 2


def test_samples_keep_any_text_of_a_model(tmp_path: Path, sample_row: Any) -> None:
    text = "line\nline\x00\x1b[31m | \\ 表 😀 \u202e" + "x" * 100_000
    store = ResultStore(tmp_path)
    store.append_samples("c1", [sample_row(0, response=text, logprob=None, request_type="generate_until")])
    assert store.samples("c1")[0]["response"] == text
    assert store.samples("c1")[0]["logprob"] is None


def test_scores_are_replaced_as_a_whole(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    score = {"filter": "none", "metric": "acc", "value": 1.0}
    store.record_scores("c1", [{"doc_id": 0, **score}, {"doc_id": 1, **score}])
    store.record_scores("c1", [{"doc_id": 7, **score}])
    assert [(row["cell_id"], row["doc_id"], row["value"]) for row in store.scores("c1")] == [("c1", 7, 1.0)]
    store.record_scores("c1", [])
    assert store.scores("c1") == []
    assert store.warnings == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": 4}, "unknown column 'bits'"),
        ({"model": None}, "'model' is required"),
        ({"stderr": "N/A"}, "'stderr' takes double"),
        ({"num_items": 1.5}, "'num_items' takes a whole number"),
        ({"config": {"mc_num": 8}}, "'config' takes string"),
        ({"finished_at": datetime(2026, 1, 2)}, "'finished_at' takes a time with a time zone"),
        ({"status": "stale"}, "'stale' is not one of done, failed"),
        ({"value": None}, "has a metric and a value"),
        ({"failure_kind": "error"}, "has a failure_kind"),
        ({"cell_id": "../outside"}, "cannot name a file"),
        ({"cell_id": ".tmp-1"}, "cannot name a file"),
    ],
)
def test_a_row_that_does_not_fit_is_refused_and_nothing_is_written(
    tmp_path: Path, cell_row: Any, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ResultStore(tmp_path).record_cell([cell_row(**{"cell_id": "c1", **changes})])
    assert list(tmp_path.iterdir()) == []


def test_rows_that_do_not_make_one_cell_are_refused(tmp_path: Path, cell_row: Any, failed_row: Any) -> None:
    store = ResultStore(tmp_path)
    done = cell_row(cell_id="c1")
    for rows, message in [
        ([], "one or more rows"),
        ([done, cell_row(cell_id="c2", metric="f1")], "rows of its own"),
        ([done, done], "twice"),
        ([done, cell_row(cell_id="c1", metric="f1")], "more than one primary"),
        ([done, failed_row(cell_id="c1")], "failed cell c1 has one row"),
        ([failed_row(cell_id="c1", value=0.0)], "failed cell c1 has one row"),
        ([failed_row(cell_id="c1", failure_kind=None)], "has a failure_kind"),
    ]:
        with pytest.raises(ValueError, match=message):
            store.record_cell(rows)
    with pytest.raises(ValueError, match="of cell 'c2'"):
        store.append_samples("c1", [{"cell_id": "c2"}])


def test_a_kill_between_writing_and_renaming_leaves_no_visible_row(
    tmp_path: Path, cell_row: Any, sample_row: Any
) -> None:
    store = ResultStore(tmp_path)
    store.record_cell([cell_row(cell_id="c1", value=0.25)])
    store.append_samples("c1", [sample_row(0)])
    killed = textwrap.dedent(
        f"""
        import os, signal, sys
        from pathlib import Path
        from reports import ResultStore
        store = ResultStore(Path({str(tmp_path)!r}))
        row = dict(store.cell("c1")[0], value=0.75); row.pop("schema_version")
        sample = dict(store.samples("c1")[0], request_index=1); sample.pop("schema_version")
        os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
        store.record_cell([row]) if sys.argv[1] == "cell" else store.append_samples("c1", [sample])
        """
    )
    for what in ("cell", "samples"):
        assert subprocess.run([sys.executable, "-c", killed, what], check=False).returncode == -9
    assert len(list(tmp_path.rglob(".tmp-*"))) == 2
    after = ResultStore(tmp_path)
    assert [row["value"] for row in after.cells()] == [0.25]
    assert after.num_samples("c1") == 1
    assert after.warnings == []
    # The next writer removes what the killed ones left.
    after.record_cell([cell_row(cell_id="c2")])
    after.append_samples("c1", [sample_row(2)])
    assert list(tmp_path.rglob(".tmp-*")) == []


def test_a_write_that_the_system_refuses_names_file_and_reason_and_leaves_nothing(
    tmp_path: Path, cell_row: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("reports.files.os.replace", full_disk)
    with pytest.raises(StorageError, match=r"cannot write .*c1\.parquet: No space left on device \(.* free there\)"):
        ResultStore(tmp_path).record_cell([cell_row(cell_id="c1")])
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_file_that_the_system_refuses_to_read_is_no_damage(
    tmp_path: Path, cell_row: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ResultStore(tmp_path)
    store.record_cell([cell_row(cell_id="c1")])

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("reports.part_folder.pq.ParquetFile", refuse)
    with pytest.raises(StorageError, match=r"cannot read .*c1\.parquet: Permission denied"):
        store.cells()
    assert store.warnings == []


def _record_two_cells(study_dir: Path, cell_row: Any) -> Path:
    store = ResultStore(study_dir)
    store.record_cell([cell_row(cell_id="c1", value=0.25)])
    store.record_cell([cell_row(cell_id="c2", value=0.75)])
    return study_dir / "results/cells/00000002-c2.parquet"


def _damage(path: Path, damage: str) -> None:
    content = path.read_bytes()
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        path.write_bytes(content[:40] + bytes([content[40] ^ 0xFF]) + content[41:])
    elif damage == "not parquet":
        path.write_text("model,value\ntiny,0.5\n")
    elif damage == "other table":
        pq.write_table(pa.table({"a": [1]}), path)
    elif damage == "other cell":
        path.write_bytes((path.parent / "00000001-c1.parquet").read_bytes())
    elif damage == "newer":
        _write_with_version(path, CELLS.version + 1)
    elif damage == "column missing":
        _write_with_version(path, CELLS.version, without="num_forwards")
    else:
        assert damage == "other type"
        table = pq.read_table(path)
        index = table.schema.get_field_index("value")
        pq.write_table(table.set_column(index, "value", table["value"].cast(pa.float32())), path)


def _write_with_version(path: Path, version: int, *, without: str | None = None) -> None:
    table = pq.read_table(path)
    table = table.set_column(0, "schema_version", pa.array([version] * len(table), pa.int32()))
    pq.write_table(table.drop_columns([without]) if without else table, path)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("empty", "0 bytes"),
        ("cut", "magic bytes"),
        ("flipped", ""),
        ("not parquet", "magic bytes"),
        ("other table", "no column schema_version"),
        ("other cell", "rows of c1, not only of c2"),
        ("newer", f"schema version {CELLS.version + 1} of table 'cells' is newer"),
        ("column missing", "columns are not those of table 'cells'"),
        ("other type", "columns are not those of table 'cells'"),
    ],
)
def test_a_damaged_or_foreign_file_is_left_out_and_reported_and_the_driver_sets_it_aside(
    tmp_path: Path, cell_row: Any, damage: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = _record_two_cells(tmp_path, cell_row)
    _damage(path, damage)
    content = path.read_bytes()

    reader = ResultStore(tmp_path)
    for _ in range(2):
        assert [(row["cell_id"], row["value"]) for row in reader.cells()] == [("c1", 0.25)]
    assert len(reader.warnings) == 1
    assert str(path) in reader.warnings[0]
    assert reason in reader.warnings[0]
    assert reader.warnings[0] in caplog.text
    # A reader has no right to move files.
    assert path.read_bytes() == content
    assert list(reader.files_set_aside()) == [path]

    driver = ResultStore(tmp_path)
    driver.open_for_writing()
    assert [row["cell_id"] for row in driver.cells()] == ["c1"]
    aside = tmp_path / "results/set-aside/cells/00000002-c2.parquet"
    assert aside.read_bytes() == content
    assert not path.exists()
    assert list(ResultStore(tmp_path).files_set_aside()) == [aside]
    assert reason in ResultStore(tmp_path).files_set_aside()[aside]
    assert "set aside as set-aside/cells/00000002-c2.parquet" in driver.warnings[0]
    driver.record_cell([cell_row(cell_id="c2", value=0.875)])
    assert [row["value"] for row in ResultStore(tmp_path).cells()] == [0.25, 0.875]


def test_a_parquet_file_under_a_foreign_name_is_reported(tmp_path: Path, cell_row: Any) -> None:
    path = _record_two_cells(tmp_path, cell_row)
    path.rename(path.with_name("c2.parquet"))
    driver = ResultStore(tmp_path)
    driver.open_for_writing()
    assert [row["cell_id"] for row in driver.cells()] == ["c1"]
    assert [file.name for file in driver.files_set_aside()] == ["c2.parquet"]


def test_a_file_that_is_listed_and_cannot_be_opened_ends_in_a_report_and_not_in_waiting(
    tmp_path: Path, cell_row: Any
) -> None:
    path = _record_two_cells(tmp_path, cell_row)
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    store = ResultStore(tmp_path)
    assert [row["cell_id"] for row in store.cells()] == ["c1"]
    assert "cannot be opened" in store.warnings[0]


def test_no_flipped_byte_changes_a_number_unnoticed(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    score = {"filter": "none", "metric": "acc"}
    for place, merged in ((0, False), (1, True)):
        for cell in range(MERGE_AT if merged else 1):
            value = 0.123456789 + cell
            store.record_scores(f"c{place}-{cell}", [{"doc_id": 1, "value": value, **score}])
        sound = store.scores(f"c{place}-0")
        path = max((tmp_path / "results/scores").iterdir(), key=lambda file: (".." in file.name) == merged)
        content = path.read_bytes()
        num_noticed = 0
        for position in range(0, len(content), 7):
            path.write_bytes(content[:position] + bytes([content[position] ^ 0x40]) + content[position + 1 :])
            rows = ResultStore(tmp_path).scores(f"c{place}-0")
            assert rows in ([], sound)
            num_noticed += rows == []
        path.write_bytes(content)
        assert num_noticed > 10


def test_damaged_files_of_the_same_name_are_all_kept(tmp_path: Path, cell_row: Any) -> None:
    path = _record_two_cells(tmp_path, cell_row)
    for content in (b"first", b"second"):
        path.write_bytes(content)
        driver = ResultStore(tmp_path)
        driver.open_for_writing()
        assert len(driver.cells()) == 1
    assert sorted(file.read_bytes() for file in ResultStore(tmp_path).files_set_aside()) == [b"first", b"second"]


def test_a_damaged_batch_of_samples_costs_only_itself(tmp_path: Path, sample_row: Any) -> None:
    store = ResultStore(tmp_path)
    for index in range(3):
        store.append_samples("c1", [sample_row(index)])
    damaged = sorted((tmp_path / "results/samples/c1").iterdir())[1]
    damaged.write_bytes(b"PAR1")
    resumed = ResultStore(tmp_path)
    assert [row["request_index"] for row in resumed.samples("c1")] == [0, 2]
    resumed.append_samples("c1", [sample_row(1)])
    assert [row["request_index"] for row in resumed.samples("c1")] == [0, 1, 2]


def test_columns_that_an_older_file_does_not_have_are_read_as_null(tmp_path: Path, cell_row: Any) -> None:
    path = _record_two_cells(tmp_path, cell_row)
    _write_with_version(path, CELLS.version - 1, without="num_forwards")
    store = ResultStore(tmp_path)
    assert [(row["value"], row["num_forwards"]) for row in store.cells()] == [(0.25, 10), (0.75, None)]
    assert store.warnings == []


def test_every_table_carries_its_version(tmp_path: Path, cell_row: Any) -> None:
    path = _record_two_cells(tmp_path, cell_row)
    schema = pq.read_schema(path)
    assert schema.names[0] == "schema_version"
    assert schema.field("schema_version").type == pa.int32()
    assert schema.equals(CELLS.columns)


def test_parts_are_compressed_unless_they_are_small(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    for length in (10, 100_000):
        sample = {
            "request_key": "k",
            "request_index": length,
            "request_type": "generate_until",
            "arguments": "x" * length,
        }
        store.append_samples("c", [sample])
    small, large = sorted((tmp_path / "results/samples/c").iterdir())
    assert pq.ParquetFile(small).metadata.row_group(0).column(0).compression == "UNCOMPRESSED"
    assert pq.ParquetFile(large).metadata.row_group(0).column(0).compression == "ZSTD"
    assert large.stat().st_size < 10_000
