"""Models: checkpoints of LLaDA, Dream, Llama and Qwen2 become one kind of object, a `LoadedModel`.

What a config.json says is read without torch (`info`, `dialects`, `checkpoint`), because the planner needs it; the rest
is loaded on first use. Nothing here runs code that comes with a checkpoint, reads a pickle, or knows about tasks.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from workers.models.checkpoint import ModelError, model_digest
from workers.models.info import ModelInfo, inspect_model

if TYPE_CHECKING:
    from workers.models.loading import LoadedModel, load_model

_NEED_TORCH = {"LoadedModel", "load_model"}

__all__ = ["LoadedModel", "ModelError", "ModelInfo", "inspect_model", "load_model", "model_digest"]


def __getattr__(name: str) -> Any:
    if name not in _NEED_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("workers.models.loading"), name)
