"""Several schedulers as one: a lane for all models that may run on the same machines. Pure bookkeeping.

Where all machines are of one kind and no model needs anything special, there is one lane, and a worker's choice is its
scheduler's. A worker that serves several lanes stays in that of the model it holds, and else helps first where fewest
can.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from grids import Cell, Model
from orchestrator.placement import Placement
from orchestrator.pools import Slot
from orchestrator.scheduling import Scheduler
from workers.units import QuantizeUnit, Unit


@dataclass(frozen=True)
class Lane:
    """Cells whose models may run on the same machines, by one of these models, and how many workers can."""

    model: str
    cells: tuple[Cell, ...]
    num_workers: int


def find_lanes(cells: Sequence[Cell], slots: Sequence[Slot], placement: Placement) -> list[Lane]:
    """The lanes of a run, first that with the fewest workers."""
    groups: dict[tuple[str | None, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault(placement.lane(cell.variant.model.label), []).append(cell)
    lanes = []
    for own in groups.values():
        model = own[0].variant.model.label
        num_workers = sum(placement.serves(model, slot.machine) for slot in slots)
        lanes.append(Lane(model, tuple(own), max(1, num_workers)))
    return sorted(lanes, key=lambda lane: lane.num_workers)


class Lanes:
    """Hands out units like a scheduler, to workers that may run them."""

    def __init__(
        self,
        cells: Sequence[Cell],
        slots: Sequence[Slot],
        make_scheduler: Callable[[Lane], Scheduler],
        placement: Placement | None = None,
    ) -> None:
        self._placement, self._slots = placement or Placement(), slots
        lanes = find_lanes(cells, slots, self._placement)
        self._schedulers = {lane.model: make_scheduler(lane) for lane in lanes}
        # By label, the model that stands for the lane.
        self._lane_of = {cell.variant.model.label: lane.model for lane in lanes for cell in lane.cells}
        self._model_of = {cell.variant.variant_id: cell.variant.model.label for cell in cells}

    @property
    def is_done(self) -> bool:
        return all(scheduler.is_done for scheduler in self._schedulers.values())

    def next_unit(self, slot: Slot) -> Unit | None:
        """The next unit for an idle worker; None while nothing can start there."""
        held = self._lane_of.get(self._model_of.get(slot.resident or "", ""))
        for model in sorted(self._schedulers, key=lambda model: model != held):
            if self._placement.serves(model, slot.machine) and self._has_room(model, slot):
                unit = self._schedulers[model].next_unit(slot.resident)
                if unit is not None:
                    self._placement.settle(model, slot.machine.device)
                    return unit
        return None

    def may_run(self, unit: Unit, slot: Slot) -> bool:
        """Whether a worker may run a unit, now."""
        model = model_of(unit).label
        return self._placement.serves(model, slot.machine) and self._has_room(model, slot)

    def resume(self, unit: Unit) -> bool:
        return self._scheduler(unit).resume(unit)

    def finished(self, unit: Unit) -> Cell | None:
        return self._scheduler(unit).finished(unit)

    def failed(self, unit: Unit, *, again: bool) -> list[Cell]:
        return self._scheduler(unit).failed(unit, again=again)

    def attempts(self, unit: Unit) -> int:
        return self._scheduler(unit).attempts(unit)

    def leave_out(self, longer_than: float) -> int:
        return sum(scheduler.leave_out(longer_than) for scheduler in self._schedulers.values())

    def stranded(self) -> list[str]:
        """Where no ready worker serves any lane with work left: one model of each lane, and what it waits for."""
        ready = [slot.machine for slot in self._slots if slot.is_ready]
        open_lanes = [model for model, scheduler in self._schedulers.items() if not scheduler.is_done]
        if any(self._placement.serves(model, machine) for model in open_lanes for machine in ready):
            return []
        return [f"{model} ({self._placement.describe(model)})" for model in open_lanes]

    def _scheduler(self, unit: Unit) -> Scheduler:
        return self._schedulers[self._lane_of[model_of(unit).label]]

    def _has_room(self, model: str, slot: Slot) -> bool:
        """Whether the node's memory holds the model beside those that its other workers hold."""
        wanted, memory = self._placement.host_memory(model), slot.machine.host_memory
        if not wanted or memory is None:
            return True
        others = [other.resident for other in self._slots if other is not slot and other.node == slot.node]
        held = sum(self._placement.host_memory(self._model_of.get(resident or "", "")) for resident in others)
        return held + wanted <= memory


def model_of(unit: Unit) -> Model:
    """The model that a unit quantizes or evaluates."""
    return (unit.variant if isinstance(unit, QuantizeUnit) else unit.cell.variant).model
