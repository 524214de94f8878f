"""HumanEval: a completed function passes where its unit tests do (arXiv 2107.03374). Code runs in the sandbox only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence


def complete_prompts(responses: Iterable[Sequence[str]], docs: Iterable[Mapping[str, str]]) -> list[list[str]]:
    """The function that each response completes: the item's prompt, then the response."""
    return [[doc["prompt"] + text for text in texts] for texts, doc in zip(responses, docs, strict=True)]


def process_results(doc: Mapping[str, str], results: Sequence[Sequence[str]]) -> dict[str, float]:
    """pass@1 of the only completion."""
    from workers.sandbox import passes

    return {"pass@1": float(passes(f"{results[0][0]}\n{doc['test']}\ncheck({doc['entry_point']})"))}
