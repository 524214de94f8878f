"""The HTML page without a browser: its numbers are the tables', no text in it becomes markup, its size is bounded."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import reports.html
from reports import Report, ResultStore, build_report, write_report
from reports.html import Html, Section, element, picture, report_page, sample_sets
from reports.html.items import MAX_TEXT
from reports.html.markup import script_json, visible_text
from reports.tables import show_cell
from tests.reports.sampled_study import HOSTILE, LONG, NUM_ITEMS, SHOWN, SampledStudy, record_study

VOID = {"meta", "img", "input"}
FOLDER = Path(reports.html.__file__).parent


@dataclass
class Node:
    """An element as a browser reads it."""

    name: str
    attributes: dict[str, str | None] = field(default_factory=dict)
    children: list[Node | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    def find(self, name: str) -> list[Node]:
        inner = [child for child in self.children if isinstance(child, Node)]
        return [node for child in inner for node in ([child] if child.name == name else []) + child.find(name)]


class Tree(HTMLParser):
    """Reads a page, and refuses one whose elements do not close in order."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Node("")
        self._open = [self.root]
        self.feed(page)
        self.close()
        assert self._open == [self.root], "elements are left open"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, dict(attrs))
        assert len(node.attributes) == len(attrs), f"an attribute twice in {tag}"
        self._open[-1].children.append(node)
        if tag not in VOID:
            self._open.append(node)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop().name == tag

    def handle_data(self, data: str) -> None:
        self._open[-1].children.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data[:80]}")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, cell_row: Any, failed_row: Any) -> SampledStudy:
    return record_study(tmp_path_factory.mktemp("sampled") / "my study", cell_row, failed_row)


@pytest.fixture(scope="module")
def report(study: SampledStudy) -> Report:
    return build_report(ResultStore(study.folder), study="my study")


def page_of(report: Report, **changes: Any) -> str:
    parts = {"summary": report.summary, "provenance": report.provenance.sentences(), "tables": report.tables}
    return report_page(
        **{"study": "my study", "folder": "my study", **parts, "rows": report.rows, "store": report.store, **changes}
    )


def islands(root: Node) -> dict[str, Any]:
    data = [node for node in root.find("script") if node.attributes.get("type") == "application/json"]
    return {str(node.attributes["id"]): json.loads(node.text) for node in data}


def numbers(root: Node) -> list[list[list[dict[str, Any]]]]:
    """Tables, rows, cells: what the script is given."""
    data = islands(root)["data"]
    return [
        [[dict(itertools.zip_longest(data["fields"], cell)) for cell in row["cells"]] for row in table["rows"]]
        for table in data["tables"]
    ]


def test_the_html_report_is_one_file_that_is_written_with_the_others(study: SampledStudy) -> None:
    paths = write_report(study.folder, formats=["html", "csv"])
    assert [path.name for path in paths] == ["report.html", "report.csv"]
    assert Tree(paths[0].read_text(encoding="utf-8")).root.find("title")[0].text == "Study my study"


def test_the_page_shows_every_cell_of_every_table_as_the_other_printers_do(report: Report) -> None:
    root = Tree(page_of(report)).root
    shown_tables = root.find("table")
    assert [node.attributes["id"] for node in shown_tables] == ["table-main", "table-differences"]
    num_checked = 0
    for table, node in zip(report.tables, shown_tables, strict=True):
        rows = node.find("tbody")[0].find("tr")
        for row, shown_row in zip(table.rows, rows, strict=True):
            labels = [head.find("bdi")[-1].text for head in shown_row.find("th")]
            assert labels == list(row.labels)
            for cell, column, shown in zip(row.cells, table.columns, shown_row.find("td"), strict=True):
                expected = show_cell(cell, column)
                assert shown.text == expected.text + expected.mark + expected.notes
                assert bool(shown.find("b")) == expected.is_best
                num_checked += expected.is_number
    assert num_checked > 50


def test_the_script_is_given_the_numbers_of_the_table_model(report: Report) -> None:
    root = Tree(page_of(report)).root
    ids = [cell[0] for cell in islands(root)["data"]["origins"]["cells"]]
    num_checked = 0
    for table, rows in zip(report.tables, numbers(root), strict=True):
        for cell, given in zip(
            (cell for row in table.rows for cell in row.cells), (cell for row in rows for cell in row), strict=True
        ):
            comparison = cell.comparison
            low, high = cell.interval or (None, None)
            expected = {
                "value": cell.value,
                "stderr": cell.stderr,
                "low": low,
                "high": high,
                "num_items": cell.num_items,
                "drop": cell.drop,
                "difference": comparison.difference if comparison else None,
                "p_value": comparison.p_value if comparison else None,
                "adjusted_p": comparison.adjusted_p if comparison else None,
                "minimum_detectable": comparison.minimum_detectable if comparison else None,
                "num_lower": comparison.num_lower if comparison else None,
            }
            for name, value in expected.items():
                assert given[name] == (None if value is None else pytest.approx(value, rel=1e-5)), name
            assert given["status"] == cell.status
            assert given["severity"] == cell.severity
            assert [ids[place] for place in given["cells"] or []] == list(cell.cell_ids)
            assert [ids[place] for place in given["reference_cells"] or []] == list(cell.reference_cell_ids)
            num_checked += 1
    assert num_checked == sum(len(table.rows) * len(table.columns) for table in report.tables)


def test_the_page_loads_nothing_and_forbids_everything_but_its_own_script(report: Report) -> None:
    root = Tree(page_of(report)).root
    policy = next(node.attributes["content"] for node in root.find("meta") if "http-equiv" in node.attributes)
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    (style,), scripts = root.find("style"), [node for node in root.find("script") if "id" not in node.attributes]
    assert len(scripts) == 1
    for kind, node in (("style-src", style), ("script-src", scripts[0])):
        digest = base64.b64encode(hashlib.sha256(node.text.encode()).digest()).decode()
        assert f"{kind} 'sha256-{digest}'" in policy
    assert "url(" not in style.text
    assert "@import" not in style.text
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|fetch\(|import\(", scripts[0].text
    )
    stack = [root]
    while stack:
        node = stack.pop()
        stack += [child for child in node.children if isinstance(child, Node)]
        assert node.name not in ("link", "iframe", "object", "embed", "base", "svg")
        for name, value in node.attributes.items():
            assert not name.startswith("on")
            assert name != "style"
            if name in ("src", "href", "action", "data"):
                assert str(value).startswith("#" if name == "href" else "data:")


def test_hostile_text_is_data_and_comes_through_as_it_is(report: Report) -> None:
    page = page_of(report)
    root = Tree(page).root
    assert len(root.find("script")) == page.count("</script") == 3
    assert "window.hacked" not in "".join(node.text for node in root.find("script") if "id" not in node.attributes)
    assert not root.find("img")
    samples = islands(root)["samples"]
    assert f"question 0 {SHOWN}" in samples["texts"]
    assert any(text.startswith("right ") and text.endswith(SHOWN) for text in samples["texts"])
    footnote = next(node.text for node in root.find("p") if node.attributes.get("class") == "footnote")
    assert "<img src=x onerror=" in footnote
    assert "\u202e" not in page
    assert "\x00" not in page
    assert "\u2028" not in page
    assert any(head.text.endswith("<b>bold<b>") for head in root.find("th"))


@pytest.mark.parametrize("character", ["_", "%", "&", "#", "$", "{", "}", "\\", "<", ">", "|", "```", '"', "'"])
def test_every_special_character_reaches_a_reader_unchanged(character: str) -> None:
    text = f"a{character}b {character}"
    node = Tree(element("p", text, title=text)).root.find("p")[0]
    assert (node.text, node.attributes["title"]) == (text, text)
    assert json.loads(script_json(text)) == text
    assert not set(script_json(text)) & set("<>&")
    assert visible_text(text, 100) == text


def test_markup_is_escaped_once_and_only_where_it_is_text() -> None:
    inner = element("b", "1 < 2")
    assert isinstance(inner, Html)
    made = element("p", inner, " & ", None, hidden=True, id=None, class_="a", aria_label='"x"')
    assert made == '<p hidden class="a" aria-label="&quot;x&quot;"><b>1 &lt; 2</b> &amp; </p>'


def test_of_a_long_text_the_ends_are_kept_and_the_rest_is_counted(report: Report) -> None:
    page = page_of(report)
    shown = [text for text in islands(Tree(page).root)["samples"]["texts"] if text.startswith("wrong 0 ")]
    length = len(f"wrong 0 {LONG}")
    assert len(shown) == 1
    assert shown[0].startswith("wrong 0 begin xxx")
    assert shown[0].endswith("xxx end")
    assert f"{length - MAX_TEXT:,} of {length:,} characters left out" in shown[0]
    assert max(map(len, islands(Tree(page).root)["samples"]["texts"])) < MAX_TEXT + 100
    assert len(page) < 400_000


def test_lost_and_gained_items_are_those_that_a_count_by_hand_finds(report: Report, study: SampledStudy) -> None:
    sets = islands(Tree(page_of(report)).root)["samples"]["sets"]
    num_lost = 0
    for cell_id, scores in study.scores.items():
        found = sets[f"{cell_id} acc,none"]
        variant, _, task = cell_id.partition("-")
        number = int(variant[1:])
        if number % 4 == 0:
            assert found["reference"] is None
            assert set(found) == {"reference", "failing"}
            assert found["failing"][0] == scores.count(0.0)
            continue
        base = study.scores[f"v{number - number % 4}-{task}"]
        pairs = list(enumerate(zip(scores, base, strict=True)))
        expected = {
            "lost": [doc for doc, (own, other) in pairs if own < other],
            "gained": [doc for doc, (own, other) in pairs if own > other],
            "failing": [doc for doc, (own, other) in pairs if own == other == 0],
        }
        for kind, docs in expected.items():
            assert found[kind][0] == len(docs)
            assert [item["doc"] for item in found[kind][1]] == docs
        num_lost += len(expected["lost"])
    assert num_lost > 60


def test_a_sample_has_its_own_answer_and_that_of_full_precision(report: Report) -> None:
    samples = islands(Tree(page_of(report)).root)["samples"]
    texts = samples["texts"]
    lost = samples["sets"]["v1-sums acc,none"]["lost"][1][0]
    (_, own, base) = lost["answers"][0]
    assert texts[own].startswith(f"wrong {lost['doc']} ")
    assert texts[base] == f"right {lost['doc']} {SHOWN}"
    assert (lost["score"], lost["base"]) == (0.0, 1.0)
    choices = samples["sets"]["v1-facts acc,none"]["lost"][1][0]["answers"]
    assert [texts[choice] for choice, _, _ in choices] == [f" choice {place} {SHOWN}" for place in range(3)]
    assert [(own, base) for _, own, base in choices] == [(-2.0, -1.0), (-1.0, -2.0), (-2.0, -3.0)]


class WithTargets:
    """A store whose samples say the right answer of their items."""

    def __init__(self, store: Any) -> None:
        self.score_table = store.score_table
        self._store = store

    def sample_table(self, cell_id: str) -> pa.Table:
        table = self._store.sample_table(cell_id)
        targets = pa.array([f"target {doc} {HOSTILE}" for doc in table["doc_id"].to_pylist()])
        kept = [name for name in table.column_names if name != "target"]
        return table.select(kept).append_column("target", targets)


def test_the_right_answer_of_an_item_is_shown_where_it_is_stored(report: Report) -> None:
    samples = islands(Tree(page_of(report, store=WithTargets(report.store))).root)["samples"]
    lost = samples["sets"]["v1-facts acc,none"]["lost"][1][0]
    assert samples["texts"][lost["target"]] == f"target {lost['doc']} {SHOWN}"
    assert "target" not in islands(Tree(page_of(report)).root)["samples"]["sets"]["v1-facts acc,none"]["lost"][1][0]


def test_sections_stand_where_the_report_puts_them(report: Report) -> None:
    findings = Section(name="findings", title="Findings & <more>", body=element("p", "1 < 2"))
    figures = Section(name="figures", title="Figures", body=element("p", "a figure"))
    main = Tree(page_of(report, before_tables=[findings], after_tables=[figures])).root.find("main")[0]
    titles = [node.text for node in main.find("h2")]
    tables = [table.title for table in report.tables]
    assert titles == ["Findings & <more>", *tables, "Figures", "Provenance"]
    order = [node.attributes.get("id") for node in main.children if isinstance(node, Node)]
    assert order.index("findings") < order.index("filters") < order.index("section-main")


def test_where_less_is_better_an_item_is_lost_when_it_scores_more(tmp_path: Path, cell_row: Any) -> None:
    store = ResultStore(tmp_path)
    for scheme, method, values in (("fp16", "none", [1.0, 2.0, 3.0]), ("w4a4", "rtn", [4.0, 1.0, 3.0])):
        names = {"cell_id": scheme, "scheme": scheme, "method": method, "metric": "loss", "higher_is_better": False}
        store.record_cell([cell_row(**names, value=sum(values) / 3, num_items=3)])
        rows = [{"doc_id": doc, "filter": "none", "metric": "loss", "value": value} for doc, value in enumerate(values)]
        store.record_scores(scheme, rows)
    page = page_of(build_report(store, study="s"))
    found = islands(Tree(page).root)["samples"]["sets"]["w4a4 loss,none"]
    assert [[item["doc"] for item in found[kind][1]] for kind in ("lost", "gained", "failing")] == [[0], [1], []]
    assert found["lost"][1][0]["answers"] == []


@pytest.mark.parametrize("max_bytes", [60_000, 75_000, 90_000, 8_000_000])
def test_the_page_stays_within_its_room_and_says_what_it_left_out(report: Report, max_bytes: int) -> None:
    page = page_of(report, max_bytes=max_bytes)
    sets = islands(Tree(page).root)["samples"]["sets"]
    kinds = ("lost", "gained", "failing")
    given = [found[kind] for found in sets.values() for kind in kinds if kind in found]
    num_shown, num_all = sum(len(items) for _, items in given), sum(total for total, _ in given)
    frame = len(page_of(report, store=None).encode())
    assert len(page.encode()) < max(max_bytes, frame) + 2000
    if num_shown == num_all:
        assert max_bytes == 8_000_000
        assert f"The page has all {num_all} samples" in page
        return
    assert f"The page has {num_shown} of {num_all} samples" in page
    assert "qstudy export 'my study' --samples" in page
    # No number is shown a second item of before every one is shown a first.
    firsts = [len(items) for total, items in given if total]
    assert max(firsts) - min(firsts) <= 1 or min(firsts) == min(total for total, _ in given if total)


def test_where_not_all_can_be_read_the_cells_that_lost_most_are(
    report: Report, study: SampledStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample_sets, "_MAX_READ", 3 * (1000 + NUM_ITEMS))
    page = page_of(report)
    shown = set(islands(Tree(page).root)["samples"]["sets"])

    def num_lost(cell_id: str) -> int:
        variant, _, task = cell_id.partition("-")
        base = study.scores[f"v{int(variant[1:]) // 4 * 4}-{task}"]
        return sum(own < other for own, other in zip(study.scores[cell_id], base, strict=True))

    ranked = sorted(study.scores, key=num_lost, reverse=True)
    assert len(shown) == 3
    least_shown = min(num_lost(name.split()[0]) for name in shown)
    assert least_shown >= num_lost(ranked[3])
    assert "of 3 of 15 cells (those that lost the most)" in page


def test_a_study_without_scores_of_items_has_a_page_that_says_so(tmp_path: Path, cell_row: Any) -> None:
    store = ResultStore(tmp_path)
    store.record_cell([cell_row(scheme="fp16", method="none", value=0.8)])
    store.record_cell([cell_row(value=0.6)])
    page = page_of(build_report(store, study="s"))
    assert "The page has no samples: no scores of single items are stored." in page
    assert islands(Tree(page).root)["samples"] == {"texts": [], "sets": {}}


def test_the_page_says_what_ran_each_cell_and_why_one_failed(report: Report) -> None:
    data = islands(Tree(page_of(report)).root)["data"]
    origins = data["origins"]
    cells = {cell[0]: dict(itertools.zip_longest(origins["fields"], cell)) for cell in origins["cells"]}
    assert cells["v1-sums"]["finished"] == "2026-01-02 03:04 UTC"
    assert cells["v1-sums"]["failure"] is None
    assert cells["v6-sums"]["failure"].startswith("oom_gpu: _a_ %")
    assert origins["runs"] == [
        {
            "device": "cpu",
            "host": "somewhere",
            "packages": "torch 2.13.0, lm-eval 0.4.13",
            "qstudy": "0.1.0",
            "revision": "0123abcd",
            "seeds": "[0]",
        }
    ]
    failed = [cell for row in numbers(Tree(page_of(report)).root)[0] for cell in row if cell["status"] == "failed"]
    notes = data["tables"][0]["notes"]
    assert failed
    assert all(notes[str(cell["notes"][0])].startswith("failed (oom_gpu): _a_") for cell in failed if cell["notes"])


def test_every_colour_of_text_stands_out_from_its_ground_in_both_schemes() -> None:
    style = (FOLDER / "page.css").read_text(encoding="utf-8")
    pairs = re.findall(r"--([a-z-]+): light-dark\(#([0-9a-f]{6}), #([0-9a-f]{6})\)", style)
    assert len(pairs) == len(re.findall(r"light-dark\(", style))
    for scheme in (0, 1):
        colours = {name: values[scheme] for name, *values in pairs}
        grounds = {
            "text": ("ground", "raised", "moderate", "significant"),
            "muted": ("ground", "raised"),
            "accent": ("ground", "raised"),
            "bad": ("ground", "raised"),
            "on-accent": ("accent",),
        }
        for text, behind in grounds.items():
            for ground in behind:
                assert contrast(colours[text], colours[ground]) >= 4.5, (scheme, text, ground)
        # Apart also where colours cannot be told from each other.
        assert contrast(colours["moderate"], colours["significant"]) >= 1.4


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours, as WCAG 2.1 defines it."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    channels = [int(colour[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    red, green, blue = (value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_a_drawing_is_put_in_as_an_image_that_cannot_run_anything() -> None:
    svg = "<svg xmlns='http://www.w3.org/2000/svg'><script>window.hacked = 1</script></svg>"
    root = Tree(picture(svg, title='a "drawing"')).root
    (image,) = root.find("img")
    source = str(image.attributes["src"])
    assert base64.b64decode(source.removeprefix("data:image/svg+xml;base64,")).decode() == svg
    assert image.attributes["alt"] == 'a "drawing"'
    assert not root.find("script")


def test_hostile_text_holds_what_it_is_for() -> None:
    assert all(part in HOSTILE for part in ("</script>", "<!--", "\u2028", "\u202e", "\x00", "```", "\u05e9"))
