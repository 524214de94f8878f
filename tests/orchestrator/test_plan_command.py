"""`qstudy plan` as people and programs see it, on the grid that ships."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.catalog import DEMO_GRID
from orchestrator.cli import main
from orchestrator.plan_view import count, duration, size

CELL_KEYS = {"cell_id", "model", "method", "scheme", "task", "action", "reason"}


def plan(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path, *arguments: str
) -> tuple[int, str, str]:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["qstudy", "plan", str(DEMO_GRID), *arguments])
    with pytest.raises(SystemExit) as exit_:
        main()
    told = capsys.readouterr()
    return int(exit_.value.code or 0), told.out, told.err


def test_the_plan_as_json_has_the_documented_cells_and_their_prices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = plan(monkeypatch, capsys, tmp_path, "--json", "--workers", "2", "--simulate", "8,2")
    assert code == 0
    made = json.loads(out)
    assert len(made["cells"]) == 84
    for cell in made["cells"]:
        assert cell.keys() >= CELL_KEYS
        assert cell["action"] == "run"
        assert cell["price"]["basis"] == "modelled"
        assert cell["price"]["num_forwards"] > 0
    assert len(made["variants"]) == 21
    total = made["total"]
    assert total["seconds"] == pytest.approx(sum(variant["seconds"] for variant in made["variants"]), abs=0.02)
    assert total["flops"] == pytest.approx(
        sum(cell["price"]["flops"] for cell in made["cells"])
        + sum(variant["quantization"]["flops"] for variant in made["variants"] if variant["quantization"])
    )
    assert made["device"] == {"name": "H100", "source": "assumed"}
    assert [simulation["num_workers"] for simulation in made["simulations"]] == [2, 8]
    assert list(tmp_path.iterdir()) == []


def test_the_plan_for_people_says_what_it_costs_and_on_what_that_rests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = plan(monkeypatch, capsys, tmp_path, "--device", "cpu", "--only", "model=tiny-dream-base")
    assert "28 cells: 28 to run" in out
    assert "CPU worker-hours on cpu (as asked for)" in out
    assert "an assumed share of its peak" in out
    assert "longest pole: tiny-dream-base" in out
    assert sum(line.endswith("modelled") for line in out.splitlines()) == 7


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--simulate", "8,x"], "--simulate: 'x' is not a number of workers from 1 to"),
        (["--simulate", "0"], "--simulate: '0' is not a number of workers from 1 to"),
        (["--device", "H300"], "--device: unknown device 'H300'"),
    ],
)
def test_bad_options_exit_2(
    arguments: list[str],
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, err = plan(monkeypatch, capsys, tmp_path, *arguments)
    assert (code, out) == (2, "")
    assert complaint in err


def test_planning_loads_neither_transformers_nor_ray(tmp_path: Path) -> None:
    code = (
        f"import sys; sys.argv = ['qstudy', 'plan', {str(DEMO_GRID)!r}]\n"
        "from orchestrator.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "loaded = [name for name in ('ray', 'transformers', 'lm_eval', 'datasets') if name in sys.modules]\n"
        "sys.exit(', '.join(loaded) or 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={"PYTHONPATH": str(Path.cwd())}
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "84 cells: 84 to run" in done.stdout


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (count(4.89e18), "4.89 E"),
        (count(337_664), "338 k"),
        (count(1.25e6), "1.25 M"),
        (count(4.52e23), "452,000 E"),
        (count(12), "12"),
        (size(45.04e9), "45.0 GB"),
        (size(5.5e6), "5.5 MB"),
        (duration(7.25), "7.2 s"),
        (duration(81), "81 s"),
        (duration(720), "12 min"),
        (duration(11_220), "3 h 07 min"),
    ],
)
def test_figures_read_easily(text: str, expected: str) -> None:
    assert text == expected
