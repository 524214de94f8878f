"""Lengths of time as people write them: `90s`, `15m`, `3h55m`, `2d`."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator

_SECONDS = {"d": 86_400, "h": 3600, "m": 60, "s": 1}
_PARTS = re.compile("".join(rf"(?:(\d+(?:\.\d+)?){unit})?" for unit in _SECONDS))


def parse_duration(value: Any) -> float:
    """Seconds. Raises ValueError for what is not a number of days, hours, minutes and seconds, in that order."""
    match = _PARTS.fullmatch(value.replace(" ", "")) if isinstance(value, str) else None
    if match is None or not any(match.groups()):
        raise ValueError(f"{value!r} is not a length of time; write 90s, 15m, 2h or 3h55m")
    return sum(float(number) * unit for number, unit in zip(match.groups(), _SECONDS.values(), strict=True) if number)


def show_duration(seconds: float) -> str:
    """The shortest text that `parse_duration` reads, to the second."""
    parts, left = [], round(seconds)
    for unit, length in _SECONDS.items():
        number, left = divmod(left, length)
        parts += [f"{number}{unit}"] if number else []
    return "".join(parts) or "0s"


Duration = Annotated[float, BeforeValidator(parse_duration)]

__all__ = ["Duration", "parse_duration", "show_duration"]
