"""Workers as the driver sees them, and one in this process. Those on Ray, in `ray_pool`, are driven the same way."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from orchestrator.failures import Failure, classify
from orchestrator.machines import Machine
from workers.units import Event, Unit, WorkerSettings


@dataclass(frozen=True)
class Finished:
    """A unit's last event was delivered."""


Message = Event | Finished | Failure


class Slot:
    """A worker's place: what it runs, the variant that it holds, its machine, and the node that it is or was on.

    While it is not ready, its worker is being started or replaced; `machine` is then what it is meant to run on.
    """

    def __init__(self, name: str, *, is_ready: bool = True) -> None:
        self.name, self.is_ready = name, is_ready
        self.unit: Unit | None = None
        self.resident: str | None = None
        self.node = ""
        self.machine = Machine()


class Pool(Protocol):
    """Workers that run one unit at a time, when they are ready."""

    slots: list[Slot]

    def start(self, slot: Slot, unit: Unit) -> None:
        """Hand a unit to an idle worker."""

    def poll(self, timeout: float) -> Iterator[tuple[Slot, Message]]:
        """What workers said since; waits up to `timeout` seconds for the first word.

        Raises RunInterruptedError where no worker will say anything any more.
        """

    def kill(self, slot: Slot) -> None:
        """End what a worker runs, with its children; another takes its slot. Nothing more is said of the unit."""

    def avoid(self, node: str) -> bool:
        """Have no workers on a node any more; False where there is no other to have them on."""

    def close(self) -> None:
        """Let the workers go."""


class InProcessPool:
    """One worker in this process, without Ray: for tests and for finding faults."""

    def __init__(self, settings: WorkerSettings) -> None:
        from workers.engine import Worker

        self._worker = Worker(settings)
        self._events: Iterator[Event] = iter(())
        self.slots = [Slot("here")]

    def start(self, slot: Slot, unit: Unit) -> None:
        slot.unit, slot.resident = unit, unit.variant_id
        self._events = self._worker.run(unit)

    def poll(self, timeout: float) -> Iterator[tuple[Slot, Message]]:
        slot = self.slots[0]
        if slot.unit is None:
            time.sleep(timeout)
            return
        message: Message
        try:
            message = next(self._events)
        except StopIteration:
            message = Finished()
        except Exception as error:
            # Whatever a unit raises becomes its marked failure; the other units go on.
            message = classify(error)
        if isinstance(message, Finished | Failure):
            slot.unit = None
        yield slot, message

    def kill(self, slot: Slot) -> None:
        slot.unit, self._events = None, iter(())

    def avoid(self, node: str) -> bool:
        return False

    def close(self) -> None:
        self._events = iter(())
