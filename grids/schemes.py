"""Bit schemes written as text: `fp16`, `w4a16g128`, `w8a8`, `w4a4kv4`, `w4a4kv4q4`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

FULL_PRECISION_BITS = 16
MIN_BITS, MAX_BITS = 2, 8
_PATTERN = re.compile(r"w(?P<w>\d+)a(?P<a>\d+)(?:kv(?P<kv>\d+))?(?:q(?P<q>\d+))?(?:g(?P<g>\d+))?")
_EXAMPLES = "fp16, w4a16g128, w3a16g128, w8a8, w4a4, w4a4kv4, w4a8"


@dataclass(frozen=True)
class Scheme:
    """How many bits each operand has; 16 means that it is left alone.

    `group_size` counts input channels that share a weight scale; None means one scale per output channel.
    """

    weight_bits: int = FULL_PRECISION_BITS
    activation_bits: int = FULL_PRECISION_BITS
    kv_bits: int = FULL_PRECISION_BITS
    query_bits: int = FULL_PRECISION_BITS
    group_size: int | None = None

    @property
    def is_full_precision(self) -> bool:
        return self.operand_bits == (FULL_PRECISION_BITS,) * 4

    @property
    def operand_bits(self) -> tuple[int, int, int, int]:
        """Bits of weights, activations, keys and values, queries."""
        return self.weight_bits, self.activation_bits, self.kv_bits, self.query_bits

    @cached_property
    def name(self) -> str:
        """The canonical spelling, which `parse_scheme` reads back to an equal scheme."""
        if self.is_full_precision:
            return "fp16"
        text = f"w{self.weight_bits}a{self.activation_bits}"
        text += f"kv{self.kv_bits}" if self.kv_bits < FULL_PRECISION_BITS else ""
        text += f"q{self.query_bits}" if self.query_bits < FULL_PRECISION_BITS else ""
        return text + (f"g{self.group_size}" if self.group_size else "")

    def __str__(self) -> str:
        return self.name


def parse_scheme(text: str) -> Scheme:
    """Read a scheme's text. Raises ValueError that names what is wrong and what is allowed."""
    if text == "fp16":
        return Scheme()
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise ValueError(f"cannot read scheme {text!r}; examples: {_EXAMPLES}")
    fields = {key: int(value) for key, value in match.groupdict().items() if value is not None}
    for operand in ("w", "a", "kv", "q"):
        bits = fields.get(operand, FULL_PRECISION_BITS)
        if bits != FULL_PRECISION_BITS and not MIN_BITS <= bits <= MAX_BITS:
            raise ValueError(
                f"impossible scheme {text!r}: {operand}{bits} is not one of {MIN_BITS} to {MAX_BITS} bits, or 16"
            )
    if fields.get("g") == 0:
        raise ValueError(f"impossible scheme {text!r}: a group has at least one channel (leave g out for per-channel)")
    if "g" in fields and fields["w"] == FULL_PRECISION_BITS:
        raise ValueError(f"impossible scheme {text!r}: 16-bit weights have no groups")
    scheme = Scheme(
        weight_bits=fields["w"],
        activation_bits=fields["a"],
        kv_bits=fields.get("kv", FULL_PRECISION_BITS),
        query_bits=fields.get("q", FULL_PRECISION_BITS),
        group_size=fields.get("g"),
    )
    if scheme.is_full_precision:
        raise ValueError(f"impossible scheme {text!r}: nothing is quantized; full precision is written fp16")
    return scheme
