"""lm-eval's view of a diffusion model: text in, log-likelihoods and answers out.

It works alone, as `lm_eval.simple_evaluate(model=DiffusionLM(loaded, protocol), tasks=[...])`, and a worker hands all
requests of a cell to `generations`, `likelihoods` or `greedy_flags`. Both give the same numbers: an answer depends on
the request's content, the protocol and the seed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any, TypeVar

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM

from grids.protocol import Protocol
from methods import NonFiniteError
from workers.answer_text import answer_text
from workers.likelihood import Contender, Question, TokenBudget, greedy_flags, log_likelihoods
from workers.models.loading import LoadedModel
from workers.samplers import Prompt, Savings, generate

logger = logging.getLogger(__name__)
Answer = TypeVar("Answer")


def request_key(request_type: str, arguments: Sequence[Any]) -> str:
    """SHA-256 (hex) of a request's content: what its random draws are keyed with, the same for all variants."""
    content = json.dumps([request_type, list(arguments)], sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(content.encode("utf-8")).hexdigest()


class DiffusionLM(TemplateLM):
    """A diffusion LoadedModel under a Protocol, as an lm-eval model. Raises ValueError for a causal one.

    `batch_size` bounds the answers that are written in one forward, and `max_tokens` the tokens of one forward of the
    likelihood; None leaves either to what suits the device. `savings` are all on, but for tests and benchmarks.
    lm-eval's greedy flag costs as many forwards as the continuation has tokens, and the study's metrics do not read it:
    it is False unless `greedy` asks for it.
    """

    request_key = staticmethod(request_key)

    def __init__(
        self,
        loaded: LoadedModel,
        protocol: Protocol,
        *,
        seed: int = 0,
        batch_size: int | None = None,
        max_tokens: int | None = None,
        greedy: bool = False,
        savings: Savings | None = None,
    ) -> None:
        super().__init__()
        if loaded.family == "causal":
            raise ValueError("DiffusionLM needs a diffusion model; a causal one is evaluated by CausalLM")
        self.loaded = loaded
        self.protocol = protocol
        self.seed = seed
        self.batch_size = batch_size
        self.tokenizer = loaded.tokenizer
        self.max_length = loaded.max_length
        self._greedy = greedy
        self._savings = savings
        # Kept from call to call, since a batch that did not fit into the GPU will not fit the next time.
        self._budget = TokenBudget(loaded, max_tokens)
        self._forwards_before = loaded.counter.num_forwards
        self._said_truncated = False

    # What a worker calls.

    def likelihoods(
        self, requests: Sequence[tuple[str, str]], contenders: Sequence[Contender] | None = None
    ) -> Iterator[tuple[int, float]]:
        """(index, log p(continuation | context) in nats) of each (context, continuation), as answers become final.

        Give all requests of a cell at once: batches are made, and equal inputs found, among them. `contenders` says
        which requests are the choices of one document, and is read where the protocol asks for a race. Raises
        NonFiniteError that names the request.
        """
        questions = [self.question(request) for request in requests]
        for index, logprob in self._log_likelihoods(questions, contenders):
            if not math.isfinite(logprob):
                context, continuation = requests[index]
                raise NonFiniteError(
                    f"the log-likelihood of {continuation!r} after a context that ends in {context[-40:]!r} "
                    f"is {logprob}"
                )
            yield index, logprob

    def greedy_flags(self, requests: Sequence[tuple[str, str]]) -> Iterator[tuple[int, bool]]:
        """(index, whether greedy decoding gives the continuation) of each request, as answers become final."""
        questions = [self.question(request) for request in requests]
        return greedy_flags(self.loaded, questions, budget=self._budget)

    def question(self, request: tuple[str, str]) -> Question:
        """A (context, continuation) in token ids, cut to what the model can hold, with the key of its draws."""
        return self._question(*self._split(*request), request)

    def generations(self, requests: Sequence[tuple[str, Mapping[str, Any]]]) -> Iterator[tuple[int, str]]:
        """(index, text) of the answer to each (context, gen_kwargs), in the order in which they are finished.

        Of the task's generation settings only `until` is read: lengths and sampling are the protocol's.
        """
        settings = self.protocol.generation
        ends = settings.eos_ends_answer
        texts = [answer_text(self.loaded, gen_kwargs, eos_ends_answer=ends) for _, gen_kwargs in requests]
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
        pairs = [request.args for request in requests]
        flags = _in_order(self.greedy_flags(pairs)) if self._greedy else [False] * len(pairs)
        return list(zip(_in_order(self.likelihoods(pairs)), flags, strict=True))

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Raises ValueError: a diffusion model has no log p of a whole text."""
        raise ValueError(
            f"loglikelihood_rolling (perplexity tasks) needs a causal model: a {self.loaded.family} model gives no "
            "left-to-right likelihood of a whole text, only an estimate of a target's given its context"
        )

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        return _in_order(self.generations([request.args for request in requests]))

    @property
    def eot_token_id(self) -> int:
        return self.loaded.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """What stands for an empty context."""
        return self.loaded.eos_token_id if self.loaded.bos_token_id is None else self.loaded.bos_token_id

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
        questions = [self._question(context, target, texts) for texts, context, target in requests]
        flags = greedy_flags(self.loaded, questions, budget=self._budget) if self._greedy else None
        logprobs = _in_order(self._log_likelihoods(questions))
        return list(zip(logprobs, _in_order(flags) if flags else [False] * len(questions), strict=True))

    # How.

    def _log_likelihoods(
        self, questions: Sequence[Question], contenders: Sequence[Contender] | None = None
    ) -> Iterator[tuple[int, float]]:
        return log_likelihoods(
            self.loaded, questions, self.protocol.likelihood, self.seed, budget=self._budget, contenders=contenders
        )

    def _question(self, context: list[int], target: list[int], request: tuple[str, str]) -> Question:
        # As lm-eval does: what is too long loses its beginning, the target's too, but one token of context stays.
        target = target[-(self.max_length - 1) :]
        return Question(self._fit(context, len(target)), target, request_key("loglikelihood", request))

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


def _in_order(answers: Iterator[tuple[int, Answer]]) -> list[Answer]:
    return [answer for _, answer in sorted(answers, key=itemgetter(0))]
