"""Reports from a store: their numbers are the Parquet's, and they need neither torch nor Ray."""

from __future__ import annotations

import csv
import itertools
import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from reports import DEFAULT_TABLES, REPORT_FORMATS, ResultStore, build_report, write_report

TASKS = {"facts": "general", "places": "general", "sums": "math", "lines": "code"}
VARIANTS = (("fp16", "none"), ("w8a8", "rtn"), ("w4a4", "rtn"), ("w4a4", "gptq"))


@pytest.fixture
def study_dir(tmp_path: Path, cell_row: Any, failed_row: Any) -> Path:
    """A study of two models whose numbers are all different, with one failed cell."""
    study = tmp_path / "my_study"
    store = ResultStore(study)
    number = 0
    for model in ("org/base", "org/instruct"):
        for scheme, method in VARIANTS:
            for task, group in TASKS.items():
                number += 1
                names = {"model": model, "scheme": scheme, "method": method, "task": task, "task_group": group}
                if (model, scheme, method, task) == ("org/instruct", "w4a4", "gptq", "sums"):
                    store.record_cell([failed_row(**names)])
                    continue
                value = (137 * number % 991) / 991
                other = cell_row(**names, metric="other", value=0.5, is_primary=False)
                store.record_cell([other, cell_row(**names, value=value, stderr=value / 20)])
    return study


def _markdown_rows(text: str) -> list[list[str]]:
    """The report's table with repeated labels filled in again."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if not set(line) <= set("|-: ")]
    for above, row in itertools.pairwise(rows[1:]):
        row[:2] = [label or previous for label, previous in zip(row[:2], above[:2], strict=True)]
    return rows


def test_the_numbers_of_the_markdown_report_equal_those_recomputed_from_the_parquet(study_dir: Path) -> None:
    write_report(study_dir, tables=["main"])
    stored: dict[tuple[str, str, str], dict[str, tuple[float, float]]] = {}
    for path in (study_dir / "results/cells").glob("*.parquet"):
        for row in pq.read_table(path).to_pylist():
            if row["is_primary"]:
                method = "-" if row["scheme"] == "fp16" else row["method"]
                key = (row["model"].split("/")[1], row["scheme"], method)
                stored.setdefault(key, {})[row["task"]] = (row["value"], row["stderr"])
    header, *rows = _markdown_rows((study_dir / "report/report.md").read_text(encoding="utf-8"))
    num_checked = 0
    for row in rows:
        labels, shown = tuple(row[:3]), dict(zip(header[3:], row[3:], strict=True))
        scores = stored[labels[0], labels[1], labels[2]]
        reference = stored[labels[0], "fp16", "-"]
        for task, (value, stderr) in scores.items():
            assert shown[task] == f"{100 * value:.1f} ± {100 * stderr:.1f}"
            num_checked += 1
        for group, tasks in {
            "general": ["facts", "places"],
            "math": ["sums"],
            "code": ["lines"],
            "all": list(TASKS),
        }.items():
            own = [scores[task][0] for task in tasks if task in scores]
            base = [reference[task][0] for task in tasks]
            if own and len(tasks) > 1:
                assert float(shown[f"{group} avg"].split(" ± ")[0]) == pytest.approx(
                    100 * sum(own) / len(own), abs=0.0501
                )
                assert (f"({len(own)}/{len(tasks)})" in shown[f"{group} avg"]) == (len(own) < len(tasks))
                num_checked += 1
            drop = shown[f"{group} drop %"]
            if labels[1] == "fp16":
                assert drop == ""
            elif len(own) < len(tasks):
                assert drop == "-"
            else:
                change = 100 * (sum(own) / sum(base) - 1)
                assert float(drop.rstrip("†‡")) == pytest.approx(change, abs=0.0501)
                assert drop.endswith("‡") == (change < -4)
                assert drop.endswith("†") == (-4 <= change <= -1)
                num_checked += 1
    assert num_checked == 31 + 16 + 22
    assert [row[header.index("sums")] for row in rows if "failed" in row[header.index("sums")]] == [r"failed \[1\]"]


def test_all_formats_show_the_same_numbers(study_dir: Path) -> None:
    paths = write_report(study_dir, out_dir=study_dir / "elsewhere")
    assert [str(path.relative_to(study_dir / "elsewhere")) for path in paths] == [
        "report.md",
        "report.tex",
        "findings.tex",
        "tables/main.tex",
        "tables/differences.tex",
        "numbers.tex",
        "report.csv",
        "report.json",
    ]
    markdown, document, findings, bare, differences, macros, tidy, data = (
        path.read_text(encoding="utf-8") for path in paths
    )
    assert findings in document
    assert bare in document
    assert differences in document
    table = json.loads(data)["tables"][0]
    lines = [line for line in csv.DictReader(tidy.splitlines()) if line["table"] == "main"]
    numbers = re.findall(r"(\d+\.\d) ± (\d+\.\d)", markdown)
    in_latex = re.findall(r"\{([\d.]+)\}\{\\scriptsize\\,\$\\pm\$\\,([\d.]+)", bare)
    assert in_latex == numbers
    assert len(numbers) > 40
    in_json = [cell for row in table["rows"] for cell in row["cells"] if cell["stderr"] is not None]
    assert [(f"{cell['value']:.1f}", f"{cell['stderr']:.1f}") for cell in in_json] == numbers
    # An average that misses a cell has no macro: a sentence cannot say what it misses.
    whole = [f"{cell['value']:.1f}" for cell in in_json if cell["status"] != "partial"]
    assert re.findall(r"\\qsset\{value\}\{[^}]*\}\{([\d.]+)\}", macros) == whole
    in_csv = [line for line in lines if line["stderr"]]
    assert [(f"{float(line['value']):.1f}", f"{float(line['stderr']):.1f}") for line in in_csv] == numbers


def test_methods_whose_labels_hold_commas_are_told_apart(study_dir: Path, cell_row: Any) -> None:
    store = ResultStore(study_dir)
    row = cell_row(model="org/base", scheme="w4a4", method="duquant", task="facts")
    store.record_cell([row | {"method_label": "duquant, wikitext2"}])
    assert "Methods: duquant, wikitext2; gptq; rtn" in build_report(store, study="s").summary


def test_the_report_says_what_was_run_by_what(study_dir: Path) -> None:
    write_report(study_dir, formats=["markdown"])
    assert sorted(path.name for path in (study_dir / "report").iterdir()) == ["report.md"]
    text = (study_dir / "report/report.md").read_text(encoding="utf-8")
    for said in (
        "# Study my_study",
        "Models: org/base, org/instruct",
        "Schemes: fp16, w4a4, w8a8",
        "Methods: gptq, rtn",
        "Cells: 31 done, 1 failed; 3100 items scored",
        "qstudy 0.1.0, git revision 0123abcd",
        "Packages: lm-eval 0.4.13, torch 2.13.0",
        r"Seeds: \[0\]",
        "facts (acc, 0-shot, 100 items)",
        "failed (oom_gpu): out of memory",
    ):
        assert said in text


def test_the_report_counts_what_the_grid_expects(study_dir: Path, expected_cell: Any) -> None:
    names = [
        {"model": model, "scheme": scheme, "method": method, "task": task, "task_group": group}
        for model in ("org/base", "org/instruct")
        for scheme, method in (*VARIANTS, ("w3a16", "rtn"))
        for task, group in TASKS.items()
    ]
    expected = [expected_cell(**name) for name in names]
    expected.append(expected_cell(model="org/base", scheme="w3a16", method="duquant", not_applicable="needs w4"))
    report = build_report(ResultStore(study_dir), study="s", expected=expected)
    assert report.state == {"done": 31, "failed": 1, "missing": 8, "not_applicable": 1}
    assert report.num_items == 3100


def test_a_damaged_file_is_mentioned_in_the_report(study_dir: Path) -> None:
    damaged = next((study_dir / "results/cells").glob("*org_base-rtn-w8a8-facts.parquet"))
    damaged.write_bytes(b"junk")
    for _ in range(2):
        write_report(study_dir, formats=["markdown"])
        text = (study_dir / "report/report.md").read_text(encoding="utf-8")
        assert f"set aside and count as not computed: cells/{damaged.name}" in text
        assert r"missing \[1\]" in text


def test_a_study_whose_every_variant_failed_still_has_a_report(
    tmp_path: Path, variant_row: Any, expected_cell: Any
) -> None:
    store = ResultStore(tmp_path)
    store.record_variant(variant_row(status="failed", failure_kind="oom_gpu", failure_message="out of memory"))
    write_report(tmp_path, store, expected=[expected_cell(variant_id="v1")])
    text = (tmp_path / "report/report.md").read_text(encoding="utf-8")
    assert r"failed \[1\]" in text
    assert "failed while quantizing (oom_gpu): out of memory" in text
    assert "Cells: 1 failed; 0 items scored" in text


def test_an_unknown_format_or_an_empty_study_is_refused_before_anything_is_written(
    study_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"unknown report format 'latx'; did you mean 'latex'"):
        write_report(study_dir, formats=["markdown", "latx"])
    assert not (study_dir / "report").exists()
    with pytest.raises(ValueError, match=r"no results in .*empty"):
        write_report(tmp_path / "empty")
    assert not (tmp_path / "empty").exists()


_BLOCKED = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "ray", "transformers", "lm_eval"):
            raise ModuleNotFoundError(f"No module named {name!r}")
        return None

sys.meta_path.insert(0, Refuse())
"""


def _python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60).stdout


def test_a_report_is_written_on_a_python_without_torch_and_ray(study_dir: Path) -> None:
    code = f"""
        from pathlib import Path
        from reports import REPORT_FORMATS, ResultStore, build_study_table, write_report
        from reports.terminal import terminal_table
        study = Path({str(study_dir)!r})
        terminal_table(build_study_table(ResultStore(study).cells()))
        print(*write_report(study, formats=REPORT_FORMATS), sep="\\n")
    """
    written = [Path(line) for line in _python(_BLOCKED + textwrap.dedent(code)).splitlines()]
    # LaTeX has a file for the findings, one for each table and one of numbers besides the document.
    assert len(written) == len(REPORT_FORMATS) + 2 + len(DEFAULT_TABLES)
    assert all(path.is_file() for path in written)


def test_importing_reports_brings_in_nothing_heavy() -> None:
    code = "import reports, sys; print(*sys.modules)"
    modules = {name.split(".")[0] for name in _python(code).split()}
    assert modules.isdisjoint({"torch", "ray", "transformers", "lm_eval", "pandas", "matplotlib", "datasets", "rich"})
    assert "pyarrow" in modules
