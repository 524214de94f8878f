"""What becomes of a unit that failed: whether, when, where and how it runs again. Pure bookkeeping over lanes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from grids import Cell, Retries
from orchestrator.failures import Failure, Kind
from orchestrator.lanes import Lanes
from orchestrator.pools import Slot
from workers.units import EvaluateUnit, Unit

MAX_REST_SECONDS = 300.0
# So many different units lost in a row, none finished between them, and the node is at fault.
MAX_LOSSES_OF_NODE = 3
_LOSSES: frozenset[Kind] = frozenset({"worker_lost", "node_lost", "oom_host"})


@dataclass
class _Retry:
    """A unit that waits: until `due`, for another node than `lost_on`, or for a whole node."""

    unit: Unit
    due: float
    lost_on: str
    is_alone: bool
    # The node that an alone unit has claimed.
    node: str | None = None


class Retrier:
    """Chooses units for workers: those that failed and may run again before those that have not run.

    A unit that runs alone claims a node: nothing new starts there until the unit has ended.
    """

    def __init__(self, lanes: Lanes, policy: Retries, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._lanes, self._policy, self._clock = lanes, policy, clock
        self._failures: Counter[tuple[str, Kind]] = Counter()
        self._waiting: list[_Retry] = []
        self._alone: dict[str, _Retry] = {}
        self._losses: dict[str, set[str]] = {}

    def next_unit(self, slot: Slot, slots: Sequence[Slot]) -> Unit | None:
        """The next unit for an idle worker among `slots`; None while nothing can start there."""
        unit = self._take(slot, slots, elsewhere=True)
        if unit is None and not self._is_claimed(slot.node):
            unit = self._lanes.next_unit(slot) or self._take(slot, slots, elsewhere=False)
        return unit

    def finished(self, slot: Slot, unit: Unit) -> None:
        """The unit ended well: its node works, and is no longer its own."""
        self._losses.pop(slot.node, None)
        self._alone.pop(unit.unit_id, None)

    def failed(self, slot: Slot, unit: Unit, failure: Failure) -> list[Cell]:
        """Cells that are lost with the unit; none if it will be tried again."""
        self._alone.pop(unit.unit_id, None)
        if failure.kind in _LOSSES:
            self._losses.setdefault(slot.node, set()).add(unit.unit_id)
        self._failures[unit.unit_id, failure.kind] += 1
        num_failures = self._failures[unit.unit_id, failure.kind]
        again = num_failures <= getattr(self._policy, failure.kind, 0)
        lost = self._lanes.failed(unit, again=again)
        if again and not lost:
            rest = min(self._policy.backoff * 2 ** (num_failures - 1), MAX_REST_SECONDS)
            if isinstance(unit, EvaluateUnit):
                # Read anew when it starts.
                unit = replace(unit, done={})
            if failure.kind == "oom_gpu":
                unit = replace(unit, batch_divisor=2 * unit.batch_divisor)
            self._waiting.append(
                _Retry(unit, self._clock() + rest, slot.node, self._failures[unit.unit_id, "oom_host"] > 0)
            )
        return lost

    def is_faulty(self, node: str) -> bool:
        """Whether the node has lost so many units in a row that it should be avoided."""
        return len(self._losses.get(node, ())) >= MAX_LOSSES_OF_NODE

    def _take(self, slot: Slot, slots: Sequence[Slot], *, elsewhere: bool) -> Unit | None:
        """The first unit that may start in the slot; with `elsewhere`, only on a node that did not lose it."""
        now = self._clock()
        for retry in list(self._waiting):
            if retry.due > now or not self._lanes.may_run(retry.unit, slot):
                continue
            if retry.is_alone:
                if not self._has_node(retry, slot, slots):
                    continue
            elif self._is_claimed(slot.node) or (
                elsewhere and slot.node == retry.lost_on and any(other.node != slot.node for other in _ready(slots))
            ):
                continue
            self._waiting.remove(retry)
            if self._lanes.resume(retry.unit):
                if retry.is_alone:
                    self._alone[retry.unit.unit_id] = retry
                return retry.unit
        return None

    def _has_node(self, retry: _Retry, slot: Slot, slots: Sequence[Slot]) -> bool:
        """Whether the slot's node is the unit's own and nothing runs there; claims a node where it has none."""
        if retry.node not in {other.node for other in _ready(slots)}:
            retry.node = None if self._is_claimed(slot.node) else slot.node
        return retry.node == slot.node and not any(other.unit for other in slots if other.node == slot.node)

    def _is_claimed(self, node: str) -> bool:
        return any(retry.node == node for retry in [*self._alone.values(), *self._waiting])


def _ready(slots: Sequence[Slot]) -> list[Slot]:
    return [slot for slot in slots if slot.is_ready]
