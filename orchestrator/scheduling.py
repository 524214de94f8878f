"""Which unit a free worker gets next. Pure bookkeeping: no Ray, no files."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence

from grids import Cell, Variant
from orchestrator.failures import Failure
from workers.units import EvaluateUnit, QuantizeUnit, Unit

MAX_ATTEMPTS = 3


class Scheduler:
    """Cells wait until their variant is quantized; a worker keeps the variant that it holds as long as it has work."""

    def __init__(
        self, cells: Sequence[Cell], *, has_artifact: Callable[[str], bool], max_attempts: int = MAX_ATTEMPTS
    ) -> None:
        self._max_attempts = max_attempts
        self._waiting: dict[str, list[Cell]] = {}
        self._ready: dict[str, deque[Cell]] = {}
        self._to_quantize: deque[Variant] = deque()
        self._running: dict[str, Unit] = {}
        self._attempts: Counter[str] = Counter()
        for cell in cells:
            variant = cell.variant
            if variant.is_full_precision or has_artifact(variant.variant_id):
                self._ready.setdefault(variant.variant_id, deque()).append(cell)
            else:
                if variant.variant_id not in self._waiting:
                    self._to_quantize.append(variant)
                self._waiting.setdefault(variant.variant_id, []).append(cell)

    @property
    def is_done(self) -> bool:
        return not (self._running or self._ready or self._to_quantize or self._waiting)

    def attempts(self, unit: Unit) -> int:
        """How often the unit was started, this time included."""
        return self._attempts[unit.unit_id]

    def next_unit(self, resident: str | None) -> Unit | None:
        """The next unit for a worker that holds the variant `resident`; None while nothing can start."""
        unit = self._choose(resident)
        if unit is not None:
            self._running[unit.unit_id] = unit
            self._attempts[unit.unit_id] += 1
        return unit

    def _choose(self, resident: str | None) -> Unit | None:
        if resident is not None and resident in self._ready:
            return EvaluateUnit(self._take(resident))
        busy = {unit.variant_id for unit in self._running.values()}
        free = [variant_id for variant_id in self._ready if variant_id not in busy]
        if free:
            return EvaluateUnit(self._take(free[0]))
        if self._to_quantize:
            return QuantizeUnit(self._to_quantize.popleft())
        if self._ready:
            return EvaluateUnit(self._take(max(self._ready, key=lambda variant_id: len(self._ready[variant_id]))))
        return None

    def _take(self, variant_id: str) -> Cell:
        cell = self._ready[variant_id].popleft()
        if not self._ready[variant_id]:
            del self._ready[variant_id]
        return cell

    def finished(self, unit: Unit) -> None:
        """The unit is done; a quantized variant's cells can start."""
        del self._running[unit.unit_id]
        if isinstance(unit, QuantizeUnit):
            self._ready[unit.variant_id] = deque(self._waiting.pop(unit.variant_id))

    def failed(self, unit: Unit, failure: Failure) -> list[Cell]:
        """Cells that are lost with the unit; none if it will be tried again."""
        del self._running[unit.unit_id]
        if failure.is_retryable and self._attempts[unit.unit_id] < self._max_attempts:
            if isinstance(unit, QuantizeUnit):
                self._to_quantize.appendleft(unit.variant)
            else:
                self._ready.setdefault(unit.variant_id, deque()).appendleft(unit.cell)
            return []
        return self._waiting.pop(unit.variant_id) if isinstance(unit, QuantizeUnit) else [unit.cell]
