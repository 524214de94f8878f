"""Answers that are being written, and the step that takes several of them further in one forward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.models.loading import LoadedModel
from workers.models.padding import pad_right
from workers.samplers.steps import DiffusionSampler, Draws, Step, top_positions

# Logits are made in portions of so many numbers (half a gigabyte in float32), of whole answers.
_LOGITS_AT_ONCE = 2**27


@dataclass(frozen=True)
class Savings:
    """Work that is left out because it cannot change an answer. On or off, the tokens are the same.

    stop_when_decided: an answer is left as soon as its end is committed with everything before it.
    masked_positions_only: the last block and the head work only where a token is still to be committed.
    skip_idle_steps: a step that commits nothing is not run.
    """

    stop_when_decided: bool = True
    masked_positions_only: bool = True
    skip_idle_steps: bool = True


def never_decided(tokens: Sequence[int]) -> bool:
    return False


@dataclass(frozen=True)
class Prompt:
    """A prompt's tokens, the key of its random draws, and when its answer has ended.

    is_decided: whether an answer that begins with these tokens will be read the same whatever follows them.
    """

    ids: Sequence[int]
    key: str
    is_decided: Callable[[Sequence[int]], bool] = never_decided


class OpenAnswer:
    """One answer on its way. All of its state is here, on the host: it can wait, or move to a smaller batch."""

    def __init__(self, index: int, prompt: Prompt, steps: Sequence[Step], gen_length: int, mask_token_id: int) -> None:
        self.index, self.prompt, self.steps = index, prompt, steps
        self.tokens = torch.full((gen_length,), mask_token_id)
        self._mask_token_id = mask_token_id
        self._next_step = 0

    @property
    def step(self) -> Step:
        return self.steps[self._next_step]

    @property
    def is_complete(self) -> bool:
        return self._next_step == len(self.steps)

    @property
    def length(self) -> int:
        """Tokens of the prompt and the answer."""
        return len(self.prompt.ids) + len(self.tokens)

    def commit(self, window: Tensor) -> bool:
        """Ends the step with its window as it is now; whether the answer's first tokens became more."""
        before = len(self.first_tokens())
        self.tokens[self.step.begin : self.step.end] = window
        self._next_step += 1
        return len(self.first_tokens()) > before

    def first_tokens(self) -> list[int]:
        """The committed tokens before the first mask; a committed token never changes."""
        tokens: list[int] = self.tokens.tolist()
        return tokens[: tokens.index(self._mask_token_id)] if self._mask_token_id in tokens else tokens


class Writer:
    """Takes answers further, each by its own next step: they may be at different places of their plans."""

    def __init__(self, loaded: LoadedModel, sampler: DiffusionSampler, savings: Savings) -> None:
        assert loaded.mask_token_id is not None
        self._loaded, self._sampler, self._savings = loaded, sampler, savings
        self._mask_token_id = loaded.mask_token_id

    def open(self, index: int, prompt: Prompt) -> OpenAnswer:
        steps = self._sampler.plan(prompt.key)
        if self._savings.skip_idle_steps:
            steps = [step for step in steps if step.count]
        return OpenAnswer(index, prompt, steps, self._sampler.settings.gen_length, self._mask_token_id)

    @torch.no_grad()
    def advance(self, answers: Sequence[OpenAnswer]) -> list[OpenAnswer]:
        """Runs one step of each answer and gives those that are finished. What is raised leaves all as they were."""
        steps = [answer.step for answer in answers]
        windows = torch.stack(
            [answer.tokens[step.begin : step.end] for answer, step in zip(answers, steps, strict=True)]
        )
        masked = windows == self._mask_token_id
        predicted = masked if self._savings.masked_positions_only else torch.ones_like(masked)
        # A step that commits nothing may come when nothing is masked; it is run all the same where it is not skipped.
        predicted = predicted | ~predicted.any(-1, keepdim=True)
        tokens, confidence = self._predict(answers, predicted)

        best = windows.masked_scatter(predicted, tokens)
        grid = torch.full(windows.shape, -torch.inf, dtype=confidence.dtype).masked_scatter(predicted, confidence)
        candidates = torch.stack(
            [row if step.places is None else row & step.places for row, step in zip(masked, steps, strict=True)]
        )
        commit = top_positions(grid, candidates, torch.tensor([step.count for step in steps]))
        windows = torch.where(commit, best, windows)
        return [answer for answer, window in zip(answers, windows, strict=True) if self._commit(answer, window)]

    def _commit(self, answer: OpenAnswer, window: Tensor) -> bool:
        """Ends the step of one answer; whether that finishes the answer."""
        has_more = answer.commit(window)
        if answer.is_complete:
            assert self._mask_token_id not in answer.tokens
            return True
        return self._savings.stop_when_decided and has_more and answer.prompt.is_decided(answer.first_tokens())

    def _predict(self, answers: Sequence[OpenAnswer], predicted: Tensor) -> tuple[Tensor, Tensor]:
        """Token and confidence at each of the predicted places [B, W] of the windows, in reading order."""
        logits_of = self._reader(answers, predicted)
        tokens, confidences, start = [], [], 0
        for rows in self._portions(predicted):
            draws = [
                Draws(self._sampler.seed, answers[row].prompt.key, answers[row].step, predicted[row].nonzero()[:, 0])
                for row in rows
            ]
            stop = start + sum(len(each.places) for each in draws)
            found, confidence = self._sampler.predict(logits_of(slice(start, stop)), draws)
            tokens.append(found)
            confidences.append(confidence)
            start = stop
        return torch.cat(tokens), torch.cat(confidences)

    def _portions(self, predicted: Tensor) -> Iterator[list[int]]:
        """Rows whose logits are made together."""
        limit = _LOGITS_AT_ONCE // self._loaded.cost.vocab_size
        rows: list[int] = []
        size = 0
        for row, count in enumerate(predicted.sum(-1).tolist()):
            if rows and size + count > limit:
                yield rows
                rows, size = [], 0
            rows.append(row)
            size += count
        yield rows

    def _reader(self, answers: Sequence[OpenAnswer], predicted: Tensor) -> Callable[[slice], Tensor]:
        """Gives logits [n, V] of a slice of the predicted places, guided where the sampler asks for guidance."""
        conditional = self._forward(answers, predicted, hide_prompts=False)
        scale = self._sampler.guidance
        if not scale:
            return conditional
        unconditional = self._forward(answers, predicted, hide_prompts=True)

        def guided(part: slice) -> Tensor:
            # Unsupervised guidance, arXiv 2410.18514: p(answer | prompt)^(1 + scale) / p(answer)^scale.
            base = unconditional(part)
            return base + (scale + 1) * (conditional(part) - base)

        return guided

    def _forward(
        self, answers: Sequence[OpenAnswer], predicted: Tensor, *, hide_prompts: bool
    ) -> Callable[[slice], Tensor]:
        prompts = [[self._mask_token_id] * len(a.prompt.ids) if hide_prompts else list(a.prompt.ids) for a in answers]
        rows = [prompt + answer.tokens.tolist() for prompt, answer in zip(prompts, answers, strict=True)]
        tokens, attention_mask = pad_right(rows, self._loaded.pad_token_id)
        positions = torch.zeros_like(tokens, dtype=torch.bool)
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            begin, end = len(prompt) + answer.step.begin, len(prompt) + answer.step.end
            positions[row, begin:end] = predicted[row]
        if not self._savings.masked_positions_only:
            logits = self._loaded.logits(tokens, attention_mask)[positions.to(self._loaded.device)]
            return lambda part: logits[part]
        hidden = self._loaded.hidden_at(tokens, positions, attention_mask)
        return lambda part: self._loaded.head(hidden[part])
