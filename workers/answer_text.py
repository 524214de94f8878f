"""From an answer's tokens to its text, and how early that text is certain.

A text is the tokens up to the first end token, decoded without special tokens and cut at each stop string in turn, as
lm-eval's own models do. Which of its first tokens decide it is a question of its own: a stop string may lie across
tokens, a tokenizer may decode the last bytes in another way when more follow, and a stop string that comes first in the
list may begin inside one that was found.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tokenizers.decoders import ByteLevel

from workers.models.loading import LoadedModel

# What a decoder writes for bytes that are no character, or not yet one.
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class AnswerText:
    """How the answer to one request is read.

    end_token_ids: the tokens that end an answer.  stops: strings that end it, in the order they are looked for.
    """

    def __init__(self, tokenizer: Any, end_token_ids: Collection[int], stops: Sequence[str]) -> None:
        self._tokenizer, self._end_token_ids, self._stops = tokenizer, end_token_ids, stops
        self._decodes_bytes = isinstance(getattr(tokenizer, "backend_tokenizer", tokenizer).decoder, ByteLevel)

    @property
    def num_last_tokens(self) -> int:
        """How many of an answer's last tokens `has_just_ended` needs."""
        # A token that is not special stands for one byte at least.
        return max((len(stop.encode()) for stop in self._stops), default=1)

    def has_just_ended(self, last: Sequence[int]) -> bool:
        """Whether an answer that is written token by token ends here: at an end token, or a stop string is complete.

        last: its last tokens, `num_last_tokens` of them or all there are.
        """
        if last[-1] in self._end_token_ids:
            return True
        text = self._decode(last) if self._stops else ""
        return any(stop in text for stop in self._stops)

    def text(self, ids: Sequence[int]) -> str:
        """The answer's text: up to the first end token, then up to the first stop string, without special tokens."""
        length = next((index for index, token in enumerate(ids) if token in self._end_token_ids), len(ids))
        text = self._decode(ids[:length])
        for stop in self._stops:
            text = text.split(stop)[0]
        return text

    def is_decided(self, ids: Sequence[int]) -> bool:
        """Whether `text` is the same for every answer that begins with these tokens.

        After an end token it is. Otherwise a stop string must have been found in what no further token can change. A
        byte-level tokenizer decodes the bytes of all tokens as one sequence of UTF-8, so that a longer answer's text
        begins with this one's but for replacement characters at its end, which may be the first bytes of a character.
        Other tokenizers decode a token by what stands beside it; no stop string is certain there.
        """
        if any(token in self._end_token_ids for token in ids):
            return True
        if not self._stops or not self._decodes_bytes:
            return False
        text = self._decode(ids).rstrip(_REPLACEMENT)
        for index, stop in enumerate(self._stops):
            found = text.find(stop)
            if found >= 0:
                # The answer is cut here, unless a string that is looked for earlier is going to be found before the end
                # of this one: none has been yet, so it would have to reach beyond the text.
                end = found + len(stop)
                return not any(_may_begin(earlier, text, end) for earlier in self._stops[:index])
        return False

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


def answer_text(loaded: LoadedModel, gen_kwargs: Mapping[str, Any], *, eos_ends_answer: bool) -> AnswerText:
    """How the answer to a request is read. Of the task's generation settings, only `until` is."""
    until = gen_kwargs.get("until") or []
    stops = [stop for stop in ([until] if isinstance(until, str) else until) if stop]
    # A stop string that is a special token would be gone from the text.
    added = loaded.tokenizer.get_added_vocab()
    ends = frozenset(added[stop] for stop in stops if stop in added)
    if eos_ends_answer:
        ends |= loaded.end_token_ids | {loaded.eos_token_id}
    return AnswerText(loaded.tokenizer, ends, stops)


def _may_begin(stop: str, text: str, end: int) -> bool:
    """Whether a longer text may hold `stop` from before position `end` to beyond the end of this text."""
    first = max(0, len(text) - len(stop) + 1)
    return any(stop.startswith(text[start:]) for start in range(first, end))
