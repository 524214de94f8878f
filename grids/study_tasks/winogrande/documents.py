"""WinoGrande by partial scoring: the same ending after each of two beginnings (arXiv 1806.02847)."""

from __future__ import annotations

from collections.abc import Mapping


def answer_index(doc: Mapping[str, str]) -> int:
    """Which beginning is right: 0 or 1."""
    return ("1", "2").index(doc["answer"])


def contexts(doc: Mapping[str, str]) -> list[str]:
    """The sentence up to its blank, filled with either option."""
    beginning = doc["sentence"].partition("_")[0]
    return [beginning + doc["option1"], beginning + doc["option2"]]


def continuation(doc: Mapping[str, str]) -> str:
    """The sentence after its blank."""
    return doc["sentence"].partition("_")[2].strip()
