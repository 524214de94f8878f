"""What is printed for LaTeX goes through pdfLaTeX: alone, inside a paper, with and without packages, with any text."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from reports import ResultStore, Table, build_study_table, write_report
from reports.latex import PACKAGES, latex_table

pytestmark = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")

# Each character that means something to TeX, an emoji, Hebrew, Arabic, marks that reorder text, control characters.
HOSTILE = (
    "_a_ % & # $x$ { } ~ ^ \\ < > | ``` \\input{/etc/hosts} -- \x1b[31m \x00 \x7f \u202egnp.exe é 表 \U0001f600 "
    "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627\nnew\tline"
)
# As LaTeX finds a package by default, but for those named: \usepackage, too, asks \IfFileExists.
WITHOUT = r"""
\makeatletter
\let\FileExists\IfFileExists
\def\IfFileExists#1#2#3{\def\wanted{#1}\@for\hidden:=%s\do{\ifx\hidden\wanted\let\wanted\relax\fi}%%
  \ifx\wanted\relax\expandafter\@secondoftwo\else\expandafter\@firstoftwo\fi{\FileExists{#1}{#2}{#3}}{#3}}
\makeatother
"""


def _compile(folder: Path, name: str, *, hidden: str = "") -> str:
    """The log of a document that compiles, with `hidden` packages not to be found."""
    source = folder / f"{name}.tex"
    if hidden:
        text = source.read_text(encoding="utf-8")
        source.write_text(WITHOUT % hidden + text, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", source.name]
    done = subprocess.run(command, cwd=folder, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]
    assert source.with_suffix(".pdf").stat().st_size > 1000
    return source.with_suffix(".log").read_text(encoding="latin-1")


def _too_wide(log: str) -> list[str]:
    """Lines and tables that stand out of the page by more than a hair, and floats too high for it."""
    wide = [found[0] for found in re.finditer(r"Overfull \\hbox \((\d+)\.\d+pt too wide\)", log) if int(found[1]) > 2]
    return wide + re.findall(r"Float too large.*", log)


@pytest.fixture
def hostile_study(tmp_path: Path, cell_row: Any, failed_row: Any) -> Path:
    """A study whose every name and message is hostile; one message of 100 kB, one of a single word, one of Arabic."""
    store = ResultStore(tmp_path / HOSTILE.replace("/", "").replace("\x00", ""))
    names = {"model": f"org/{HOSTILE}", "method_label": HOSTILE, "task_group": HOSTILE}
    for scheme, value in (("fp16", 0.9), (HOSTILE, 0.5), ("w4a4", 0.7)):
        for task in (HOSTILE, "facts"):
            place = f"{scheme[:4].strip('_ %')}-{task[:3].strip('_')}"
            ids = {"scheme": scheme, "task": task, "variant_id": place[:4].strip("-"), "cell_id": place}
            store.record_cell([cell_row(**names, **ids, value=value)])
    for index, message in enumerate((HOSTILE * 1000, "x" * 1000, "\u0645" * 1000)):
        ids = {"scheme": f"w{index + 2}a16", "variant_id": f"v{index}", "cell_id": f"c{index}"}
        store.record_cell([failed_row(**names, **ids, failure_message=message)])
    return store.results_dir.parent


@pytest.mark.parametrize("hidden", ["", "siunitx.sty", "siunitx.sty,multirow.sty"])
def test_the_report_of_a_hostile_study_compiles_by_itself(hostile_study: Path, hidden: str, tmp_path: Path) -> None:
    write_report(hostile_study, formats=["latex"], out_dir=tmp_path / "out")
    document = tmp_path / "out" / "report.tex"
    if "multirow" in hidden:
        text = document.read_text(encoding="utf-8")
        document.write_text(text.replace("\\usepackage{multirow}\n", ""), encoding="utf-8")
    log = _compile(tmp_path / "out", "report", hidden=hidden)
    assert _too_wide(log) == []
    assert ("siunitx.sty" in log) == ("siunitx" not in hidden)
    assert ("multirow.sty" in log) == ("multirow" not in hidden)
    assert "/etc/hosts" not in re.sub(r"\s", "", log)


@pytest.mark.parametrize(
    "preamble",
    [
        r"\documentclass{article}",
        r"\documentclass[twocolumn]{article}\usepackage[T1]{fontenc}\usepackage{times}\usepackage[table]{xcolor}\usepackage{siunitx}"
        r"\usepackage{hyperref}",
    ],
    ids=["plain", "two-columns"],
)
def test_tables_compile_in_a_paper_with_no_more_packages_than_their_header_names(
    hostile_study: Path, preamble: str, tmp_path: Path
) -> None:
    write_report(hostile_study, formats=["latex"], out_dir=tmp_path / "out")
    packages = "".join(rf"\usepackage{{{name}}}" for name in PACKAGES)
    text = (
        rf"{preamble}{packages}\begin{{document}}Text.\input{{tables/main}}\input{{tables/differences}}\end{{document}}"
    )
    (tmp_path / "out" / "paper.tex").write_text(text, encoding="utf-8")
    assert _too_wide(_compile(tmp_path / "out", "paper")) == []


def _study_of(cell_row: Any, *, num_tasks: int, num_methods: int) -> Table:
    return build_study_table(
        [
            cell_row(scheme=scheme, method=method, task=f"some_task_{task}", task_group=f"group {task // 5}")
            for task in range(num_tasks)
            for scheme, method in (("fp16", "none"), *(("w4a4", f"method_{number}") for number in range(num_methods)))
        ]
    )


def test_a_table_too_wide_or_too_long_for_a_page_is_cut_turned_or_shrunk_until_it_fits(
    cell_row: Any, tmp_path: Path
) -> None:
    tables = {
        "wide": _study_of(cell_row, num_tasks=25, num_methods=3),
        "long": _study_of(cell_row, num_tasks=2, num_methods=80),
        "sideways": _study_of(cell_row, num_tasks=8, num_methods=35),
    }
    packages = "".join(rf"\usepackage{{{name}}}" for name in PACKAGES)
    for name, table in tables.items():
        text = rf"\documentclass{{article}}{packages}\begin{{document}}{latex_table(table)}\end{{document}}"
        (tmp_path / f"{name}.tex").write_text(text, encoding="utf-8")
        assert _too_wide(_compile(tmp_path, name)) == [], name
