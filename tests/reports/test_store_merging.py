"""The results store while its files are merged: nothing is lost, nothing doubled, whoever dies or reads when."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reports import SCORES, EndedCell, ResultStore
from reports.part_folder import MAX_MERGED_BYTES, MERGE_AT

Values = dict[str, float]


@pytest.fixture
def small_merges(monkeypatch: pytest.MonkeyPatch) -> int:
    """Merges of a few files, so that tests need few."""
    monkeypatch.setattr("reports.part_folder.MERGE_AT", 4)
    return 4


def values_of(study_dir: Path) -> Values:
    """What a reader sees; every cell once."""
    rows = ResultStore(study_dir).cells()
    assert len({row["cell_id"] for row in rows}) == len(rows)
    return {row["cell_id"]: row["value"] for row in rows}


def files_of(study_dir: Path, table: str) -> list[str]:
    return sorted(path.name for path in (study_dir / "results" / table).rglob("*") if path.is_file())


def test_many_cells_become_few_files_and_each_comes_back_once(tmp_path: Path, cell_row: Any) -> None:
    store = ResultStore(tmp_path)
    num_cells = 3 * MERGE_AT + 3
    for index in range(num_cells):
        store.record_cell([cell_row(cell_id=f"c{index}", value=index / num_cells)])
    assert values_of(tmp_path) == {f"c{index}": index / num_cells for index in range(num_cells)}
    merged = [name for name in files_of(tmp_path, "cells") if ".." in name]
    assert merged == ["00000001..00000128.parquet", "00000129..00000192.parquet"]
    assert len(files_of(tmp_path, "cells")) == 2 + 3
    assert store.cell("c70")[0]["value"] == 70 / num_cells
    assert store.cell("c194")[0]["value"] == 194 / num_cells


def test_merged_files_grow_to_a_limit_and_no_further(
    tmp_path: Path, cell_row: Any, small_merges: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reports.part_folder.MAX_MERGED_BYTES", 1)
    store = ResultStore(tmp_path)
    for index in range(3 * small_merges):
        store.record_cell([cell_row(cell_id=f"c{index}")])
    assert len(files_of(tmp_path, "cells")) == 3
    assert len(values_of(tmp_path)) == 3 * small_merges
    assert MAX_MERGED_BYTES > 1 << 20


def test_the_later_record_counts_before_and_after_merges(
    tmp_path: Path, cell_row: Any, failed_row: Any, small_merges: int
) -> None:
    store = ResultStore(tmp_path)
    store.record_cell([failed_row(cell_id="again")])
    for index in range(2 * small_merges):
        store.record_cell([cell_row(cell_id=f"c{index}")])
        if index == small_merges:
            store.record_cell([cell_row(cell_id="again"), cell_row(cell_id="again", metric="f1", is_primary=False)])
            seen_first = [(row["metric"], row["status"]) for row in store.cell("again")]
    seen_last = [(row["metric"], row["status"]) for row in ResultStore(tmp_path).cell("again")]
    assert seen_first == seen_last == [("acc", "done"), ("f1", "done")]
    assert [row["cell_id"] for row in ResultStore(tmp_path).cells()].count("again") == 2


def test_scores_of_each_cell_come_back_in_order_from_merged_files(tmp_path: Path, small_merges: int) -> None:
    store = ResultStore(tmp_path)
    score = {"filter": "none", "metric": "acc"}
    # More rows than a row group of the merged file holds, so that cells lie in several groups and across their borders.
    sizes = {"a": 3000, "b": 0, "c": 2000, "d": 1}
    for cell_id, size in sizes.items():
        store.record_scores(cell_id, [{"doc_id": size - doc, "value": float(doc), **score} for doc in range(size)])
    assert len(files_of(tmp_path, "scores")) == 1
    reader = ResultStore(tmp_path)
    for cell_id, size in sizes.items():
        found = [(row["cell_id"], row["doc_id"], row["value"]) for row in reader.scores(cell_id)]
        assert found == [(cell_id, size - doc, float(doc)) for doc in range(size)]
        assert len(reader.score_table(cell_id)) == size
    assert reader.score_table("e") is None


def test_scores_that_were_replaced_by_none_stay_replaced(tmp_path: Path, small_merges: int) -> None:
    store = ResultStore(tmp_path)
    score = {"doc_id": 0, "filter": "none", "metric": "acc", "value": 1.0}
    for cell_id in ("a", "b", "c", "d"):
        store.record_scores(cell_id, [score])
    store.record_scores("a", [])
    for cell_id in ("e", "f", "g"):
        store.record_scores(cell_id, [score])
    assert [len(ResultStore(tmp_path).scores(cell_id)) for cell_id in "abcdefg"] == [0, 1, 1, 1, 1, 1, 1]


def test_samples_gather_while_a_cell_runs_and_are_one_file_when_it_is_done(
    tmp_path: Path, cell_row: Any, failed_row: Any, sample_row: Any, small_merges: int
) -> None:
    store = ResultStore(tmp_path)
    for index in range(7):
        store.append_samples("c1", [sample_row(index), sample_row(0, logprob=-float(index))])
    assert len(files_of(tmp_path, "samples")) == 1 + 3
    before = ResultStore(tmp_path).samples("c1")
    assert [row["request_index"] for row in before] == list(range(7))
    assert before[0]["logprob"] == -6.0
    store.record_cell([failed_row(cell_id="c1")])
    assert len(files_of(tmp_path, "samples")) == 4
    # Another process ends what this one began.
    ResultStore(tmp_path).record_cell([cell_row(cell_id="c1")])
    assert files_of(tmp_path, "samples") == ["00000001..00000007.parquet"]
    assert ResultStore(tmp_path).samples("c1") == before


class KilledError(BaseException):
    """The process ends here."""


def killing(monkeypatch: pytest.MonkeyPatch, survived: int) -> None:
    """End the process before the file operation number `survived`."""
    operations: Iterator[int] = iter(range(survived))

    def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
        def guard(*arguments: Any, **options: Any) -> Any:
            if next(operations, None) is None:
                raise KilledError
            return function(*arguments, **options)

        return guard

    monkeypatch.setattr("reports.files.os.replace", guarded(os.replace))
    monkeypatch.setattr("pathlib.Path.unlink", guarded(Path.unlink))


def test_a_kill_at_any_step_of_a_merge_loses_nothing_and_doubles_nothing(
    tmp_path: Path, cell_row: Any, sample_row: Any, small_merges: int
) -> None:
    expected = {f"c{index}": index / 8 for index in range(2 * small_merges)}
    num_killed = 0
    for survived in range(14):
        study_dir = tmp_path / str(survived)
        store = ResultStore(study_dir)
        ids = list(expected)
        for cell_id in ids[:-1]:
            store.record_cell([cell_row(cell_id=cell_id, value=expected[cell_id])])
        for index in range(small_merges - 1):
            store.append_samples("c1", [sample_row(0, logprob=float(index)), sample_row(index + 1)])
        with pytest.MonkeyPatch.context() as monkeypatch:
            killing(monkeypatch, survived)
            try:
                store.append_samples("c1", [sample_row(0, logprob=100.0)])
                store.record_cell([cell_row(cell_id=ids[-1], value=expected[ids[-1]])])
            except KilledError:
                num_killed += 1
        # What is visible is every cell that was recorded before; the last one where its write was survived.
        seen = values_of(study_dir)
        assert {**expected, **seen} == expected
        assert set(seen) >= set(ids[:-1])
        samples = ResultStore(study_dir).samples("c1")
        assert [row["request_index"] for row in samples] == [0, 1, 2, 3]
        assert samples[0]["logprob"] in (2.0, 100.0)
        # The next driver goes on, and what the killed one left in the way is gone.
        after = ResultStore(study_dir)
        after.open_for_writing()
        after.append_samples("c1", [sample_row(0, logprob=200.0)])
        for cell_id in ids:
            after.record_cell([cell_row(cell_id=cell_id, value=expected[cell_id])])
        assert values_of(study_dir) == expected
        assert ResultStore(study_dir).samples("c1")[0]["logprob"] == 200.0
        assert not list(study_dir.rglob(".tmp-*"))
    # Both writes, both merged files and the removal of all their sources, and at last no kill at all.
    assert 2 + 2 + 2 * small_merges <= num_killed < 14


def test_a_merge_that_is_killed_with_sigkill_loses_nothing(tmp_path: Path, cell_row: Any) -> None:
    store = ResultStore(tmp_path)
    for index in range(MERGE_AT - 1):
        store.record_cell([cell_row(cell_id=f"c{index}", value=index / MERGE_AT)])
    killed = textwrap.dedent(
        f"""
        import os, signal
        from pathlib import Path
        from reports import ResultStore
        store = ResultStore(Path({str(tmp_path)!r}))
        row = dict(store.cell("c0")[0], cell_id="last"); row.pop("schema_version")
        removed, unlink = [], Path.unlink
        def unlink_three(path, **options):
            if len(removed) == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            removed.append(path)
            unlink(path, **options)
        Path.unlink = unlink_three
        store.record_cell([row])
        """
    )
    assert subprocess.run([sys.executable, "-c", killed], check=False).returncode == -signal.SIGKILL
    assert len(files_of(tmp_path, "cells")) == 1 + MERGE_AT - 3
    assert values_of(tmp_path) == {**{f"c{index}": index / MERGE_AT for index in range(MERGE_AT - 1)}, "last": 0.0}
    ResultStore(tmp_path).open_for_writing()
    assert files_of(tmp_path, "cells") == [f"00000001..{MERGE_AT:08d}.parquet"]


def test_a_listing_that_saw_neither_the_sources_nor_the_merged_file_is_not_believed(
    tmp_path: Path, cell_row: Any, small_merges: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = ResultStore(tmp_path)
    expected = {f"c{index}": 0.5 for index in range(small_merges)}
    for cell_id in list(expected)[:-1]:
        writer.record_cell([cell_row(cell_id=cell_id)])
    listing = os.listdir

    def torn(folder: Path) -> list[str]:
        """The folder is merged while it is listed: the new file came too late to be seen, the old ones are gone."""
        monkeypatch.setattr(os, "listdir", listing)
        writer.record_cell([cell_row(cell_id=list(expected)[-1])])
        return [name for name in listing(folder) if ".." not in name]

    reader = ResultStore(tmp_path)
    monkeypatch.setattr(os, "listdir", torn)
    assert {row["cell_id"]: row["value"] for row in reader.cells()} == expected


def test_files_that_are_merged_away_between_listing_and_reading_are_read_from_the_merged_one(
    tmp_path: Path, cell_row: Any, small_merges: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = ResultStore(tmp_path)
    for index in range(small_merges - 1):
        writer.record_cell([cell_row(cell_id=f"c{index}")])
    opened = pq.ParquetFile

    def late(path: Path, **options: Any) -> pq.ParquetFile:
        monkeypatch.setattr("reports.part_folder.pq.ParquetFile", opened)
        writer.record_cell([cell_row(cell_id="last")])
        return opened(path, **options)

    reader = ResultStore(tmp_path)
    monkeypatch.setattr("reports.part_folder.pq.ParquetFile", late)
    assert [row["cell_id"] for row in reader.cells()] == ["c0", "c1", "c2", "last"]
    assert reader.warnings == []


def test_readers_beside_a_writer_see_every_cell_once_and_never_fewer_than_before(tmp_path: Path, cell_row: Any) -> None:
    ResultStore(tmp_path).record_cell([cell_row(cell_id="c0")])
    writing = textwrap.dedent(
        f"""
        from pathlib import Path
        import reports.part_folder
        from reports import ResultStore
        reports.part_folder.MERGE_AT = 4
        store = ResultStore(Path({str(tmp_path)!r}))
        row = store.cell("c0")[0]; row.pop("schema_version")
        for index in range(1, 100):
            store.record_cell([dict(row, cell_id=f"c{{index}}")])
        """
    )
    writer = subprocess.Popen([sys.executable, "-c", writing])
    reader, num_seen, num_reads = ResultStore(tmp_path), 1, 0
    while num_seen < 100:
        alive = writer.poll() is None
        ids = [row["cell_id"] for row in reader.cells(["value"])]
        assert sorted(ids, key=lambda name: int(name[1:])) == [f"c{index}" for index in range(len(ids))]
        assert len(ids) >= num_seen
        num_seen, num_reads = len(ids), num_reads + 1
        assert alive or num_seen == 100
    assert writer.wait(timeout=60) == 0
    assert reader.warnings == []
    assert num_reads > 5


def test_a_damaged_merged_file_costs_its_cells_and_is_set_aside_by_the_driver(
    tmp_path: Path, cell_row: Any, small_merges: int
) -> None:
    store = ResultStore(tmp_path)
    for index in range(small_merges + 1):
        store.record_cell([cell_row(cell_id=f"c{index}")])
    merged = tmp_path / "results/cells/00000001..00000004.parquet"
    merged.write_bytes(merged.read_bytes()[:-9])
    assert set(values_of(tmp_path)) == {"c4"}
    driver = ResultStore(tmp_path)
    driver.open_for_writing()
    assert [row["cell_id"] for row in driver.cells()] == ["c4"]
    assert not merged.exists()
    for index in range(2 * small_merges):
        driver.record_cell([cell_row(cell_id=f"c{index}", value=0.75)])
    assert values_of(tmp_path) == {f"c{index}": 0.75 for index in range(2 * small_merges)}
    assert [path.name for path in driver.files_set_aside()] == [merged.name]


def test_a_merge_leaves_damaged_sources_out_and_keeps_them_as_evidence(
    tmp_path: Path, cell_row: Any, small_merges: int
) -> None:
    first = ResultStore(tmp_path)
    for index in range(small_merges - 1):
        first.record_cell([cell_row(cell_id=f"c{index}")])
    (tmp_path / "results/cells/00000002-c1.parquet").write_bytes(b"junk")
    ResultStore(tmp_path).record_cell([cell_row(cell_id="last")])
    assert set(values_of(tmp_path)) == {"c0", "c2", "last"}
    aside = ResultStore(tmp_path).files_set_aside()
    assert [path.read_bytes() for path in aside] == [b"junk"]


def test_a_list_of_keys_that_does_not_agree_with_the_rows_is_damage(
    tmp_path: Path, cell_row: Any, small_merges: int
) -> None:
    store = ResultStore(tmp_path)
    for index in range(small_merges):
        store.record_cell([cell_row(cell_id=f"c{index}")])
    merged = next((tmp_path / "results/cells").iterdir())
    content = merged.read_bytes()
    # Rows of two cells that changed places by a fault of the list would be shown under the wrong names.
    merged.write_bytes(content.replace(b'[["c0", 1], ["c1", 1]', b'[["c1", 1], ["c0", 1]'))
    reader = ResultStore(tmp_path)
    assert reader.cell("c0") == []
    assert "it holds rows of c1, not only of c0" in reader.warnings[0]
    assert ResultStore(tmp_path).cells() == []


def test_files_of_an_older_schema_merge_with_new_ones(tmp_path: Path, small_merges: int) -> None:
    store = ResultStore(tmp_path)
    score = {"doc_id": 0, "filter": "none", "metric": "acc", "value": 1.0}
    for cell_id in ("a", "b", "c"):
        store.record_scores(cell_id, [score])
    path = tmp_path / "results/scores/00000002-b.parquet"
    table = pq.read_table(path).drop_columns(["value"])
    pq.write_table(table.set_column(0, "schema_version", pa.array([SCORES.version - 1], pa.int32())), path)
    writer = ResultStore(tmp_path)
    writer.record_scores("d", [score])
    assert files_of(tmp_path, "scores") == ["00000001..00000004.parquet"]
    assert [ResultStore(tmp_path).scores(key)[0]["value"] for key in "abcd"] == [1.0, None, 1.0, 1.0]


def test_only_the_columns_that_are_asked_for_are_read(tmp_path: Path, cell_row: Any) -> None:
    store = ResultStore(tmp_path)
    store.record_cell([cell_row(cell_id="c1")])
    assert store.cells(["status", "seconds"]) == [
        {"cell_id": "c1", "metric": "acc", "filter": "none", "status": "done", "seconds": 2.0}
    ]


def test_results_are_forced_to_the_disk_within_a_tenth_of_the_time(
    tmp_path: Path, cell_row: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    synced: list[Path] = []

    def sync(path: Path) -> None:
        path.stat()
        synced.append(path)
        now[0] += 0.01

    monkeypatch.setattr("reports.files._sync", sync)
    monkeypatch.setattr("reports.files.time.monotonic", lambda: now[0])
    store = ResultStore(tmp_path)
    store.record_cell([cell_row(cell_id="c1")])
    assert [path.name for path in synced] == ["00000001-c1.parquet", "cells"]
    # The file and its folder took 0.02 s, so the next ones wait for 0.18 s, and then go together.
    store.record_cell([cell_row(cell_id="c2")])
    assert len(synced) == 2
    now[0] += 0.19
    store.record_cell([cell_row(cell_id="c3")])
    assert [path.name for path in synced[2::2]] == ["00000002-c2.parquet", "00000003-c3.parquet"]


def score_rows(value: float) -> list[dict[str, Any]]:
    return [{"doc_id": item, "filter": "none", "metric": "acc", "value": value} for item in range(3)]


def test_cells_that_end_together_are_one_file_and_each_comes_back(tmp_path: Path, cell_row: Any) -> None:
    store = ResultStore(tmp_path)
    store.record_cell([cell_row(cell_id="c0", value=0.5)])
    store.record_done(
        [EndedCell([cell_row(cell_id=f"c{index}", value=index / 8)], score_rows(index)) for index in range(4)]
    )
    store.record_done([EndedCell([cell_row(cell_id="c1", value=0.9)], score_rows(9))])
    assert [name.partition("-")[0] for name in files_of(tmp_path, "cells")] == [
        "00000001",
        "00000002..00000005.parquet",
        "00000006",
    ]
    # The later word counts, in a file of its own or in one with others.
    assert values_of(tmp_path) == {"c0": 0.0, "c1": 0.9, "c2": 0.25, "c3": 0.375}
    reader = ResultStore(tmp_path)
    assert [reader.cell(f"c{index}")[0]["value"] for index in range(4)] == [0.0, 0.9, 0.25, 0.375]
    assert [reader.scores(f"c{index}")[2]["value"] for index in range(4)] == [0, 9, 2, 3]
    assert reader.warnings == []
    with pytest.raises(ValueError, match="cells: one is there twice among c7, c7"):
        store.record_done([EndedCell([cell_row(cell_id="c7", value=value)], []) for value in (0.1, 0.2)])


def test_files_of_several_cells_are_merged_like_others(tmp_path: Path, cell_row: Any, small_merges: int) -> None:
    store = ResultStore(tmp_path)
    for index in range(0, 40, 2):
        pair = [f"c{index % 20}", f"c{index % 20 + 1}"]
        store.record_done([EndedCell([cell_row(cell_id=name, value=index / 40)], score_rows(index)) for name in pair])
    assert values_of(tmp_path) == {f"c{index}": (20 + index // 2 * 2) / 40 for index in range(20)}
    assert len(files_of(tmp_path, "cells")) < 2 * small_merges
    assert {ResultStore(tmp_path).scores(f"c{index}")[0]["value"] for index in range(20)} == set(range(20, 40, 2))
