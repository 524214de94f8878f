"""Forward passes and FLOPs against published counts, counted operations, and draws made one by one."""

from __future__ import annotations

from statistics import mean, stdev

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from grids import Calibration
from grids.protocol import DreamSampler, Family, GenerationSettings, LikelihoodSettings, LladaSampler, Protocol
from orchestrator.task_sizes import TaskSize
from orchestrator.workload import cell_work, expected_masks, forward_flops, num_steps, quantization_work
from tests.orchestrator.conftest import SHAPE_8B, make_cell
from workers.models.info import ModelInfo

DREAM_7B = ModelInfo("dream", 28, 3584, 18944, 28, 4, 128, 152064, 131072, False)
NUM_TRIALS = 300


def drawn_masks(length: int, mc_num: int, strata: int, rng: np.random.Generator) -> int:
    """How many different masks one request's draws hold, as the estimator's description says, draw by draw."""
    masks = set()
    for _ in range(mc_num // strata):
        first = int(rng.integers(length))
        for draw in range(strata):
            count = (first + draw * length // strata) % length + 1
            masks.add(frozenset(rng.permutation(length)[:count].tolist()))
    return len(masks)


@pytest.mark.parametrize(
    ("length", "mc_num", "strata"), [(2, 3, 1), (4, 128, 1), (7, 128, 1), (7, 128, 16), (23, 128, 1), (3, 16, 16)]
)
def test_the_expected_number_of_masks_is_the_mean_of_real_draws(length: int, mc_num: int, strata: int) -> None:
    rng = np.random.default_rng(0)
    counts = [drawn_masks(length, mc_num, strata, rng) for _ in range(NUM_TRIALS)]
    error = stdev(counts) / NUM_TRIALS**0.5
    assert expected_masks(length, LikelihoodSettings(mc_num=mc_num, strata=strata)) == pytest.approx(
        mean(counts), abs=4 * error + 1e-9
    )


def test_a_target_of_one_token_costs_one_forward_and_none_more_than_its_patterns() -> None:
    settings = LikelihoodSettings(mc_num=128)
    assert expected_masks(1, settings) == 1
    for length in range(2, 12):
        assert length / 2 < expected_masks(length, settings) <= min(128, 2**length - 1)
    assert expected_masks(2, LikelihoodSettings(mc_num=100_000)) == pytest.approx(3)
    assert expected_masks(4.25, settings) == pytest.approx(
        0.75 * expected_masks(4, settings) + 0.25 * expected_masks(5, settings)
    )


@pytest.mark.parametrize(
    ("gen_length", "steps", "block_length", "expected"),
    [(256, 256, 32, 256), (256, 128, 64, 128), (512, 512, 32, 512), (64, 256, 32, 64), (32, 4, 8, 4)],
)
def test_llada_runs_the_steps_that_commit_something(
    gen_length: int, steps: int, block_length: int, expected: int
) -> None:
    settings = GenerationSettings(gen_length=gen_length, steps=steps, llada=LladaSampler(block_length=block_length))
    assert num_steps("llada", settings) == expected


@pytest.mark.parametrize(("gen_length", "steps"), [(128, 128), (128, 512), (256, 64), (16, 16), (8, 1)])
def test_dream_runs_the_steps_that_its_sampler_does_not_skip(gen_length: int, steps: int) -> None:
    from workers.samplers.dream import commit_counts

    counts = commit_counts(gen_length, steps)
    settings = GenerationSettings(gen_length=gen_length, steps=steps)
    assert num_steps("dream", settings) == sum(count > 0 for count in counts)


def test_dreams_origin_runs_as_many_steps_as_its_tokens_hit_on_average() -> None:
    settings = GenerationSettings(gen_length=20, steps=40, dream=DreamSampler(algorithm="origin"))
    rng = np.random.default_rng(1)
    hit = [len({min(int(rng.random() * 40), 39) for _ in range(20)}) for _ in range(2000)]
    assert num_steps("dream", settings) == pytest.approx(mean(hit), rel=0.01)


def test_a_forwards_flops_are_those_that_torch_counts() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = ModelInfo("llada", 2, 48, 80, 4, 2, 12, 100, 64, False)
    config = LlamaConfig(
        num_hidden_layers=2,
        hidden_size=48,
        intermediate_size=80,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=100,
        attn_implementation="eager",
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.zeros(3, 17, dtype=torch.long))
    # The rotary embedding's tiny product is a matrix product too; the model of costs leaves it out.
    assert 3 * forward_flops(shape, 17, 17) == pytest.approx(counter.get_total_flops(), rel=1e-3)


@pytest.mark.parametrize(("shape", "petaflops"), [(SHAPE_8B, 3.94), (DREAM_7B, 3.64)], ids=["llada", "dream"])
def test_a_calibration_pass_costs_what_is_published(shape: ModelInfo, petaflops: float) -> None:
    calibration = Calibration("wikitext2", "text", "", "", 128, 2048, 0, "none")
    work = quantization_work(shape, calibration, {"passes": 1, "hessians": 0})
    assert work.flops / 1e15 == pytest.approx(petaflops, rel=0.005)
    assert work.num_forwards == 128


def test_hessians_cost_what_is_published_and_on_policy_calibration_more_than_a_pass() -> None:
    calibration = Calibration("wikitext2", "text", "", "", 128, 2048, 0, "none")
    plain = quantization_work(SHAPE_8B, calibration, {"passes": 1, "hessians": 1})
    # 3.38 PFLOP of products; factors and carried errors add less than a tenth.
    assert 3.38 < plain.single_precision_flops / 1e15 < 1.1 * 3.38
    own = Calibration("wikitext2", "text", "", "", 128, 2048, 0, "on-policy")
    assert quantization_work(SHAPE_8B, own, {"passes": 1, "hessians": 1}).flops > 100 * plain.flops
    assert quantization_work(SHAPE_8B, None, {"passes": 1, "hessians": 1}).flops == 0


# Exaflops of one 8B configuration at the study's settings, from lengths that were estimated by someone else.
PUBLISHED = {"gsm8k": (4, 4.89, 337_664), "minerva_math": (0, 7.25, 1_280_000), "humaneval": (0, 0.79, 83_968)}
PROTOCOLS = {
    "gsm8k": Protocol(),
    "minerva_math": Protocol(generation=GenerationSettings(llada=LladaSampler(block_length=64))),
    "humaneval": Protocol(generation=GenerationSettings(gen_length=512, steps=512)),
}


@pytest.mark.parametrize("task", PUBLISHED)
def test_generation_tasks_cost_what_was_reckoned_by_hand(task: str) -> None:
    from orchestrator.task_sizes import task_size

    shots, exaflops, num_forwards = PUBLISHED[task]
    cell = make_cell(task=task, generates=True, num_fewshot=shots, protocol=PROTOCOLS[task])
    work = cell_work(SHAPE_8B, cell.task, task_size(cell.task.info))
    assert work.num_forwards == num_forwards
    assert work.flops / 1e18 == pytest.approx(exaflops, rel=0.16)


SIZE = TaskSize(num_items=100, prompt_tokens=50, shot_tokens=20, num_choices=4, target_tokens=1)


@pytest.mark.parametrize(
    ("family", "target_tokens", "expected"), [("llada", 1, 100), ("llada", 2, 100 * 4 * 3), ("causal", 5, 400)]
)
def test_choices_of_one_token_share_a_forward_and_a_causal_model_needs_one_for_each(
    family: Family, target_tokens: float, expected: float
) -> None:
    shape = ModelInfo(family, 2, 48, 80, 4, 4, 12, 100, 64, False)
    size = TaskSize(100, 50, 20, 4, target_tokens)
    # So many draws that every pattern is met.
    protocol = Protocol(likelihood=LikelihoodSettings(mc_num=100_000))
    assert cell_work(shape, make_cell(protocol=protocol).task, size).num_forwards == pytest.approx(expected)


def test_a_limit_and_examples_count() -> None:
    whole, some = make_cell().task, make_cell(limit=10, num_fewshot=3).task
    assert cell_work(SHAPE_8B, some, SIZE).num_forwards == cell_work(SHAPE_8B, whole, SIZE).num_forwards / 10
    assert cell_work(SHAPE_8B, some, SIZE).length == cell_work(SHAPE_8B, whole, SIZE).length + 60
    assert cell_work(SHAPE_8B, make_cell(limit=1000).task, SIZE).num_forwards == 100
