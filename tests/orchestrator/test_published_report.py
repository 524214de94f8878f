"""`qstudy report published:paper`: the paper's own numbers through the same door as a study's."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.orchestrator.conftest import Command


def test_the_papers_tables_are_written_with_their_errata_in_every_format(tmp_path: Path, qstudy: Command) -> None:
    code, out, _ = qstudy("report", "published:paper", "-o", tmp_path, "-f", "markdown,latex,csv,json")
    assert code == 0
    assert [str(Path(line).relative_to(tmp_path)) for line in out.splitlines()] == [
        "report.md",
        "report.tex",
        "findings.tex",
        *(f"tables/paper-{number}.tex" for number in range(1, 6)),
        "numbers.tex",
        "report.csv",
        "report.json",
    ]
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert markdown.startswith("# Study arXiv-2508.14896\n")
    assert markdown.count("Erratum:") == 4
    assert "As published, not run: Quantization Meets dLLMs (arXiv 2508.14896), v3, 2026-03-13" in markdown
    errata = [(tmp_path / f"tables/paper-{number}.tex").read_text().count("Erratum:") for number in range(1, 6)]
    assert errata == [2, 1, 0, 1, 0]


def test_a_single_table_of_the_papers_can_be_asked_for(tmp_path: Path, qstudy: Command) -> None:
    code, out, _ = qstudy("report", "published:paper", "--table", "paper-2", "-f", "latex", "-o", tmp_path)
    assert (code, [Path(line).name for line in out.splitlines()]) == (
        0,
        ["report.tex", "findings.tex", "paper-2.tex", "numbers.tex"],
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["published:papr", "-o", "out"], "unknown publication 'papr'; did you mean 'paper'"),
        (["published:paper"], "--output: a publication has no folder of its own"),
        (["published:paper", "-o", "out", "--table", "paper-6"], "unknown table 'paper-6'"),
    ],
)
def test_what_a_publication_cannot_give_is_refused_and_nothing_is_written(
    arguments: list[str], message: str, tmp_path: Path, qstudy: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = qstudy("report", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert not list(tmp_path.iterdir())
