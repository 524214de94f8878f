"""What the samplers leave out: the same tokens with and without, in any batch, and less work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import pytest
import torch

import methods
from grids import parse_scheme
from grids.protocol import GenerationSettings, Protocol
from workers import DiffusionLM
from workers.answer_text import AnswerText
from workers.models import LoadedModel, packed
from workers.samplers import Prompt, Savings, generate
from workers.samplers.budget import RowBudget
from workers.samplers.dream import commit_counts

MASK = 256
MakeLoaded = Callable[..., LoadedModel]
ALL_OFF = Savings(stop_when_decided=False, masked_positions_only=False, skip_idle_steps=False)
NAMES = [saving.name for saving in fields(Savings)]
LENGTHS = (5, 2, 8, 21, 17, 30, 1)


def settings_of(family: str, *, temperature: float, steps: int = 24, **sampler: Any) -> GenerationSettings:
    sampler = {"block_length": 4} | sampler if family == "llada" else sampler
    return GenerationSettings.model_validate(
        {"gen_length": 12, "steps": steps, "temperature": temperature, family: sampler}
    )


# 24 steps for 12 tokens: half of LLaDA's, and more of Dream's, commit nothing.
CASES = {
    "llada": ("llada", settings_of("llada", temperature=0.0)),
    "llada, temperature": ("llada", settings_of("llada", temperature=0.8)),
    "llada, random": ("llada", settings_of("llada", temperature=0.0, remasking="random")),
    "llada, guidance": ("llada", settings_of("llada", temperature=0.0, cfg_scale=1.0)),
    "llada, two a step": ("llada", settings_of("llada", temperature=0.0, steps=6)),
    "dream": ("dream", settings_of("dream", temperature=0.0)),
    "dream, temperature": ("dream", settings_of("dream", temperature=0.8, top_p=0.9, alg_temp=0.3)),
    "dream, origin": ("dream", settings_of("dream", temperature=0.5, algorithm="origin")),
    "dream, margin": ("dream", settings_of("dream", temperature=0.0, algorithm="topk_margin", steps=5)),
}
QUANTIZED = ("llada", "dream, temperature")


def prompts_of(lengths: Sequence[int], *, is_decided: Callable[[Sequence[int]], bool] | None = None) -> list[Prompt]:
    generator = torch.Generator().manual_seed(6)
    rows = [torch.randint(200, (length,), generator=generator).tolist() for length in lengths]
    ends = {} if is_decided is None else {"is_decided": is_decided}
    return [Prompt(row, f"key {index}", **ends) for index, row in enumerate(rows)]


def write(loaded: LoadedModel, prompts: Sequence[Prompt], settings: GenerationSettings, **options: Any) -> list[Any]:
    answers = dict(generate(loaded, prompts, settings, 5, **options))
    return [answers[index] for index in range(len(prompts))]


def holds_an_even_token(tokens: Sequence[int]) -> bool:
    """An end that comes early in many answers, and late in some."""
    return any(token % 8 == 0 for token in tokens)


def quantize(loaded: LoadedModel) -> LoadedModel:
    method = methods.available_methods()["quarot"]
    windows = torch.randint(200, (4, 32), generator=torch.Generator().manual_seed(0))
    method(method.Parameters()).quantize(loaded.model, parse_scheme("w4a4kv4"), windows, seed=0)
    return loaded


def check_saving(loaded: LoadedModel, settings: GenerationSettings, name: str) -> tuple[int, int]:
    """That the answers with one saving begin the answers without any; the operations of both."""
    prompts = prompts_of(LENGTHS[:5], is_decided=holds_an_even_token)
    before = loaded.counter.num_flops
    plain = write(loaded, prompts, settings, savings=ALL_OFF)
    between = loaded.counter.num_flops
    savings = Savings(**{each: each == name for each in NAMES})
    saved = write(loaded, prompts, settings, savings=savings)
    for short, whole in zip(saved, plain, strict=True):
        assert short == whole[: len(short)]
        assert len(short) == len(whole) or holds_an_even_token(short)
    return loaded.counter.num_flops - between, between - before


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", CASES)
def test_a_saving_changes_no_token(case: str, name: str, make_loaded: MakeLoaded) -> None:
    family, settings = CASES[case]
    saved, plain = check_saving(make_loaded(family), settings, name)
    is_idle_free = name == "skip_idle_steps" and settings.steps < 12
    assert saved == plain if is_idle_free else saved < 0.95 * plain


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", QUANTIZED)
def test_a_saving_changes_no_token_of_a_quantized_model(case: str, name: str, make_loaded: MakeLoaded) -> None:
    family, settings = CASES[case]
    loaded = quantize(make_loaded(family))
    saved, plain = check_saving(loaded, settings, name)
    assert saved < 0.95 * plain


@pytest.mark.parametrize(
    ("case", "is_quantized"), [*((case, False) for case in CASES), *((case, True) for case in QUANTIZED)]
)
def test_an_answer_does_not_depend_on_the_batch(case: str, is_quantized: bool, make_loaded: MakeLoaded) -> None:
    family, settings = CASES[case]
    loaded = make_loaded(family)
    if is_quantized:
        quantize(loaded)
    prompts = prompts_of(LENGTHS, is_decided=holds_an_even_token)
    whole = write(loaded, prompts, settings)
    for max_rows in (1, 3, 16):
        assert write(loaded, prompts, settings, max_rows=max_rows) == whole
    some = [6, 2, 5, 0]
    assert write(loaded, [prompts[index] for index in some], settings) == [whole[index] for index in some]


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_texts_do_not_depend_on_savings_batches_or_company(family: str, make_loaded: MakeLoaded) -> None:
    loaded = make_loaded(family)
    protocol = Protocol(generation=CASES[family][1])
    words = ["a", "To be or", "12 + 7 =", "def f(x):", "é", "nothing at all, and then more of it"]
    free = dict(DiffusionLM(loaded, protocol, savings=ALL_OFF).generations([(word, {}) for word in words]))
    # Strings that end some of the answers, at their beginning, within a character, or near their end.
    stops = [free[0][1:3], free[1][4:5], free[2][-2:], free[3][:1]]
    requests = [(word, {"until": stops[index % 3 :]}) for index, word in enumerate(words)]
    plain = dict(DiffusionLM(loaded, protocol, savings=ALL_OFF).generations(requests))
    assert any(plain[index] != free[index] for index in plain)
    before = loaded.counter.num_sequences
    assert dict(DiffusionLM(loaded, protocol).generations(requests)) == plain
    assert loaded.counter.num_sequences - before < 0.9 * 12 * len(words)
    for batch_size in (1, 3, 16):
        lm = DiffusionLM(loaded, protocol, batch_size=batch_size)
        assert dict(lm.generations(requests)) == plain
        backwards = dict(lm.generations(requests[::-1]))
        assert [backwards[len(words) - 1 - index] for index in range(len(words))] == [plain[i] for i in sorted(plain)]
        assert [text for request in requests[2:5] for _, text in lm.generations([request])] == [
            plain[index] for index in (2, 3, 4)
        ]


def test_a_row_that_is_finished_makes_room_for_the_next(make_loaded: MakeLoaded) -> None:
    loaded = make_loaded("llada")
    settings = settings_of("llada", temperature=0.0, steps=12)
    quick, slow = (
        prompts_of(lengths, is_decided=is_decided)
        for lengths, is_decided in (((4,) * 4, lambda tokens: len(tokens) >= 4), ((9,), None))
    )
    order = [index for index, _ in generate(loaded, [*slow, *quick], settings, 0, max_rows=2)]
    # Four short answers of one block each run beside the long one of three; the fourth ends after it.
    assert order == [1, 2, 0, 3, 4]
    assert loaded.counter.num_sequences == 12 + 4 * 4
    assert loaded.counter.num_forwards == 16


def test_nothing_is_lost_when_memory_runs_out(make_loaded: MakeLoaded, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = make_loaded("dream")
    settings = CASES["dream, temperature"][1]
    prompts = prompts_of(LENGTHS)
    expected = write(loaded, prompts, settings)
    forward, sizes = LoadedModel.hidden_at, []

    def scarce(self: LoadedModel, input_ids: torch.Tensor, *arguments: Any) -> torch.Tensor:
        # Memory becomes scarce after a while: 150 tokens are three of the longest rows.
        sizes.append(len(input_ids))
        if len(sizes) > 3 and input_ids.numel() > 150:
            raise torch.OutOfMemoryError("injected")
        return forward(self, input_ids, *arguments)

    monkeypatch.setattr(LoadedModel, "hidden_at", scarce)
    assert write(loaded, prompts, settings) == expected
    assert sizes[:6] == [7, 7, 7, 7, 3, 3]
    # No step was run twice, but for the one that failed.
    num_steps = sum(count > 0 for count in commit_counts(settings.gen_length, settings.steps))
    assert sum(sizes) - 7 == num_steps * len(prompts)


def test_a_row_that_does_not_fit_alone_is_an_error(make_loaded: MakeLoaded, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("injected")

    monkeypatch.setattr(LoadedModel, "hidden_at", full)
    with pytest.raises(torch.OutOfMemoryError, match="injected"):
        write(make_loaded("llada"), prompts_of(LENGTHS), CASES["llada"][1])


def test_a_budget_on_a_gpu_grows_until_memory_says_no() -> None:
    budget = RowBudget(torch.device("cuda"), None)
    first = budget.num_rows(1000)
    assert first == 8192 // 1008
    budget.succeeded()
    assert budget.num_rows(1000) == 16384 // 1008
    budget.ran_out(16, 1000)
    assert budget.num_rows(1000) == 8
    for _ in range(9):
        budget.succeeded()
    assert budget.num_rows(1000) == 8
    assert budget.num_rows(500_000) == 1
    grown = RowBudget(torch.device("cuda"), 40)
    for _ in range(9):
        grown.succeeded()
    assert (grown.num_rows(10_000), grown.num_rows(100)) == (6, 40)


def test_a_dropped_mask_would_be_seen(make_loaded: MakeLoaded, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, (_, settings) = make_loaded("llada"), CASES["llada"]
    whole = write(loaded, prompts_of(LENGTHS), settings)
    monkeypatch.setattr(packed.PackedBatch, "_key_mask", lambda *_: None)
    assert write(loaded, prompts_of(LENGTHS), settings) != whole


def test_an_answer_that_stops_a_block_early_would_be_seen(
    make_loaded: MakeLoaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = DiffusionLM(make_loaded("llada"), Protocol(generation=CASES["llada"][1]))
    requests = [(word, {"until": ["\n\n"]}) for word in ("a", "def f(x):", "12 + 7 =")]
    whole = dict(lm.generations(requests))
    monkeypatch.setattr(AnswerText, "is_decided", lambda self, ids: len(ids) >= 8)
    assert dict(lm.generations(requests)) != whole


@pytest.mark.parametrize("case", ["llada, temperature", "dream, temperature"])
def test_logits_may_be_made_in_portions(case: str, make_loaded: MakeLoaded, monkeypatch: pytest.MonkeyPatch) -> None:
    family, settings = CASES[case]
    loaded = make_loaded(family)
    whole = write(loaded, prompts_of(LENGTHS), settings)
    heads = []
    head = LoadedModel.head
    monkeypatch.setattr(LoadedModel, "head", lambda self, hidden: heads.append(len(hidden)) or head(self, hidden))
    # Room for the logits of 14 places: three or more of LLaDA's rows, or one of Dream's.
    monkeypatch.setattr("workers.samplers.writing._LOGITS_AT_ONCE", 14 * loaded.cost.vocab_size)
    assert write(loaded, prompts_of(LENGTHS), settings) == whole
    assert 10 < max(heads) <= 14
    assert len(heads) > loaded.counter.num_forwards / 2
