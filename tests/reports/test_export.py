"""The exported data set: one row per cell and metric, the same in Parquet and CSV, every column explained."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from reports import ResultStore
from reports.export import RESULTS, SAMPLES, export_dataset
from reports.export.dataset import csv_cell

CONFIG = {
    "task": {"digest": "d1", "limit": 10, "protocol": {"mc_num": 8, "version": 1}},
    "variant": {
        "model": {"digest": "abc", "dtype": "float32", "chat_template": True},
        "method": {"name": "rtn", "version": 2, "parameters": {"clip_ratio": 0.9}},
        "calibration": None,
        "seed": 7,
    },
}


@pytest.fixture
def store(tmp_path: Path, cell_row: Any, failed_row: Any, variant_row: Any, sample_row: Any) -> ResultStore:
    store = ResultStore(tmp_path / "study")
    cell = cell_row(cell_id="c1", variant_id="v1", scheme="w3a16kv8g64", config=json.dumps(CONFIG))
    store.record_variant(variant_row())
    store.record_cell([cell | {"metric": "acc_norm", "is_primary": False, "value": 0.6}, cell])
    store.record_scores(
        "c1",
        [
            {"doc_id": doc, "filter": "none", "metric": metric, "value": float(doc)}
            for doc in range(2)
            for metric in ("acc", "acc_norm")
        ],
    )
    store.append_samples("c1", [sample_row(index) for index in range(4)])
    store.record_cell([failed_row(cell_id="c2", task="sums")])
    return store


@pytest.fixture
def expected(expected_cell: Any) -> list[dict[str, Any]]:
    def cell(cell_id: str, task: str, **more: Any) -> dict[str, Any]:
        shown = {"method": "rtn", "seed": 7, "metric": "exact_match", "filter": "strict"}
        return expected_cell(cell_id=cell_id, task=task, **more) | shown

    return [cell("c3", "later"), cell("c2", "sums"), cell("c4", "never", not_applicable="no such grid")]


def exported(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path / "results.parquet").to_pylist()
    return rows


def test_every_cell_and_metric_has_a_row_that_says_what_became_of_it(
    store: ResultStore, expected: list[dict[str, Any]], tmp_path: Path
) -> None:
    export_dataset(store, tmp_path, study="s", expected=expected)
    rows = [
        (row["cell_id"], row["metric"], row["status"], row["value"], row["is_current"]) for row in exported(tmp_path)
    ]
    assert rows == [
        ("c3", "exact_match", "missing", None, True),
        ("c2", "exact_match", "failed", None, True),
        ("c4", "exact_match", "not_applicable", None, True),
        ("c1", "acc", "done", 0.5, False),
        ("c1", "acc_norm", "done", 0.6, False),
    ]


def test_a_row_takes_its_columns_from_cell_variant_scheme_and_configuration(store: ResultStore, tmp_path: Path) -> None:
    export_dataset(store, tmp_path, study="s")
    row = exported(tmp_path)[0]
    assert (row["weight_bits"], row["activation_bits"], row["kv_bits"], row["query_bits"]) == (3, 16, 8, 16)
    assert (row["group_size"], row["effective_bits"], row["limit"], row["seed"]) == (64, 4.125, 10, 7)
    assert (row["model_digest"], row["dtype"], row["chat_template"]) == ("abc", "float32", True)
    assert json.loads(row["method_parameters"]) == {"clip_ratio": 0.9}
    assert json.loads(row["protocol"]) == {"mc_num": 8, "version": 1}
    assert (row["method_version"], row["calibration"], row["task_digest"]) == (2, None, "d1")
    assert "host" not in row


def test_the_csv_has_the_values_of_the_parquet_file_in_full(
    store: ResultStore, expected: list[dict[str, Any]], tmp_path: Path
) -> None:
    export_dataset(store, tmp_path, study="s", expected=expected)
    with (tmp_path / "results.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    for line, row in zip(lines, exported(tmp_path), strict=True):
        assert list(line) == list(row)
        for name, value in row.items():
            if isinstance(value, bool):
                assert line[name] == str(value).lower()
            elif isinstance(value, float | int):
                assert float(line[name]) == value
            elif value is None:
                assert line[name] == ""
            elif isinstance(value, str):
                assert line[name] == value


def test_every_column_is_explained_in_the_readme_and_in_the_file_itself(store: ResultStore, tmp_path: Path) -> None:
    export_dataset(store, tmp_path, study="s", samples=True)
    readme = (tmp_path / "README.md").read_text(encoding="utf-8").splitlines()
    for name, columns in (("results", RESULTS), ("samples", SAMPLES)):
        schema = pq.read_schema(tmp_path / f"{name}.parquet")
        assert schema.names == [column.name for column in columns]
        for column in columns:
            assert schema.field(column.name).metadata[b"meaning"].decode() == column.meaning
            assert sum(line.startswith(f"| `{column.name}` ") for line in readme) >= 1, column.name
            assert column.meaning.endswith(".")
    assert len({column.name for column in RESULTS}) == len(RESULTS)


def test_samples_have_a_row_per_request_with_the_scores_of_its_item(store: ResultStore, tmp_path: Path) -> None:
    paths = export_dataset(store, tmp_path, study="s", samples=True)
    assert [path.name for path in paths] == ["results.parquet", "results.csv", "samples.parquet", "README.md"]
    rows = pq.read_table(tmp_path / "samples.parquet").to_pylist()
    assert [row["request_index"] for row in rows] == [0, 1, 2, 3]
    assert [dict(row["scores"]) for row in rows] == [
        {"acc,none": value, "acc_norm,none": value} for value in (0.0, 0.0, 1.0, 1.0)
    ]
    assert rows[1]["logprob"] == -0.5
    assert rows[0]["task"] == "facts"


def test_samples_are_only_written_when_asked_for(store: ResultStore, tmp_path: Path) -> None:
    export_dataset(store, tmp_path, study="s")
    assert not (tmp_path / "samples.parquet").exists()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("+1", "'+1"),
        ("-1+2", "'-1+2"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1+1", "'=1+1"),
        ("\r\n=1+1", "'=1+1"),
        ("\uff1d1+1", "'\uff1d1+1"),
        ("a\nb\r\nc", "a b c"),
        ("a\x00\x1b[31mb", "a\ufffd\ufffd[31mb"),
        ("\u202eabc", "\ufffdabc"),
        ("1=1", "1=1"),
        ("\N{PILE OF POO} \u05d0", "\N{PILE OF POO} \u05d0"),
    ],
)
def test_text_in_the_csv_is_data_for_every_program(text: str, shown: str) -> None:
    assert csv_cell(text) == shown


def test_numbers_in_the_csv_are_numbers() -> None:
    assert [csv_cell(value) for value in (-0.1, -3, True, None, 1e-300)] == ["-0.1", "-3", "true", "", "1e-300"]


def test_hostile_text_keeps_the_csv_whole_and_the_parquet_exact(
    store: ResultStore, failed_row: Any, tmp_path: Path
) -> None:
    message = '=HYPERLINK("http://x"),\n"a",b;\x07' + "x" * 100_000
    store.record_cell([failed_row(cell_id="c9", failure_message=message, model="-m|`<b>")])
    export_dataset(store, tmp_path, study="# s <b>|")
    with (tmp_path / "results.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [len(line) for line in lines] == [len(RESULTS)] * 4
    line = next(line for line in lines if line["cell_id"] == "c9")
    assert line["failure_message"].startswith("'=HYPERLINK")
    assert line["model"] == "'-m|`<b>"
    row = next(row for row in exported(tmp_path) if row["cell_id"] == "c9")
    assert (row["failure_message"], row["model"]) == (message, "-m|`<b>")
    readme = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "<b>" not in readme
    assert r"-m\|\`&lt;b&gt;" in readme


def test_a_study_without_results_is_bad_input_and_writes_nothing(
    expected: list[dict[str, Any]], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"no results in .*: run the study first"):
        export_dataset(ResultStore(tmp_path / "none"), tmp_path / "out", study="s", expected=expected)
    assert not (tmp_path / "out").exists()


def test_the_same_study_gives_the_same_bytes_again(store: ResultStore, tmp_path: Path) -> None:
    for name in ("one", "two"):
        export_dataset(store, tmp_path / name, study="s", samples=True)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
