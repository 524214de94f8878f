"""Figures as they are drawn: legible, whatever the names are, and the same bytes every time."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator
from typing import Any
from xml.etree import ElementTree

import matplotlib
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from reports.figures import FIGURE_FORMATS, FIGURE_TABLE, FigurePage, FigureSource
from reports.figures import agreement as agreement_figure
from reports.figures.agreement import Agreement, AgreementPoint
from reports.figures.drawing import draw_figure
from reports.figures.pages import FIGURE_NAMES
from reports.figures.score_and_bits import ScoreAndBits, score_and_bits
from reports.figures.score_and_bits import draw as draw_score_and_bits
from reports.figures.sections import html_figures
from reports.figures.source import Measured
from reports.figures.style import DOUBLE_COLUMN, house_style, marks_of, shown_text, text_width
from reports.tables import build_study_table

OWN_FIGURES = [name for name in FIGURE_NAMES if name != "agreement"]
HOSTILE = [
    "_hidden",
    r"$\nosuchcommand{a}$ & <b> \x #%{}~^",
    "a_b^c--> ]]>",
    "😀 \U0001d518nknown glyphs \U0001fae0",
    "שלום مرحبا",
    "\u202eright\u0007\ud800",
    "x" * 100_000,
    "gptq(act_order=true, damp_percent=0.01, block_size=128, other=1)",
    "gptq(act_order=true, damp_percent=0.05, block_size=128, other=1)",
]
MakeSource = Callable[..., FigureSource]


@pytest.fixture
def source_of(cell_row: Any, failed_row: Any, variant_row: Any) -> MakeSource:
    """A study: every method at every scheme on every model and task, with a few failures. Names as given."""

    def make(
        models: list[str], methods: list[str], schemes: list[str], tasks: dict[str, str], failures: int = 7
    ) -> FigureSource:
        cells, variants = [], []
        kinds = [("fp16", "none"), *itertools.product(schemes, methods)]
        for number, (model, (scheme, method)) in enumerate(itertools.product(models, kinds)):
            names = {"model": model, "scheme": scheme, "method": method, "variant_id": f"v{number}"}
            if scheme != "fp16":
                variants.append(variant_row(**names, **variant_facts(number, scheme)))
            for place, (task, group) in enumerate(tasks.items()):
                here = names | {"task": task, "task_group": group, "cell_id": f"c{number}-{place}"}
                if failures and scheme != "fp16" and (number * len(tasks) + place) % failures == 3:
                    cells.append(failed_row(**here))
                else:
                    value = 0.9 if scheme == "fp16" else 0.2 + 0.6 * ((number * 37 + place * 11) % 100) / 100
                    cells.append(cell_row(**here, value=value, num_forwards=9_000 + 100 * number))
        table = build_study_table(cells, spec=FIGURE_TABLE, variants=variants)
        return FigureSource(table=table, cells=cells, variants=variants)

    return make


def variant_facts(number: int, scheme: str) -> dict[str, Any]:
    linears = [
        {"name": f"model.layers.{block}.up", "output_error": 0.01 * (1 + number % 7) * (1 + block)}
        for block in range(4)
    ]
    return {
        "effective_bits": int(scheme[1]) + 0.01 * number % 0.2,
        "quantize_seconds": 2.0 * number + 1,
        "audit": json.dumps({"linears": linears}),
    }


@pytest.fixture
def usual(source_of: MakeSource) -> FigureSource:
    tasks = {"arc_challenge": "general", "hellaswag": "general", "gsm8k": "math", "humaneval": "code"}
    methods = ["rtn", "gptq", "smoothquant", "quarot"]
    return source_of(["llada-base", "dream-base"], methods, ["w4a16g128", "w8a8", "w4a4"], tasks)


@pytest.fixture
def hostile(source_of: MakeSource) -> FigureSource:
    tasks = dict(zip(HOSTILE, HOSTILE, strict=True))
    return source_of([HOSTILE[4] + "/" + HOSTILE[1], "y" * 900], HOSTILE, ["w4a4kv4"], tasks, failures=23)


@pytest.fixture
def one_cell(source_of: MakeSource) -> FigureSource:
    return source_of(["tiny"], ["rtn"], ["w4a4"], {"facts": "general"}, failures=0)


def figures_of(name: str, source: FigureSource, monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The drawn figures themselves, caught where they become bytes."""
    caught: list[Figure] = []

    def catch(figure: Figure, kind: str) -> bytes:
        figure.draw_without_rendering()
        caught.append(figure)
        return b""

    monkeypatch.setattr("reports.figures.drawing.figure_bytes", catch)
    assert isinstance(draw_figure(name, source, ["png"]), list)
    return caught


def shown_texts(figure: Figure) -> Iterator[Text]:
    """The texts that a reader sees."""
    yield from figure.texts
    for legend in figure.legends:
        yield from legend.get_texts()
    for axes in figure.axes:
        yield from axes.texts
        if axes.axison:
            yield from (axes.title, axes._left_title)
            for axis in (axes.xaxis, axes.yaxis):
                low, high = sorted(axis.get_view_interval())
                yield from (tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high)


def boxes(figure: Figure) -> dict[str, Any]:
    """What the texts cover, in pixels."""
    found = [text for text in shown_texts(figure) if text.get_visible() and text.get_text().strip()]
    return {f"{number} {text.get_text()}": text.get_window_extent() for number, text in enumerate(found)}


@pytest.mark.parametrize("name", OWN_FIGURES)
@pytest.mark.parametrize("study", ["usual", "hostile", "one_cell"])
def test_all_text_is_within_the_figure_and_no_text_covers_another(
    name: str, study: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    for figure in figures_of(name, request.getfixturevalue(study), monkeypatch):
        found = boxes(figure)
        assert len(found) > 3
        canvas = figure.bbox
        outside = [
            text
            for text, box in found.items()
            if box.x0 < -0.5 or box.y0 < -0.5 or box.x1 > canvas.x1 + 0.5 or box.y1 > canvas.y1 + 0.5
        ]
        assert not outside
        # Boxes hold the room above and below letters; only what goes deeper than that is an overlap.
        shrunk = {text: box.padded(-1.5) for text, box in found.items()}
        pairs = itertools.combinations(shrunk.items(), 2)
        covered = [(one, other) for (one, box), (other, second) in pairs if box.overlaps(second)]
        assert not covered


@pytest.mark.parametrize("name", OWN_FIGURES)
def test_figures_fit_a_page_and_its_columns(name: str, usual: FigureSource, monkeypatch: pytest.MonkeyPatch) -> None:
    for figure in figures_of(name, usual, monkeypatch):
        width, height = figure.get_size_inches()
        assert width in (3.3, 6.9)
        assert height < 9.5


def test_the_legend_is_outside_the_data(usual: FigureSource, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OWN_FIGURES:
        for figure in figures_of(name, usual, monkeypatch):
            for legend in figure.legends:
                lowest = min(axes.get_window_extent().y0 for axes in figure.axes)
                assert legend.get_window_extent().y1 < lowest


def test_hostile_names_neither_warn_nor_break_a_file(hostile: FigureSource) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pages = [page for name in OWN_FIGURES for page in pages_of(name, hostile, ["svg"])]
        pages_of("drop-by-group", hostile, ["pdf"])
    texts = set()
    for page in pages:
        ElementTree.fromstring(page.contents["svg"])  # noqa: S314
        texts.add(page.contents["svg"].decode())
    # What is drawn as shapes stands beside them as a comment: the formula is text, with its dollars.
    assert any(r"$\nosuchcommand{a}$" in text for text in texts)


def pages_of(name: str, source: FigureSource, formats: list[str]) -> list[FigurePage]:
    found = draw_figure(name, source, formats)
    assert isinstance(found, list)
    return found


def digests(source: FigureSource) -> list[str]:
    pages = [page for name in OWN_FIGURES for page in pages_of(name, source, list(FIGURE_FORMATS))]
    return [hashlib.sha256(content).hexdigest() for page in pages for content in page.files.values()]


def test_the_same_study_gives_the_same_bytes_whatever_the_settings_are(one_cell: FigureSource) -> None:
    first = digests(one_cell)
    with matplotlib.rc_context({"font.size": 30, "svg.hashsalt": "other", "pdf.fonttype": 3, "axes.facecolor": "red"}):
        again = digests(one_cell)
        assert matplotlib.rcParams["font.size"] == 30
    assert first == again
    assert len(set(first)) == 15


def test_files_hold_no_date_and_pdfs_hold_truetype(one_cell: FigureSource) -> None:
    for page in pages_of("score-and-bits", one_cell, list(FIGURE_FORMATS)):
        assert b"CreationDate" not in page.contents["pdf"]
        assert b"/CIDFontType2" in page.contents["pdf"]
        assert b"/Type3" not in page.contents["pdf"]
        assert b"<dc:date>" not in page.contents["svg"]
        assert b"tEXt" not in page.contents["png"]


def test_drawing_needs_no_display_and_leaves_pyplot_alone() -> None:
    code = """
        import sys
        from reports.figures.score_and_bits import BitsPanel, ScoreAndBits, draw
        from reports.figures.panels import ScorePoint
        from reports.figures.source import Measured
        from reports.figures.style import figure_bytes, house_style
        point = ScorePoint("rtn", "w4a4", 4.0, Measured(50.0, (40.0, 60.0)), True, True)
        data = ScoreAndBits((BitsPanel("m", (point,), None, ()),), "score", ("rtn",), 0)
        with house_style():
            print(len(figure_bytes(draw(data)[0], "png")) > 1000, "matplotlib.pyplot" in sys.modules)
    """
    environment = {key: value for key, value in os.environ.items() if key != "DISPLAY"} | {"MPLBACKEND": "TkAgg"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60, env=environment
    )
    assert (done.stdout.split(), done.stderr) == (["True", "False"], "")


def test_a_large_study_goes_over_pages_that_lose_no_row(source_of: MakeSource, monkeypatch: pytest.MonkeyPatch) -> None:
    methods = [f"method{number}" for number in range(40)]
    source = source_of(["m"], methods, ["w4a16", "w4a4"], {"facts": "general", "sums": "math"})
    figures = figures_of("drop-by-task", source, monkeypatch)
    assert len(figures) == 2
    shown = [text.get_text() for figure in figures for text in figure.texts]
    assert all(shown.count(method) == 2 for method in methods)
    assert shown.count("m") == 2


def test_many_tasks_go_over_pages_of_legible_columns(source_of: MakeSource, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = {f"task_{number}": f"group{number // 6}" for number in range(30)}
    figures = figures_of("drop-by-task", source_of(["m"], ["rtn"], ["w4a4"], tasks), monkeypatch)
    shown = [text.get_text() for figure in figures for text in figure.texts]
    assert len(figures) > 1
    assert all(shown.count(task) == 1 for task in tasks)
    for figure in figures:
        assert min(axes.get_window_extent().width for axes in figure.axes) / figure.dpi > 0.38


def test_cells_without_a_number_are_said_to_be_so(usual: FigureSource, monkeypatch: pytest.MonkeyPatch) -> None:
    num_failed = sum(row["status"] == "failed" for row in usual.cells)
    (figure,) = figures_of("drop-by-task", usual, monkeypatch)
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert texts.count("failed") == num_failed > 3
    (figure,) = figures_of("drop-by-group", usual, monkeypatch)
    assert [text.get_text() for axes in figure.axes for text in axes.texts].count("failed") > num_failed


def test_the_marks_stand_where_the_data_is(one_cell: FigureSource) -> None:
    data = score_and_bits(one_cell)
    assert isinstance(data, ScoreAndBits)
    with house_style():
        (figure,) = draw_score_and_bits(data)
    (container,) = figure.axes[0].containers
    (point,) = data.panels[0].points
    assert container[0].get_xydata().tolist() == [[pytest.approx(point.x), point.score.value]]
    (bars,) = container[2]
    assert [y for _, y in bars.get_segments()[0]] == pytest.approx(point.score.interval)


def test_agreement_is_drawn_with_the_line_of_equals() -> None:
    points = tuple(
        AgreementPoint(
            task=f"task_{number % 3}",
            model="m",
            method="rtn",
            scheme="w4a4",
            ours=Measured(40.0 + number, (38.0, 42.0 + number)),
            published=Measured(41.0, (40.0, 42.0)),
        )
        for number in range(6)
    )
    data = Agreement(points, ("task_0", "task_1", "task_2"), 4)
    assert "4 pairs that do not compare" in data.caption
    with house_style():
        (figure,) = agreement_figure.draw(data)
        figure.draw_without_rendering()
    axes = figure.axes[0]
    assert axes.get_xlim() == axes.get_ylim()
    assert axes.lines[0].get_xdata().tolist() == axes.lines[0].get_ydata().tolist()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["task_0", "task_1", "task_2", "equal"]


# ---- text and marks


def test_a_text_keeps_its_ends_and_the_width_it_is_given() -> None:
    shown = shown_text("gptq(act_order=true, damp_percent=0.05)", max_width=1.2)
    assert text_width(shown, 7.0) <= 1.2
    assert shown.startswith("gptq(")
    assert shown.endswith("0.05)")
    assert "…" in shown
    assert shown_text("short", max_width=DOUBLE_COLUMN) == "short"


def test_characters_that_the_font_lacks_are_replaced() -> None:
    assert shown_text("a\U0001fae0b\u202ec\nd") == "a\ufffdb\ufffdc d"


def test_series_differ_without_their_colours() -> None:
    marks = marks_of([str(number) for number in range(10)])
    assert len({mark.marker for mark in marks.values()}) == 10
    many = marks_of([str(number) for number in range(70)])
    assert len({(mark.marker, mark.colour) for mark in many.values()}) == 70


def test_pages_are_embedded_as_images_up_to_a_size(one_cell: FigureSource) -> None:
    pages = [page for name in ("drop-by-group", "drop-by-task") for page in pages_of(name, one_cell, ["svg"])]
    (section,) = html_figures(pages)
    assert str(section.body).count('<img src="data:image/svg+xml;base64,') == 2
    (small,) = html_figures(pages, max_bytes=len(pages[0].contents["svg"]))
    assert str(small.body).count("<img") == 1
    assert f"see the folder of figures: {pages[1].heading}" in str(small.body)
    without = pages_of("drop-by-group", one_cell, ["png"])
    assert html_figures(without) == []
    assert without[0].shown_file == "figures/drop-by-group.png"
