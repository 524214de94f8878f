"""`qstudy compare`: differences, tests and flips of two variants, and a limit on drops."""

from __future__ import annotations

import dataclasses
import io
import json
from itertools import accumulate
from pathlib import Path

import pytest
from rich.console import Console
from scipy import stats

from grids import Cell
from grids.protocol import LikelihoodSettings, Protocol
from orchestrator.comparing import compare_variants
from orchestrator.comparison_view import comparison_view
from orchestrator.failures import Failure
from orchestrator.study_directory import StudyDirectory
from reports.plain_text import text_lines
from tests.orchestrator.conftest import Command, make_cell
from tests.orchestrator.stored_study import Outcome, store_study, wrong

FP, RTN, GPTQ = "scheme=fp16", "method=rtn", "method=gptq"


def _cells(model: str = "tiny") -> list[tuple[Cell, Outcome]]:
    """rtn loses fifteen facts and gains one, gptq loses two; of the sums both lose one."""
    return [
        (make_cell(model, scheme="fp16", task="facts"), wrong(0, 1)),
        (make_cell(model, scheme="fp16", task="sums"), wrong(5)),
        (make_cell(model, "rtn", task="facts"), wrong(*range(1, 17))),
        (make_cell(model, "rtn", task="sums"), wrong(5, 6)),
        (make_cell(model, "gptq", task="facts"), wrong(0, 1, 2, 3)),
        (make_cell(model, "gptq", task="sums"), wrong(5, 6)),
    ]


@pytest.fixture
def study(tmp_path: Path) -> StudyDirectory:
    return store_study(tmp_path / "study", _cells())


def test_every_task_has_its_difference_its_exact_test_and_what_was_gained_and_lost(
    study: StudyDirectory, qstudy: Command
) -> None:
    code, out, _ = qstudy("compare", study.root, FP, RTN, "--json")
    assert code == 0
    (pair,) = json.loads(out)["pairs"]
    scores = {score["task"]: score for score in pair["scores"]}
    facts, sums, average = scores["facts"]["comparison"], scores["sums"]["comparison"], scores["average"]["comparison"]
    assert (scores["facts"]["a"], scores["facts"]["b"]) == pytest.approx((100 * 58 / 60, 100 * 44 / 60))
    assert facts["difference"] == pytest.approx(-100 * 14 / 60)
    assert (facts["num_higher"], facts["num_lower"], facts["num_items"]) == (1, 15, 60)
    assert facts["p_value"] == pytest.approx(stats.binomtest(1, 16).pvalue)
    assert sums["p_value"] == 1.0
    assert average["difference"] == pytest.approx((facts["difference"] + sums["difference"]) / 2)
    low, high = facts["interval"]
    assert low < facts["difference"] < high < 0
    assert facts["minimum_detectable"] > 5


def test_sides_change_places_and_nothing_else(study: StudyDirectory, qstudy: Command) -> None:
    there, back = (json.loads(qstudy("compare", study.root, a, b, "--json")[1]) for a, b in ((FP, RTN), (RTN, FP)))
    for one, other in zip(there["pairs"][0]["scores"], back["pairs"][0]["scores"], strict=True):
        assert (one["a"], one["b"]) == (other["b"], other["a"])
        assert one["comparison"]["difference"] == pytest.approx(-other["comparison"]["difference"])
        assert one["comparison"]["p_value"] == pytest.approx(other["comparison"]["p_value"])
        assert one["comparison"]["num_higher"] == other["comparison"]["num_lower"]


def test_sides_of_several_models_are_compared_model_by_model_and_corrected_together(
    tmp_path: Path, qstudy: Command
) -> None:
    study = store_study(tmp_path / "study", [*_cells("tiny"), *_cells("small")])
    content = json.loads(qstudy("compare", study.root, FP, RTN, "--json")[1])
    assert content["num_tests"] == 6
    for pair in content["pairs"]:
        assert pair["a"]["label"].split()[0] == pair["b"]["label"].split()[0]
    assert [pair["a"]["label"].split()[0] for pair in content["pairs"]] == ["tiny", "small"]
    found = [score["comparison"] for pair in content["pairs"] for score in pair["scores"]]
    found.sort(key=lambda comparison: comparison["p_value"])
    stepped = [min(1.0, (6 - rank) * comparison["p_value"]) for rank, comparison in enumerate(found)]
    assert [comparison["adjusted_p"] for comparison in found] == pytest.approx(list(accumulate(stepped, max)))


def test_seeds_are_compared_with_their_own_full_precision(tmp_path: Path, qstudy: Command) -> None:
    def of_seed(cell: Cell, seed: int) -> Cell:
        return Cell(dataclasses.replace(cell.variant, seed=seed), cell.task)

    outcomes: list[tuple[Cell, Outcome]] = [
        (of_seed(make_cell(scheme=scheme), seed), wrong(*range(seed + 3 * (scheme == "w4a4"))))
        for seed in (0, 1)
        for scheme in ("fp16", "w4a4")
    ]
    study = store_study(tmp_path / "study", outcomes)
    content = json.loads(qstudy("compare", study.root, FP, RTN, "--json")[1])
    assert [pair["scores"][0]["comparison"]["num_lower"] for pair in content["pairs"]] == [3, 3]
    assert [pair["b"]["label"] for pair in content["pairs"]] == ["tiny rtn w4a4", "tiny rtn w4a4 seed 1"]


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (["--max-drop", "1", "--strict"], 1, "significant drop beyond 1 points: facts"),
        (["--strict"], 1, "significant drop beyond 0 points: facts"),
        # Larger than the limit, and significant, are two conditions: each alone is none.
        (["--max-drop", "24", "--strict"], 0, "no significant drop beyond 24 points"),
        (["--max-drop", "1"], 0, "significant drop beyond 1 points: facts"),
    ],
)
def test_a_limit_is_broken_by_a_significant_drop_beyond_it_and_sets_the_exit_code_only_if_strict(
    options: list[str], code: int, told: str, study: StudyDirectory, qstudy: Command
) -> None:
    found, out, _ = qstudy("compare", study.root, FP, RTN, *options)
    assert found == code
    assert told in out


def test_a_drop_beyond_the_limit_that_may_be_noise_passes_and_the_blindness_is_told(
    study: StudyDirectory, qstudy: Command
) -> None:
    code, out, err = qstudy("compare", study.root, FP, GPTQ, "--max-drop", "1", "--strict")
    assert code == 0
    assert "no significant drop beyond 1 points" in out
    assert "may well stay unseen" in err
    assert "facts, tiny none fp16 -> tiny gptq w4a4" in err


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (None, "B is missing: not computed"),
        (Failure("oom_gpu", "no room", ""), "B failed (oom_gpu)"),
        ([1.0] * 40, "not the same items (60 and 40)"),
    ],
)
def test_what_cannot_be_judged_is_told_and_fails_a_strict_limit_as_incomplete(
    outcome: Outcome, reason: str, tmp_path: Path, qstudy: Command
) -> None:
    cells = _cells()
    cells[5] = (cells[5][0], outcome)
    study = store_study(tmp_path / "study", cells)
    code, out, err = qstudy("compare", study.root, FP, GPTQ, "--max-drop", "1", "--strict")
    assert code == 3
    assert f"sums: not compared, {reason}" in out
    assert "average: not compared, only 1 of 2 tasks are compared" in out
    assert reason in err
    assert qstudy("compare", study.root, FP, GPTQ, "--max-drop", "1")[0] == 0
    # A drop that was found is worse than a cell that lacks.
    cells[2], cells[3] = cells[2], (cells[3][0], outcome)
    broken = store_study(tmp_path / "broken", cells)
    assert qstudy("compare", broken.root, FP, RTN, "--strict")[0] == 1


def test_flips_show_the_items_with_their_texts_harmless_for_a_terminal_and_cut_where_they_are_long(
    tmp_path: Path, qstudy: Command
) -> None:
    def answer(cell: Cell, index: int) -> str:
        return f"\x1b[31mred\x1b[0m \u202etxt {cell.variant.method} {index}\n" + "long " * 100

    study = store_study(tmp_path / "study", _cells(), answer=answer)
    code, out, _ = qstudy("compare", study.root, FP, RTN, "--flips", "--flips-limit", 2, "--text-length", 40)
    assert code == 0
    assert "gained: item 0, score 0 -> 1" in out
    assert [f"lost: item {item}" in out for item in (2, 3, 4)] == [True, True, False]
    assert "13 more lost; --flips-limit shows more" in out
    assert "question 2" in out
    assert "right 2" in out
    assert "txt rtn 2" in out
    assert "txt none 2" in out
    assert "(first 40 of 5" in out
    assert "\x1b" not in out
    assert "\u202e" not in out
    whole = json.loads(qstudy("compare", study.root, FP, RTN, "--flips", "--json")[1])
    first = whole["pairs"][0]["scores"][0]["flips"][0]
    assert (first["doc_id"], first["direction"], first["score_b"]) == (0, "gained", 1.0)
    assert first["answer_b"] == answer(_cells()[2][0], 0)


@pytest.mark.parametrize(("width", "told"), [(200, None), (80, "without Items, p, Detectable"), (40, "p (Holm), for")])
def test_a_narrow_terminal_goes_without_columns_and_never_without_digits(
    width: int, told: str | None, study: StudyDirectory
) -> None:
    console = Console(width=width, file=io.StringIO())
    for part in comparison_view(compare_variants(study.root, FP, RTN), console):
        console.print(part)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "\u2026" not in text
    assert all(number in text for number in ("96.7", "73.3", "-23.3*"))
    assert told in " ".join(text.split()) if told else "for want of width" not in text


def test_a_text_is_cut_at_either_end_and_says_so() -> None:
    assert text_lines("abc\ndef", 7) == ["abc", "def"]
    assert text_lines("abcdefgh", 3) == ["abc", "(first 3 of 8 characters)"]
    assert text_lines("abcdefgh", 3, keep="last") == ["(last 3 of 8 characters)", "fgh"]
    assert text_lines("a\tb\x00\x9b", 9) == ["a   b\ufffd\ufffd"]


@pytest.mark.parametrize(
    ("a", "b", "complaint"),
    [
        (FP, "scheme=w4a4", "one side names 2 variants of tiny: tiny rtn w4a4 ("),
        (FP, FP, "A and B are the same variant: tiny none fp16"),
        (FP, "scheme=w3a16", "unknown scheme 'w3a16'"),
        (FP, "zz", "no cell has an id that begins with 'zz'"),
        (
            f"{FP},task=facts",
            f"{RTN},task=sums",
            "A and B share no task: tiny none fp16 has facts; tiny rtn w4a4 has sums",
        ),
    ],
)
def test_sides_that_do_not_pair_up_are_bad_input(
    a: str, b: str, complaint: str, study: StudyDirectory, qstudy: Command
) -> None:
    code, out, err = qstudy("compare", study.root, a, b)
    assert (code, out) == (2, "")
    assert complaint in err


def test_a_variant_or_a_cell_may_be_named_by_the_beginning_of_its_id(study: StudyDirectory, qstudy: Command) -> None:
    cells = study.description()["cells"]
    _, out, _ = qstudy("compare", study.root, cells[0]["variant_id"][:9], cells[2]["variant_id"], "--json")
    assert [score["task"] for score in json.loads(out)["pairs"][0]["scores"]] == ["facts", "sums", "average"]
    _, out, _ = qstudy("compare", study.root, cells[0]["cell_id"], cells[2]["cell_id"][:12], "--json")
    assert [score["task"] for score in json.loads(out)["pairs"][0]["scores"]] == ["facts"]


def test_a_task_of_one_side_only_is_told_and_cannot_be_judged(study: StudyDirectory, qstudy: Command) -> None:
    code, out, err = qstudy("compare", study.root, f"{FP},task=sums", GPTQ, "--strict")
    assert code == 3
    assert "only one side has them: facts" in out
    assert "facts: only one of tiny none fp16 and tiny gptq w4a4 has it" in err


def test_models_of_one_side_only_are_named(tmp_path: Path, qstudy: Command) -> None:
    study = store_study(tmp_path / "study", [*_cells("tiny"), *_cells("small")])
    code, _, err = qstudy("compare", study.root, FP, f"{RTN},model=small")
    assert code == 2
    assert "models of one side only: A has tiny; name the same with model=... on either side" in err


def test_different_protocols_are_refused_with_the_field_and_both_values(tmp_path: Path, qstudy: Command) -> None:
    other = Protocol(likelihood=LikelihoodSettings(mc_num=32))
    cells: list[tuple[Cell, Outcome]] = [
        (make_cell("one", scheme="fp16", task="facts"), wrong(0)),
        (make_cell("two", scheme="fp16", task="facts", family="dream", protocol=other), wrong(1)),
    ]
    study = store_study(tmp_path / "study", cells)
    code, out, err = qstudy("compare", study.root, "model=one", "model=two")
    assert (code, out) == (2, "")
    assert "facts is not scored alike for one none fp16 and two none fp16: protocol.mc_num 128 and 32" in err
