from __future__ import annotations

import pytest

from grids import Scheme, parse_scheme


@pytest.mark.parametrize(
    ("text", "scheme"),
    [
        ("fp16", Scheme()),
        ("w4a16g128", Scheme(weight_bits=4, group_size=128)),
        ("w8a8", Scheme(weight_bits=8, activation_bits=8)),
        ("w4a4kv4", Scheme(weight_bits=4, activation_bits=4, kv_bits=4)),
        ("w4a4kv4q4", Scheme(4, 4, 4, 4)),
        ("w4a8g64", Scheme(4, 8, group_size=64)),
    ],
)
def test_a_scheme_reads_as_its_text_says_and_prints_the_same(text: str, scheme: Scheme) -> None:
    assert parse_scheme(text) == scheme
    assert scheme.name == text


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("w4", "cannot read scheme"),
        ("4bit", "cannot read scheme"),
        ("w1a16", "w1 is not one of 2 to 8 bits"),
        ("w4a9", "a9 is not one of 2 to 8 bits"),
        ("w4a4kv1", "kv1 is not one of"),
        ("w4a16g0", "at least one channel"),
        ("w16a8g128", "16-bit weights have no groups"),
        ("w16a16", "nothing is quantized"),
    ],
)
def test_an_impossible_scheme_is_refused_with_its_reason(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as error:
        parse_scheme(text)
    assert text in str(error.value)
