"""HellaSwag's prompt and endings, cleaned of what is left of WikiHow's markup."""

from __future__ import annotations

import re
from typing import Any

_MARKUP = re.compile(r"\[.*?\]")


def process_docs(dataset: Any) -> Any:
    """Adds `query` (activity and context) and `choices` (the endings) to each row."""
    return dataset.map(
        lambda row: {
            "query": _clean(f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"),
            "choices": [_clean(ending) for ending in row["endings"]],
        }
    )


def _clean(text: str) -> str:
    """A title starts a sentence; other bracketed words go, and then one pass over doubled spaces."""
    return _MARKUP.sub("", text.strip().replace(" [title]", ". ")).replace("  ", " ")
