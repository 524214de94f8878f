"""What other shells see of a study: status, failures, logs, while the driver runs and after it died."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from grids import GridError
from methods import NonFiniteError
from orchestrator.cli import main
from orchestrator.commands import RunOptions, run_grid
from orchestrator.failed_cells import study_failures
from orchestrator.logs import study_log
from orchestrator.progress_file import PROGRESS_NAME, RunProgress
from orchestrator.selection import select_cell, select_cells
from orchestrator.status_view import status_view, watch_status
from orchestrator.study_lock import LOCK_NAME
from orchestrator.study_state import Status, study_status
from tests.orchestrator.fake_pool import NUM_REQUESTS, FakePool, write_grid
from workers.units import Evaluated, EvaluateUnit, Progress, QuantizeUnit, Unit

QUANTIZE_SECONDS = 2.0


@pytest.fixture(autouse=True)
def write_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs is told without the second between two writes."""
    monkeypatch.setattr("orchestrator.progress_file.WRITE_SECONDS", 0.0)


def run(folder: Path, pool: FakePool, **options: Any) -> bool:
    return run_grid(write_grid(folder), RunOptions(study=folder / "study", **options), pool).is_complete


def qstudy(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    """The exit code of the command."""
    monkeypatch.setattr(sys, "argv", ["qstudy", *arguments])
    with pytest.raises(SystemExit) as exit_:
        main()
    return exit_.value.code


def shown(status: Status) -> str:
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(status_view(status, now=time.time()))
    return console.export_text()


def statuses_during(folder: Path, pool_size: int = 1) -> list[Status]:
    """The status that another shell sees before each message of a whole run."""
    seen: list[Status] = []
    pool = FakePool(pool_size, disturb=lambda unit, message: seen.append(study_status(folder / "study")))
    assert run(folder, pool)
    return seen


def test_status_shows_while_a_run_is_on_what_runs_where_and_how_far(tmp_path: Path) -> None:
    seen = statuses_during(tmp_path)
    assert all(status.is_running and not status.is_complete for status in seen)
    units = [status.running[0] for status in seen]
    assert {unit.worker for unit in units} == {"worker-0"}
    evaluated = [(unit.phase, unit.done, unit.total) for unit in units if unit.cell_id]
    assert ("load", 0, 0) in evaluated
    assert ("evaluate", 1, NUM_REQUESTS) in evaluated
    quantized = [unit for unit in units if unit.cell_id is None]
    assert {unit.label for unit in quantized} == {"quantize tiny-llada-base rtn w4a4"}
    halfway = next(status for status in seen if status.running[0].done == 2 and status.total["done"] == 2)
    assert halfway.total == {"done": 2, "running": 1, "missing": 1}
    text = shown(halfway)
    assert "run by process" in text
    assert f"2/{NUM_REQUESTS}" in text
    assert "worker-0" in text

    after = study_status(tmp_path / "study")
    assert after.is_complete
    assert not after.is_running
    assert after.running == ()
    assert not (tmp_path / "study" / PROGRESS_NAME).exists()
    assert "complete" in shown(after)


def test_the_time_left_is_what_the_driver_tells(tmp_path: Path) -> None:
    told: list[float | None] = []

    def look(unit: Unit, message: object) -> None:
        progress = RunProgress.read(tmp_path / "study")
        assert progress is not None
        assert study_status(tmp_path / "study").seconds_left == progress.seconds_left
        told.append(progress.seconds_left)

    assert run(tmp_path, FakePool(disturb=look))
    assert told[0] is None
    assert all(seconds is not None and seconds >= 0 for seconds in told[8:])
    assert study_status(tmp_path / "study").seconds_left is None


def test_what_a_killed_driver_told_last_is_not_shown_as_running(tmp_path: Path) -> None:
    study = tmp_path / "study"
    left: dict[str, bytes] = {}

    def kept(unit: Unit, message: object) -> None:
        if isinstance(unit, EvaluateUnit) and isinstance(message, Evaluated):
            left.update({name: (study / name).read_bytes() for name in (PROGRESS_NAME, LOCK_NAME)})

    run(tmp_path, FakePool(disturb=kept), only=("task=demo_facts",))
    for name, content in left.items():
        (study / name).write_bytes(content)
    # The lock's process is this one, which lives; of another start, it is a dead one's.
    (study / LOCK_NAME).write_bytes(left[LOCK_NAME].replace(b'"process_started": "', b'"process_started": "1'))
    status = study_status(study)
    assert status.running == ()
    assert not status.is_running
    assert "no run is on; the last driver died (process" in shown(status)
    assert status.to_json()["driver"]["alive"] is False


def test_a_progress_file_of_another_run_or_one_that_makes_no_sense_is_ignored(tmp_path: Path) -> None:
    seen: list[tuple[RunProgress | None, tuple[Any, ...]]] = []

    def spoil(unit: Unit, message: object) -> None:
        path = tmp_path / "study" / PROGRESS_NAME
        if isinstance(message, Progress):
            content = path.read_bytes()
            for text in (b"{", b"[]", b'{"running": 3}', content.replace(b'"token": "', b'"token": "x')):
                path.write_bytes(text)
                seen.append((RunProgress.read(tmp_path / "study"), study_status(tmp_path / "study").running))

    run(tmp_path, FakePool(disturb=spoil))
    assert {running for _, running in seen} == {()}
    assert [progress is None for progress, _ in seen[:4]] == [True, True, True, False]


def test_progress_is_written_at_most_every_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.progress_file.WRITE_SECONDS", 1.0)
    now = [100.0]
    monkeypatch.setattr("orchestrator.progress_file.time.monotonic", lambda: now[0])
    written = set()

    def tick(unit: Unit, message: object) -> None:
        now[0] += 0.25
        written.add((tmp_path / "study" / PROGRESS_NAME).read_bytes())

    run(tmp_path, FakePool(disturb=tick))
    assert 5 < len(written) < (now[0] - 100.0) + 3


def test_watching_ends_with_the_run(tmp_path: Path) -> None:
    folder, waits = tmp_path / "study", []
    watched: list[Status] = []

    def watch(unit: Unit, message: object) -> None:
        if isinstance(unit, QuantizeUnit) and isinstance(message, Progress):

            def wait(seconds: float) -> None:
                waits.append(seconds)
                if len(waits) == 3:
                    (folder / LOCK_NAME).rename(folder / "lock")

            watched.append(watch_status(folder, Console(file=io.StringIO()), wait=wait))
            (folder / "lock").rename(folder / LOCK_NAME)

    run(tmp_path, FakePool(disturb=watch))
    assert len(waits) == 3
    assert min(waits) >= 2.0
    assert not watched[0].is_running


def test_watching_stops_at_ctrl_c_with_the_status_that_was_shown(tmp_path: Path) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    watched: list[Status] = []

    def watch(unit: Unit, message: object) -> None:
        watched.append(watch_status(tmp_path / "study", Console(file=io.StringIO()), wait=interrupt))

    run(tmp_path, FakePool(disturb=watch), only=("scheme=fp16", "task=demo_facts"))
    assert watched[0].is_running


def test_of_many_variants_only_those_that_fail_or_run_are_shown(tmp_path: Path) -> None:
    assert run(tmp_path, FakePool())
    status = study_status(tmp_path / "study")
    many = {f"variant {number}": Counter({"done": 2}) for number in range(100)}
    many["variant 70"] = Counter({"failed": 1, "done": 1})
    text = shown(dataclasses.replace(status, variants=many))
    assert "variant 70" in text
    assert "variant 71" not in text
    assert re.search(r"all 100 variants +199 +1", text)


def test_status_as_json_is_one_document_with_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail = FakePool(
        disturb=lambda unit, message: (
            NonFiniteError("5 GB") if isinstance(unit, EvaluateUnit) and isinstance(message, Evaluated) else None
        )
    )
    assert not run(tmp_path, fail)
    capsys.readouterr()
    assert qstudy(monkeypatch, "status", str(tmp_path / "study"), "--json") == 3
    made = json.loads(capsys.readouterr().out)
    assert made["cells"] == {"failed": 4}
    assert made["failed_by_kind"] == {"nonfinite": 4}
    assert made["driver"] is None
    assert made["running"] == []
    assert made["damaged_files"] == {}
    assert {"cell_id", "label", "kind", "message"} == set(made["failures"][0])
    assert qstudy(monkeypatch, "status", str(tmp_path / "study"), "--json", "--watch") == 2
    assert "choose one" in capsys.readouterr().err


def test_failures_are_grouped_by_kind_and_message_with_cells_and_logs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = iter((2.5, 3.25))

    def fail(unit: Unit, message: object) -> BaseException | None:
        if isinstance(unit, QuantizeUnit):
            return ArithmeticError("no weight is good enough")
        return NonFiniteError(f"tried to allocate {next(sizes)} GiB") if isinstance(message, Evaluated) else None

    assert not run(tmp_path, FakePool(disturb=fail))
    study = tmp_path / "study"
    groups = study_failures(study)
    found = {(group.kind, group.message): [cell.label for cell in group.cells] for group in groups}
    names = ["demo_facts", "demo_math"]
    assert found == {
        # Messages that differ only in numbers are one group.
        ("nonfinite", "NonFiniteError: tried to allocate 2.5 GiB"): [
            f"tiny-llada-base none fp16 {name}" for name in names
        ],
        ("error", "ArithmeticError: no weight is good enough"): [f"tiny-llada-base rtn w4a4 {name}" for name in names],
    }
    by_kind = {group.kind: group for group in groups}
    capsys.readouterr()
    assert qstudy(monkeypatch, "failures", str(study), "--json") == 0
    assert json.loads(capsys.readouterr().out) == [group.to_json() for group in groups]
    assert qstudy(monkeypatch, "failures", str(study)) == 0
    told = capsys.readouterr().out
    first, _ = by_kind["error"].cells
    assert f"  log: qstudy logs {study} {first.cell_id}\n" in told
    assert "no weight is good enough" in "".join(study_log(study, first.cell_id))
    assert by_kind["nonfinite"].cells[1].cell_id in told


def test_logs_of_a_cell_begin_with_those_of_its_variant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, FakePool())
    capsys.readouterr()
    assert qstudy(monkeypatch, "logs", str(tmp_path / "study"), "scheme=w4a4,task=demo_math") == 0
    told = capsys.readouterr().out
    assert told.index("quantize tiny-llada-base rtn w4a4") < told.index("tiny-llada-base rtn w4a4 demo_math")
    assert "demo_facts" not in told
    assert qstudy(monkeypatch, "logs", str(tmp_path / "study"), "scheme=w4a4") == 2
    assert "names 2 cells" in capsys.readouterr().err


def test_a_cell_that_has_not_run_has_no_logs_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, FakePool(), only=("task=demo_facts",))
    capsys.readouterr()
    assert list(study_log(tmp_path / "study", "scheme=fp16,task=demo_math")) == []
    assert qstudy(monkeypatch, "logs", str(tmp_path / "study"), "scheme=fp16,task=demo_math") == 0
    assert capsys.readouterr() == ("", "nothing was logged yet\n")


def test_following_logs_shows_what_is_added_until_the_run_ends(tmp_path: Path) -> None:
    followed: list[str] = []
    follower: list[Iterator[str]] = []

    def follow(unit: Unit, message: object) -> None:
        # Before the cell's first attempt, when there is nothing to show; then whatever there is at each message.
        if not follower:
            cell = "scheme=w4a4,task=demo_facts"
            follower.append(study_log(tmp_path / "study", cell, follow=True, wait=lambda _: None))
        if isinstance(unit, EvaluateUnit) and "w4a4" in str(unit.cell) and len(followed) < 4:
            followed.append(next(follower[0]))

    run(tmp_path, FakePool(disturb=follow))
    rest = list(follower[0])
    assert followed + rest == list(study_log(tmp_path / "study", "scheme=w4a4,task=demo_facts"))
    # Quantizing and evaluating: an attempt and an end each, and the worker's warnings.
    assert sum("===" in line for line in followed + rest) == 2
    assert "--- done" in rest[-1]


CELLS: list[dict[str, Any]] = [
    {
        "cell_id": cell_id,
        "model": "llada",
        "method": method,
        "method_label": label,
        "scheme": scheme,
        "task": "gsm8k",
        "seed": 0,
        "calibration": calibration,
    }
    for cell_id, method, label, scheme, calibration in (
        ("abc1", "gptq", "gptq, pile", "w4a16", "pile, noised"),
        ("abd2", "gptq", "gptq, task=gsm8k", "w4a16", "wikitext"),
        ("b003", "rtn", "rtn", "w4a4", ""),
    )
]


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("abc1", ["abc1"]),
        ("b", ["b003"]),
        ("ab", ["abc1", "abd2"]),
        ("method=gptq", ["abc1", "abd2"]),
        ("method=gptq, pile", ["abc1"]),
        ("model=llada,method=gptq, pile,seed=0", ["abc1"]),
        ("task=gsm8k,scheme=w4a4", ["b003"]),
        ("method=gptq,calibration=wikitext", ["abd2"]),
        ("calibration=pile, noised,model=llada", ["abc1"]),
    ],
)
def test_a_cell_is_named_by_its_id_its_beginning_or_its_names(text: str, ids: list[str]) -> None:
    assert [cell["cell_id"] for cell in select_cells(CELLS, text)] == ids
    if len(ids) == 1:
        assert select_cell(CELLS, text)["cell_id"] == ids[0]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("c", "no cell has an id that begins with 'c'"),
        ("", "no cell has an id"),
        ("ab", "names 2 cells; write more of it, or one of these ids:\n  abc1  llada gptq, pile w4a16 gsm8k"),
        ("schema=w4a4", "unknown key 'schema'; did you mean 'scheme'?"),
        ("scheme=w4a8", "unknown scheme 'w4a8'; did you mean"),
        ("calibration=c4", "unknown calibration 'c4' (known: pile, noised, wikitext)"),
        ("method=rtn,scheme=w4a16", "no cell agrees with all of"),
    ],
)
def test_a_selection_that_is_not_one_cell_is_refused_with_what_comes_near(text: str, complaint: str) -> None:
    with pytest.raises(GridError) as error:
        select_cell(CELLS, text)
    assert complaint in str(error.value)
