"""A pool whose workers answer at once, from the ids of cells: whole runs without models and without Ray."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from orchestrator.failures import Failure, classify
from orchestrator.placement import Placement
from orchestrator.pools import Finished, Message, Slot
from workers.units import Evaluated, EvaluateUnit, Progress, Quantized, QuantizeUnit, Samples, Unit, Warned

NUM_REQUESTS = 4
SECONDS = 10.0
GRID = """
name: little
models: [tiny-llada-base]
methods: [rtn]
schemes: [w4a4]
tasks: [demo_facts, demo_math]
# Short answers, so that demo_facts is the longer task, which goes first.
protocol: {generation: {gen_length: 16, steps: 1, llada: {block_length: 16}}}
limit: 12
"""


class FakePool:
    """Each cell has NUM_REQUESTS requests, answered one by one.

    `disturb` is called with every unit and message before it is delivered, and may return a failure in its place, or
    raise. `computed` counts the requests that were answered, by cell.
    """

    def __init__(
        self, num_workers: int = 1, *, disturb: Callable[[Unit, Message], BaseException | None] | None = None
    ) -> None:
        self.slots = [Slot(f"worker-{number}") for number in range(num_workers)]
        self.computed: dict[str, int] = {}
        self.is_closed = False
        self.placement = Placement()
        self._disturb = disturb or (lambda unit, message: None)
        self._messages: dict[Slot, deque[Message]] = {}

    def start(self, slot: Slot, unit: Unit) -> None:
        slot.unit, slot.resident = unit, unit.variant_id
        self._messages[slot] = deque(self._answers(unit))

    def poll(self, timeout: float) -> Iterator[tuple[Slot, Message]]:
        for slot in self.slots:
            if slot.unit is None:
                continue
            message = self._messages[slot].popleft()
            error = self._disturb(slot.unit, message)
            if error is not None:
                message = classify(error)
            if isinstance(message, Samples):
                cell_id = slot.unit.unit_id
                self.computed[cell_id] = self.computed.get(cell_id, 0) + len(message.rows)
            if isinstance(message, Finished | Failure):
                slot.unit = None
            yield slot, message

    def kill(self, slot: Slot) -> None:
        slot.unit = None

    def avoid(self, node: str) -> bool:
        return False

    def close(self) -> None:
        self.is_closed = True

    def _answers(self, unit: Unit) -> Iterator[Message]:
        if isinstance(unit, QuantizeUnit):
            yield Progress("quantize", 1, 2)
            yield Quantized({"num_linears": 7, "effective_bits": 4.0, "quantize_seconds": 2.0, "device": "cpu"})
        else:
            yield from _evaluation(unit)
        yield Finished()


def _evaluation(unit: EvaluateUnit) -> Iterator[Message]:
    cell = unit.cell
    yield Progress("evaluate", len(unit.done), NUM_REQUESTS)
    yield Warned("py.warnings: this GPU is warm")
    for index in range(NUM_REQUESTS):
        if index not in unit.done:
            yield Samples([_sample(index)])
    value = int(cell.cell_id[:4], 16) / 0xFFFF
    metric = {"metric": cell.task.metric, "filter": cell.task.filter, "value": value, "num_items": NUM_REQUESTS}
    scores = [
        {"doc_id": index, "filter": cell.task.filter, "metric": cell.task.metric, "value": value}
        for index in range(NUM_REQUESTS)
    ]
    yield Evaluated([metric | {"higher_is_better": True}], scores, 3, SECONDS, "cpu")


def _sample(index: int) -> dict[str, Any]:
    return {
        "request_key": f"key{index}",
        "request_index": index,
        "request_type": "loglikelihood",
        "arguments": "[]",
        "logprob": -1.0,
    }


def write_grid(folder: Path, text: str = GRID) -> Path:
    grid = folder / "grid.yaml"
    grid.write_text(text)
    return grid
