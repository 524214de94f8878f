"""A study with samples whose every text is hostile: two models, two methods, a task of choices and one of answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from reports import ResultStore

# What a page could trip over: ends of scripts, markup that runs, entities, other printers' marks, letters from right to
# left, marks that reorder, control characters, a line separator of old script engines.
HOSTILE = (
    "_a_ % & # $x$ { } ~ ^ \\ < > | ``` &lt; </script><script>window.hacked = 1</script> <!-- "
    '<img src=x onerror="window.hacked = 1"> "\' \u05e9\u05dc\u05d5\u05dd \u202egnp.exe \x00\x1b[31m \u2028 '
    "\U0001f600 \u8868"
)
# The same as the page shows it.
SHOWN = HOSTILE.replace("\u202e", "[U+202E]").replace("\x00", "\u2400").replace("\x1b", "\u241b")
LONG = "begin " + "x" * 100_000 + " end"
MODELS = ("org/base", "org/<b>bold<b>")
VARIANTS = (("fp16", "none"), ("w4a4", "rtn"), ("w4a4", "gptq"), ("w8a8", "rtn"))
NUM_ITEMS = 40
NUM_CHOICES = 3


@dataclass
class SampledStudy:
    """Where the study is, and what each of its cells scored: cell id to the scores of its items."""

    folder: Path
    scores: dict[str, list[float]] = field(default_factory=dict)


def record_study(folder: Path, cell_row: Callable[..., dict[str, Any]], failed_row: Any) -> SampledStudy:
    """Record it. The cell of the second model, w4a4, gptq, sums has failed, with hostile words."""
    study = SampledStudy(folder)
    store = ResultStore(folder)
    for number, (model, (scheme, method)) in enumerate((model, variant) for model in MODELS for variant in VARIANTS):
        for task, group in (("facts", "general"), ("sums", "math")):
            ids = {"variant_id": f"v{number}", "cell_id": f"v{number}-{task}"}
            names = {"model": model, "scheme": scheme, "method": method, "task": task, "task_group": group, **ids}
            if (model, scheme, method, task) == (MODELS[1], "w4a4", "gptq", "sums"):
                store.record_cell([failed_row(**names, failure_message=HOSTILE)])
                continue
            share = {"fp16": 0.9, "w8a8": 0.85}.get(scheme, 0.5)
            right = np.random.default_rng([number, len(task)]).random(NUM_ITEMS) < share
            study.scores[ids["cell_id"]] = right.astype(float).tolist()
            make = choice_samples if task == "facts" else text_samples
            store.append_samples(ids["cell_id"], make(right))
            rows = [
                {"doc_id": doc, "filter": "none", "metric": "acc", "value": float(one)} for doc, one in enumerate(right)
            ]
            store.record_scores(ids["cell_id"], rows)
            store.record_cell([cell_row(**names, value=float(right.mean()), stderr=0.01, num_items=NUM_ITEMS)])
    return study


def choice_samples(right: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
    """Three choices an item; the first is the right one."""
    return [
        {
            "request_key": f"key{doc}-{choice}",
            "request_index": doc * NUM_CHOICES + choice,
            "doc_id": doc,
            "request_type": "loglikelihood",
            "arguments": json.dumps([f"question {doc} {HOSTILE}", f" choice {choice} {HOSTILE}"]),
            "logprob": -1.0 - abs(choice - (0 if right[doc] else 1)),
        }
        for doc in range(len(right))
        for choice in range(NUM_CHOICES)
    ]


def text_samples(right: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
    """A response an item; a wrong one is very long where the item's number is even."""
    return [
        {
            "request_key": f"key{doc}",
            "request_index": doc,
            "doc_id": doc,
            "request_type": "generate_until",
            "arguments": json.dumps([f"sum {doc} {HOSTILE}", {"until": ["\n"]}]),
            "response": f"right {doc} {HOSTILE}" if right[doc] else f"wrong {doc} {HOSTILE if doc % 2 else LONG}",
        }
        for doc in range(len(right))
    ]
