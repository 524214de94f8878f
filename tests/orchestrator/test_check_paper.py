"""Numbers of a paper: the macros that `report` writes, and `check-paper`, which holds them against the study."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from grids import Cell
from orchestrator.failures import Failure
from tests.orchestrator.conftest import Command, make_cell
from tests.orchestrator.stored_study import Outcome, store_study, wrong

SCORE = r"\qs{tiny/w4a4/rtn/demo-facts}"
DIFFERENCE = r"\qsdifference{tiny/w4a4/rtn/average-general}"
_LINE = re.compile(r"\\qsset\{(\w+)\}\{([^{}]+)\}\{([^{}]+)\}% (cells? [0-9a-f ]+(?: against [0-9a-f ]+)?)")


def _outcomes(*, rtn: Outcome = None, model: str = "tiny") -> list[tuple[Cell, Outcome]]:
    return [
        (make_cell(model, scheme="fp16", task="demo_facts"), wrong(0, 1)),
        (make_cell(model, scheme="fp16", task="demo_sums"), wrong(5)),
        (make_cell(model, "rtn", task="demo_facts"), wrong(*range(1, 17)) if rtn is None else rtn),
        (make_cell(model, "rtn", task="demo_sums"), wrong(5, 6)),
    ]


def _numbers(study: Path) -> dict[tuple[str, str], tuple[str, str]]:
    lines = (study / "report/numbers.tex").read_text().splitlines()
    return {(found[1], found[2]): (found[3], found[4]) for line in lines if (found := _LINE.fullmatch(line))}


@pytest.fixture
def study(tmp_path: Path, qstudy: Command) -> Path:
    folder = store_study(tmp_path / "study", _outcomes()).root
    assert qstudy("report", folder, "-f", "latex")[0] == 0
    return folder


@pytest.fixture
def paper(study: Path, tmp_path: Path) -> Path:
    """A paper that takes numbers.tex in, and sections/results.tex, which uses it."""
    folder = tmp_path / "paper"
    (folder / "sections").mkdir(parents=True)
    shutil.copy(study / "report/numbers.tex", folder)
    text = "\\documentclass{article}\n\\input{numbers}\n\\begin{document}\n"
    (folder / "paper.tex").write_text(text + "\\input{sections/results}\n\\end{document}\n")
    (folder / "sections/results.tex").write_text(f"RTN scores {SCORE},\nthat is ${DIFFERENCE}$ on average.\n")
    return folder / "paper.tex"


def test_every_number_has_a_macro_of_its_own_with_its_cells_in_a_comment(study: Path) -> None:
    numbers = _numbers(study)
    ids = {cell.task.info.name + " " + cell.variant.scheme.name: cell.cell_id for cell, _ in _outcomes()}
    facts, reference = ids["demo_facts w4a4"], ids["demo_facts fp16"]
    both = f"{facts} {ids['demo_sums w4a4']}"
    key = "tiny/w4a4/rtn/demo-facts"
    assert numbers["value", key] == ("73.3", f"cell {facts}")
    assert numbers["stderr", key][0] == "5.8"
    assert numbers["difference", key] == ("-23.3", f"cell {facts} against {reference}")
    assert numbers["drop", "tiny/w4a4/rtn/average-general"][0] == "-12.8"
    assert numbers["value", "tiny/w4a4/rtn/average-general"] == ("85.0", f"cells {both}")
    assert numbers["value", "tiny/fp16/demo-facts"] == ("96.7", f"cell {reference}")
    assert numbers["recovery", key][0] == "75.9"
    for end in ("low", "high", "differencelow", "differencehigh"):
        float(numbers[end, key][0])
    lines = [line for line in (study / "report/numbers.tex").read_text().splitlines() if line.startswith("\\qsset{")]
    assert len(lines) == len(numbers)


def test_keys_stay_as_they_are_when_the_study_is_reported_again_and_when_it_grows(
    study: Path, tmp_path: Path, qstudy: Command
) -> None:
    before = (study / "report/numbers.tex").read_bytes()
    qstudy("report", study, "-f", "latex")
    assert (study / "report/numbers.tex").read_bytes() == before
    more = [(make_cell("tiny", "gptq", task=task), wrong(3)) for task in ("demo_facts", "demo_sums")]
    wider = store_study(tmp_path / "wider", [*_outcomes(), *more, *_outcomes(model="other/small")]).root
    qstudy("report", wider, "-f", "latex")
    assert _numbers(wider).items() >= _numbers(study).items()
    assert ("value", "small/w4a4/rtn/demo-sums") in _numbers(wider)


def test_what_has_no_number_and_an_average_that_lacks_one_have_no_macro(tmp_path: Path, qstudy: Command) -> None:
    outcomes = _outcomes(rtn=Failure("oom_gpu", "no room", ""))
    folder = store_study(tmp_path / "study", outcomes).root
    qstudy("report", folder, "-f", "latex")
    keys = {key for _, key in _numbers(folder)}
    assert "tiny/w4a4/rtn/demo-sums" in keys
    assert not {"tiny/w4a4/rtn/demo-facts", "tiny/w4a4/rtn/average-general"} & keys


def test_a_paper_whose_numbers_are_the_studys_passes_and_says_how_many(
    paper: Path, study: Path, qstudy: Command
) -> None:
    code, out, err = qstudy("check-paper", paper, study)
    assert (code, out) == (0, "")
    assert "2 numbers in 2 places checked: all equal" in err
    (paper.parent / "sections/results.tex").write_text(f"{SCORE}, again {SCORE}\n")
    assert "1 numbers in 2 places checked: all equal" in qstudy("check-paper", paper, study)[2]


def test_a_number_that_the_study_no_longer_has_is_told_with_its_place_and_both_values(
    paper: Path, tmp_path: Path, qstudy: Command
) -> None:
    changed = store_study(tmp_path / "changed", _outcomes(rtn=wrong(*range(1, 18)))).root
    (paper.parent / "sections/results.tex").write_text(f"Text.\n\nRTN scores {SCORE}.\n")
    code, out, err = qstudy("check-paper", paper, changed)
    assert code == 1
    (line,) = out.splitlines()
    cell_id = make_cell(task="demo_facts").cell_id
    place = re.search(r"numbers\.tex:\d+", out)
    assert place is not None
    assert line == (
        f"{SCORE} at sections/results.tex:3: the paper says 73.3 ({place[0]}), the study says 71.7, cell {cell_id}"
    )
    assert "1 numbers in 1 places checked: 1 problems" in err


def test_a_vanished_cell_an_undefined_macro_and_an_unknown_one_are_three_messages(
    paper: Path, study: Path, tmp_path: Path, qstudy: Command
) -> None:
    (paper.parent / "sections/results.tex").write_text(f"{SCORE} \\qs{{tiny/w4a4/none/demo-facts}}\n")
    narrow = store_study(tmp_path / "narrow", _outcomes()[:2]).root
    code, out, _ = qstudy("check-paper", paper, narrow)
    assert code == 1
    assert f"{SCORE} at sections/results.tex:1: the paper says 73.3 (numbers.tex:" in out
    assert "the study has no such number (cell " in out
    assert "none/demo-facts} at sections/results.tex:1: the paper does not define it, the study has no such" in out
    (paper.parent / "numbers.tex").unlink()
    code, out, err = qstudy("check-paper", paper, study)
    assert code == 1
    assert f"{SCORE} at sections/results.tex:1: no file of the paper's folder defines it" in out
    assert "paper.tex:2: numbers is not read: there is no such file" in err


def test_numbers_may_be_pasted_and_comments_and_verbatim_text_do_not_count(
    study: Path, tmp_path: Path, qstudy: Command
) -> None:
    pasted = (study / "report/numbers.tex").read_text().replace("{73.3}", "{73.4}")
    text = (
        f"{pasted}\\begin{{document}}\n"
        f"% {SCORE}\n50\\% of {SCORE} % and {SCORE}\n"
        f"\\begin{{verbatim}}\n{SCORE}\n\\end{{verbatim}}\n\\verb|{SCORE}|\n"
        f"\\end{{document}}\n{SCORE}\n"
    )
    (tmp_path / "paper.tex").write_text(text)
    code, out, err = qstudy("check-paper", tmp_path / "paper.tex", study)
    assert code == 1
    assert len(out.splitlines()) == 1
    assert f"paper.tex:{pasted.count(chr(10)) + 3}: the paper says 73.4" in out
    assert "1 numbers in 1 places" in err


def test_numbers_typed_by_hand_are_checked_where_a_comment_names_their_cells(
    study: Path, tmp_path: Path, qstudy: Command
) -> None:
    facts, sums = (cell.cell_id for cell, _ in _outcomes()[2:])
    rows = [
        f"W4A4 & RTN & 73.3 $\\pm$ 5.8 & 96.67 \\\\ % cells {facts} {sums}",
        f"RTN 73 and 97.0 % cells {facts} {sums}",
        f"none at all % cell {facts}",
        "0.5 % cell 0123456789abcdef",
        "it says 4.0 % cells differ",
    ]
    (tmp_path / "paper.tex").write_text("\n".join(rows))
    code, out, err = qstudy("check-paper", tmp_path / "paper.tex", study)
    assert code == 1
    assert out.splitlines() == [
        f"97.0 at paper.tex:2: typed by hand; the study says 96.7, cell {sums}",
        "0.5 at paper.tex:4: the study has no score of cell 0123456789abcdef",
    ]
    assert "paper.tex:3: 1 cells and 0 numbers; not checked" in err


def test_files_outside_the_papers_folder_are_not_read_and_circles_end(
    paper: Path, study: Path, tmp_path: Path, qstudy: Command
) -> None:
    (tmp_path / "secret.tex").write_text("\\qs{tiny/secret/key}\n")
    os.symlink(tmp_path / "secret.tex", paper.parent / "link.tex")
    (paper.parent / "sections/results.tex").write_text(
        f"{SCORE}\\input{{../secret}}\\input{{link}}\\include{{{tmp_path / 'secret'}}}\\input{{paper}}\\input numbers\n"
    )
    code, out, err = qstudy("check-paper", paper, study)
    assert (code, out) == (0, "")
    assert err.count("is not read: it lies outside the paper's folder") == 3
    assert "1 numbers in 1 places checked" in err


def test_a_key_that_only_tex_can_put_together_is_a_problem(paper: Path, study: Path, qstudy: Command) -> None:
    (paper.parent / "sections/results.tex").write_text("\\newcommand{\\n}[1]{\\qs{tiny/w4a4/rtn/#1}} \\n{demo-facts}\n")
    code, out, _ = qstudy("check-paper", paper, study)
    assert code == 1
    assert "sections/results.tex:1: TeX puts its key together; write it out" in out


def test_an_equal_number_of_other_cells_is_told(paper: Path, study: Path, qstudy: Command) -> None:
    numbers = paper.parent / "numbers.tex"
    numbers.write_text(numbers.read_text().replace(make_cell(task="demo_facts").cell_id, "0" * 16))
    (paper.parent / "sections/results.tex").write_text(SCORE)
    code, _, err = qstudy("check-paper", paper, study)
    assert code == 0
    assert f"{SCORE} is equal, but of other cells: cell {'0' * 16} then" in err


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("nowhere.tex", None, "no such file"),
        ("plain.tex", "No number.", "the paper uses no number of a study"),
    ],
)
def test_a_paper_that_cannot_be_checked_is_bad_input(
    name: str, content: str | None, complaint: str, study: Path, tmp_path: Path, qstudy: Command
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    code, out, err = qstudy("check-paper", tmp_path / name, study)
    assert (code, out) == (2, "")
    assert complaint in err


def test_a_study_without_results_is_bad_input(paper: Path, tmp_path: Path, qstudy: Command) -> None:
    empty = store_study(tmp_path / "empty", [(make_cell(), None)]).root
    code, out, err = qstudy("check-paper", paper, empty)
    assert (code, out) == (2, "")
    assert "no results" in err


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_a_paper_prints_the_numbers_and_two_question_marks_for_what_is_not_there(study: Path, tmp_path: Path) -> None:
    shutil.copy(study / "report/numbers.tex", tmp_path)
    (tmp_path / "paper.tex").write_text(
        "\\documentclass{article}\\usepackage{underscore}\\input{numbers}\\input{numbers}\\begin{document}\n"
        f"\\section{{Of {SCORE}}}\\begin{{tabular}}{{lr}}a & {SCORE}\\\\\\end{{tabular}} ${DIFFERENCE}$ "
        "\\typeout{FOUND \\qs{tiny/w4a4/rtn/demo-facts} \\qsdifference{tiny/w4a4/rtn/average-general}}\n"
        "\\qs{not/a_number}\\end{document}\n"
    )
    run = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, timeout=60, check=False)
    log = done.stdout.decode(errors="replace")
    assert done.returncode == 0, log[-2000:]
    assert "FOUND 73.3 -12.5" in log
    assert "There is no value of not/a_number" in log
    assert "is set twice" in log
