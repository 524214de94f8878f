"""Published results: the paper's tables, what is wrong in them, and a study beside them."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import pytest

from grids.resolution import HUB_TEXTS
from grids.schemes import parse_scheme
from reports.published import (
    PublishedComparison,
    compare_with_published,
    erratum_notes,
    find_errata,
    model_name,
    paper_averages,
    paper_tables,
    published_results,
)

GSM8K = {
    "task": {
        "name": "gsm8k",
        "limit": None,
        "num_fewshot": 4,
        "protocol": {
            "version": 1,
            "gen_length": 256,
            "steps": 256,
            "block_length": 32,
            "temperature": 0.0,
            "remasking": "low_confidence",
            "eos_ends_answer": True,
        },
    },
    "variant": {
        "model": {"digest": "0" * 64, "dtype": "bfloat16", "chat_template": False},
        "method": {"name": "gptq", "version": 1, "parameters": {"symmetric": False}},
        "calibration": {"digest": HUB_TEXTS["wikitext2"].digest, "num_samples": 128, "length": 2048},
    },
}


@pytest.fixture
def gsm8k_row(cell_row: Any) -> Any:
    """A cell of the paper's Table 3: GPTQ at w4a16g128 on LLaDA-8B-Base, as our study would measure it."""

    def row(config: dict[str, Any] = GSM8K, **changes: Any) -> dict[str, Any]:
        measured: dict[str, Any] = {
            "model": "GSAI-ML/LLaDA-8B-Base",
            "method": "gptq",
            "scheme": "w4a16g128",
            "task": "gsm8k",
            "num_fewshot": config["task"]["num_fewshot"],
            "metric": "exact_match",
            "filter": "flexible-extract",
            "value": 0.70,
            "stderr": 0.0126,
            "cell_id": "c1",
            "config": json.dumps(config),
            **changes,
        }
        made: dict[str, Any] = cell_row(**measured)
        return made

    return row


def changed(*keys: str, to: Any) -> dict[str, Any]:
    config = copy.deepcopy(GSM8K)
    inner: Any = config
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = to
    return config


def of_source(comparisons: list[PublishedComparison], source: str) -> PublishedComparison:
    (found,) = [row for row in comparisons if row.published is not None and row.published.source.name == source]
    return found


def test_the_paper_has_228_scores_in_five_tables_each_once() -> None:
    paper = [result for result in published_results() if result.source.name == "paper"]
    assert len(paper) == 228
    assert len({(result.model, result.method, result.scheme, result.task) for result in paper}) == 228
    assert {table: len(tasks) for table, tasks in paper_tables().items()} == {1: 6, 2: 5, 3: 2, 4: 2, 5: 4}
    assert len(paper_averages()) == 10 + 14 + 22 + 22 + 5


def test_scores_of_every_kind_are_as_their_sources_print_them() -> None:
    values = {
        (result.source.name, result.place, result.model, result.method, result.scheme, result.task): result.value
        for result in published_results()
    }
    assert values["paper", "Table 2", "llada-8b-base", "smoothquant", "w4a4", "mmlu"] == 27.1
    assert values["paper", "Table 5", "dream-7b-base", "awq", "w3a16g128", "arc_easy"] == 74.5
    assert values["llada", "base, length 512", "llada-8b-base", "none", "fp16", "minerva_math"] == 30.9
    assert values["dllm", "Dream-v0-Instruct-7B", "dream-7b-instruct", "none", "fp16", "gsm8k"] == 82.0
    assert values["qdlm", "Dream.md", "dream-7b-instruct", "gptq", "w4a16g128", "gsm8k"] == 76.04
    assert values["gptqmodel-llada", "4-bit GPTQ", "llada-8b-base", "gptq", "w4a16", "arc_challenge"] == 45.48


def test_every_published_result_can_be_read_by_the_programs_own_words() -> None:
    known = {"none", "gptq", "awq", "smoothquant", "quarot", "duquant"}
    for result in published_results():
        assert parse_scheme(result.scheme).name == result.scheme
        assert result.method in known
        assert (result.method == "none") == (result.scheme == "fp16")
        assert 0 <= result.value <= 100
        assert result.source.url.startswith("https://")


def test_published_standard_errors_are_the_known_ones_of_the_fields_tasks() -> None:
    known = {
        "gsm8k": 1.3,
        "minerva_math": 0.6,
        "humaneval": 3.7,
        "mbpp": 2.2,
        "piqa": 1.0,
        "winogrande": 1.3,
        "arc_challenge": 1.5,
        "arc_easy": 0.9,
        "mmlu": 0.4,
    }
    found = {
        result.task: round(result.stderr, 1)
        for result in published_results()
        if result.source.name == "paper"
        and (result.model, result.method) == ("llada-8b-base", "none")
        and result.stderr is not None
    }
    assert found == known | {"hellaswag": 0.5}


def test_exactly_the_four_known_errata_are_found_by_recomputation() -> None:
    found = {
        (erratum.table, erratum.quantity): [
            (row.model, row.method, row.scheme, row.printed, round(row.recomputed, 2)) for row in erratum.rows
        ]
        for erratum in find_errata()
    }
    assert list(found) == [(1, "average"), (1, "change"), (2, "average"), (4, "average")]
    # No average of Table 1 fits its six columns.
    assert len(found[1, "average"]) == 10
    assert ("llada-8b-base", "none", "fp16", 65.5, 66.4) in found[1, "average"]
    assert ("llada-8b-instruct", "gptq", "w4a16g128", 66.0, 67.9) in found[1, "average"]
    assert found[1, "change"] == [("llada-8b-instruct", "awq", "w4a16g128", -0.1, -1.22)]
    assert found[2, "average"] == [("llada-8b-base", "quarot", "w4a4", 59.2, 61.24)]
    assert found[4, "average"] == [("llada-8b-instruct", "smoothquant", "w8a8", 38.6, 37.15)]


def test_the_notes_on_errata_are_about_what_recomputation_finds() -> None:
    assert [(note["table"], note["quantity"]) for note in erratum_notes()] == [
        (erratum.table, erratum.quantity) for erratum in find_errata()
    ]


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("GSAI-ML/LLaDA-8B-Base", "llada-8b-base"),
        ("models/LLaDA-8B-Instruct/", "llada-8b-instruct"),
        ("LLaDA-8B", "llada-8b-base"),
        ("Dream-org/Dream-v0-Base-7B", "dream-7b-base"),
        ("llada-8b-base", "llada-8b-base"),
        ("tiny-llada-base", "tiny-llada-base"),
    ],
)
def test_names_of_one_checkpoint_are_one(name: str, known: str) -> None:
    assert model_name(name) == known


def test_a_cell_measured_as_the_paper_did_is_compared_with_its_noise(gsm8k_row: Any) -> None:
    row = of_source(compare_with_published([gsm8k_row()]), "paper")
    assert row.published is not None
    assert (row.value, row.published.value, row.reasons) == (70.0, 68.5, ())
    assert row.difference == pytest.approx(1.5)
    assert row.difference_stderr == pytest.approx(math.hypot(1.26, 100 * math.sqrt(0.685 * 0.315 / 1319)))
    assert row.within_noise is True
    assert row.unstated == ("eos_ends_answer", "filter", "metric")
    assert row.caveats == ()


def test_the_border_of_noise_is_1_96_standard_errors_of_the_difference(gsm8k_row: Any) -> None:
    stderr = math.hypot(1.26, 100 * math.sqrt(0.685 * 0.315 / 1319))
    for factor, is_noise in ((1.95, True), (1.97, False), (-1.95, True), (-1.97, False)):
        row = of_source(compare_with_published([gsm8k_row(value=0.685 + factor * stderr / 100)]), "paper")
        assert row.within_noise is is_noise, factor


def test_without_a_standard_error_of_ours_nothing_is_called_noise(gsm8k_row: Any) -> None:
    row = of_source(compare_with_published([gsm8k_row(stderr=None)]), "paper")
    assert row.difference == pytest.approx(1.5)
    assert row.within_noise is None


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (changed("task", "num_fewshot", to=5), "protocol differs: num_fewshot is 5, published 4"),
        (changed("task", "protocol", "gen_length", to=128), "protocol differs: gen_length is 128, published 256"),
        (changed("task", "protocol", "block_length", to=256), "protocol differs: block_length is 256, published 32"),
        (changed("task", "protocol", to={"gen_length": 256, "steps": 256, "block_length": 32, "temperature": 0.0}),
         "protocol differs: remasking is not set, published low_confidence"),
        (changed("task", "limit", to=100), "limit differs: ours is the first 100 items, published all 1319"),
    ],
)  # fmt: skip
def test_a_cell_measured_otherwise_is_not_compared_and_says_which_field_differs(
    config: dict[str, Any], reason: str, gsm8k_row: Any
) -> None:
    row = of_source(compare_with_published([gsm8k_row(config)]), "paper")
    assert row.reasons == (reason,)
    assert (row.difference, row.within_noise) == (None, None)


def test_a_limit_beyond_the_split_is_no_limit(gsm8k_row: Any) -> None:
    assert of_source(compare_with_published([gsm8k_row(changed("task", "limit", to=1319))]), "paper").reasons == ()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"scheme": "w4a16g64"}, "scheme differs in granularity: ours has groups of 64, published groups of 128"),
        (
            {"scheme": "w4a16"},
            "scheme differs in granularity: ours has a scale per output channel, published groups of",
        ),
        ({"scheme": "w2a16g128"}, "no public result at w2a16g128 here, only at w3a16g128, w4a16g128"),
        ({"method": "rtn"}, "no public result of rtn here, only of awq, duquant, gptq, none, quarot, smoothquant"),
        ({"task": "demo_math"}, "no public result of this model on demo_math"),
        ({"model": "tiny-llada-base"}, "no public result of model tiny-llada-base"),
    ],
)
def test_a_cell_that_nobody_published_says_what_lacks(changes: dict[str, Any], reason: str, gsm8k_row: Any) -> None:
    (row,) = compare_with_published([gsm8k_row(**changes)])
    assert len(row.reasons) == 1
    assert row.reasons[0].startswith(reason)
    assert row.difference is None


def test_a_variant_that_was_made_otherwise_is_compared_with_a_caveat(gsm8k_row: Any) -> None:
    config = changed("variant", "calibration", to={"digest": "f" * 16, "num_samples": 64, "length": 2048})
    config["variant"]["method"]["parameters"]["symmetric"] = True
    row = of_source(compare_with_published([gsm8k_row(config)]), "paper")
    assert row.reasons == ()
    assert row.caveats == (
        "made otherwise: parameters.symmetric is True, published False",
        "calibrated on another text or another copy than wikitext2",
        "made otherwise: calibration.num_samples is 64, published 128",
    )


def test_a_source_that_does_not_say_how_many_examples_it_gave_is_not_compared(gsm8k_row: Any) -> None:
    config = changed("variant", "method", to={"name": "none", "version": 0, "parameters": {}})
    rows = compare_with_published([gsm8k_row(config, method="none", scheme="fp16")])
    assert {row.published.source.name for row in rows if row.published} == {"paper", "llada", "dllm"}
    assert of_source(rows, "paper").reasons == ()
    assert of_source(rows, "dllm").reasons == ("the source does not state num_fewshot",)


def test_a_scheme_without_its_group_size_in_the_source_is_not_compared(gsm8k_row: Any) -> None:
    row = of_source(compare_with_published([gsm8k_row(task="arc_challenge")]), "gptqmodel-llada")
    assert "the source does not state the group size of its scheme" in row.reasons


def test_activation_schemes_say_that_the_paper_is_silent_on_keys_and_values(gsm8k_row: Any) -> None:
    config = changed("variant", "method", to={"name": "quarot", "version": 1, "parameters": {}})
    row = of_source(compare_with_published([gsm8k_row(config, method="quarot", scheme="w4a4")]), "paper")
    assert row.unstated[0] == "bits of keys and values"


def test_a_hub_model_is_known_by_its_id_whatever_the_grid_calls_it(gsm8k_row: Any) -> None:
    config = changed("variant", "model", to={"digest": "GSAI-ML/LLaDA-8B-Base@0a1b", "chat_template": True})
    row = of_source(compare_with_published([gsm8k_row(config, model="base")]), "paper")
    assert row.reasons == ()
    assert "chat_template" in row.unstated


def test_only_done_cells_and_primary_metrics_are_compared(gsm8k_row: Any, failed_row: Any) -> None:
    rows = [gsm8k_row(is_primary=False), failed_row(model="LLaDA-8B-Base", config=json.dumps(GSM8K))]
    assert compare_with_published(rows) == []
