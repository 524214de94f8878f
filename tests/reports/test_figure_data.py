"""What figures show, as data: against numbers made by hand."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reports import ResultStore
from reports.figures import FIGURE_TABLE, FigureSource, NoFigure
from reports.figures.agreement import Agreement, agreement, from_comparisons
from reports.figures.cost_and_score import COSTS, CostAndScore, cost_and_score
from reports.figures.drop_by_group import DropByGroup, drop_by_group
from reports.figures.drop_by_task import DropByTask, drop_by_task, level_colour
from reports.figures.layer_error import LayerError, layer_error
from reports.figures.score_and_bits import ScoreAndBits, pareto_front, score_and_bits
from reports.figures.source import MAX_SERIES
from reports.published import PublishedComparison, published_results, record_paper
from reports.tables import build_study_table

Z = 1.959963984540054
MakeSource = Callable[..., FigureSource]


@pytest.fixture
def source_of() -> MakeSource:
    def make(cells: list[Any], variants: list[Any] | None = None, expected: list[Any] | None = None) -> FigureSource:
        variants = variants or []
        table = build_study_table(cells, expected=expected, spec=FIGURE_TABLE, variants=variants)
        return FigureSource(table=table, cells=cells, variants=variants)

    return make


@pytest.fixture
def small_study(cell_row: Any, failed_row: Any, variant_row: Any) -> tuple[list[Any], list[Any]]:
    """One model with two tasks of one group and one of another; one of its four variants has a failed cell."""
    tasks = {"facts": "general", "places": "general", "sums": "math"}
    scores = {
        ("fp16", "none"): (0.8, 0.6, 0.5),
        ("w4a16g128", "rtn"): (0.6, 0.5, 0.3),
        ("w4a16g128", "gptq"): (0.7, 0.6, 0.4),
        ("w8a8", "rtn"): (0.8, 0.7, 0.5),
        ("w4a4", "rtn"): (0.4, 0.3, None),
    }
    cells, variants = [], []
    for (scheme, method), values in scores.items():
        for (task, group), value in zip(tasks.items(), values, strict=True):
            names = {"scheme": scheme, "method": method, "task": task, "task_group": group}
            if value is None:
                cells.append(failed_row(**names))
            else:
                cells.append(cell_row(**names, value=value, stderr=0.03, num_forwards=int(1000 * value)))
        if scheme != "fp16":
            bits = {"w4a16g128": 4.125, "w8a8": 8.0, "w4a4": 4.0}[scheme]
            names = {"variant_id": f"tiny-{method}-{scheme}", "scheme": scheme, "method": method}
            variants.append(variant_row(**names, effective_bits=bits, quantize_seconds=10 * bits, audit="{}"))
    return cells, variants


# ---- score against bits


def beaten(point: tuple[float, float], points: list[tuple[float, float]]) -> bool:
    """By enumeration, as the definition says."""
    return any(cost <= point[0] and score >= point[1] and (cost, score) != point for cost, score in points)


def test_the_pareto_front_is_the_one_that_enumeration_finds() -> None:
    generator = np.random.default_rng(0)
    for size in itertools.chain(range(6), [30] * 40):
        # Few different numbers: ties in cost, in score and in both.
        points = [(float(generator.integers(5)), float(generator.integers(6))) for _ in range(size)]
        assert pareto_front(points) == [not beaten(point, points) for point in points]


def test_score_and_bits_are_those_of_the_study(source_of: MakeSource, small_study: Any) -> None:
    data = score_and_bits(source_of(*small_study))
    assert isinstance(data, ScoreAndBits)
    assert data.y_title == "Average of 3 tasks (%)"
    (panel,) = data.panels
    found = {(point.scheme, point.series): point for point in panel.points}
    assert {key: point.x for key, point in found.items()} == {
        ("w4a16g128", "rtn"): 4.125,
        ("w4a16g128", "gptq"): 4.125,
        ("w8a8", "rtn"): 8.0,
    }
    gptq = found["w4a16g128", "gptq"].score
    assert gptq.value == pytest.approx(100 * (0.7 + 0.6 + 0.4) / 3)
    half = Z * 100 * 0.03 * math.sqrt(3) / 3
    assert gptq.interval == pytest.approx((gptq.value - half, gptq.value + half))
    assert panel.full_precision is not None
    assert panel.full_precision.value == pytest.approx(100 * (0.8 + 0.6 + 0.5) / 3)


def test_the_fronts_of_rounded_and_of_whole_activations_are_apart(source_of: MakeSource, small_study: Any) -> None:
    data = score_and_bits(source_of(*small_study))
    assert isinstance(data, ScoreAndBits)
    front = {(point.scheme, point.series): point.is_on_front for point in data.panels[0].points}
    # w8a8 takes more bits than gptq and scores more; it is the only one whose activations are rounded.
    assert front == {("w4a16g128", "rtn"): False, ("w4a16g128", "gptq"): True, ("w8a8", "rtn"): True}
    assert [point.is_open for point in data.panels[0].points] == [False, False, True]


def test_a_variant_without_a_score_on_every_task_is_marked_and_never_drawn(
    source_of: MakeSource, small_study: Any
) -> None:
    data = score_and_bits(source_of(*small_study))
    assert isinstance(data, ScoreAndBits)
    assert data.panels[0].unscored == ((4.0, "rtn"),)
    assert all(point.scheme != "w4a4" for point in data.panels[0].points)
    assert "1 variants without a score on every task" in data.caption


def test_a_variant_that_failed_while_quantizing_is_told(
    source_of: MakeSource, small_study: Any, variant_row: Any, expected_cell: Any
) -> None:
    cells, variants = small_study
    failed = variant_row(variant_id="f", status="failed", failure_kind="oom_gpu", effective_bits=None)
    lost = [
        expected_cell(variant_id="f", scheme="w2a16", task=task, cell_id=f"f-{task}") for task in ("facts", "places")
    ]
    data = score_and_bits(source_of(cells, [*variants, failed], [*map(dict, cells), *lost]))
    assert isinstance(data, ScoreAndBits)
    assert data.num_unplaced == 1
    assert "quantizing them failed" in data.caption


def test_the_bits_of_several_seeds_are_their_mean(
    source_of: MakeSource, cell_row: Any, variant_row: Any, expected_cell: Any
) -> None:
    cells = [
        cell_row(scheme=scheme, method=method, variant_id=f"{scheme}-{seed}", cell_id=f"{scheme}-{seed}", value=value)
        for scheme, method, value in (("fp16", "none", 0.9), ("w4a4", "rtn", 0.5))
        for seed in (0, 1)
    ]
    expected = [{**expected_cell(**cell), "seed": int(cell["cell_id"][-1])} for cell in cells]
    variants = [variant_row(variant_id=f"w4a4-{seed}", effective_bits=4.0 + seed / 2) for seed in (0, 1)]
    data = score_and_bits(source_of(cells, variants, expected))
    assert isinstance(data, ScoreAndBits)
    assert [point.x for point in data.panels[0].points] == [4.25]


# ---- what became of full precision


def test_the_heat_map_shows_each_change_and_why_one_is_not_there(
    source_of: MakeSource, small_study: Any, expected_cell: Any
) -> None:
    cells, variants = small_study
    missing = [dict(cell) for cell in cells if cell["cell_id"] != "tiny-rtn-w4a16g128-sums"]
    stored = [cell for cell in cells if cell["cell_id"] != "tiny-rtn-w4a16g128-sums"]
    expected = [*missing, expected_cell(scheme="w4a16g128", method="rtn", task="sums", task_group="math")]
    data = drop_by_task(source_of(stored, variants, expected))
    assert isinstance(data, DropByTask)
    assert [(column.title, column.group) for column in data.columns] == [
        ("facts", "general"),
        ("places", "general"),
        ("sums", "math"),
    ]
    rows = {(row.scheme, row.method): row.contents for row in data.blocks[0].rows}
    assert [found.change for found in rows["w8a8", "rtn"]] == pytest.approx([0.0, 100 / 6, 0.0])
    assert [found.change for found in rows["w4a16g128", "gptq"]] == pytest.approx([-12.5, 0.0, -20.0])
    assert (rows["w4a16g128", "rtn"][2].change, rows["w4a16g128", "rtn"][2].word) == (None, "missing")
    assert (rows["w4a4", "rtn"][2].change, rows["w4a4", "rtn"][2].word) == (None, "failed")


def test_a_metric_that_is_better_when_lower_drops_when_it_rises(source_of: MakeSource, cell_row: Any) -> None:
    perplexity = {"task": "wikitext", "metric": "word_perplexity", "higher_is_better": False}
    cells = [
        cell_row(scheme="fp16", method="none", value=10.0, **perplexity),
        cell_row(scheme="w4a4", value=12.0, **perplexity),
    ]
    data = drop_by_task(source_of(cells))
    assert isinstance(data, DropByTask)
    assert data.blocks[0].rows[0].contents[0].change == pytest.approx(-20.0)
    assert score_and_bits(source_of(cells)) == NoFigure("no task is scored in percent, so there is no average")


def test_a_score_whose_full_precision_is_zero_has_no_change(source_of: MakeSource, cell_row: Any) -> None:
    cells = [cell_row(scheme="fp16", method="none", task=task, value=0.0) for task in ("facts", "sums")]
    cells += [cell_row(task="facts", value=0.1), cell_row(task="sums", value=0.0)]
    cells += [
        cell_row(scheme=scheme, method=method, task="lines", value=0.5)
        for scheme, method in (("fp16", "none"), ("w4a4", "rtn"))
    ]
    data = drop_by_task(source_of(cells))
    assert isinstance(data, DropByTask)
    found = data.blocks[0].rows[0].contents
    assert [(change.change, change.word) for change in found] == [
        (None, "no reference"),
        (0.0, ""),
        (None, "no reference"),
    ]


def test_the_drop_of_a_group_is_that_of_its_mean(source_of: MakeSource, small_study: Any) -> None:
    data = drop_by_group(source_of(*small_study))
    assert isinstance(data, DropByGroup)
    assert data.groups == ("general", "math", "all")
    rows = {(row.scheme, row.method): row.contents for row in data.blocks[0].rows}
    changes = [found.change.value for found in rows["w4a16g128", "gptq"] if found.change]
    assert changes == pytest.approx([100 * (1.3 / 1.4 - 1), -20.0, 100 * (1.7 / 1.9 - 1)])
    # A group without one of its tasks has no drop, and neither has the average over all.
    assert [(found.change is None, found.word) for found in rows["w4a4", "rtn"]] == [
        (False, ""),
        (True, "failed"),
        (True, "failed"),
    ]


@pytest.mark.parametrize(
    ("change", "beside"),
    [(0.0, 0.9), (-1.0, -0.5), (1.0, 0.5), (-4.0, -3.0), (4.0, 3.0), (-32.0, -20.0), (-99.0, -33.0)],
)
def test_a_border_has_the_colour_of_the_level_nearer_to_zero(change: float, beside: float) -> None:
    assert level_colour(change) == level_colour(beside)


def test_levels_are_told_apart() -> None:
    assert len({level_colour(change) for change in (-50, -20, -10, -5, -2, 0, 2, 5)}) == 8


# ---- layers


def audit_of(errors: dict[str, float | None]) -> str:
    return json.dumps({"linears": [{"name": name, "output_error": error} for name, error in errors.items()]})


def test_the_errors_of_a_block_are_summed_up(source_of: MakeSource, cell_row: Any, variant_row: Any) -> None:
    errors = {
        "model.layers.0.mlp.up": 0.1,
        "model.layers.0.mlp.down": 0.4,
        "model.layers.0.attn.q": 0.2,
        "model.layers.10.mlp.up": 0.5,
        "model.layers.10.mlp.down": 0.0,
        "model.layers.10.attn.q": None,
        "lm_head": 0.9,
    }
    cells = [cell_row(variant_id="v1"), cell_row(scheme="w8a8", variant_id="v2")]
    variants = [variant_row(audit=audit_of(errors)), variant_row(variant_id="v2", scheme="w8a8", audit=None)]
    data = layer_error(source_of(cells, variants))
    assert isinstance(data, LayerError)
    (panel,) = data.panels
    assert (panel.model, panel.scheme) == ("tiny", "w4a4")
    assert [dataclasses.astuple(block) for block in panel.lines[0].blocks] == [(0, 0.2, 0.4), (10, 0.5, 0.5)]
    assert data.num_unknown == 1
    assert "1 variants without a measured error" in data.caption


# ---- cost


def test_costs_are_the_seconds_of_the_variant_and_the_forwards_of_its_cells(
    source_of: MakeSource, small_study: Any
) -> None:
    data = cost_and_score(source_of(*small_study))
    assert isinstance(data, CostAndScore)
    costs = {(panel.cost, point.scheme, point.series): point.x for panel in data.panels for point in panel.points}
    assert costs == {
        (COSTS[0], "w4a16g128", "rtn"): 41.25,
        (COSTS[0], "w4a16g128", "gptq"): 41.25,
        (COSTS[0], "w8a8", "rtn"): 80.0,
        (COSTS[1], "w4a16g128", "rtn"): 1400,
        (COSTS[1], "w4a16g128", "gptq"): 1700,
        (COSTS[1], "w8a8", "rtn"): 2000,
    }
    assert data.num_left_out == 1


def test_a_cell_that_did_not_count_its_forwards_leaves_its_variant_out(source_of: MakeSource, small_study: Any) -> None:
    cells, variants = small_study
    for cell in cells:
        if cell["cell_id"] == "tiny-gptq-w4a16g128-sums":
            cell["num_forwards"] = None
    data = cost_and_score(source_of(cells, variants))
    assert isinstance(data, CostAndScore)
    evaluated = {point.series for panel in data.panels if panel.cost == COSTS[1] for point in panel.points}
    assert evaluated == {"rtn"}


# ---- published numbers


def comparison(value: float, stderr: float | None = 1.0, *reasons: str) -> PublishedComparison:
    published = next(result for result in published_results() if result.num_items)
    names = {"model": "m", "method": "rtn", "scheme": "w4a4", "task": published.task}
    return PublishedComparison(
        cell_id="c", **names, value=value, stderr=stderr, published=published, reasons=tuple(reasons)
    )


def test_only_what_compares_with_a_published_score_is_shown() -> None:
    shown, other = comparison(70.0), comparison(60.0, 1.0, "limit differs")
    alone = dataclasses.replace(other, published=None, reasons=("no public result of model m",))
    data = from_comparisons([shown, other, alone])
    assert isinstance(data, Agreement)
    (point,) = data.points
    assert point.ours.interval == pytest.approx((70.0 - Z, 70.0 + Z))
    assert shown.published is not None
    assert point.published.value == shown.published.value
    assert shown.published.stderr is not None
    assert point.published.errors == pytest.approx((Z * shown.published.stderr,) * 2)
    assert data.num_other == 1


def test_a_score_without_a_known_error_has_no_bar() -> None:
    data = from_comparisons([comparison(70.0, None)])
    assert isinstance(data, Agreement)
    assert data.points[0].ours.errors == (0.0, 0.0)


def test_nothing_to_compare_with_is_told_with_the_most_frequent_reason() -> None:
    compared = [comparison(1.0, 1.0, "limit differs"), comparison(2.0, 1.0, "limit differs", "seldom")]
    assert from_comparisons(compared) == NoFigure("no published number to compare with (most often: limit differs)")
    assert from_comparisons([]) == NoFigure("no published number to compare with")


def test_a_publication_is_not_compared_with_itself(source_of: MakeSource, tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    record_paper(store)
    assert agreement(source_of(store.cells())) == NoFigure("no published number to compare with")


# ---- what is not there


def test_a_study_of_full_precision_alone_has_no_figure_and_says_why(source_of: MakeSource, cell_row: Any) -> None:
    source = source_of([cell_row(scheme="fp16", method="none")])
    reasons = [
        found.reason
        for make in (score_and_bits, drop_by_group, drop_by_task, layer_error, cost_and_score)
        if isinstance(found := make(source), NoFigure)
    ]
    assert len(reasons) == 5
    assert all("no " in reason and "variant" in reason for reason in reasons)


def test_variants_of_one_method_share_a_mark_where_there_are_too_many_labels(
    source_of: MakeSource, cell_row: Any
) -> None:
    def made(num: int) -> FigureSource:
        return source_of([cell_row(method_label=f"rtn(clip={index})") for index in range(num)])

    assert len(made(MAX_SERIES).series) == MAX_SERIES
    assert made(MAX_SERIES + 1).series == ("rtn",)
