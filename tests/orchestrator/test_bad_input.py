"""The six kinds of bad grid, through the command itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli import main

BAD_GRIDS = {
    "unknown key": (
        "name: bad\nmodles: [tiny-llada-base]\nmodels: [tiny-llada-base]\ntasks: [demo_math]\n",
        "unknown key 'modles'; did you mean 'models'?",
    ),
    "unknown method": (
        "name: bad\nmodels: [tiny-llada-base]\nmethods: [gtpq]\nschemes: [w8a8]\ntasks: [demo_math]\n",
        "methods[0]: unknown method 'gtpq'; did you mean 'gptq'?",
    ),
    "impossible scheme": (
        "name: bad\nmodels: [tiny-llada-base]\nmethods: [rtn]\nschemes: [w1a16]\ntasks: [demo_math]\n",
        "schemes: impossible scheme 'w1a16': w1 is not one of 2 to 8 bits, or 16",
    ),
    "missing model folder": (
        "name: bad\nmodels: [models/nowhere]\ntasks: [demo_math]\n",
        "models[0]: no such model folder",
    ),
    "unknown task": (
        "name: bad\nmodels: [tiny-llada-base]\ntasks: [demo_maths]\n",
        "tasks[0]: unknown task 'demo_maths'; did you mean 'demo_math'?",
    ),
    "empty calibration file": (
        "name: bad\nmodels: [tiny-llada-base]\nmethods: [gptq]\nschemes: [w8a8]\ntasks: [demo_math]\n"
        "calibration: empty.txt\n",
        "calibrations[0].dataset: the calibration file is empty",
    ),
    "empty grid": ("", "the grid is empty; it needs at least name, models, tasks"),
}


@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.parametrize("kind", BAD_GRIDS)
def test_a_bad_grid_gives_one_clear_message_exit_2_and_no_study(
    kind: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text, complaint = BAD_GRIDS[kind]
    (tmp_path / "grid.yaml").write_text(text)
    (tmp_path / "empty.txt").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["qstudy", command, "grid.yaml"])
    with pytest.raises(SystemExit) as exit_:
        main()
    told = capsys.readouterr()
    assert exit_.value.code == 2
    assert told.out == ""
    assert told.err.startswith("error: grid.yaml: ")
    assert complaint in told.err
    assert len(told.err.splitlines()) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"grid.yaml", "empty.txt"}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["run", "nowhere.yaml"], "no such grid file"),
        (["status", "nowhere"], "not a study"),
        (["report", "nowhere"], "not a study"),
        (["list", "metods"], "did you mean 'methods'?"),
    ],
)
def test_other_bad_input_exits_2_too(
    arguments: list[str],
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["qstudy", *arguments])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    assert complaint in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_help_loads_neither_torch_nor_ray() -> None:
    code = (
        "import sys; sys.argv = ['qstudy', '--help']\n"
        "from orchestrator.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "loaded = [name for name in ('torch', 'ray', 'transformers', 'lm_eval', 'pyarrow') if name in sys.modules]\n"
        "sys.exit(', '.join(loaded) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage" in done.stdout
