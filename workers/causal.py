"""The autoregressive baseline: causal models, evaluated through lm-eval's own Hugging Face model class.

Tokens, likelihoods and chat templates are those of lm-eval's `hf` model. Answers are written with transformers'
`generate` and a KV cache, from here and not from `HFLM.generate_until`: that one treats the prompts of a batch as the
first one begins, with BOS or without, takes sampling settings from the task and from the checkpoint (a repetition
penalty, say), and goes on until all rows of a batch have met the same stop string. Here an answer depends on its
request, the protocol and the seed, and not on its batch.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria

from grids.protocol import Protocol
from methods import NonFiniteError
from workers.answer_text import AnswerText, answer_text
from workers.lm import request_key
from workers.models.loading import LoadedModel
from workers.randomness import gumbel_rows

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Answer = TypeVar("Answer")
_DEFAULT_BATCH_SIZE = 16


class CausalLM(HFLM):
    """A causal LoadedModel under a Protocol, as an lm-eval model.

    The protocol's `gen_length`, `temperature` and `eos_ends_answer` are read; of a task's generation settings, `until`.
    batch_size: the most sequences of one forward, 16 by default; halved for good where a GPU's memory is too small.
    """

    request_key = staticmethod(request_key)

    def __init__(
        self, loaded: LoadedModel, protocol: Protocol, *, seed: int = 0, batch_size: int | None = None
    ) -> None:
        assert loaded.family == "causal"
        model: Any = loaded.model
        # HFLM ties the weights again where the configuration says so; a rotated head is one of its own.
        if model.get_output_embeddings().weight is not model.get_input_embeddings().weight:
            model.config.tie_word_embeddings = False
        with _without_warnings("lm_eval.models.huggingface"):
            super().__init__(
                pretrained=model,
                backend="causal",
                # HFLM gives its tokenizer a padding token.
                tokenizer=copy.deepcopy(loaded.tokenizer),
                max_length=loaded.max_length,
                batch_size=batch_size or _DEFAULT_BATCH_SIZE,
                prefix_token_id=loaded.eos_token_id if loaded.bos_token_id is None else loaded.bos_token_id,
                softmax_dtype=torch.float32,
            )
        # What a checkpoint says about sampling is not the protocol's; `generate` would fill in from here.
        model.generation_config = GenerationConfig()
        self.loaded = loaded
        self.protocol = protocol
        self.seed = seed
        self._forwards_before = loaded.counter.num_forwards
        self._said_truncated = False

    # What a worker calls.

    def likelihoods(
        self, requests: Sequence[tuple[str, str]], contenders: Sequence[Any] | None = None
    ) -> Iterator[tuple[int, float]]:
        """(index, log p(continuation | context) in nats) of each (context, continuation), batch by batch.

        Give all requests of a cell at once: those that differ in the last token alone share a row, like the letters of
        a multiple-choice question. `contenders` is for models that draw, whose hopeless choices may be left early; here
        each request costs one row at most. Raises NonFiniteError that names the request.
        """
        for index, (logprob, _) in self._scores(requests):
            yield index, logprob

    def greedy_flags(self, requests: Sequence[tuple[str, str]]) -> Iterator[tuple[int, bool]]:
        """(index, whether greedy decoding gives the continuation) of each request, batch by batch."""
        for index, (_, is_greedy) in self._scores(requests):
            yield index, is_greedy

    def generations(self, requests: Sequence[tuple[str, Mapping[str, Any]]]) -> Iterator[tuple[int, str]]:
        """(index, text) of the answer to each (context, gen_kwargs), batch by batch.

        Raises ValueError where the answer's length leaves no room for a prompt.
        """
        room = self._room(self.protocol.generation.gen_length)
        prompts = [self._fit(self.tok_encode(context) or [self.prefix_token_id], room) for context, _ in requests]

        def write(indices: list[int]) -> list[tuple[int, str]]:
            texts = self._write([prompts[index] for index in indices], [requests[index] for index in indices])
            return list(zip(indices, texts, strict=True))

        longest_first = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
        yield from self._in_batches(longest_first, write)

    @property
    def num_forwards(self) -> int:
        """Forwards of the model since this object was made; the step that writes one token is one."""
        return self.loaded.counter.num_forwards - self._forwards_before

    # What lm-eval calls, beside what HFLM has.

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        scores = dict(self._scores([request.args for request in requests]))
        return [scores[index] for index in range(len(requests))]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        texts = dict(self.generations([request.args for request in requests]))
        return [texts[index] for index in range(len(requests))]

    # Likelihoods.

    def _scores(self, requests: Sequence[tuple[str, str]]) -> Iterator[tuple[int, tuple[float, bool]]]:
        """(index, (log-likelihood, greedy flag)) of each request."""
        encoded = [self._split(*request) for request in requests]
        # What the model sees of a request (all but its last token), and how much of it is the target.
        rows: dict[tuple[tuple[int, ...], int], list[int]] = {}
        for index, (context, target) in enumerate(encoded):
            rows.setdefault(((*context, *target[:-1]), len(target)), []).append(index)

        def score(batch: list[tuple[tuple[int, ...], int]]) -> list[tuple[int, tuple[float, bool]]]:
            # Where rows of equal tokens have targets of different lengths, HFLM reads the shorter one's logits in the
            # wrong place: it may not see that they are equal.
            self.logits_cache = len({tokens for tokens, _ in batch}) == len(batch)
            indices = [index for row in batch for index in rows[row]]
            questions = [(requests[index], *encoded[index]) for index in indices]
            return list(zip(indices, self._loglikelihood_tokens(questions, disable_tqdm=True), strict=True))

        for index, (logprob, is_greedy) in self._in_batches(sorted(rows, key=lambda row: -len(row[0])), score):
            if not math.isfinite(logprob):
                before, continuation = requests[index]
                raise NonFiniteError(
                    f"the log-likelihood of {continuation!r} after a context that ends in {before[-40:]!r} is {logprob}"
                )
            yield index, (logprob, is_greedy)

    def _split(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Token ids of context and target, by lm-eval's rule; the context is cut on the left where it is too long."""
        if context:
            context_ids, target_ids = self._encode_pair(context, continuation)
        else:
            context_ids, target_ids = [self.prefix_token_id], self.tok_encode(continuation, add_special_tokens=False)
            if target_ids[:1] == context_ids:
                target_ids = target_ids[1:]
        if not target_ids:
            raise ValueError(f"{continuation!r} has no tokens of its own: log p(target | context) is not defined")
        # The last token is predicted, and never seen.
        return self._fit(context_ids, self._room(len(target_ids) - 1)), target_ids

    def _model_call(self, inps: Tensor, attn_mask: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        """HFLM's forward, counted, without a cache that nobody reads."""
        with torch.no_grad(), self._counted():
            logits: Tensor = self.model(inps, use_cache=False).logits
        return logits

    # Answers.

    @torch.no_grad()
    def _write(self, prompts: Sequence[list[int]], requests: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
        """The answers' texts: one batch, padded on the left."""
        settings = self.protocol.generation
        start = max(len(prompt) for prompt in prompts)
        rows = [[self.loaded.pad_token_id] * (start - len(prompt)) + prompt for prompt in prompts]
        mask = [[0] * (start - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        ends = settings.eos_ends_answer
        end = _AnswerEnd([answer_text(self.loaded, each, eos_ends_answer=ends) for _, each in requests], start)
        keys = [request_key("generate_until", request) for request in requests]
        with self._counted():
            tokens = self.model.generate(
                torch.tensor(rows, device=self.device),
                attention_mask=torch.tensor(mask, device=self.device),
                generation_config=GenerationConfig(max_new_tokens=settings.gen_length, do_sample=False, use_cache=True),
                logits_processor=[_NextToken(start, settings.temperature, keys, self.seed)],
                stopping_criteria=[end],
            )
        return [end.text(row, answer) for row, answer in enumerate(tokens[:, start:].tolist())]

    # Both.

    def _in_batches(
        self, items: Sequence[Item], work: Callable[[list[Item]], list[tuple[int, Answer]]]
    ) -> Iterator[tuple[int, Answer]]:
        """What `work` gives for `batch_size` items at a time. Where memory runs out, for half as many from then on."""
        start = 0
        while start < len(items):
            batch = list(items[start : start + self.batch_size])
            try:
                answers = work(batch)
            except torch.OutOfMemoryError:
                if len(batch) == 1:
                    raise
                self.batch_size_per_gpu = len(batch) // 2
                continue
            yield from answers
            start += len(batch)

    def _room(self, length: int) -> int:
        """How many tokens of context the model holds beside `length` more."""
        room: int = self.max_length - length
        if room < 1:
            raise ValueError(f"{length} tokens after the prompt leave no room in the model's {self.max_length}")
        return room

    def _fit(self, context: list[int], room: int) -> list[int]:
        if len(context) > room and not self._said_truncated:
            logger.warning("contexts longer than %d tokens are cut on the left (this one has %d)", room, len(context))
            self._said_truncated = True
        return context[-room:]

    @contextmanager
    def _counted(self) -> Iterator[None]:
        counter, cost = self.loaded.counter, self.loaded.cost

        def count(module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
            ids = args[0] if args else kwargs["input_ids"]
            mask = kwargs.get("attention_mask")
            # The mask covers what the cache holds, too.
            num_keys = (ids if mask is None else mask).shape[-1]
            num_rows, length = ids.shape
            num_flops = cost.blocks(num_rows, length, num_keys) + cost.head(output.logits.shape[:-1].numel())
            counter.add_forward(num_rows, num_rows * length, num_flops)

        handle = self.loaded.model.register_forward_hook(count, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()


class _NextToken(LogitsProcessor):
    """Scores whose arg-max is the next token: the logits, or at a temperature the logits with Gumbel noise.

    The noise is keyed by seed, request and place in the answer. Raises NonFiniteError where the model gives no numbers:
    the arg-max of nan would look like an answer.
    """

    def __init__(self, start: int, temperature: float, keys: Sequence[str], seed: int) -> None:
        self._start, self._temperature, self._keys, self._seed = start, temperature, keys, seed

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if not torch.isfinite(scores).all():
            raise NonFiniteError("the model's logits are not finite")
        if self._temperature == 0:
            return scores
        place = input_ids.shape[1] - self._start
        noise = gumbel_rows(self._seed, self._keys, "tokens", place, (scores.shape[-1],))
        return scores.double() / self._temperature + noise.to(scores.device)


class _AnswerEnd(StoppingCriteria):
    """Ends each row by itself: at an end token, or at the token that completes one of its stop strings."""

    def __init__(self, texts: Sequence[AnswerText], start: int) -> None:
        self._texts, self._start = texts, start
        self._lengths: list[int | None] = [None] * len(texts)
        self._window = max(text.num_last_tokens for text in texts)

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        num_tokens = input_ids.shape[1] - self._start
        for row, last in enumerate(input_ids[:, -min(self._window, num_tokens) :].tolist()):
            if self._lengths[row] is None and self._texts[row].has_just_ended(last):
                self._lengths[row] = num_tokens
        return torch.tensor([length is not None for length in self._lengths], device=input_ids.device)

    def text(self, row: int, tokens: list[int]) -> str:
        """The text of a row's tokens, of which those after its end are none of it."""
        return self._texts[row].text(tokens[: self._lengths[row]])


@contextmanager
def _without_warnings(logger_name: str) -> Iterator[None]:
    """HFLM warns whoever hands it a model that it does not load one."""
    noisy = logging.getLogger(logger_name)
    level = noisy.level
    noisy.setLevel(logging.ERROR)
    try:
        yield
    finally:
        noisy.setLevel(level)
