"""Score generated one-line functions: run them with their assertions in the sandbox."""

from __future__ import annotations

from typing import Any

from workers.sandbox import passes


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """pass@1 of the first completion of `doc["prompt"]`: 1.0 where every assertion of `doc["test"]` holds."""
    program = f"{doc['prompt']}{results[0]}\n\n{doc['test']}\ncheck({doc['entry_point']})\n"
    return {"pass@1": float(passes(program))}
