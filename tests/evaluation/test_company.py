"""On a CPU an answer has the same bits whatever is asked beside it: what a resumed cell must give."""

from __future__ import annotations

import random

import pytest
import torch

from grids.protocol import Protocol
from orchestrator.catalog import DEMO_GRID
from workers.lm import DiffusionLM
from workers.models import load_model

PROTOCOL = Protocol.model_validate({"likelihood": {"mc_num": 4}})


@pytest.mark.parametrize("name", ["tiny-llada-base", "tiny-dream-base"])
def test_likelihoods_of_some_requests_are_those_of_all_of_them_bit_for_bit(name: str) -> None:
    draw = random.Random(0)  # noqa: S311
    words = (DEMO_GRID.parent / "calibration.txt").read_text().split()
    requests = [
        (
            " ".join(draw.choices(words, k=draw.randint(3, 20))),
            " " + " ".join(draw.choices(words, k=draw.randint(1, 4))),
        )
        for _ in range(80)
    ]
    loaded = load_model(str(DEMO_GRID.parent / "models" / name), revision=None, dtype=torch.float32, device="cpu")
    together = dict(DiffusionLM(loaded, PROTOCOL).likelihoods(requests))
    for number in [1] * 10 + [2] * 20 + [5, 13, 40, 60, 70]:
        some = sorted(draw.sample(range(len(requests)), number))
        alone = dict(DiffusionLM(loaded, PROTOCOL).likelihoods([requests[index] for index in some]))
        assert [alone[place] for place in range(number)] == [together[index] for index in some]
