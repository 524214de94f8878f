"""What a model asks of the machines that it runs on. It decides where units run, and no number."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from grids.protocol import Settings
from grids.sizes import Size, show_size

# Ray's own rules for labels, which are those of Kubernetes.
_WORD = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_KEY = re.compile(rf"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{{0,251}}[A-Za-z0-9])?/)?{_WORD}")
_SELECTOR = re.compile(rf"(!?)(?:({_WORD})|in\(({_WORD}(?:, ?{_WORD})*)\))")


def _labels(selector: dict[str, str]) -> dict[str, str]:
    for key, value in selector.items():
        if not _KEY.fullmatch(key):
            raise ValueError(f"{key!r} is not a label's name; write one as in ray.io/accelerator-type")
        if not _SELECTOR.fullmatch(value):
            raise ValueError(
                f"{value!r} selects no label of {key}; write H200, !H200, in(H100, H200) or !in(H100, H200)"
            )
    return selector


class Needs(Settings):
    """Of each worker that holds the model: the labels of its node, and memory."""

    label_selector: Annotated[dict[str, str], AfterValidator(_labels)] = Field(
        {}, description="Ray's labels of nodes, as in {ray.io/accelerator-type: H200}"
    )
    gpu_memory: Size | None = Field(None, description="the device's whole memory is no less: 24GB")
    host_memory: Size | None = Field(None, description="what the worker takes of its node's memory: 40GB")

    def __bool__(self) -> bool:
        return bool(self.label_selector or self.gpu_memory or self.host_memory)

    def __str__(self) -> str:
        parts = [f"{key}={value}" for key, value in self.label_selector.items()]
        parts += [f"{show_size(self.gpu_memory)} of GPU memory"] if self.gpu_memory else []
        parts += [f"{show_size(self.host_memory)} of host memory"] if self.host_memory else []
        return " and ".join(parts)

    def to_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude_defaults=True)


def selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether a node with `labels` agrees with every condition of a selector, as Ray understands them."""
    return all(_agrees(condition, labels.get(key)) for key, condition in selector.items())


def _agrees(condition: str, label: str | None) -> bool:
    match = _SELECTOR.fullmatch(condition)
    assert match is not None
    negation, word, words = match.groups()
    allowed = {word} if word else {part.strip() for part in words.split(",")}
    return (label in allowed) != bool(negation)
