"""The log of a study: who finds what in it, while it grows and after its driver was killed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from grids import Cell, Study
from orchestrator.log_file import RUN, StudyLog
from orchestrator.logs import study_log
from orchestrator.study_directory import StudyDirectory
from reports import StorageError
from tests.orchestrator.conftest import Command


@pytest.fixture
def log(tmp_path: Path) -> StudyLog:
    return StudyLog(tmp_path / "logs" / "study.log")


def texts(lines: Iterator[str]) -> list[str]:
    """Entries without their times, which are checked."""
    found = []
    for line in lines:
        time, text = line[:20], line[20:]
        assert line.startswith("    ") or re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", time)
        found.append(line if line.startswith("    ") else text)
    return found


def entries(log: StudyLog, *about: str) -> list[str]:
    return texts(log.read(lambda found: found in about).news())


def test_each_finds_the_entries_about_it_with_all_their_lines(log: StudyLog) -> None:
    log.add("it begins")
    log.add("failed: x\nTraceback:\n\n  File y\n2026-01-01 00:00:00 b no entry\n", about="a")
    log.add("done", about="b")
    trace = ["    Traceback:\n", "    \n", "      File y\n", "    2026-01-01 00:00:00 b no entry\n"]
    assert entries(log, "a") == ["a failed: x\n", *trace]
    assert entries(log, "b") == ["b done\n"]
    assert entries(log, RUN) == ["run it begins\n"]
    assert entries(log, "a", "b", RUN) == ["run it begins\n", "a failed: x\n", *trace, "b done\n"]
    assert entries(log, "c") == []


def test_news_are_what_came_since_and_never_half_a_line(log: StudyLog) -> None:
    reader = log.read(lambda about: about == "a")
    assert list(reader.news()) == []
    log.add("first\nand more", about="a")
    assert texts(reader.news()) == ["a first\n", "    and more\n"]
    assert list(reader.news()) == []
    with log.path.open("a") as file:
        file.write("2026-01-01 00:00:00 a half")
        file.flush()
        assert list(reader.news()) == []
        file.write(" and half\n")
    assert texts(reader.news()) == ["a half and half\n"]
    # The further lines of an entry whose first line was read before.
    log.add("again", about="a")
    assert texts(reader.news()) == ["a again\n"]
    with log.path.open("a") as file:
        file.write("    the rest\n")
    assert texts(reader.news()) == ["    the rest\n"]


@pytest.mark.parametrize("torn", ["2026-01-01 00:0", "2026-01-01 00:00:00 a torn", "    half a tra"])
def test_an_entry_that_a_killed_driver_tore_costs_no_other(log: StudyLog, torn: str) -> None:
    log.add("whole", about="b")
    with log.path.open("a") as file:
        file.write(torn)
    after = StudyLog(log.path)
    after.add("goes on", about="b")
    after.add("and on", about="a")
    found = [text for text in list(after.read(lambda about: about == "b").news()) if not text.startswith("    ")]
    assert texts(iter(found)) == ["b whole\n", "b goes on\n"]
    assert entries(after, "a")[-1] == "a and on\n"


def test_a_log_that_cannot_be_written_or_read_says_so(log: StudyLog) -> None:
    log.path.mkdir(parents=True)
    with pytest.raises(StorageError, match=r"cannot write .*study\.log"):
        log.add("x")
    with pytest.raises(StorageError, match=r"cannot read .*study\.log"):
        list(log.read(lambda about: True).news())


def test_a_cell_finds_its_variant_and_its_shards_and_a_study_everything(
    tmp_path: Path, grid_cells: list[Cell], qstudy: Command
) -> None:
    study = tmp_path / "study"
    directory = StudyDirectory(study)
    directory.describe(Study("s", tuple(grid_cells)), "name: s")
    cell, other = grid_cells[3], grid_cells[2]
    assert list(study_log(study)) == list(study_log(study, cell.cell_id)) == []
    log = directory.log
    log.add("begins")
    log.add("quantized", about=cell.variant.variant_id)
    for about in (f"{cell.cell_id}.1-of-2", other.cell_id, cell.cell_id):
        log.add("evaluated", about=about)
    own = texts(study_log(study, cell.cell_id))
    assert own == [
        f"{cell.variant.variant_id} quantized\n",
        f"{cell.cell_id}.1-of-2 evaluated\n",
        f"{cell.cell_id} evaluated\n",
    ]
    everything = list(study_log(study))
    assert len(everything) == 5
    # No driver is alive: following ends by itself.
    assert list(study_log(study, follow=True)) == everything
    assert qstudy("logs", study) == (0, "".join(everything), "")
    assert texts(iter(qstudy("logs", study, cell.cell_id)[1].splitlines(keepends=True))) == own
