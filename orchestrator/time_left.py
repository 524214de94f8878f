"""How long a run will take yet: what its plan prices, at the pace that its workers have shown."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType

from grids import Cell
from orchestrator.failures import Failure
from orchestrator.pools import Slot
from workers.units import EvaluateUnit, Progress, QuantizeUnit, Unit

# Whose pace it is: (what, model, task or method), or what is like it: (what, task or method), (what,), ().
Key = tuple[str, ...]


@dataclass
class _Running:
    """A unit on a worker: its price, when it was handed out, and the share of it that is done, first and last."""

    unit: Unit
    price: float
    started: float
    first_told: float | None = None
    first_share: float = 0.0
    share: float = 0.0

    @property
    def done(self) -> float:
        return self.price * (self.share - self.first_share)

    @property
    def left(self) -> float:
        return self.price * (1 - self.share)


class TimeLeft:
    """A display that shows nothing and is asked.

    A price is in seconds of one worker, and a pace in seconds that passed for one of them: of a model's cells of one
    task, or quantizations by one method, if there were any, else of what is most like them.
    """

    def __init__(
        self,
        cells: Iterable[Cell],
        slots: Sequence[Slot],
        *,
        seconds_of: Callable[[Unit], float],
        has_artifact: Callable[[str], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._slots, self._seconds_of, self._clock = slots, seconds_of, clock
        own = list(cells)
        variants = {cell.variant.variant_id: cell.variant for cell in own}
        units: list[Unit] = [EvaluateUnit(cell) for cell in own]
        units += [
            QuantizeUnit(variant)
            for variant_id, variant in variants.items()
            if not (variant.is_full_precision or has_artifact(variant_id))
        ]
        # What is left of each cell and quantization, running units' shares included; and in sum, of those of one pace.
        self._left = {_name(unit): (_key(unit), seconds_of(unit)) for unit in units}
        self._sums: defaultdict[Key, float] = defaultdict(float)
        for key, price in self._left.values():
            self._sums[key] += price
        self._cells_of: defaultdict[str, list[str]] = defaultdict(list)
        for cell in own:
            self._cells_of[cell.variant.variant_id].append(cell.cell_id)
        self._running: dict[str, _Running] = {}
        self._paces: dict[Key, tuple[float, float]] = {}

    def __enter__(self) -> TimeLeft:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def seconds(self) -> float | None:
        """Until the last unit ends; None while there is no pace. It changes when workers are heard, not in between."""
        # Copies, for a thread of the live table asks, too.
        paces, waiting, all_running = dict(self._paces), dict(self._sums), list(self._running.values())
        for running in all_running:
            if running.done and running.first_told is not None:
                _add(paces, _key(running.unit), self._clock() - running.first_told, running.done)
        if not paces:
            return None
        on_workers = []
        for running in all_running:
            key = _key(running.unit)
            on_workers.append(running.left * _pace(paces, key))
            waiting[key] = waiting.get(key, 0.0) - running.price
        in_sum = sum(on_workers) + sum(price * _pace(paces, key) for key, price in waiting.items())
        return max([in_sum / max(1, len(self._slots)), *on_workers])

    def started(self, slot: Slot, unit: Unit) -> None:
        # Of a cell whose shards are done, there is little left but to score it.
        _, left = self._left.get(_name(unit), (None, 0.0))
        price = min(self._seconds_of(unit), left)
        self._running[slot.name] = _Running(unit, price, self._clock())

    def progressed(self, slot: Slot, step: Progress) -> None:
        running = self._running[slot.name]
        if step.phase not in ("quantize", "evaluate") or not step.total:
            return
        running.share = step.done / step.total
        if running.first_told is None:
            # What the first step counts was computed in earlier attempts.
            running.first_told, running.first_share = self._clock(), running.share

    def finished(self, slot: Slot, unit: Unit, result: str, *, num_cells: int) -> None:
        running = self._running.pop(slot.name)
        done = running.price * (1 - running.first_share)
        if done:
            _add(self._paces, _key(unit), self._clock() - running.started, done)
        if num_cells or isinstance(unit, QuantizeUnit):
            self._drop(_name(unit))
        else:
            self._drop(_name(unit), running.price)

    def failed(self, slot: Slot, unit: Unit, failure: Failure, *, num_cells: int) -> None:
        del self._running[slot.name]
        if num_cells:
            self._drop(_name(unit))
            for name in self._cells_of[unit.variant_id] if isinstance(unit, QuantizeUnit) else ():
                self._drop(name)

    def noted(self, text: str) -> None:
        return None

    def _drop(self, name: str, price: float | None = None) -> None:
        """Of a cell or a quantization so much is left less; nothing any more without `price`."""
        if name not in self._left:
            return
        key, left = self._left.pop(name)
        self._sums[key] -= left if price is None else price
        if price is not None:
            self._left[name] = key, left - price


def _name(unit: Unit) -> str:
    """The id of the cell or the variant that a unit works on."""
    return unit.cell.cell_id if isinstance(unit, EvaluateUnit) else unit.variant_id


def _key(unit: Unit) -> Key:
    if isinstance(unit, EvaluateUnit):
        return "evaluate", unit.cell.variant.model.label, unit.cell.task.info.name
    return "quantize", unit.variant.model.label, unit.variant.method


def _likes(key: Key) -> list[Key]:
    what, _, name = key
    return [key, (what, name), (what,), ()]


def _add(paces: dict[Key, tuple[float, float]], key: Key, seconds: float, price: float) -> None:
    for like in _likes(key):
        so_far, of_price = paces.get(like, (0.0, 0.0))
        paces[like] = so_far + seconds, of_price + price


def _pace(paces: dict[Key, tuple[float, float]], key: Key) -> float:
    seconds, price = next(paces[like] for like in _likes(key) if like in paces)
    return seconds / price
