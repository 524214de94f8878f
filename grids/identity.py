"""Content ids: hashes of the canonical JSON of what decides a number."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

ID_LENGTH = 16


def canonical_json(value: Any) -> str:
    """One text for equal values: sorted keys, no spaces, finite numbers only."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def content_id(value: Any) -> str:
    """The first 64 bits of the SHA-256 of the canonical JSON, in hex."""
    return text_id(canonical_json(value))


def text_id(text: str) -> str:
    """The id of the value whose canonical JSON is `text`."""
    return hashlib.sha256(text.encode()).hexdigest()[:ID_LENGTH]


def flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested mappings as (dotted key, value)."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def changed_fields(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two identities, as `key old -> new`."""
    before, after = dict(flatten(old)), dict(flatten(new))
    absent = "(absent)"
    return [
        f"{key} {before.get(key, absent)} -> {after.get(key, absent)}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key, absent) != after.get(key, absent)
    ]


def differing_fields(one: Mapping[str, Any], other: Mapping[str, Any], *, shared_only: bool = False) -> list[str]:
    """Fields in which two identities differ, as `key VALUE and VALUE`; `shared_only` leaves out those of one alone."""
    left, right = dict(flatten(one)), dict(flatten(other))
    keys = left.keys() & right.keys() if shared_only else left.keys() | right.keys()
    absent = "(not set)"
    return [
        f"{key} {left.get(key, absent)} and {right.get(key, absent)}"
        for key in sorted(keys)
        if left.get(key, absent) != right.get(key, absent)
    ]
