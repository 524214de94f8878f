"""The HTML page in a browser: sorted, filtered, opened and read by a script, at a desk's width and at a phone's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reports import Report, ResultStore, build_report
from reports.html import Section, picture, report_page
from tests.reports.browser import Browser, missing_programs
from tests.reports.sampled_study import MODELS, SHOWN, record_study

if missing := missing_programs():
    pytest.skip(f"not installed: {', '.join(missing)}", allow_module_level=True)

TAB, ENTER, ESCAPE, DOWN, RIGHT = "\ue004", "\ue007", "\ue00c", "\ue015", "\ue014"
DESK, PHONE = (1400, 900), (390, 844)
# A drawing with styles of its own, as matplotlib makes them, and a script, as it never does.
DRAWING = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="40" height="20"><style>rect{fill:red}</style>'
    '<rect width="40" height="20" style="stroke: blue"/><script>parent.hacked = 1</script></svg>'
)
ROWS = "return [...document.querySelectorAll('#table-main tbody tr')].filter((row) => !row.hidden)"
LABELS = f"{ROWS}.map((row) => [...row.querySelectorAll('th.label')].map((head) => head.lastChild.textContent))"
COLUMN = f"{ROWS}.map((row) => row.querySelectorAll('td')[arguments[0]].textContent)"
CELL = "[...document.querySelectorAll('#table-main tbody tr')][arguments[0]].querySelectorAll('td')[arguments[1]]"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, cell_row: Any, failed_row: Any) -> Report:
    study = record_study(tmp_path_factory.mktemp("browser"), cell_row, failed_row)
    return build_report(ResultStore(study.folder), study="my study")


@pytest.fixture(scope="module")
def file(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    drawing = Section(name="drawing", title="A drawing", body=picture(DRAWING, title="a red box"))
    file = tmp_path_factory.mktemp("page") / "report.html"
    page = report_page(
        study="my study",
        folder="my study",
        summary=report.summary,
        provenance=report.provenance.sentences(),
        tables=report.tables,
        rows=report.rows,
        store=report.store,
        after_tables=[drawing],
    )
    file.write_text(page, encoding="utf-8")
    return file


@pytest.fixture
def page(browser: Browser, file: Path) -> Iterator[Browser]:
    """The page just loaded, at a desk's width; the console must have said nothing when the test is over."""
    browser.resize(*DESK)
    browser.open(file)
    yield browser
    assert browser.console() == []
    assert browser.run("return window.hacked") is None


def middle(page: Browser, row: int, column: int) -> tuple[float, float]:
    """Where a number of the main table is in the window."""
    page.run(f"{CELL}.scrollIntoView({{block: 'center'}})", row, column)
    # The page hears of the scrolling in the next frame, and closes what was open by then.
    page.run("return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")
    box = page.run(f"const box = {CELL}.getBoundingClientRect(); return [box.left, box.top]", row, column)
    return box[0] + 8, box[1] + 8


def column_index(report: Report, title: str) -> int:
    return [column.title for column in report.tables[0].columns].index(title)


def row_index(report: Report, variant_id: str) -> int:
    return [row.variant_ids for row in report.tables[0].rows].index((variant_id,))


def click_heading(page: Browser, place: int) -> Any:
    """Click the heading of a column, and give its `aria-sort`."""
    script = "const head = document.querySelectorAll('#table-main thead button')[arguments[0]]; head.click();"
    return page.run(f"{script} return head.closest('th').getAttribute('aria-sort')", place)


def choose(page: Browser, axis: str, name: str) -> None:
    page.run(
        "[...document.querySelectorAll(`input[name=${arguments[0]}]`)]"
        ".find((box) => box.nextSibling.textContent === arguments[1]).click()",
        axis,
        name,
    )


def test_a_heading_sorts_down_then_up_then_as_it_was(page: Browser, report: Report) -> None:
    table, column = report.tables[0], column_index(report, "sums")
    values = [row.cells[column].value for row in table.rows]
    original = page.run(LABELS)
    assert original == [list(row.labels) for row in table.rows]
    known = [value for value in values if value is not None]
    assert len(known) == len(values) - 1
    place = len(table.label_titles) + column
    for direction, is_reversed in (("descending", True), ("ascending", False)):
        assert click_heading(page, place) == direction
        shown = page.run(COLUMN, column)
        assert [text.split()[0] for text in shown[:-1]] == [
            f"{value:.1f}" for value in sorted(known, reverse=is_reversed)
        ]
        assert "failed" in shown[-1]
    assert click_heading(page, place) is None
    assert page.run(LABELS) == original


def test_labels_sort_by_name_and_only_one_heading_says_so(page: Browser) -> None:
    click_heading(page, 5)
    assert click_heading(page, 2) == "ascending"
    methods = [labels[2] for labels in page.run(LABELS)]
    assert methods == sorted(methods)
    assert page.run("return document.querySelectorAll('#table-main [aria-sort]').length") == 1


def test_rows_are_chosen_by_model_scheme_method_and_words(page: Browser) -> None:
    labels = page.run(LABELS)
    choose(page, "model", MODELS[0])
    assert page.run(LABELS) == [row for row in labels if row[0] == "base"]
    choose(page, "scheme", "w4a4")
    assert page.run(LABELS) == [row for row in labels if row[0] == "base" and row[1] in ("fp16", "w4a4")]
    choose(page, "method", "gptq")
    assert [row[1:] for row in page.run(LABELS)] == [["fp16", "-"], ["w4a4", "gptq"]]
    choose(page, "reference", "full precision")
    assert [row[1:] for row in page.run(LABELS)] == [["w4a4", "gptq"]]
    assert page.run("return document.getElementById('shown').textContent") == "2 of 14 rows"
    page.run("document.getElementById('show-all').click()")
    assert page.run(LABELS) == labels
    page.run("const box = document.getElementById('search'); box.focus(); box.value = ''")
    page.press(*"W8A8 rtn")
    assert page.run(LABELS) == [row for row in labels if row[1] == "fp16" or row[1:] == ["w8a8", "rtn"]]


def test_pointing_at_a_number_tells_its_interval_comparison_and_origin(page: Browser, report: Report) -> None:
    row, column = row_index(report, "v1"), column_index(report, "sums")
    cell = report.tables[0].rows[row].cells[column]
    assert cell.interval is not None
    assert cell.comparison is not None
    assert page.run("return document.getElementById('popover').hidden")
    page.point(*middle(page, row, column))
    told = page.until("const node = document.getElementById('popover'); return node.hidden ? '' : node.textContent")
    assert f"{cell.interval[0]:.2f} to {cell.interval[1]:.2f} %" in told
    assert f"{cell.comparison.difference:+.2f} points" in told
    assert f"{cell.comparison.num_lower} score less" in told
    assert f"{cell.cell_ids[0]}: cpu on somewhere, 2026-01-02 03:04 UTC, qstudy 0.1.0" in told
    page.press(ESCAPE)
    assert page.until("return document.getElementById('popover').hidden")


def test_a_number_opens_on_its_lost_and_gained_items_word_for_word(page: Browser, report: Report) -> None:
    row, column = row_index(report, "v1"), column_index(report, "sums")
    page.point(*middle(page, row, column), click=True)
    assert page.until("return document.getElementById('panel').open")
    sets = page.run(
        "return [...document.querySelectorAll('#panel[open] details')].map((set) =>"
        " [set.querySelector('summary').textContent, set.querySelectorAll('.item').length])"
    )
    comparison = report.tables[0].rows[row].cells[column].comparison
    assert comparison is not None
    assert sets[0] == [f"Lost: full precision scores more ({comparison.num_lower})", comparison.num_lower]
    assert sets[1] == [f"Gained: full precision scores less ({comparison.num_higher})", comparison.num_higher]
    item = page.run(
        "return [...document.querySelector('#panel .item').querySelectorAll('pre')].map((node) => node.textContent)"
    )
    doc = item[0].split()[1]
    assert item[0] == f"sum {doc} {SHOWN}"
    assert item[1].startswith(f"wrong {doc} ")
    assert item[2] == f"right {doc} {SHOWN}"
    assert page.run("return document.querySelectorAll('#panel img, #panel script, #panel pre *').length") == 0
    told = page.run("return document.getElementById('panel').textContent")
    assert "qstudy explain 'my study' v1-sums" in told
    page.press(ESCAPE)
    assert page.run("return document.getElementById('panel').open") is False


def test_the_keyboard_alone_reaches_a_number_and_comes_back(page: Browser) -> None:
    page.run(f"{CELL}.focus()", 0, 0)
    page.press(DOWN, RIGHT, DOWN)
    where = "const cell = document.activeElement; return [cell.parentElement.rowIndex - 2, cell.cellIndex - 3]"
    assert page.run(where) == [2, 1]
    assert page.run("return document.querySelectorAll('#table-main td[tabindex=\"0\"]').length") == 1
    assert not page.run("return document.getElementById('popover').hidden")
    page.press(ENTER)
    assert page.run("return document.getElementById('panel').open")
    page.press(ESCAPE)
    assert page.run(where) == [2, 1]


def test_an_average_leads_to_its_cells_and_back(page: Browser, report: Report) -> None:
    column = [column.group for column in report.tables[0].columns].index("all")
    page.run(f"{CELL}.click()", row_index(report, "v1"), column)
    page.run("document.querySelectorAll('#panel .links button')[1].click()")
    assert page.run("return document.querySelector('#panel h2').textContent").endswith("w4a4 · rtn · sums")
    page.run("document.querySelector('#panel header button').click()")
    assert page.run("return document.querySelector('#panel h2').textContent").endswith("all avg")


def test_a_failed_cell_says_why(page: Browser, report: Report) -> None:
    page.run(f"{CELL}.click()", row_index(report, "v6"), column_index(report, "sums"))
    told = page.run("return document.getElementById('panel').textContent")
    assert "failed (oom_gpu): _a_ % & # $x$" in told
    assert "<img src=x onerror=" in told


def test_light_and_dark_follow_the_system_until_a_reader_chooses(page: Browser) -> None:
    ground = "return getComputedStyle(document.body).backgroundColor"
    light = page.run(ground)
    page.resize(*DESK, dark=True)
    dark = page.run(ground)
    assert light == "rgb(255, 255, 255)"
    assert dark != light
    press = "document.getElementById('theme').click(); return document.getElementById('theme').textContent"
    assert page.run(press) == "Theme: light"
    assert page.run(ground) == light
    assert page.run(press) == "Theme: dark"
    assert page.run(ground) == dark


@pytest.mark.parametrize("size", [DESK, PHONE])
def test_the_page_itself_never_scrolls_sideways(page: Browser, size: tuple[int, int], report: Report) -> None:
    page.resize(*size)
    width = "return [document.documentElement.scrollWidth, innerWidth]"
    assert page.run(width) == [size[0], size[0]]
    page.run("document.querySelector('#table-main').closest('.scroller').scrollLeft = 200")
    label = "const box = document.querySelector('#table-main tbody th.last').getBoundingClientRect(); return box.left"
    assert page.run(label) >= 0
    page.run(f"{CELL}.click()", row_index(report, "v1"), column_index(report, "sums"))
    assert page.run("const panel = document.getElementById('panel'); return panel.scrollWidth - panel.clientWidth") == 0
    assert page.run(width) == [size[0], size[0]]


def test_a_drawing_is_shown_and_runs_nothing(page: Browser) -> None:
    script = (
        "const image = document.querySelector('#drawing img'); return image.decode().then(() => image.naturalWidth)"
    )
    assert page.run(script) == 40


def test_without_its_script_the_page_still_shows_its_tables(browser: Browser, file: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.html"
    head, _, _ = file.read_text(encoding="utf-8").partition('<script type="module">')
    plain.write_text(head + "</body></html>", encoding="utf-8")
    browser.open(plain)
    assert browser.run("return document.querySelectorAll('#table-main tbody tr').length") == 8
    assert browser.run("return document.getElementById('filters').offsetHeight") == 0
