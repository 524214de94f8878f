"""lm-eval's view of a loaded model: text in, log-likelihoods and answers out.

It works alone, as `lm_eval.simple_evaluate(model=DiffusionLM(loaded, protocol), tasks=[...])`, and a worker hands all
requests of a cell to `generations` or `likelihoods`. Both give the same numbers: an answer depends on the request's
content, the protocol and the seed.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from grids.protocol import Protocol
from workers.answer_text import AnswerText
from workers.likelihood import conditional_log_likelihood, is_greedy
from workers.models.loading import LoadedModel
from workers.samplers import Prompt, Savings, generate

logger = logging.getLogger(__name__)

_DRAWS_AT_ONCE = 16


def request_key(request_type: str, arguments: Sequence[Any]) -> str:
    """SHA-256 (hex) of a request's content: what its random draws are keyed with, the same for all variants."""
    content = json.dumps([request_type, list(arguments)], sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(content.encode("utf-8")).hexdigest()


class DiffusionLM(TemplateLM):
    """A LoadedModel under a Protocol, as an lm-eval model.

    `batch_size` bounds the sequences of one forward; None leaves it to what suits the device. `savings` are all on, but
    for tests and benchmarks. lm-eval's greedy flag costs as many forwards as the continuation has tokens, and the
    study's metrics do not read it: it is False unless `greedy` asks for it.
    """

    request_key = staticmethod(request_key)

    def __init__(
        self,
        loaded: LoadedModel,
        protocol: Protocol,
        *,
        seed: int = 0,
        batch_size: int | None = None,
        greedy: bool = False,
        savings: Savings | None = None,
    ) -> None:
        super().__init__()
        self.loaded = loaded
        self.protocol = protocol
        self.seed = seed
        self.batch_size = batch_size
        self.tokenizer = loaded.tokenizer
        self.max_length = loaded.max_length
        self._greedy = greedy
        self._savings = savings
        self._added_tokens: Mapping[str, int] = loaded.tokenizer.get_added_vocab()
        self._forwards_before = loaded.counter.num_forwards
        self._said_truncated = False

    # What a worker calls.

    def likelihoods(self, requests: Sequence[tuple[str, str]]) -> Iterator[tuple[int, float]]:
        """(index, log p(continuation | context) in nats) of each (context, continuation)."""
        for index, request in enumerate(requests):
            ((logprob, _),) = self._score([request], greedy=False)
            yield index, logprob

    def generations(self, requests: Sequence[tuple[str, Mapping[str, Any]]]) -> Iterator[tuple[int, str]]:
        """(index, text) of the answer to each (context, gen_kwargs), in the order in which they are finished.

        Of the task's generation settings only `until` is read: lengths and sampling are the protocol's.
        """
        settings = self.protocol.generation
        texts = [self._answer_text(gen_kwargs) for _, gen_kwargs in requests]
        prompts = [
            Prompt(
                ids=self._fit(self._prompt_ids(request[0]), settings.gen_length),
                key=request_key("generate_until", request),
                is_decided=text.is_decided,
            )
            for request, text in zip(requests, texts, strict=True)
        ]
        answers = generate(self.loaded, prompts, settings, self.seed, savings=self._savings, max_rows=self.batch_size)
        for index, ids in answers:
            yield index, texts[index].text(ids)

    @property
    def num_forwards(self) -> int:
        """Forwards of the model since this object was made."""
        return self.loaded.counter.num_forwards - self._forwards_before

    # What lm-eval calls.

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        return self._score([request.args for request in requests], greedy=self._greedy)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """log p of whole texts. Raises ValueError for a diffusion model, which has no such number."""
        if self.loaded.family != "causal":
            raise ValueError(
                f"loglikelihood_rolling (perplexity tasks) needs a causal model: a {self.loaded.family} model gives no "
                "left-to-right likelihood of a whole text, only an estimate of a target's given its context"
            )
        return [self._rolling(*request.args) for request in requests]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        texts = dict(self.generations([request.args for request in requests]))
        return [texts[index] for index in range(len(requests))]

    @property
    def eot_token_id(self) -> int:
        return self.loaded.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """What stands for an empty context."""
        return self.loaded.eos_token_id if self.loaded.bos_token_id is None else self.loaded.bos_token_id

    @property
    def max_gen_toks(self) -> int:
        return self.protocol.generation.gen_length

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids. By default the tokenizer adds its special tokens, unless the text begins with BOS already."""
        if add_special_tokens is None:
            bos = self.tokenizer.bos_token
            add_special_tokens = not (bos and string.startswith(bos))
        ids: list[int] = self.tokenizer(string, add_special_tokens=add_special_tokens)["input_ids"]
        return ids

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as a prompt; without a generation prompt, its last message is to be continued."""
        if not self.tokenizer.chat_template:
            raise ValueError(f"the tokenizer of {self.tokenizer.name_or_path} has no chat template")
        text: str = self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        return text

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        return [
            self._score_tokens(request_key("loglikelihood", texts), context, target, greedy=self._greedy)
            for texts, context, target in requests
        ]

    # How.

    def _score(self, requests: Sequence[tuple[str, str]], *, greedy: bool) -> list[tuple[float, bool]]:
        return [
            self._score_tokens(request_key("loglikelihood", request), *self._split(*request), greedy=greedy)
            for request in requests
        ]

    def _score_tokens(self, key: str, context: list[int], target: list[int], *, greedy: bool) -> tuple[float, bool]:
        context = self._fit(context, len(target))
        logprob = conditional_log_likelihood(
            self.loaded,
            context,
            target,
            self.protocol.likelihood,
            key,
            self.seed,
            batch_size=self.batch_size or _DRAWS_AT_ONCE,
        )
        return logprob, greedy and is_greedy(self.loaded, context, target)

    def _split(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Token ids of context and target.

        lm-eval's rule: spaces at the end of the context belong to the continuation, and the target is what the
        encoding of both has beyond the encoding of the context.
        """
        if not context:
            return [self.prefix_token_id], self.tok_encode(continuation, add_special_tokens=False)
        context_ids, target_ids = self._encode_pair(context, continuation)
        return self._with_bos(context_ids), target_ids

    def _prompt_ids(self, context: str) -> list[int]:
        return self._with_bos(self.tok_encode(context)) or [self.prefix_token_id]

    def _with_bos(self, ids: list[int]) -> list[int]:
        """Dream's prompts begin with BOS, where its tokenizer has one."""
        bos = self.loaded.bos_token_id
        return [bos, *ids] if self.loaded.family == "dream" and bos is not None and ids[:1] != [bos] else ids

    def _fit(self, context: list[int], length: int) -> list[int]:
        """The context, cut on the left where it and `length` more tokens are too long for the model."""
        room = self.max_length - length
        if room < 1:
            raise ValueError(f"{length} tokens after the prompt leave no room in the model's {self.max_length}")
        if len(context) <= room:
            return context
        if not self._said_truncated:
            logger.warning(
                "prompts longer than %d tokens are cut on the left (this one has %d; %d tokens follow it)",
                room,
                len(context),
                length,
            )
            self._said_truncated = True
        return context[-room:]

    def _answer_text(self, gen_kwargs: Mapping[str, Any]) -> AnswerText:
        stops = _stop_strings(gen_kwargs)
        # A stop string that is a special token would be gone from the text.
        ends = {self._added_tokens[stop] for stop in stops if stop in self._added_tokens}
        if self.protocol.generation.eos_ends_answer:
            ends |= self.loaded.end_token_ids | {self.loaded.eos_token_id}
        return AnswerText(self.tokenizer, ends, stops)

    def _rolling(self, text: str) -> float:
        windows = get_rolling_token_windows(
            token_list=self.tok_encode(text, add_special_tokens=False),
            prefix_token=self.prefix_token_id,
            max_seq_len=self.max_length - 1,
            context_len=1,
        )
        key = request_key("loglikelihood_rolling", [text])
        return sum(
            self._score_tokens(key, context, target, greedy=False)[0]
            for context, target in map(make_disjoint_window, windows)
        )


def _stop_strings(gen_kwargs: Mapping[str, Any]) -> list[str]:
    until = gen_kwargs.get("until") or []
    return [stop for stop in ([until] if isinstance(until, str) else until) if stop]
