"""CausalLM against plain decoding and log-softmax in float64, and against its own batches."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import GenerationConfig

from grids import parse_scheme
from grids.protocol import Protocol
from methods import NonFiniteError, available_methods, quantized_state, restore_quantized
from tests.models import float64_forward, original_layouts
from workers.causal import CausalLM
from workers.lm import request_key
from workers.models import LoadedModel, load_model
from workers.randomness import gumbel_rows

EOS, BOS, END_OF_TURN, VOCAB = 257, 258, 259, 260
MakeLoaded = Callable[..., LoadedModel]
PROTOCOL = Protocol.model_validate({"generation": {"gen_length": 10}})
PROMPTS = ["Red or blue?", "A much longer question, is it not so?", "X", "to be", "not to be", "?", "Up or down: "]
CHOICES = [("Red or blue?", " red"), ("Red or blue?", " blue"), ("Q: up or down? A:", " A"), ("", "xyz")]
CHOICES += [("Q: up or down? A:", f" {letter}") for letter in "BCD"] + [("AB", "CD"), ("ABC", "D"), ("A", "BCDE")]


def protocol(**generation: Any) -> Protocol:
    return Protocol.model_validate({"generation": {"gen_length": 10} | generation})


def answers(lm: CausalLM, requests: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    return [text for _, text in sorted(lm.generations(requests))]


def likelihoods(lm: CausalLM, requests: Sequence[tuple[str, str]]) -> list[float]:
    return [logprob for _, logprob in sorted(lm.likelihoods(requests))]


def quantize(loaded: LoadedModel, scheme: str, method: str = "rtn", **parameters: Any) -> list[str]:
    """Quantizes the model; the names of what was changed beyond the linears."""
    kind = available_methods()[method]
    worker = kind(kind.Parameters.model_validate(parameters))
    windows = torch.randint(0, 256, (4, 16), generator=torch.Generator().manual_seed(5))
    return list(worker.quantize(loaded.model, parse_scheme(scheme), windows, seed=0).changed_parameters)


@pytest.fixture(params=["qwen2", "llama"])
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[LoadedModel, Callable[[list[int]], np.ndarray]]:
    """A causal checkpoint as its authors write it; and its logits [T, V] in float64 numpy, row i for token i + 1."""
    config = original_layouts.dream_config(model_type=request.param, max_position_embeddings=128)
    del config["mask_token_id"]
    if request.param == "llama":
        config["attention_bias"] = False
    tensors = original_layouts.qwen_tensors(bias=request.param == "qwen2")
    loaded = load_model(str(original_layouts.write_checkpoint(tmp_path, config, tensors)))

    def logits(ids: list[int]) -> np.ndarray:
        # A token more, so that the shifted rows hold what follows the last one.
        return float64_forward.dream_logits(tensors, config, [*ids, 0], causal=True)[1:]

    return loaded, logits


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def test_answers_are_those_of_plain_greedy_decoding(checkpoint: Any) -> None:
    loaded, logits = checkpoint
    expected = []
    for prompt in PROMPTS:
        ids = loaded.tokenizer(prompt)["input_ids"]
        new: list[int] = []
        while len(new) < 10 and not set(new) & {EOS, END_OF_TURN}:
            new.append(int(logits(ids + new)[-1].argmax()))
        expected.append(loaded.tokenizer.decode(new, skip_special_tokens=True))
    assert answers(CausalLM(loaded, PROTOCOL, batch_size=3), [(prompt, {}) for prompt in PROMPTS]) == expected
    assert len(set(expected)) == len(PROMPTS)


def test_likelihoods_are_sums_of_log_softmax(checkpoint: Any) -> None:
    loaded, logits = checkpoint
    expected = []
    for context, continuation in CHOICES:
        ids = loaded.tokenizer(context)["input_ids"] or [BOS]
        target = loaded.tokenizer(continuation)["input_ids"]
        rows = log_softmax(logits(ids + target)[len(ids) - 1 : -1])
        expected.append(sum(row[token] for row, token in zip(rows, target, strict=True)))
    assert likelihoods(CausalLM(loaded, PROTOCOL, batch_size=3), CHOICES) == pytest.approx(expected, abs=1e-5)


def test_draws_at_a_temperature_are_keyed_by_seed_and_request(checkpoint: Any) -> None:
    loaded, logits = checkpoint
    lm = CausalLM(loaded, protocol(temperature=0.7, gen_length=6), seed=3, batch_size=4)
    requests = [(prompt, {"until": ["no such"]}) for prompt in PROMPTS]
    expected = []
    for request in requests:
        ids = loaded.tokenizer(request[0])["input_ids"]
        new: list[int] = []
        while len(new) < 6 and not set(new) & {EOS, END_OF_TURN}:
            noise = gumbel_rows(3, [request_key("generate_until", request)], "tokens", len(new), (264,))[0].numpy()
            new.append(int((logits(ids + new)[-1] / 0.7 + noise).argmax()))
        expected.append(loaded.tokenizer.decode(new, skip_special_tokens=True))
    assert answers(lm, requests) == expected
    assert answers(lm, requests[::-1]) == expected[::-1]
    assert answers(CausalLM(loaded, lm.protocol, seed=4), requests) != expected
    assert answers(CausalLM(loaded, protocol(gen_length=6), seed=3), requests) != expected


@pytest.mark.parametrize("scheme", ["fp16", "w4a4kv4"])
def test_answers_and_likelihoods_do_not_depend_on_the_batch(scheme: str, make_loaded: MakeLoaded) -> None:
    loaded = make_loaded("causal")
    if scheme != "fp16":
        quantize(loaded, scheme)
    requests = [(prompt, {"until": [until]}) for prompt in PROMPTS for until in ("e", "\n")]
    alone, some, all_ = (CausalLM(loaded, PROTOCOL, batch_size=size) for size in (1, 3, 16))
    assert answers(alone, requests) == answers(some, requests) == answers(all_, requests)
    assert answers(some, requests[::-1]) == answers(alone, requests)[::-1]
    expected = likelihoods(alone, CHOICES)
    assert likelihoods(some, CHOICES) == pytest.approx(expected, abs=1e-5)
    assert likelihoods(all_, CHOICES) == pytest.approx(expected, abs=1e-5)
    assert likelihoods(all_, CHOICES[::-1]) == pytest.approx(expected[::-1], abs=1e-5)
    assert len({round(value, 3) for value in expected}) == len(CHOICES)


def test_lm_evals_own_class_gives_the_same(make_loaded: MakeLoaded) -> None:
    # HFLM knows one end token, the tokenizer's.
    loaded = dataclasses.replace(make_loaded("causal"), end_token_ids=frozenset())
    lm = CausalLM(loaded, PROTOCOL)
    own = HFLM(pretrained=loaded.model, tokenizer=make_loaded("causal").tokenizer, batch_size=2)
    # HFLM misreads requests of the same text that are split at different places: see the next test.
    choices = [Instance("loglikelihood", {}, choice, index) for index, choice in enumerate(CHOICES[:-3])]
    ours, theirs = lm.loglikelihood(choices), own.loglikelihood(choices, disable_tqdm=True)
    assert [score for score, _ in ours] == pytest.approx([score for score, _ in theirs], abs=1e-5)
    assert [flag for _, flag in ours] == [flag for _, flag in theirs]
    for until in ([], ["e"], ["\n", "o"]):
        settings = {"until": until, "max_gen_toks": 10, "do_sample": False}
        prompts = [Instance("generate_until", {}, (prompt, settings), 0) for prompt in PROMPTS]
        assert lm.generate_until(prompts) == own.generate_until(prompts, disable_tqdm=True)


def test_log_probabilities_are_float32_in_a_model_of_fewer_bits(make_loaded: MakeLoaded) -> None:
    loaded = make_loaded("causal")
    loaded.model.to(torch.bfloat16)
    ids = torch.tensor([loaded.tokenizer("Red or blue?")["input_ids"]])
    rows = loaded.logits(ids)[0, 3:].log_softmax(-1)
    expected = float(rows.gather(-1, ids[0, 3:, None]).sum())
    assert likelihoods(CausalLM(loaded, PROTOCOL), [("Red", " or blue?")]) == pytest.approx([expected], abs=1e-3)


def test_one_text_split_at_different_places_is_scored_at_each(make_loaded: MakeLoaded) -> None:
    lm = CausalLM(make_loaded("causal"), PROTOCOL)
    splits = [("A", "BCD"), ("AB", "CD"), ("ABC", "D"), ("ABC", "E")]
    assert likelihoods(lm, splits) == pytest.approx([likelihoods(lm, [split])[0] for split in splits], abs=1e-5)


@pytest.mark.parametrize("scheme", ["w4a4kv4", "w4a4kv4q4", "w16a16kv2"])
def test_quantized_keys_and_values_are_right_in_a_cache(scheme: str, make_loaded: MakeLoaded) -> None:
    loaded, settings = make_loaded("causal", seed=1), protocol(eos_ends_answer=False)
    full_precision = answers(CausalLM(loaded, settings), [(prompt, {}) for prompt in PROMPTS])
    quantize(loaded, scheme)
    cached = answers(CausalLM(loaded, settings, batch_size=4), [(prompt, {}) for prompt in PROMPTS])
    assert cached != full_precision
    for prompt, text in zip(PROMPTS, cached, strict=True):
        ids = loaded.tokenizer(prompt, return_tensors="pt")["input_ids"]
        for _ in range(10):
            # Row i of `logits` predicts token i, whatever stands there.
            following = loaded.logits(nn.functional.pad(ids, (0, 1)))[:, -1:].argmax(-1)
            ids = torch.cat([ids, following], dim=1)
        assert loaded.tokenizer.decode(ids[0, -10:], skip_special_tokens=True) == text


def test_a_head_that_was_rotated_apart_from_the_embeddings_stays_so(make_loaded: MakeLoaded) -> None:
    def tied() -> LoadedModel:
        loaded = make_loaded("causal")
        model: Any = loaded.model
        model.lm_head.weight = model.model.embed_tokens.weight
        model.config.tie_word_embeddings = True
        return loaded

    rotated, restored = tied(), tied()
    changed = quantize(rotated, "w4a4", "quarot", weights="rtn")
    restore_quantized(restored.model, *quantized_state(rotated.model, changed_parameters=changed))
    ids = torch.arange(12)[None]
    before = restored.logits(ids)
    assert torch.equal(before, rotated.logits(ids))
    CausalLM(restored, PROTOCOL)
    assert torch.equal(restored.logits(ids), before)
    plain = tied()
    CausalLM(plain, PROTOCOL)
    assert plain.model.get_submodule("lm_head").weight is plain.model.get_submodule("model.embed_tokens").weight


class ScriptedHead(nn.Module):
    """Stands in for the head: row i of each batch says its script, token by token, then X."""

    in_features, out_features = 32, VOCAB

    def __init__(self, *scripts: list[int]) -> None:
        super().__init__()
        self._scripts, self._step = scripts, -1

    def forward(self, hidden: Tensor) -> Tensor:
        self._step += 1
        logits = torch.zeros(*hidden.shape[:-1], VOCAB)
        for row, script in enumerate(self._scripts):
            logits[row, :, script[self._step] if self._step < len(script) else ord("X")] = 1.0
        return logits


def scripted(make_loaded: MakeLoaded, settings: Protocol, *scripts: str | list[int]) -> CausalLM:
    lm = CausalLM(make_loaded("causal"), settings)
    encoded = [lm.tok_encode(script) if isinstance(script, str) else script for script in scripts]
    assert isinstance(lm.model, nn.Module)
    lm.model.lm_head = ScriptedHead(*encoded)
    return lm


@pytest.mark.parametrize(
    ("gen_kwargs", "eos_ends_answer", "expected"),
    [
        ({}, True, "one. two"),
        ({}, False, "one. two\nthree four"),
        ({"until": ["\n"]}, False, "one. two"),
        ({"until": "."}, True, "one"),
        ({"until": ["two", ".", ""]}, True, "one"),
        ({"until": ["e. t"]}, True, "on"),
        ({"until": ["never"]}, True, "one. two"),
        ({"until": ["<|eot_id|>"]}, False, "one. two\nthree"),
        ({"until": None, "max_gen_toks": 1, "do_sample": True, "temperature": 2.0}, True, "one. two"),
    ],
)
def test_the_answer_ends_at_the_first_end_token_or_stop_string(
    gen_kwargs: dict[str, Any], eos_ends_answer: bool, expected: str, make_loaded: MakeLoaded
) -> None:
    script = "one. two<|endoftext|>\nthree<|eot_id|> four"
    lm = scripted(make_loaded, protocol(gen_length=21, eos_ends_answer=eos_ends_answer), script)
    assert answers(lm, [("Q", gen_kwargs)]) == [expected]


def test_an_end_token_that_is_not_special_is_no_part_of_the_text(make_loaded: MakeLoaded) -> None:
    lm = scripted(make_loaded, protocol(gen_length=12), "one!two<|endoftext|>")
    lm.loaded = dataclasses.replace(lm.loaded, end_token_ids=frozenset(lm.tok_encode("!")))
    assert answers(lm, [("Q", {})]) == ["one"]


def test_a_row_ends_by_itself_and_the_batch_with_its_last_row(make_loaded: MakeLoaded) -> None:
    stops = {"until": ["bcd", "ab"]}
    lm = scripted(make_loaded, protocol(gen_length=20), "abcd", "efghijkl<|endoftext|>mn", "xyz<|endoftext|>abcd")
    # The first row has ended with "ab": what follows does not make it end with "bcd".
    assert answers(lm, [("P", stops), ("Q", stops), ("R", stops)]) == ["", "efghijkl", "xyz"]
    assert lm.num_forwards == 9
    assert answers(scripted(make_loaded, protocol(gen_length=20), "abcd"), [("P", stops)]) == [""]


def test_a_character_of_several_tokens_is_no_stop_before_it_is_whole(make_loaded: MakeLoaded) -> None:
    lm = scripted(make_loaded, protocol(gen_length=12), "né 你好 x")
    assert answers(lm, [("Q", {"until": ["好"]})]) == ["né 你"]
    assert lm.num_forwards == 10


def test_what_the_checkpoint_says_about_sampling_is_not_read(make_loaded: MakeLoaded) -> None:
    requests = [(prompt, {}) for prompt in PROMPTS]
    expected = answers(CausalLM(make_loaded("causal"), PROTOCOL), requests)
    loaded = make_loaded("causal")
    loaded.model.generation_config = GenerationConfig(
        do_sample=True, temperature=5.0, repetition_penalty=3.0, no_repeat_ngram_size=1, eos_token_id=list(range(200))
    )
    assert answers(CausalLM(loaded, PROTOCOL), requests) == expected


def test_each_prompt_begins_with_one_bos_whatever_the_others_begin_with(make_loaded: MakeLoaded) -> None:
    loaded = make_loaded("causal")
    plain = answers(CausalLM(loaded, PROTOCOL), [("<|bos|>Red or blue?", {})])
    bos = TemplateProcessing(single="<|bos|> $A", special_tokens=[("<|bos|>", BOS)])
    loaded.tokenizer.backend_tokenizer.post_processor = bos
    lm = CausalLM(loaded, PROTOCOL)
    requests = [("<|bos|>Red or blue?", {}), ("Red or blue?", {}), ("Red or green?", {})]
    assert answers(lm, requests)[:2] == answers(lm, requests[::-1])[:0:-1] == plain * 2


def test_the_greedy_flag_says_what_greedy_decoding_gives(make_loaded: MakeLoaded) -> None:
    loaded = make_loaded("causal")
    x, y = loaded.tokenizer("xy")["input_ids"]
    # Opposite rows for x and y, zeros for the rest: the best token is always one of the two.
    head: Any = loaded.model.get_submodule("lm_head")
    head.weight.data[y] = -head.weight.data[x]
    head.weight.data[[token for token in range(len(head.weight)) if token not in (x, y)]] = 0
    lm = CausalLM(loaded, protocol(gen_length=2))
    (greedy,) = answers(lm, [("Q", {})])
    requests = [("Q", first + second) for first in "xyz" for second in "xyz"]
    flags = dict(lm.greedy_flags(requests))
    assert [requests[index][1] for index, flag in flags.items() if flag] == [greedy]
    instances = [Instance("loglikelihood", {}, request, 0) for request in requests]
    assert [flag for _, flag in lm.loglikelihood(instances)] == [flags[index] for index in range(9)]


def test_requests_that_differ_in_the_last_token_share_a_row(make_loaded: MakeLoaded) -> None:
    loaded = make_loaded("causal")
    first, second = CausalLM(loaded, PROTOCOL, batch_size=1), CausalLM(loaded, PROTOCOL)
    likelihoods(first, [("Q", f" {letter}") for letter in "ABCD"])
    assert (first.num_forwards, loaded.counter.num_sequences) == (1, 1)
    likelihoods(second, [("Q", " AB"), ("Q", " AC"), ("Q", " BA")])
    assert (first.num_forwards, second.num_forwards, loaded.counter.num_sequences) == (2, 2, 3)


def test_forwards_are_counted_once_each(make_loaded: MakeLoaded) -> None:
    loaded = make_loaded("causal")
    likelihoods(CausalLM(loaded, PROTOCOL), CHOICES)
    lm = CausalLM(loaded, PROTOCOL, batch_size=4)
    shapes: list[tuple[int, ...]] = []
    before = loaded.counter.num_token_forwards

    def note(module: Any, args: Any, kwargs: Any) -> None:
        shapes.append(tuple(kwargs["input_ids"].shape))

    loaded.model.register_forward_pre_hook(note, with_kwargs=True)
    answers(lm, [(prompt, {}) for prompt in PROMPTS])
    # Two batches of ten tokens, each token after the first from the cache.
    assert lm.num_forwards == 20
    assert shapes == [(4, 37), *[(4, 1)] * 9, (3, 5), *[(3, 1)] * 9]
    assert loaded.counter.num_token_forwards - before == sum(rows * length for rows, length in shapes)


def test_operations_are_counted_as_torch_counts_them(make_loaded: MakeLoaded) -> None:
    loaded = make_loaded("causal")
    lm = CausalLM(loaded, protocol(eos_ends_answer=False), batch_size=4)
    for run in (lambda: answers(lm, [(prompt, {}) for prompt in PROMPTS]), lambda: likelihoods(lm, CHOICES)):
        before = loaded.counter.num_flops
        # In this form attention is two products that the counter of torch sees.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as reference:
            run()
        assert loaded.counter.num_flops - before == pytest.approx(reference.get_total_flops(), rel=0.002)


def test_answers_come_batch_by_batch(make_loaded: MakeLoaded) -> None:
    lm = CausalLM(make_loaded("causal"), PROTOCOL, batch_size=2)
    stream = lm.generations([(prompt, {}) for prompt in PROMPTS])
    # The longest prompts first: memory runs out at once or not at all.
    assert {next(stream)[0], next(stream)[0]} == {0, 1}
    assert lm.num_forwards == 10
    scores = lm.likelihoods([("Q", "a"), ("Q", "ab"), ("Q", "abc"), ("Q", "abcd")])
    assert {next(scores)[0], next(scores)[0]} == {3, 2}
    assert lm.num_forwards == 11


def test_a_batch_that_memory_does_not_hold_is_halved_for_good(make_loaded: MakeLoaded) -> None:
    loaded = make_loaded("causal")
    requests = [(prompt, {}) for prompt in PROMPTS]
    expected = answers(CausalLM(loaded, PROTOCOL), requests), likelihoods(CausalLM(loaded, PROTOCOL), CHOICES)
    sizes: list[int] = []

    def small_memory(module: Any, args: Any, kwargs: Any) -> None:
        sizes.append(len(args[0] if args else kwargs["input_ids"]))
        if sizes[-1] > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")

    loaded.model.register_forward_pre_hook(small_memory, with_kwargs=True)
    for limit in (3, 1):
        sizes.clear()
        lm = CausalLM(loaded, PROTOCOL, batch_size=7)
        assert answers(lm, requests) == expected[0]
        assert likelihoods(lm, CHOICES) == pytest.approx(expected[1], abs=1e-5)
        assert [size for size in sizes if size > limit] == ([7] if limit == 3 else [7, 3])
    limit = 0
    with pytest.raises(torch.OutOfMemoryError):
        answers(CausalLM(loaded, PROTOCOL), requests)


def test_a_model_that_gives_no_numbers_is_not_scored(make_loaded: MakeLoaded) -> None:
    loaded = make_loaded("causal")
    loaded.model.get_parameter("model.norm.weight").data[:] = torch.nan
    lm = CausalLM(loaded, PROTOCOL)
    with pytest.raises(
        NonFiniteError, match="the log-likelihood of ' red' after a context that ends in 'Colour' is nan"
    ):
        likelihoods(lm, [("Colour", " red")])
    with pytest.raises(NonFiniteError, match="the model's logits are not finite"):
        answers(lm, [("Q", {})])


def test_long_contexts_are_cut_on_the_left_and_that_is_said_once(
    make_loaded: MakeLoaded, caplog: pytest.LogCaptureFixture
) -> None:
    lm = CausalLM(make_loaded("causal", max_length=20), PROTOCOL)
    with caplog.at_level(logging.WARNING, logger="workers.causal"):
        cut, short = answers(lm, [("abcdefghijklmnopqrstuvwxyz", {}), ("qrstuvwxyz", {})])
        assert cut == short
        # 19 tokens before the last one, which is predicted and not seen.
        long, fitting = likelihoods(lm, [("abcdefghijklmnopqrstuvwxyz", "12345"), ("klmnopqrstuvwxyz", "12345")])
        assert long == fitting
        assert fitting != likelihoods(lm, [("lmnopqrstuvwxyz", "12345")])[0]
    assert [record.getMessage() for record in caplog.records] == [
        "contexts longer than 10 tokens are cut on the left (this one has 26)"
    ]


def test_what_cannot_be_asked_is_refused(make_loaded: MakeLoaded) -> None:
    lm = CausalLM(make_loaded("causal", max_length=10), PROTOCOL)
    with pytest.raises(ValueError, match="10 tokens after the prompt leave no room in the model's 10"):
        answers(lm, [("Q", {})])
    with pytest.raises(ValueError, match="leave no room in the model's 10"):
        likelihoods(lm, [("Q", "a target that is long")])
    for context in ("Q", ""):
        with pytest.raises(ValueError, match="'' has no tokens of its own"):
            likelihoods(lm, [(context, "")])


def test_an_empty_context_is_the_prefix_token(make_loaded: MakeLoaded) -> None:
    loaded = make_loaded("causal")
    lm = CausalLM(loaded, PROTOCOL)
    assert answers(lm, [("", {})]) == answers(lm, [("<|bos|>", {})])
    given, written = likelihoods(lm, [("", "<|bos|>red"), ("", "red")])
    assert given == written
    row = loaded.logits(torch.tensor([[BOS, *lm.tok_encode("r")]])).log_softmax(-1)[0, 1]
    assert likelihoods(lm, [("", "r")]) == pytest.approx([float(row[lm.tok_encode("r")[0]])], abs=1e-5)


def test_the_models_tokenizer_is_left_alone_and_nothing_is_said(
    make_loaded: MakeLoaded, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    loaded = make_loaded("causal")
    with caplog.at_level(logging.WARNING):
        lm = CausalLM(loaded, PROTOCOL)
        answers(lm, [(prompt, {}) for prompt in PROMPTS])
        likelihoods(lm, CHOICES)
    assert loaded.tokenizer.pad_token is None
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


def test_chat_templates_reach_the_prompt(make_loaded: MakeLoaded) -> None:
    lm = CausalLM(make_loaded("causal"), PROTOCOL)
    text = lm.apply_chat_template([{"role": "user", "content": "Hi"}])
    assert text == "<|bos|>user: Hi<|eot_id|>assistant: "
    assert lm.tok_encode(text).count(BOS) == 1


def test_rolling_likelihood_is_that_of_the_whole_text(make_loaded: MakeLoaded) -> None:
    lm = CausalLM(make_loaded("causal"), PROTOCOL)
    (rolling,) = lm.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, ("a text",), 0)])
    assert math.isclose(rolling, likelihoods(lm, [("", "a text")])[0], abs_tol=1e-5)
