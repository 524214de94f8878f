"""Predicted forwards against those that a model that ships was counted to run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from grids.protocol import Family, GenerationSettings, LikelihoodSettings, LladaSampler, Protocol
from orchestrator.catalog import shipped_models
from orchestrator.commands import RunOptions, plan_grid
from orchestrator.task_sizes import TaskSize
from orchestrator.workload import at_most, cell_work
from tests.orchestrator.conftest import make_cell
from tests.orchestrator.fake_pool import GRID, write_grid
from workers.likelihood import Contender
from workers.lm import DiffusionLM
from workers.models import LoadedModel, load_model
from workers.models.info import inspect_model

NAMES: dict[Family, str] = {"llada": "tiny-llada-base", "dream": "tiny-dream-base"}
PROMPTS = ["one", "two and", "three"]


@pytest.fixture(scope="module")
def load() -> Callable[[Family], LoadedModel]:
    return lambda family: load_model(str(shipped_models()[NAMES[family]]))


def sequences(loaded: LoadedModel, run: Callable[[], object]) -> int:
    before = loaded.counter.num_sequences
    run()
    return loaded.counter.num_sequences - before


def predicted(family: Family, protocol: Protocol, size: TaskSize, *, generates: bool) -> float:
    cell = make_cell(family=family, protocol=protocol, generates=generates)
    return cell_work(inspect_model(str(shipped_models()[NAMES[family]])), cell.task, size).num_forwards


@pytest.mark.parametrize(("family", "scale", "factor"), [("llada", 0.0, 1), ("llada", 1.5, 2), ("dream", 0.0, 1)])
def test_generations_run_the_forwards_that_are_priced_and_guidance_twice_as_many(
    load: Callable[[Family], LoadedModel], family: Family, scale: float, factor: int
) -> None:
    settings = GenerationSettings(
        gen_length=8, steps=4, eos_ends_answer=False, llada=LladaSampler(block_length=4, cfg_scale=scale)
    )
    protocol, loaded = Protocol(generation=settings), load(family)
    counted = sequences(loaded, lambda: list(DiffusionLM(loaded, protocol).generations([(p, {}) for p in PROMPTS])))
    size = TaskSize(len(PROMPTS), 3, 0)
    assert counted == predicted(family, protocol, size, generates=True) == factor * len(PROMPTS) * 4


def test_an_answer_that_ends_early_costs_less_than_is_priced(load: Callable[[Family], LoadedModel]) -> None:
    protocol = Protocol(generation=GenerationSettings(gen_length=32, steps=32, llada=LladaSampler(block_length=8)))
    loaded = load("llada")
    # Every letter that the model knows ends it.
    requests = [(prompt, {"until": list("abcdefghijklmnopqrstuvwxyz0123456789 .")}) for prompt in PROMPTS]
    counted = sequences(loaded, lambda: list(DiffusionLM(loaded, protocol).generations(requests)))
    assert counted < predicted("llada", protocol, TaskSize(len(PROMPTS), 3, 0), generates=True)


@pytest.mark.parametrize(("mc_num", "expected"), [(7, 7), (8, 7), (100, 7), (6, None)])
def test_exact_likelihoods_run_every_pattern_once_where_the_draws_would_be_no_fewer(
    load: Callable[[Family], LoadedModel], mc_num: int, expected: int | None
) -> None:
    protocol = Protocol(likelihood=LikelihoodSettings(mc_num=mc_num, exact=True))
    loaded = load("llada")
    lm = DiffusionLM(loaded, protocol)
    requests = [(prompt, " yes") for prompt in PROMPTS]
    length = len(lm.question(requests[0]).target)
    assert length == 3
    counted = sequences(loaded, lambda: list(lm.likelihoods(requests)))
    priced = predicted("llada", protocol, TaskSize(len(PROMPTS), 5, 0, 1, length), generates=False)
    if expected is not None:
        assert counted == priced == expected * len(PROMPTS)
    else:
        # Patterns are drawn, then, and may coincide.
        assert counted <= 6 * len(PROMPTS)
        assert priced < 6 * len(PROMPTS)


def test_a_race_costs_no_more_than_is_priced(load: Callable[[Family], LoadedModel]) -> None:
    loaded, choices = load("llada"), [" Paris", " zzzzz"]
    requests = [(prompt, choice) for prompt in PROMPTS for choice in choices]
    contenders = [Contender(number // 2, (1.0,)) for number in range(len(requests))]
    counts = {}
    for error in (None, 0.2):
        protocol = Protocol(likelihood=LikelihoodSettings(mc_num=512, race=error))
        lm = DiffusionLM(loaded, protocol)
        counts[error] = sequences(loaded, lambda lm=lm: list(lm.likelihoods(requests, contenders)))  # type: ignore[misc]
        length = sum(len(lm.question(request).target) for request in requests) / len(requests)
        size = TaskSize(len(PROMPTS), 5, 0, len(choices), length)
        priced = predicted("llada", protocol, size, generates=False)
    assert counts[0.2] < counts[None] <= 1.1 * priced


def test_a_plan_says_where_its_price_is_a_bound(tmp_path: Path) -> None:
    likelihood = "protocol: {likelihood: {race: 0.1}, generation:"
    made = plan_grid(
        write_grid(tmp_path, GRID.replace("protocol: {generation:", likelihood)), RunOptions(study=tmp_path / "study")
    )
    assert made.to_json()["at_most"] == {
        "demo_facts": "a choice that cannot win is drawn for no longer",
        "demo_math": "a generation ends with its answer",
    }
    plain = make_cell().task
    assert at_most(plain, "llada") is None
    race = make_cell(protocol=Protocol(likelihood=LikelihoodSettings(race=0.1))).task
    assert at_most(race, "causal") is None
