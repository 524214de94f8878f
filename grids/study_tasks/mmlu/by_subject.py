"""One lm-eval task over many subjects, where the examples of a prompt are of its item's subject."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from lm_eval.api.task import ConfigurableTask


class SubjectTask(ConfigurableTask):
    """A task whose few-shot examples come from the rows of the few-shot split with the item's `subject`."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config={key: value for key, value in config.items() if key != "class"})
        self._examples: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in self.fewshot_docs():
            self._examples[row["subject"]].append(row)

    def fewshot_context(self, doc: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The prompt of an item. Every parameter but `doc` is lm-eval's own."""
        self.sampler.replace_df(self._examples[doc["subject"]])
        return super().fewshot_context(doc, *args, **kwargs)


def in_turn(dataset: Any) -> Any:
    """The rows with subjects taking turns, each in its own order, so that the first items are of all subjects."""
    seen: Counter[str] = Counter()
    turns = []
    for subject in dataset["subject"]:
        turns.append(seen[subject])
        seen[subject] += 1
    return dataset.select(sorted(range(len(turns)), key=turns.__getitem__))
