"""How an answer's tokens become its text, and from which token on that text is certain."""

from __future__ import annotations

import itertools

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from tests.evaluation.conftest import byte_tokenizer
from workers.answer_text import AnswerText

MASK, EOS = 256, 257
TOKENIZER = byte_tokenizer()


def ids_of(text: bytes) -> list[int]:
    """One token a byte, those of broken characters too."""
    symbols = bytes_to_unicode()
    return [TOKENIZER.convert_tokens_to_ids(symbols[byte]) for byte in text]


@pytest.mark.parametrize(
    ("stops", "letters"),
    [
        (["ab"], b"abc"),
        (["b", "ab"], b"abc"),
        (["ab", "b"], b"abc"),
        (["aab", "b", "ba"], b"ab"),
        (["bab", "ab", "aa"], b"ab"),
        (["bc", "ab"], b"abc"),
        (["é"], "é".encode() + b"a"),
        (["é\nb", "\n"], "é\nb".encode()),
        (["€a", "a"], "€a".encode()),
        (["�a", "a"], "€a".encode()),
        (["a�"], "€a".encode()),
    ],
)
def test_what_is_decided_stays_whatever_follows(stops: list[str], letters: bytes) -> None:
    """All answers of up to six tokens, with every way to go on from every beginning."""
    answer = AnswerText(TOKENIZER, {EOS}, stops)
    alphabet = [*ids_of(letters), EOS]
    decided = undecided = 0
    texts = {ids: answer.text(ids) for length in range(7) for ids in itertools.product(alphabet[-3:], repeat=length)}
    texts |= {ids: answer.text(ids) for length in range(6) for ids in itertools.product(alphabet, repeat=length)}
    beginnings = {ids: answer.is_decided(ids) for ids in texts}
    for ids, text in texts.items():
        for length in range(len(ids)):
            if beginnings[ids[:length]]:
                assert texts[ids[:length]] == text
                decided += 1
            else:
                undecided += 1
    assert decided > 100
    assert undecided > 100


def test_long_random_answers_are_decided_early_and_rightly() -> None:
    generator = torch.Generator().manual_seed(0)
    pieces = ["a", "\n", "#", " x", "é", "漢", "\n\n", "Question:", "Q"]
    stops = ["\n\n", "Question:", "漢#"]
    answer = AnswerText(TOKENIZER, {EOS}, stops)
    num_early = 0
    for _ in range(300):
        drawn = torch.randint(len(pieces), (8,), generator=generator).tolist()
        ids = ids_of("".join(pieces[index] for index in drawn).encode())
        first = next((length for length in range(len(ids) + 1) if answer.is_decided(ids[:length])), None)
        if first is None:
            assert not any(stop in answer._decode(ids) for stop in stops)
            continue
        num_early += first < len(ids)
        assert answer.text(ids[:first]) == answer.text(ids)
        # Not a token later than the stop string is there.
        assert not any(stop in answer._decode(ids[: first - 1]) for stop in stops)
    assert num_early > 100


def test_a_string_that_is_looked_for_first_may_still_begin_inside_one_that_was_found() -> None:
    answer = AnswerText(TOKENIZER, set(), ["\nX", "a\n"])
    assert not answer.is_decided(ids_of(b"a\n"))
    assert answer.text(ids_of(b"a\n")) == ""
    assert answer.text(ids_of(b"a\nX")) == "a"
    assert answer.is_decided(ids_of(b"a\nY"))


def test_an_end_token_decides_and_special_tokens_are_not_text() -> None:
    answer = AnswerText(TOKENIZER, {EOS}, ["never"])
    assert answer.is_decided([*ids_of(b"ab"), EOS])
    assert not answer.is_decided(ids_of(b"ab"))
    assert answer.text([*ids_of(b"a"), MASK, *ids_of(b"b"), EOS, *ids_of(b"c")]) == "ab"
    assert not AnswerText(TOKENIZER, set(), []).is_decided([*ids_of(b"ab"), EOS])


def test_where_a_token_is_decoded_by_its_neighbours_only_end_tokens_decide() -> None:
    """Bytes of a character that turns out broken change what stood before them."""
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)} | {"<unk>": 256}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))  # noqa: S106
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    answer = AnswerText(PreTrainedTokenizerFast(tokenizer_object=tokenizer), {256}, ["A"])
    assert answer.text([0x42, 0x41]) == "B"
    assert answer.text([0x42, 0x41, 0xE2]) == "���"
    assert not answer.is_decided([0x42, 0x41])
    assert answer.is_decided([0x42, 256])
