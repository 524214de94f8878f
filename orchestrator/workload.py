"""What a cell and a variant ask of a model, before anything ran: forward passes and floating-point operations.

It counts what the evaluator does: equal masked inputs are computed once, steps that commit nothing are not run, the
head is computed where a token is asked for. What only the answers decide is not known here: generations are counted to
their last step, and a race of choices to the last draw of each, so that both are bounds (`at_most`). A multiplication
with its addition counts as two operations; norms, softmax, rotary embedding, rounding and padding are not counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from grids import Calibration, CellTask
from grids.protocol import Family, GenerationSettings, LikelihoodSettings
from orchestrator.task_sizes import TaskSize
from workers.models.info import ModelInfo

# Where Dream's time ends; its sampler's constant.
_DREAM_LAST_TIME = 1e-3


@dataclass(frozen=True, slots=True)
class Work:
    """num_forwards: sequences that go through the model, one each.  flops: of those.  length: tokens of one sequence.

    num_logits: tokens of a sequence that the head is computed for.
    """

    num_forwards: float
    flops: float
    length: float
    num_logits: float


def forward_flops(shape: ModelInfo, length: float, num_logits: float = 0) -> float:
    """One sequence of `length` tokens through all blocks, and the head at `num_logits` of them."""
    attention = 4 * shape.num_heads * shape.head_dim * shape.num_layers * length**2
    head = 2 * shape.vocab_size * shape.hidden_size * num_logits
    return 2 * shape.num_block_parameters * length + attention + head


def cell_work(shape: ModelInfo, task: CellTask, size: TaskSize) -> Work:
    """A whole cell."""
    num_items = size.num_items if task.limit is None else min(task.limit, size.num_items)
    prompt = size.prompt_tokens + task.num_fewshot * size.shot_tokens
    if task.info.is_generation:
        generation = task.protocol.generation
        length = prompt + generation.gen_length
        if shape.family == "causal":
            # The sequence grows with every token, so that its mean length counts.
            length, num_logits = prompt + generation.gen_length / 2, 1.0
        elif shape.family == "llada":
            num_logits = (generation.llada.block_length + 1) / 2
        else:
            num_logits = (generation.gen_length + 1) / 2
        num_forwards = num_items * num_steps(shape.family, generation)
    else:
        length, target = prompt + size.target_tokens, size.target_tokens
        if shape.family == "causal":
            num_logits, per_item = target, size.num_choices
        else:
            num_logits = (target + 1) / 2
            # Choices of one token are asked after the same mask.
            num_questions = size.num_choices if target > 1 else 1
            per_item = num_questions * expected_masks(target, task.protocol.likelihood)
        num_forwards = num_items * per_item
    return Work(num_forwards, num_forwards * forward_flops(shape, length, num_logits), length, num_logits)


def at_most(task: CellTask, family: Family) -> str | None:
    """Why a cell may take less work than `cell_work` says; None where its settings decide it."""
    if task.info.is_generation:
        return "a generation ends with its answer"
    if family == "causal" or task.protocol.likelihood.race is None:
        return None
    return "a choice that cannot win is drawn for no longer"


def expected_masks(length: float, settings: LikelihoodSettings) -> float:
    """How many different masks the draws of a request hold, on average, for a target of `length` tokens.

    All patterns are enumerated where `exact` asks for it and they are no more than the draws. Else a draw masks
    l ~ U{1..L} tokens, each choice of l among C(L, l) equally likely; the draws of a group spread their l evenly. A
    mean length between two whole ones is interpolated.
    """
    below = math.floor(length)
    if below < length:
        share = length - below
        return (1 - share) * expected_masks(max(below, 1), settings) + share * expected_masks(below + 1, settings)
    if settings.exact and 2**below - 1 <= settings.mc_num:
        return float(2**below - 1)
    num_groups, per_group = settings.mc_num // settings.strata, settings.strata
    # Of a group's draws each l gets `certain`, and one more with probability `chance`.
    certain, chance = per_group // below, (per_group % below) / below
    expected = 0.0
    for count in range(1, below + 1):
        num_masks = math.comb(below, count)
        if num_masks == 1:
            missed = 0.0 if certain else (1 - chance) ** num_groups
            expected += 1 - missed
        else:
            share = 1 / num_masks
            log_missed = num_groups * (certain * math.log1p(-share) + math.log1p(-chance * share))
            expected -= num_masks * math.expm1(log_missed)
    return expected


def num_steps(family: str, settings: GenerationSettings) -> float:
    """Forwards of one answer: steps that commit something; with guidance each runs with and without the prompt."""
    if family == "causal":
        return settings.gen_length
    if family == "llada":
        num_blocks = settings.gen_length // settings.llada.block_length
        per_step = 2 if settings.llada.cfg_scale else 1
        return per_step * num_blocks * min(settings.steps // num_blocks, settings.llada.block_length)
    times = [1 + (_DREAM_LAST_TIME - 1) * step / settings.steps for step in range(settings.steps + 1)]
    if settings.dream.algorithm == "origin":
        # Each token picks its step by itself: the last takes what is left.
        shares = [times[step] - times[step + 1] for step in range(settings.steps - 1)]
        shares.append(1 - sum(shares))
        return sum(1 - (1 - share) ** settings.gen_length for share in shares)
    num_masked, steps = settings.gen_length, 0
    for step in range(settings.steps):
        is_last = step == settings.steps - 1
        count = num_masked if is_last else int(num_masked * (1 - times[step + 1] / times[step]))
        num_masked -= count
        steps += count > 0
    return steps


@dataclass(frozen=True, slots=True)
class QuantizationWork:
    """What quantizing asks for: passes over calibration data, and products and factors in float32."""

    num_forwards: float
    flops: float
    single_precision_flops: float


def quantization_work(shape: ModelInfo, calibration: Calibration | None, cost: dict[str, Any]) -> QuantizationWork:
    """Quantizing a variant by a method whose cost is `cost` (facts/methods.yaml)."""
    if calibration is None:
        return QuantizationWork(0, 0, 0)
    num_forwards = cost["passes"] * calibration.num_samples
    flops = num_forwards * forward_flops(shape, calibration.length)
    if calibration.mask == "on-policy":
        # The second half of each window is denoised token by token, on average to its middle.
        denoising = calibration.num_samples * calibration.length / 4
        num_forwards += denoising
        flops += denoising * forward_flops(shape, calibration.length, calibration.length / 2)
    return QuantizationWork(num_forwards, flops, cost["hessians"] * _hessian_flops(shape, calibration))


def _hessian_flops(shape: ModelInfo, calibration: Calibration) -> float:
    """Per stage X^T X, three triangular factors of about in^3 each, and the error carried through out x in^2."""
    hidden, width, inner = shape.hidden_size, shape.num_heads * shape.head_dim, shape.intermediate_size
    keys = shape.num_kv_heads * shape.head_dim
    stages = ((hidden, width + 2 * keys), (width, hidden), (hidden, 2 * inner), (inner, hidden))
    num_tokens = calibration.num_samples * calibration.length
    return shape.num_layers * sum(
        2 * num_tokens * inputs**2 + 3 * inputs**3 + outputs * inputs**2 for inputs, outputs in stages
    )
