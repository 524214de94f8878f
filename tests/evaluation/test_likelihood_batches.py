"""Many questions at once: the answers of each alone, equal inputs computed once, full batches, small memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

import methods
from grids import parse_scheme
from grids.protocol import LikelihoodSettings
from tests.evaluation.slow_likelihood import drawn_log_likelihood, greedy_target
from workers.likelihood import Question, TokenBudget, estimate, greedy_flags, log_likelihoods
from workers.likelihood.masks import Patterns
from workers.likelihood.masks import patterns as draw_patterns
from workers.models import LoadedModel

MASK = 256
MakeLoaded = Callable[..., LoadedModel]
SETTINGS = LikelihoodSettings(mc_num=8, strata=2)


class Forwards:
    """What went through `logits_at`: per forward its rows without padding, and how many tokens with padding."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, largest: int | None = None) -> None:
        self.batches: list[list[tuple[int, ...]]] = []
        self.sizes: list[int] = []
        self.num_refused = 0
        logits_at = LoadedModel.logits_at

        def record(
            loaded: LoadedModel, input_ids: Tensor, positions: Tensor, attention_mask: Tensor | None = None
        ) -> Tensor:
            if largest is not None and input_ids.numel() > largest:
                self.num_refused += 1
                raise torch.OutOfMemoryError("injected")
            present = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            self.batches.append(
                [tuple(ids[real.bool()].tolist()) for ids, real in zip(input_ids, present, strict=True)]
            )
            self.sizes.append(input_ids.numel())
            return logits_at(loaded, input_ids, positions, attention_mask)

        monkeypatch.setattr(LoadedModel, "logits_at", record)

    @property
    def rows(self) -> list[tuple[int, ...]]:
        return [row for batch in self.batches for row in batch]


def answers(
    loaded: LoadedModel, questions: Sequence[Question], settings: LikelihoodSettings = SETTINGS, max_tokens: int = 64
) -> list[float]:
    budget = TokenBudget(loaded, max_tokens)
    found = dict(log_likelihoods(loaded, questions, settings, 0, budget=budget))
    return [found[index] for index in range(len(questions))]


def some_questions(num: int = 9) -> list[Question]:
    """Contexts and targets of many lengths; some share their context, some their target, one masks itself."""
    rng = np.random.default_rng(0)
    contexts = [rng.integers(200, size=length).tolist() for length in (3, 9, 17)]
    targets = [rng.integers(200, size=length).tolist() for length in (1, 4, 4, 1, 6)] + [[5, MASK, 7]]
    pairs = [(contexts[i % 3], targets[i % len(targets)]) for i in range(num)]
    return [Question(context, target, f"key {i}") for i, (context, target) in enumerate(pairs)]


def quantized(loaded: LoadedModel) -> LoadedModel:
    method = methods.available_methods()["rtn"]
    method(method.Parameters()).quantize(loaded.model, parse_scheme("w4a8"), None, seed=0)
    return loaded


@pytest.mark.parametrize("rows", [1, 3, 16])
@pytest.mark.parametrize("kind", ["llada", "dream", "quantized"])
def test_each_answer_is_what_the_question_gets_alone_draw_by_draw(
    kind: str, rows: int, make_loaded: MakeLoaded
) -> None:
    loaded = quantized(make_loaded("llada")) if kind == "quantized" else make_loaded(kind)
    questions = some_questions()
    alone = [drawn_log_likelihood(loaded, [*q.context], [*q.target], SETTINGS, q.key, 0) for q in questions]
    assert answers(loaded, questions, max_tokens=rows * 23) == pytest.approx(alone, rel=1e-5)


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_order_company_and_shards_change_nothing(family: str, make_loaded: MakeLoaded) -> None:
    loaded, questions = make_loaded(family), some_questions(12)
    whole = answers(loaded, questions)
    order = np.random.default_rng(1).permutation(12).tolist()
    shuffled = answers(loaded, [questions[index] for index in order])
    assert shuffled == pytest.approx([whole[index] for index in order], rel=1e-5)
    for num_shards in (2, 3):
        for shard in range(num_shards):
            part = answers(loaded, questions[shard::num_shards])
            assert part == pytest.approx(whole[shard::num_shards], rel=1e-5)


def test_the_choices_of_a_question_with_one_token_each_share_one_row(
    make_loaded: MakeLoaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, forwards = make_loaded("llada"), Forwards(monkeypatch)
    context = list(range(30))
    letters = [Question(context, [letter], str(letter)) for letter in (65, 66, 67, 68)]
    values = answers(loaded, letters, LikelihoodSettings(mc_num=128))
    assert forwards.batches == [[(*context, MASK)]]
    assert len(set(values)) == 4
    log_probs = loaded.logits(torch.tensor([[*context, MASK]]))[0, -1].double().log_softmax(-1)
    assert values == pytest.approx(log_probs[65:69].tolist(), rel=1e-5)


def test_every_input_is_computed_once(make_loaded: MakeLoaded, monkeypatch: pytest.MonkeyPatch) -> None:
    forwards = Forwards(monkeypatch)
    settings = LikelihoodSettings(mc_num=64)
    # Two choices with the same first token: all of its masks, and the whole target's, are common.
    answers(make_loaded("llada"), [Question([1, 2], [7, 8], "a"), Question([1, 2], [7, 9], "b")], settings)
    assert sorted(forwards.rows) == sorted([(1, 2, MASK, MASK), (1, 2, 7, MASK), (1, 2, MASK, 8), (1, 2, MASK, 9)])


def test_equal_targets_after_different_contexts_share_nothing(
    make_loaded: MakeLoaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    forwards = Forwards(monkeypatch)
    loaded = make_loaded("llada")
    first, second = answers(loaded, [Question([1, 2], [7], "a"), Question([1, 3], [7], "b")])
    assert sorted(forwards.rows) == [(1, 2, MASK), (1, 3, MASK)]
    assert first != second


def test_a_mask_token_in_the_target_itself_is_asked_for_only_where_it_is_masked(
    make_loaded: MakeLoaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, forwards = make_loaded("llada"), Forwards(monkeypatch)
    question = Question([1, 2, 3], [MASK, 8], "key")
    settings = LikelihoodSettings(mc_num=64)
    expected = drawn_log_likelihood(loaded, [1, 2, 3], [MASK, 8], settings, "key", 0)
    assert answers(loaded, [question], settings) == pytest.approx([expected], rel=1e-5)
    # Three patterns, but a masked mask looks like an open one.
    assert sorted(forwards.rows) == [(1, 2, 3, MASK, 8), (1, 2, 3, MASK, MASK)]


def test_batches_are_full_and_within_the_budget(make_loaded: MakeLoaded, monkeypatch: pytest.MonkeyPatch) -> None:
    forwards = Forwards(monkeypatch)
    questions = [Question(list(range(10 + i % 3)), [i, 50 + i, 99, 120 + i], str(i)) for i in range(40)]
    answers(make_loaded("llada"), questions, max_tokens=100)
    assert max(forwards.sizes) <= 100
    full = [100 // max(map(len, batch)) for batch in forwards.batches]
    assert [len(batch) for batch in forwards.batches[:-1]] == full[:-1]


def test_a_row_longer_than_the_budget_goes_alone(make_loaded: MakeLoaded, monkeypatch: pytest.MonkeyPatch) -> None:
    forwards = Forwards(monkeypatch)
    answers(make_loaded("llada"), [Question(list(range(20)), [1, 2], "a")], max_tokens=5)
    assert [len(batch) for batch in forwards.batches] == [1, 1, 1]


def test_answers_leave_before_all_questions_are_drawn(make_loaded: MakeLoaded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "_QUESTIONS_IN_POOL", 2)
    drawn: list[str] = []

    def recorded(length: int, settings: LikelihoodSettings, key: str, seed: int) -> Patterns:
        drawn.append(key)
        return draw_patterns(length, settings, key, seed)

    monkeypatch.setattr(estimate, "patterns", recorded)
    loaded = make_loaded("llada")
    questions = [Question([index], [5, 6, 7], str(index)) for index in range(30)]
    stream = log_likelihoods(loaded, questions, SETTINGS, 0, budget=TokenBudget(loaded, 8))
    finished = [next(stream) for _ in range(3)]
    assert len(drawn) <= len(finished) + 8
    finished += stream
    assert sorted(index for index, _ in finished) == list(range(30))
    assert len(drawn) == 30


def test_a_batch_that_does_not_fit_is_halved_and_nothing_is_lost(
    make_loaded: MakeLoaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, questions = make_loaded("llada"), some_questions()
    expected = answers(loaded, questions)
    forwards = Forwards(monkeypatch, largest=70)
    budget = TokenBudget(loaded, 10**9)
    found = dict(log_likelihoods(loaded, questions, SETTINGS, 0, budget=budget))
    assert [found[index] for index in range(len(questions))] == pytest.approx(expected, rel=1e-5)
    # From some 500 tokens down to 70.
    assert 2 <= forwards.num_refused <= 5
    # The smaller budget is kept.
    refused = forwards.num_refused
    list(log_likelihoods(loaded, questions, SETTINGS, 0, budget=budget))
    assert forwards.num_refused == refused


def test_a_single_row_that_does_not_fit_is_an_error(make_loaded: MakeLoaded, monkeypatch: pytest.MonkeyPatch) -> None:
    Forwards(monkeypatch, largest=20)
    with pytest.raises(torch.OutOfMemoryError):
        answers(make_loaded("llada"), [Question(list(range(20)), [1, 2], "a")])


def test_a_budget_without_a_token_is_refused(make_loaded: MakeLoaded) -> None:
    with pytest.raises(ValueError, match="at least one token, not 0"):
        TokenBudget(make_loaded("llada"), 0)


@pytest.mark.parametrize("max_tokens", [1, 20, 500])
@pytest.mark.parametrize("family", ["llada", "dream"])
def test_greedy_flags_are_true_of_what_greedy_decoding_gives(
    family: str, max_tokens: int, make_loaded: MakeLoaded
) -> None:
    loaded, rng = make_loaded(family), np.random.default_rng(0)
    questions = []
    for length in (1, 2, 3, 5):
        context = rng.integers(200, size=2 * length).tolist()
        target = greedy_target(loaded, context, length)
        wrong = [*target]
        wrong[length // 2] = (wrong[length // 2] + 1) % 200
        questions += [Question(context, ids, "") for ids in (target, wrong)]
    found = dict(greedy_flags(loaded, questions, budget=TokenBudget(loaded, max_tokens)))
    assert [found[index] for index in range(8)] == [True, False] * 4


def test_greedy_decoding_ends_at_the_first_other_token_and_is_batched(
    make_loaded: MakeLoaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = make_loaded("llada")
    right = greedy_target(loaded, [1, 2, 3], 4)
    forwards = Forwards(monkeypatch)
    questions = [Question([1, 2, 3], right, "")] + [Question([i, 4], [(i * 7) % 200, 3, 3, 3], "") for i in range(6)]
    flags = dict(greedy_flags(loaded, questions, budget=TokenBudget(loaded, 1000)))
    assert [flags[index] for index in range(7)] == [True] + [False] * 6
    assert [len(batch) for batch in forwards.batches] == [7, 1, 1, 1]
