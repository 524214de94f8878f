"""MBPP: a program passes where the item's three assertions do (arXiv 2108.07732). Code runs in the sandbox only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """pass@1 of the only response, under the name that lm-eval has for it."""
    from workers.sandbox import passes

    return {"pass_at_1": float(passes("\n".join([results[0], *doc["test_list"][:3]])))}
