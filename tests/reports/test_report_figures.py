"""Figures of a report: files, what report.md says of them, and what is told where there is nothing to draw."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import main
from orchestrator.study_directory import write_description
from reports import ResultStore, write_report
from reports.figures.pages import FIGURE_NAMES

TASKS = {"facts": "general", "places": "general", "sums": "math"}
DRAWN = ["score-and-bits", "drop-by-group", "drop-by-task", "cost-and-score"]


@pytest.fixture
def study_dir(tmp_path: Path, cell_row: Any, variant_row: Any, expected_cell: Any) -> Path:
    """Full precision and two variants with the scores of their items; nothing of their layers is known."""
    study = tmp_path / "my_study"
    store = ResultStore(study)
    expected = []
    for number, (scheme, method) in enumerate((("fp16", "none"), ("w4a4", "rtn"), ("w4a4", "gptq"))):
        for place, (task, group) in enumerate(TASKS.items()):
            names = {"scheme": scheme, "method": method, "task": task, "task_group": group}
            right = [(item * 7 + number * 3 + place) % 10 < 8 - 2 * number for item in range(40)]
            cell = cell_row(**names, value=sum(right) / 40, num_items=40)
            scores = [
                {"doc_id": item, "filter": "none", "metric": "acc", "value": float(value)}
                for item, value in enumerate(right)
            ]
            store.record_scores(cell["cell_id"], scores)
            store.record_cell([cell])
            expected.append(expected_cell(**names))
        if scheme != "fp16":
            store.record_variant(variant_row(variant_id=f"tiny-{method}-{scheme}", method=method))
    write_description(study, name="my_study", grid="", cells=expected, variants={}, tasks={})
    return study


def qstudy(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["qstudy", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_the_command_writes_figures_that_the_report_refers_to(
    study_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert qstudy(monkeypatch, "report", str(study_dir), "-f", "markdown", "--figures", "pdf,svg") == 0
    written, told = capsys.readouterr()
    files = [f"figures/{name}.{form}" for name in DRAWN for form in ("pdf", "svg")]
    assert written.split() == [str(study_dir / "report" / file) for file in ["report.md", *files]]
    assert all((study_dir / "report" / file).stat().st_size > 1000 for file in files)
    assert re.findall(r"no figure (\S+): ", told) == ["layer-error", "agreement"]
    assert "no variant has output errors of its linears" in told
    assert "no published number to compare with (most often: no public result of model tiny)" in told
    text = (study_dir / "report" / "report.md").read_text(encoding="utf-8")
    assert re.findall(r"!\[.*?\]\((.*?)\)", text) == [f"figures/{name}.svg" for name in DRAWN]
    assert re.findall(r"\]\(([^()]*\.pdf)\)", text) == files[::2]


def test_figures_are_asked_for_by_environment_variable(
    study_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QSTUDY_FIGURES", "png")
    assert qstudy(monkeypatch, "report", str(study_dir), "-f", "csv") == 0
    assert [Path(line).name for line in capsys.readouterr().out.split()] == [
        "report.csv",
        *(f"{name}.png" for name in DRAWN),
    ]


def test_an_unknown_format_of_figures_is_bad_input_and_nothing_is_written(
    study_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert qstudy(monkeypatch, "report", str(study_dir), "--figures", "svg,jpg") == 2
    told = capsys.readouterr().err
    assert "--figures" in told
    assert "unknown format 'jpg'" in told
    assert not (study_dir / "report").exists()
    with pytest.raises(ValueError, match="unknown figure format 'pgn'; did you mean 'png'"):
        write_report(study_dir, figures=["pgn"])


def test_figures_of_an_earlier_report_go_and_other_files_stay(study_dir: Path) -> None:
    folder = study_dir / "report" / "figures"
    folder.mkdir(parents=True)
    stale = ["drop-by-task-2.svg", "agreement.pdf", "score-and-bits.pdf"]
    others = ["mine.svg", "drop-by-task-old.svg", "score-and-bits.pdf.txt"]
    for name in (*stale, *others):
        (folder / name).write_text("of before")
    write_report(study_dir, formats=["csv"], figures=["svg"])
    assert sorted(path.name for path in folder.iterdir()) == sorted([*others, *(f"{name}.svg" for name in DRAWN)])
    write_report(study_dir, formats=["csv"])
    assert len(list(folder.iterdir())) == len(others) + len(DRAWN)


def test_a_report_without_figures_does_not_load_matplotlib(study_dir: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from reports import write_report; "
        f"write_report(Path({str(study_dir)!r})); print('matplotlib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["False"]


def test_each_figure_has_one_name_everywhere() -> None:
    from reports.figures.drawing import _FIGURES

    assert tuple(_FIGURES) == FIGURE_NAMES
