"""The samplers against slow transcriptions of their description, and what must hold for every answer."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from grids.protocol import GenerationSettings
from tests.evaluation import slow_samplers
from workers.models import LoadedModel
from workers.samplers import Prompt, Savings, generate
from workers.samplers.dream import commit_counts as dream_commit_counts
from workers.samplers.llada import commit_counts as llada_commit_counts

MASK, EOS, END_OF_TURN = 256, 257, 259
PROMPTS = [[72, 101, 108, 108, 111], [5, 6], [9, 8, 7, 200, 100, 50, 25, 12]]
KEYS = ["first", "second", "third"]
MakeLoaded = Callable[..., LoadedModel]


def settings_of(gen_length: int = 12, steps: int = 12, temperature: float = 0.0, **sampler: Any) -> GenerationSettings:
    family = "llada" if {"block_length", "remasking"} & set(sampler) else "dream"
    values = {"gen_length": gen_length, "steps": steps, "temperature": temperature, family: sampler}
    return GenerationSettings.model_validate(values)


def write(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    settings: GenerationSettings,
    keys: Sequence[str],
    seed: int,
    **options: Any,
) -> list[list[int]]:
    """The answers in the order of their prompts."""
    asked = [Prompt(ids, key) for ids, key in zip(prompts, keys, strict=True)]
    answers = dict(generate(loaded, asked, settings, seed, **options))
    return [answers[index] for index in range(len(prompts))]


def float64_rows(loaded: LoadedModel) -> slow_samplers.Logits:
    """Row i for token i, from the model in float64."""
    model: Any = loaded.model.double()
    shift = 1 if loaded.family == "dream" else 0

    @torch.no_grad()
    def rows(ids: list[int]) -> list[list[float]]:
        logits = model(input_ids=torch.tensor([ids])).logits[0].tolist()
        return [logits[max(i - shift, 0)] for i in range(len(ids))]

    return rows


def uniforms_of(key: str, seed: int) -> slow_samplers.Uniforms:
    """The random numbers of a request, from the rule that keys them."""

    def uniforms(purpose: str, step: int, shape: tuple[int, ...]) -> Any:
        digest = hashlib.sha256(f"{seed}\0{key}/{purpose}\0{step}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))
        return torch.rand(shape, dtype=torch.float64, generator=generator).tolist()

    return uniforms


def answer_states(loaded: LoadedModel, prompt: list[int], settings: GenerationSettings, key: str) -> list[torch.Tensor]:
    """The answer [gen_length] as every forward of the whole model finds it, and as it is at last."""
    seen: list[torch.Tensor] = []
    handle = loaded.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"][0].clone()), with_kwargs=True
    )
    (answer,) = write(loaded, [prompt], settings, [key], 0, savings=Savings(masked_positions_only=False))
    handle.remove()
    # Guidance asks without the prompt, too.
    rows = [row[len(prompt) :] for row in seen if row[: len(prompt)].tolist() == prompt]
    return [*(row[: settings.gen_length] for row in rows), torch.tensor(answer)]


LLADA = {
    "one token a step": settings_of(block_length=4),
    "two tokens a step": settings_of(steps=6, block_length=12),
    "a remainder": settings_of(steps=9, block_length=4),
    "idle steps": settings_of(steps=18, block_length=4),
    "random remasking": settings_of(block_length=6, remasking="random"),
    "temperature": settings_of(block_length=4, temperature=0.7),
    "temperature, random remasking": settings_of(block_length=4, temperature=1.5, remasking="random"),
    "guidance": settings_of(block_length=4, cfg_scale=1.5),
    "guidance, temperature": settings_of(steps=6, block_length=6, cfg_scale=0.5, temperature=0.9),
    "no end of text": settings_of(block_length=6, logits_eos_inf=True),
    "ends come last": settings_of(block_length=6, confidence_eos_eot_inf=True),
    "both, random remasking": settings_of(
        block_length=6, logits_eos_inf=True, confidence_eos_eot_inf=True, remasking="random"
    ),
}
DREAM = {
    "entropy": settings_of(algorithm="entropy"),
    "maskgit_plus": settings_of(steps=5, algorithm="maskgit_plus"),
    "topk_margin": settings_of(steps=7, algorithm="topk_margin"),
    "origin": settings_of(algorithm="origin"),
    "idle steps": settings_of(steps=40, algorithm="entropy"),
    "filters act at temperature 0": settings_of(algorithm="entropy", top_p=0.8, top_k=5),
    "top p": settings_of(algorithm="maskgit_plus", temperature=0.9, top_p=0.7),
    "top k": settings_of(algorithm="topk_margin", temperature=0.9, top_k=3),
    "temperature": settings_of(algorithm="entropy", temperature=1.3),
    "origin, temperature": settings_of(steps=6, algorithm="origin", temperature=0.5),
    "positions drawn": settings_of(algorithm="maskgit_plus", alg_temp=0.4),
    "everything": settings_of(steps=6, algorithm="entropy", temperature=0.8, top_p=0.9, top_k=40, alg_temp=0.2),
}


def prefer_ends(loaded: LoadedModel) -> None:
    """Makes ends of text and of a turn the best token of many places, as an instruct model does."""
    head: Any = loaded.model.get_submodule("lm_head")
    head.weight.data[EOS] *= 3
    head.weight.data[END_OF_TURN] *= 2


def test_the_options_for_ends_decide_whether_and_when_they_are_written(make_loaded: MakeLoaded) -> None:
    loaded = make_loaded("llada", scale=0.3)
    prefer_ends(loaded)

    def first_end(**options: bool) -> int:
        """The step that commits the first end of text or of a turn; 12 if none does."""
        states = answer_states(loaded, PROMPTS[0], settings_of(block_length=12, **options), KEYS[0])
        return next((step for step, state in enumerate(states[1:]) if EOS in state or END_OF_TURN in state), 12)

    assert first_end() < 3
    assert first_end(confidence_eos_eot_inf=True) > 6
    loaded = replace(loaded, end_token_ids=frozenset())
    head: Any = loaded.model.get_submodule("lm_head")
    head.weight.data[END_OF_TURN] = 0
    assert first_end() < 3
    assert first_end(logits_eos_inf=True) == 12


@pytest.mark.parametrize("name", LLADA)
def test_llada_writes_what_the_slow_transcription_writes(name: str, make_loaded: MakeLoaded) -> None:
    settings, loaded = LLADA[name], make_loaded("llada", scale=0.3)
    prefer_ends(loaded)
    batch = write(loaded, PROMPTS, settings, KEYS, 11)
    rows = float64_rows(loaded)
    for prompt, key, answer in zip(PROMPTS, KEYS, batch, strict=True):
        expected = slow_samplers.llada(
            rows,
            uniforms_of(key, 11),
            prompt,
            mask=MASK,
            gen_length=settings.gen_length,
            steps=settings.steps,
            temperature=settings.temperature,
            block_length=settings.llada.block_length,
            remasking=settings.llada.remasking,
            cfg_scale=settings.llada.cfg_scale,
            never=[EOS] if settings.llada.logits_eos_inf else [],
            last=[EOS, END_OF_TURN] if settings.llada.confidence_eos_eot_inf else [],
        )
        assert answer == expected


@pytest.mark.parametrize("name", DREAM)
def test_dream_writes_what_the_slow_transcription_writes(name: str, make_loaded: MakeLoaded) -> None:
    settings, loaded = DREAM[name], make_loaded("dream", scale=0.3)
    batch = write(loaded, PROMPTS, settings, KEYS, 11)
    rows = float64_rows(loaded)
    for prompt, key, answer in zip(PROMPTS, KEYS, batch, strict=True):
        expected = slow_samplers.dream(
            rows,
            uniforms_of(key, 11),
            prompt,
            mask=MASK,
            gen_length=settings.gen_length,
            steps=settings.steps,
            temperature=settings.temperature,
            **settings.dream.model_dump(),
        )
        assert answer == expected


@pytest.mark.parametrize("name", [*LLADA, *DREAM])
def test_every_answer_is_complete_and_a_committed_token_never_changes(name: str, make_loaded: MakeLoaded) -> None:
    family, settings = ("llada", LLADA[name]) if name in LLADA else ("dream", DREAM[name])
    loaded = make_loaded(family)
    for prompt, key in zip(PROMPTS, KEYS, strict=True):
        states = answer_states(loaded, prompt, settings, key)
        assert (states[0] == MASK).all()
        assert len(states[-1]) == settings.gen_length
        assert not (states[-1] == MASK).any()
        assert len(states) <= settings.steps + 1
        for before, after in itertools.pairwise(states):
            assert torch.equal(after[before != MASK], before[before != MASK])


@pytest.mark.parametrize("name", LLADA)
def test_llada_fills_blocks_from_left_to_right_at_the_planned_pace(name: str, make_loaded: MakeLoaded) -> None:
    settings, loaded = LLADA[name], make_loaded("llada")
    states = answer_states(loaded, PROMPTS[0], settings, KEYS[0])
    length = settings.llada.block_length
    num_blocks = settings.gen_length // length
    pace = [count for count in llada_commit_counts(length, settings.steps // num_blocks) if count] * num_blocks
    for (before, after), count in zip(itertools.pairwise(states), pace, strict=True):
        committed = (before == MASK) & (after != MASK)
        assert committed.sum() == count
        # Every block before the one that is written is full, every one after it untouched.
        block = int((before != MASK).sum()) // length
        assert not committed[: block * length].any()
        assert not committed[(block + 1) * length :].any()


@pytest.mark.parametrize("family", ["llada", "dream"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_does_not_depend_on_the_rows_beside_it(family: str, temperature: float, make_loaded: MakeLoaded) -> None:
    loaded = make_loaded(family)
    settings = GenerationSettings.model_validate(
        {"gen_length": 8, "steps": 8, "temperature": temperature, "llada": {"block_length": 4}}
    )
    batch = write(loaded, PROMPTS, settings, KEYS, 0)
    order = [2, 0, 1]
    shuffled = write(loaded, [PROMPTS[i] for i in order], settings, [KEYS[i] for i in order], 0)
    assert [shuffled[order.index(i)] for i in range(3)] == batch
    assert [write(loaded, [PROMPTS[i]], settings, [KEYS[i]], 0)[0] for i in range(3)] == batch


@pytest.mark.parametrize(("family", "algorithm"), [("llada", "entropy"), ("dream", "entropy"), ("dream", "origin")])
def test_what_is_drawn_depends_on_the_key_and_the_seed_and_on_no_global_state(
    family: str, algorithm: str, make_loaded: MakeLoaded
) -> None:
    loaded = make_loaded(family)
    settings = GenerationSettings.model_validate(
        {
            "gen_length": 8,
            "steps": 8,
            "temperature": 1.0,
            "llada": {"block_length": 4},
            "dream": {"algorithm": algorithm},
        }
    )

    def answer(key: str, seed: int) -> list[list[int]]:
        return write(loaded, PROMPTS[:1], settings, [key], seed)

    first = answer("a", 0)
    torch.manual_seed(5)
    assert answer("a", 0) == first
    assert answer("b", 0) != first
    assert answer("a", 1) != first


def test_equal_confidence_is_committed_from_left_to_right(make_loaded: MakeLoaded) -> None:
    loaded = make_loaded("llada")
    # A head of zeros: every token at every position is as likely.
    loaded.model.get_submodule("lm_head").weight.data.zero_()
    states = answer_states(loaded, PROMPTS[0], settings_of(gen_length=6, steps=6, block_length=6), KEYS[0])
    for step, state in enumerate(states):
        assert (state != MASK).tolist() == [True] * step + [False] * (6 - step)


def test_the_mask_token_is_never_an_answer(make_loaded: MakeLoaded) -> None:
    for family in ("llada", "dream"):
        loaded = make_loaded(family)
        head: Any = loaded.model.get_submodule("lm_head")
        head.weight.data[MASK] = 10 * head.weight.data[:MASK].abs().max()
        settings = settings_of(block_length=12)
        assert not any(MASK in answer for answer in write(loaded, PROMPTS, settings, KEYS, 0))


@pytest.mark.parametrize(
    ("num_tokens", "num_steps", "num_idle", "last"),
    [(128, 128, 1, 2), (128, 512, 385, 2), (256, 512, 257, 2), (768, 512, 0, 4)],
)
def test_dreams_schedule_is_the_published_samplers(num_tokens: int, num_steps: int, num_idle: int, last: int) -> None:
    counts = dream_commit_counts(num_tokens, num_steps)
    assert (len(counts), sum(counts)) == (num_steps, num_tokens)
    assert (counts.count(0), counts[-1]) == (num_idle, last)


def test_lladas_schedule_puts_the_remainder_first() -> None:
    assert llada_commit_counts(10, 4) == [3, 3, 2, 2]
    assert llada_commit_counts(3, 5) == [1, 1, 1, 0, 0]


@pytest.mark.parametrize(("changes", "message"), [({"gen_length": 10}, "block_length 4"), ({"steps": 7}, "blocks 3")])
def test_llada_refuses_blocks_that_do_not_divide(
    changes: dict[str, int], message: str, make_loaded: MakeLoaded
) -> None:
    with pytest.raises(ValueError, match=message):
        write(make_loaded("llada"), PROMPTS, settings_of(block_length=4, **changes), KEYS, 0)


def test_no_prompts_are_no_answers(make_loaded: MakeLoaded) -> None:
    assert list(generate(make_loaded("llada"), [], GenerationSettings(), 0)) == []
