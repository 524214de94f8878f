"""DiffusionLM alone with lm-eval on local tasks, and the two methods that a worker calls."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import lm_eval
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager

from grids.protocol import LikelihoodSettings, Protocol
from methods import NonFiniteError
from workers.likelihood import Question, log_likelihoods
from workers.lm import DiffusionLM, request_key
from workers.models import LoadedModel
from workers.samplers import Prompt, generate

EOS, BOS, END_OF_TURN = 257, 258, 259
MakeLoaded = Callable[..., LoadedModel]
PROTOCOL = Protocol.model_validate(
    {
        "likelihood": {"mc_num": 4, "strata": 2},
        "generation": {"gen_length": 8, "steps": 8, "llada": {"block_length": 4}},
    }
)
DOCUMENTS = [
    {"question": "Red or blue?", "choices": ["red", "blue"], "label": 0, "answer": "red"},
    {"question": "Up?", "choices": ["up", "down"], "label": 1, "answer": "down"},
    {"question": "A long question, is it?", "choices": ["yes", "no"], "label": 1, "answer": "no"},
]
CHOICE = """
task: choice
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: choices
doc_to_target: label
metric_list: [{metric: acc}, {metric: acc_norm}]
metadata: {version: 1}
"""
WRITE = """
task: write
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: generate_until
doc_to_text: "Q: {{question}} A:"
doc_to_target: answer
generation_kwargs: {until: ["\\n"], do_sample: false, max_gen_toks: 3}
metric_list: [{metric: exact_match}]
metadata: {version: 1}
"""


class ScriptedTokens:
    """Stands in for the sampler: every answer is these tokens."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tokens: list[int]) -> None:
        self.prompts: list[list[int]] = []
        self.tokens = tokens
        monkeypatch.setattr("workers.lm.generate", self)

    def __call__(self, loaded: LoadedModel, prompts: Any, *arguments: Any, **options: Any) -> Iterator[Any]:
        self.prompts += [list(prompt.ids) for prompt in prompts]
        return ((index, self.tokens) for index in range(len(prompts)))


def answers_of(lm: DiffusionLM, requests: Any) -> list[str]:
    """The answers in the order of their requests."""
    return [text for _, text in sorted(lm.generations(requests))]


def likelihoods_of(lm: DiffusionLM, requests: Any) -> list[float]:
    return [value for _, value in sorted(lm.likelihoods(requests))]


@pytest.fixture
def task_manager(tmp_path: Path) -> TaskManager:
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(json.dumps(document) for document in DOCUMENTS))
    for name, text in (("choice", CHOICE), ("write", WRITE)):
        (tmp_path / f"{name}.yaml").write_text(text.replace("DATA", str(data)))
    return TaskManager(include_path=str(tmp_path), include_defaults=False)


def log_likelihood(
    loaded: LoadedModel, context: list[int], target: list[int], settings: LikelihoodSettings, key: str, seed: int
) -> float:
    ((_, logprob),) = log_likelihoods(loaded, [Question(context, target, key)], settings, seed)
    return logprob


def evaluate(lm: DiffusionLM, task_manager: TaskManager, task: str, **options: Any) -> list[dict[str, Any]]:
    """The samples of a task, in the order of its documents."""
    results = lm_eval.simple_evaluate(
        model=lm, tasks=[task], task_manager=task_manager, log_samples=True, bootstrap_iters=0, **options
    )
    assert results is not None
    return sorted(results["samples"][task], key=lambda sample: sample["doc_id"])


def arguments_of(sample: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """The requests behind a logged sample."""
    return [tuple(arguments) for arguments in sample["arguments"]]


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_lm_eval_gets_the_likelihoods_that_a_worker_gets(
    family: str, make_loaded: MakeLoaded, task_manager: TaskManager
) -> None:
    lm = DiffusionLM(make_loaded(family), PROTOCOL, seed=3)
    samples = evaluate(lm, task_manager, "choice")
    assert len(samples) == 3
    requests = [(context, continuation) for sample in samples for context, continuation in arguments_of(sample)]
    logged = [logprob for sample in samples for ((logprob, greedy),) in sample["resps"] if greedy is False]
    assert logged == likelihoods_of(lm, requests)
    assert len(set(logged)) == 6
    # In another order and in other company, the same.
    again = DiffusionLM(lm.loaded, PROTOCOL, seed=3)
    alone = [likelihoods_of(again, [request])[0] for request in reversed(requests)]
    assert alone == pytest.approx(logged[::-1], rel=1e-5)


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_lm_eval_gets_the_answers_that_a_worker_gets(
    family: str, make_loaded: MakeLoaded, task_manager: TaskManager
) -> None:
    lm = DiffusionLM(make_loaded(family), PROTOCOL, seed=3, batch_size=2)
    samples = evaluate(lm, task_manager, "write")
    requests = [(context, gen_kwargs) for sample in samples for context, gen_kwargs in arguments_of(sample)]
    logged = [sample["resps"][0][0] for sample in samples]
    assert logged == answers_of(lm, requests)
    assert logged == [answers_of(lm, [request])[0] for request in requests]


def test_chat_templates_reach_the_prompt(make_loaded: MakeLoaded, task_manager: TaskManager) -> None:
    lm = DiffusionLM(make_loaded("llada"), PROTOCOL)
    (context, _), *_ = arguments_of(evaluate(lm, task_manager, "write", apply_chat_template=True)[1])
    assert context == "<|bos|>user: Q: Up? A:<|eot_id|>assistant: "
    # The template wrote BOS already.
    assert lm.tok_encode(context).count(BOS) == 1
    prefill = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "```python"}]
    assert lm.apply_chat_template(prefill, add_generation_prompt=False).endswith("assistant: ```python")
    assert lm.tokenizer_name == str(lm.tokenizer.name_or_path)


def test_a_tokenizer_without_a_chat_template_says_so(make_loaded: MakeLoaded) -> None:
    lm = DiffusionLM(make_loaded("llada"), PROTOCOL)
    lm.tokenizer.chat_template = None
    with pytest.raises(ValueError, match="has no chat template"):
        lm.apply_chat_template([{"role": "user", "content": "Hi"}])


def test_the_request_key_is_the_hash_of_the_content() -> None:
    key = request_key("loglikelihood", ("context", " target"))
    # Golden: every draw of every study hangs on it.
    assert key == "eabf5e9417205a6a2bb58491a6361099a3007fd14e530999c6bb4bd7eac7e462"
    assert (
        key
        == request_key("loglikelihood", ["context", " target"])
        == DiffusionLM.request_key("loglikelihood", ("context", " target"))
    )
    assert key != request_key("loglikelihood", ("context ", "target"))
    assert key != request_key("generate_until", ("context", " target"))
    assert request_key("generate_until", ("c", {"until": ["a"], "b": 1})) == request_key(
        "generate_until", ("c", {"b": 1, "until": ["a"]})
    )


def test_the_key_of_a_request_is_what_its_draws_hang_on(make_loaded: MakeLoaded) -> None:
    loaded = make_loaded("llada")
    lm = DiffusionLM(loaded, PROTOCOL, seed=9)
    request = ("Red or blue?", " red")
    by_hand = log_likelihood(
        loaded,
        loaded.tokenizer("Red or blue?")["input_ids"],
        loaded.tokenizer(" red")["input_ids"],
        PROTOCOL.likelihood,
        request_key("loglikelihood", request),
        9,
    )
    assert likelihoods_of(lm, [request]) == [by_hand]
    assert likelihoods_of(DiffusionLM(loaded, PROTOCOL, seed=8), [request]) != [by_hand]
    prompt = Prompt(loaded.tokenizer("Red")["input_ids"], request_key("generate_until", ("Red", {})))
    ((_, answer),) = generate(loaded, [prompt], PROTOCOL.generation, 9)
    ends = [i for i, token in enumerate(answer) if token in (EOS, END_OF_TURN)] + [8]
    decoded = loaded.tokenizer.decode(answer[: ends[0]], skip_special_tokens=True)
    assert answers_of(lm, [("Red", {})]) == [decoded]


def test_spaces_at_the_end_of_the_context_belong_to_the_continuation(make_loaded: MakeLoaded) -> None:
    lm = DiffusionLM(make_loaded("llada"), PROTOCOL)
    moved, plain = lm.question(("Red or ", "blue")), lm.question(("Red or", " blue"))
    assert (moved.context, moved.target) == (plain.context, plain.target)


def test_dreams_prompts_begin_with_bos_and_lladas_do_not(
    make_loaded: MakeLoaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = ScriptedTokens(monkeypatch, [65])
    for family in ("llada", "dream"):
        answers_of(DiffusionLM(make_loaded(family), PROTOCOL), [("AB", {}), ("<|bos|>AB", {})])
    letters = sampler.prompts[0]
    assert len(letters) == 2
    assert sampler.prompts == [letters, [BOS, *letters], [BOS, *letters], [BOS, *letters]]


def test_dreams_likelihood_is_conditioned_on_bos(make_loaded: MakeLoaded) -> None:
    loaded = make_loaded("dream")
    ids = loaded.tokenizer("A")["input_ids"]
    key = request_key("loglikelihood", ("A", "B"))
    target = loaded.tokenizer("B")["input_ids"]
    expected = log_likelihood(loaded, [BOS, *ids], target, PROTOCOL.likelihood, key, 0)
    assert likelihoods_of(DiffusionLM(loaded, PROTOCOL), [("A", "B")]) == [expected]


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_an_empty_context_is_the_prefix_token(family: str, make_loaded: MakeLoaded) -> None:
    lm = DiffusionLM(make_loaded(family), PROTOCOL)
    target = lm.tok_encode("red")
    key = request_key("loglikelihood", ("", "red"))
    expected = log_likelihood(lm.loaded, [BOS], target, PROTOCOL.likelihood, key, 0)
    assert likelihoods_of(lm, [("", "red")]) == [expected]
    assert len(answers_of(lm, [("", {})])) == 1


def bytes_of(lm: DiffusionLM, text: str) -> list[int]:
    return lm.tok_encode(text, add_special_tokens=False)


@pytest.mark.parametrize(
    ("gen_kwargs", "eos_ends_answer", "expected"),
    [
        ({}, True, "one. two"),
        ({}, False, "one. two\nthree four"),
        ({"until": ["\n"]}, False, "one. two"),
        ({"until": "."}, True, "one"),
        ({"until": ["two", ".", ""]}, True, "one"),
        ({"until": ["never"]}, True, "one. two"),
        ({"until": ["<|eot_id|>"]}, False, "one. two\nthree"),
        ({"until": None, "max_gen_toks": 1, "do_sample": True, "temperature": 2.0}, True, "one. two"),
    ],
)
def test_the_answer_ends_at_the_first_end_token_or_stop_string(
    gen_kwargs: dict[str, Any],
    eos_ends_answer: bool,
    expected: str,
    make_loaded: MakeLoaded,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generation = PROTOCOL.generation.model_copy(update={"eos_ends_answer": eos_ends_answer})
    lm = DiffusionLM(make_loaded("llada"), PROTOCOL.model_copy(update={"generation": generation}))
    text = [*bytes_of(lm, "one. two"), EOS, *bytes_of(lm, "\nthree"), END_OF_TURN, *bytes_of(lm, " four")]
    ScriptedTokens(monkeypatch, text)
    assert answers_of(lm, [("Q", gen_kwargs)]) == [expected]


def test_the_end_of_a_turn_ends_an_answer_too(make_loaded: MakeLoaded, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = DiffusionLM(make_loaded("llada"), PROTOCOL)
    ScriptedTokens(monkeypatch, [*bytes_of(lm, "one"), END_OF_TURN, *bytes_of(lm, " two"), EOS])
    assert answers_of(lm, [("Q", {})]) == ["one"]


def test_long_prompts_are_cut_on_the_left_and_that_is_said_once(
    make_loaded: MakeLoaded, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sampler = ScriptedTokens(monkeypatch, [65])
    lm = DiffusionLM(make_loaded("llada", max_length=20), PROTOCOL)
    with caplog.at_level(logging.WARNING, logger="workers.lm"):
        answers_of(lm, [("abcdefghijklmnopqrstuvwxyz", {}), ("0123456789abcdefghij", {})])
    assert sampler.prompts == [bytes_of(lm, "opqrstuvwxyz"), bytes_of(lm, "89abcdefghij")]
    assert [record.getMessage() for record in caplog.records] == [
        "prompts longer than 12 tokens are cut on the left (this one has 26; 8 tokens follow it)"
    ]


def test_an_answer_that_is_longer_than_the_model_is_refused(make_loaded: MakeLoaded) -> None:
    lm = DiffusionLM(make_loaded("llada", max_length=8), PROTOCOL)
    with pytest.raises(ValueError, match="8 tokens after the prompt leave no room in the model's 8"):
        answers_of(lm, [("Q", {})])


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_the_greedy_flag_is_computed_only_when_asked(family: str, make_loaded: MakeLoaded) -> None:
    loaded = make_loaded(family)
    x, y = loaded.tokenizer("xy")["input_ids"]
    # Opposite rows for x and y, zeros for the rest: the best token is always one of the two.
    head: Any = loaded.model.get_submodule("lm_head")
    head.weight.data[y] = -head.weight.data[x]
    head.weight.data[[token for token in range(len(head.weight)) if token not in (x, y)]] = 0
    requests = [Instance("loglikelihood", {}, ("Q", text), 0) for text in ("x", "y", "z")]
    lm = DiffusionLM(loaded, PROTOCOL)
    assert [greedy for _, greedy in lm.loglikelihood(requests)] == [False] * 3
    cost = lm.num_forwards
    asked = DiffusionLM(loaded, PROTOCOL, greedy=True)
    answers = asked.loglikelihood(requests)
    assert [greedy for _, greedy in answers] in ([True, False, False], [False, True, False])
    assert [logprob for logprob, _ in answers] == likelihoods_of(lm, [request.args for request in requests])
    # Likelihoods, flags, and the likelihoods again: each in one batch.
    assert (cost, asked.num_forwards) == (1, 3)


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_rolling_likelihood_is_refused_for_a_diffusion_model(family: str, make_loaded: MakeLoaded) -> None:
    lm = DiffusionLM(make_loaded(family), PROTOCOL)
    with pytest.raises(ValueError, match=f"needs a causal model: a {family} model gives no left-to-right likelihood"):
        lm.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, ("a text",), 0)])


def test_a_causal_model_is_refused(make_loaded: MakeLoaded) -> None:
    with pytest.raises(ValueError, match="needs a diffusion model; a causal one is evaluated by CausalLM"):
        DiffusionLM(make_loaded("causal"), PROTOCOL)


def test_forwards_are_counted_per_lm(make_loaded: MakeLoaded) -> None:
    loaded = make_loaded("llada")
    first = DiffusionLM(loaded, PROTOCOL)
    likelihoods_of(first, [("Q", "a"), ("Q", "b")])
    second = DiffusionLM(loaded, PROTOCOL)
    answers_of(second, [("Q", {}), ("R", {})])
    assert (second.num_forwards, first.num_forwards) == (8, 9)


def test_likelihoods_that_are_not_finite_name_the_request(make_loaded: MakeLoaded) -> None:
    loaded = make_loaded("llada")
    embedding: Any = loaded.model.get_submodule("model.embed_tokens")
    with torch.no_grad():
        embedding.weight[loaded.tokenizer("#")["input_ids"][0]] = torch.nan
    lm = DiffusionLM(loaded, PROTOCOL)
    with pytest.raises(NonFiniteError, match=r"of ' b' after a context that ends in 'What #\?' is nan"):
        list(lm.likelihoods([("What?", " a"), ("What #?", " b")]))


def test_likelihoods_are_streamed_with_the_place_of_their_request(make_loaded: MakeLoaded) -> None:
    lm = DiffusionLM(make_loaded("llada"), PROTOCOL, max_tokens=10)
    requests = [("Q", " a"), ("A longer question", " an answer"), ("Question", " b")]
    streamed = list(lm.likelihoods(requests))
    assert sorted(index for index, _ in streamed) == [0, 1, 2]
    assert [dict(streamed)[index] for index in range(3)] == likelihoods_of(lm, requests)
    # The longest goes first: if anything does not fit, it shows at once.
    assert streamed[0][0] == 1
