"""Amounts of memory as people write them: `24GB`, `512 MB`, `1.5TiB`."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator

_DECIMAL = {"MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS = _DECIMAL | {"MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_SIZE = re.compile(rf"(\d+(?:\.\d+)?) *({'|'.join(_UNITS)})")


def parse_size(value: Any) -> int:
    """Bytes. Raises ValueError for what is not a number above 0 with a unit."""
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    size = round(float(match[1]) * _UNITS[match[2]]) if match else 0
    if size <= 0:
        raise ValueError(f"{value!r} is not an amount of memory; write 24GB, 512MB or 1.5TiB")
    return size


def show_size(num_bytes: float) -> str:
    """`24 GB`, `1.5 TB`, to three digits."""
    name, unit = next(
        ((name, unit) for name, unit in reversed(_DECIMAL.items()) if num_bytes >= unit), ("MB", _DECIMAL["MB"])
    )
    number = num_bytes / unit
    return f"{number:.0f} {name}" if number >= 100 else f"{number:.3g} {name}"


Size = Annotated[int, BeforeValidator(parse_size)]

__all__ = ["Size", "parse_size", "show_size"]
