"""The demo's models: small, in the hub's layout, good at their tasks, with outliers that do not change them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

import grids
from grids import CellTask, find_tasks
from grids.demo.plant import PLANT, plant_outliers
from grids.protocol import Protocol
from methods import decoder_blocks
from workers import DiffusionLM, LoadedModel, load_model
from workers.models.info import inspect_model
from workers.tasks import BuiltTask
from workers.units import Response

DEMO = Path(grids.__file__).parent / "demo"
MODELS = ("tiny-llada-base", "tiny-llada-instruct", "tiny-dream-base")
MAX_BYTES = 8_000_000
PROTOCOL = Protocol.model_validate(
    {
        "likelihood": {"mc_num": 16, "strata": 16},
        "generation": {"gen_length": 16, "steps": 16, "llada": {"block_length": 16}},
    }
)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module", params=MODELS)
def loaded(request: pytest.FixtureRequest) -> LoadedModel:
    return load_model(str(DEMO / "models" / request.param))


def token_ids(loaded: LoadedModel, length: int = 48) -> torch.Tensor:
    text = (DEMO / "calibration.txt").read_text()
    ids = torch.tensor(loaded.tokenizer(text, add_special_tokens=False)["input_ids"])
    return ids[: 16 * length].reshape(16, length)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_small_and_groups_of_128_fit_it(name: str) -> None:
    folder = DEMO / "models" / name
    info = inspect_model(str(folder))
    assert sum(file.stat().st_size for file in folder.iterdir()) <= MAX_BYTES
    assert 1_000_000 <= info.num_block_parameters + info.num_embedding_parameters <= 3_000_000
    assert info.hidden_size % 128 == 0
    assert info.intermediate_size % 128 == 0
    assert info.intermediate_size >= 256
    assert info.family == ("dream" if "dream" in name else "llada")


def test_any_text_goes_through_the_tokenizer_and_back(loaded: LoadedModel) -> None:
    text = "Question: 12 + 7?\n\tdef f(x): return x ∑ ü 漢\0"
    ids = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert loaded.tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


# The bar at full precision is 90, 60 and 70 per cent on all items; these are the first 40, and 10 points lower.
@pytest.mark.parametrize(
    ("task", "bar"), [("demo_facts", 0.8), ("demo_relations", 0.7), ("demo_math", 0.5), ("demo_code", 0.6)]
)
def test_a_model_is_good_at_its_tasks_and_not_because_they_are_trivial(
    loaded: LoadedModel, task: str, bar: float
) -> None:
    info = find_tasks([DEMO / "tasks"])[task]
    lm = DiffusionLM(loaded, PROTOCOL)
    is_chat = loaded.tokenizer.chat_template is not None
    cell_task = CellTask(info, 0, 40, PROTOCOL, info.metric, info.filter, info.group)

    def score(answer: Any) -> float:
        built = BuiltTask(cell_task, lm, chat_template=is_chat)
        metrics, _ = built.score(dict(enumerate(answer(built.requests))))
        return next(row["value"] for row in metrics if (row["metric"], row["filter"]) == (info.metric, info.filter))

    def by_model(requests: Any) -> list[Response]:
        pairs = [request.arguments for request in requests]
        if info.is_generation:
            return [Response("", text=text) for _, text in sorted(lm.generations(pairs))]
        return [Response("", logprob=value) for _, value in sorted(lm.likelihoods(pairs))]

    def without_model(requests: Any) -> list[Response]:
        if info.is_generation:
            return [Response("", text=" 1\n#### 1") for _ in requests]
        return [Response("", logprob=-float(len(request.arguments[1]))) for request in requests]

    assert score(by_model) >= bar
    assert score(without_model) <= 0.5


def test_the_input_of_down_has_outliers(loaded: LoadedModel) -> None:
    largest = []
    for block in decoder_blocks(loaded.model):
        down = block.get_submodule("mlp.down_proj")
        down.register_forward_pre_hook(
            lambda _, inputs: largest.append(float(inputs[0].abs().amax() / inputs[0].abs().median()))
        )
    loaded.logits(token_ids(loaded))
    assert len(largest) == len(decoder_blocks(loaded.model))
    assert min(largest) > 20


def test_planting_keeps_the_function_and_makes_outliers() -> None:
    loaded = load_model(str(DEMO / "models" / "tiny-llada-base"))
    model, ids = narrowed(loaded), token_ids(loaded)
    planted = plant_outliers(model, ids, seed=0)
    with torch.no_grad():
        before, after = model(ids).logits, planted(ids).logits
    assert float((before - after).abs().max() / before.abs().max()) < 1e-4
    assert planted.config.intermediate_size == PLANT.ffn_size


def narrowed(loaded: LoadedModel) -> Any:
    """A model with a narrower FFN, as it is before planting."""
    model: Any = copy.deepcopy(loaded.model)
    for block in model.model.layers:
        for name in ("gate_proj", "up_proj", "down_proj"):
            linear = getattr(block.mlp, name)
            weight = linear.weight[:, :320] if name == "down_proj" else linear.weight[:320]
            narrow = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
            narrow.weight.data.copy_(weight)
            setattr(block.mlp, name, narrow)
    return model
