"""Samples of cells that end at once: kept together in few files, and each cell's come back whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from reports import EndedCell, ResultStore, StorageError

Rows = Callable[..., dict[str, Any]]


@pytest.fixture
def ended(cell_row: Rows, sample_row: Rows) -> Callable[[str, Sequence[int]], EndedCell]:
    def make(cell_id: str, indices: Sequence[int]) -> EndedCell:
        return EndedCell([cell_row(cell_id=cell_id)], [], [sample_row(index) for index in indices])

    return make


def indices_of(study_dir: Path, cell_id: str) -> list[int]:
    return [row["request_index"] for row in ResultStore(study_dir).samples(cell_id)]


def files_in(study_dir: Path) -> list[str]:
    results = study_dir / "results"
    return sorted(str(path.relative_to(results)) for path in results.glob("*samples/**/*.parquet"))


def test_cells_that_end_together_share_a_file_of_samples(tmp_path: Path, ended: Any) -> None:
    store = ResultStore(tmp_path)
    store.record_done([ended(f"c{index}", range(index + 1)) for index in range(3)])
    store.record_done([ended("alone", [5])])
    assert files_in(tmp_path) == ["short_samples/00000001..00000003.parquet", "short_samples/00000004-alone.parquet"]
    for reader in (store, ResultStore(tmp_path)):
        assert [reader.num_samples(f"c{index}") for index in range(4)] == [1, 2, 3, 0]
        assert [row["request_index"] for row in reader.samples("alone")] == [5]
        assert reader.sample_table("c1")["cell_id"].to_pylist() == ["c1", "c1"]
        assert reader.cells_with_samples() == {"c0", "c1", "c2", "alone"}
        assert reader.samples_folder("c0") == tmp_path / "results/short_samples"
        assert reader.warnings == []


def test_a_cell_whose_samples_were_begun_goes_on_where_they_are(tmp_path: Path, ended: Any, sample_row: Rows) -> None:
    store = ResultStore(tmp_path)
    store.append_samples("long", [sample_row(0)])
    store.record_done([ended("long", [1]), ended("short", [0])])
    assert files_in(tmp_path) == ["samples/long/00000001..00000002.parquet", "short_samples/00000001-short.parquet"]
    assert indices_of(tmp_path, "long") == [0, 1]
    # One that was short, and is recorded again with more: both parts of its samples count, the later word first.
    store.record_done([ended("short", [1]), ended("other", [7])])
    store.append_samples("short", [sample_row(0, logprob=-9.0)])
    assert indices_of(tmp_path, "short") == [0, 1]
    assert ResultStore(tmp_path).samples("short")[0]["logprob"] == -9.0
    assert indices_of(tmp_path, "other") == [7]


def test_a_cell_without_new_samples_writes_none(tmp_path: Path, ended: Any) -> None:
    ResultStore(tmp_path).record_done([ended("c0", []), ended("c1", [])])
    assert files_in(tmp_path) == []
    assert len(ResultStore(tmp_path).cells()) == 2


def test_thousands_of_short_cells_become_few_files(tmp_path: Path, ended: Any) -> None:
    store = ResultStore(tmp_path)
    for start in range(0, 2000, 10):
        store.record_done([ended(f"c{index}", [index]) for index in range(start, start + 10)])
    assert len(files_in(tmp_path)) < 70
    assert ResultStore(tmp_path).cells_with_samples() == {f"c{index}" for index in range(2000)}
    assert [indices_of(tmp_path, f"c{index}") for index in (0, 999, 1999)] == [[0], [999], [1999]]


def test_a_kill_before_the_cells_are_recorded_leaves_their_samples(
    tmp_path: Path, ended: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ResultStore(tmp_path)

    def die(*arguments: Any) -> None:
        raise StorageError("write", tmp_path, OSError(28, "No space left on device"))

    with monkeypatch.context() as killed:
        killed.setattr(store._scores, "append_all", die)
        with pytest.raises(StorageError):
            store.record_done([ended("c0", [0, 1]), ended("c1", [0])])
    after = ResultStore(tmp_path)
    after.open_for_writing()
    assert after.cells() == []
    assert after.cells_with_samples() == {"c0", "c1"}
    assert indices_of(tmp_path, "c0") == [0, 1]
    # Nothing is answered again; and what is, because the writer did not know, does not count twice.
    after.record_done([ended("c0", []), ended("c1", [0])])
    assert {row["cell_id"] for row in after.cells()} == {"c0", "c1"}
    assert [indices_of(tmp_path, cell_id) for cell_id in ("c0", "c1")] == [[0, 1], [0]]


def test_a_damaged_file_of_short_cells_is_set_aside_and_the_others_count(tmp_path: Path, ended: Any) -> None:
    store = ResultStore(tmp_path)
    store.record_done([ended("c0", [0]), ended("c1", [1])])
    store.record_done([ended("c2", [2]), ended("c3", [3])])
    damaged, _ = sorted((tmp_path / "results/short_samples").iterdir())
    damaged.write_bytes(damaged.read_bytes()[:-10])
    reader = ResultStore(tmp_path)
    assert [reader.num_samples(f"c{index}") for index in range(4)] == [0, 0, 1, 1]
    assert damaged.name in reader.warnings[0]
    driver = ResultStore(tmp_path)
    driver.open_for_writing()
    assert driver.num_samples("c0") == 0
    assert not damaged.exists()
    assert driver.names_set_aside() == [f"set-aside/short_samples/{damaged.name}"]
    driver.record_done([ended("c0", [0])])
    assert indices_of(tmp_path, "c0") == [0]


def test_what_a_killed_writer_left_among_them_is_removed(tmp_path: Path, ended: Any) -> None:
    ResultStore(tmp_path).record_done([ended("c0", [0]), ended("c1", [1])])
    left = tmp_path / "results/short_samples/.tmp-half"
    left.write_bytes(b"PAR1")
    ResultStore(tmp_path).open_for_writing()
    assert not left.exists()
    assert indices_of(tmp_path, "c1") == [1]
