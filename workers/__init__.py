"""What one GPU does: load a model, calibrate, quantize, audit, evaluate, and say so while it happens.

A worker is handed units and yields events; it never writes results (the driver does), never schedules, and never knows
about tables. Names are handed on lazily, so that the planner can ask about models without loading torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workers.causal import CausalLM
    from workers.engine import Worker
    from workers.lm import DiffusionLM
    from workers.models import LoadedModel, ModelError, load_model
    from workers.standalone import QstudyLM

_HOMES = {
    "CausalLM": "workers.causal",
    "DiffusionLM": "workers.lm",
    "LoadedModel": "workers.models",
    "ModelError": "workers.models",
    "QstudyLM": "workers.standalone",
    "Worker": "workers.engine",
    "load_model": "workers.models",
}

__all__ = ["CausalLM", "DiffusionLM", "LoadedModel", "ModelError", "QstudyLM", "Worker", "load_model"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
