"""Which unit a free worker gets next. Pure bookkeeping: no Ray, no files."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import count

from grids import Cell, Variant
from workers.units import EvaluateUnit, QuantizeUnit, Unit

# No shard is longer than this share of the time that the work would take on all workers, nor shorter than some seconds:
# every shard builds its cell's requests anew.
SHARD_SHARE, MIN_SHARD_SECONDS = 1 / 32, 45.0


class Scheduler:
    """Hands out units: quantizations, and cells or shards of them once their variant is quantized.

    Longest first, by `seconds_of`. Full-precision rows come before all else that is evaluated; a worker keeps the
    variant that it holds as long as it has work; a quantization starts early enough that the other `num_workers` have
    something to do while it runs, and runs once. `shards_of` says into how many parts a cell is split; when all are
    done, the cell is handed out once more, to be scored.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        *,
        has_artifact: Callable[[str], bool],
        seconds_of: Callable[[Unit], float] = lambda unit: 1.0,
        shards_of: Callable[[Cell], int] = lambda cell: 1,
        num_workers: int = 1,
    ) -> None:
        self._seconds_of, self._shards_of = seconds_of, shards_of
        self._num_workers = num_workers
        self._order = count()
        self._waiting: dict[str, list[Cell]] = {}
        self._to_quantize: list[tuple[float, int, QuantizeUnit]] = []
        self._ready: dict[str, _Queue] = {}
        self._baselines: dict[str, None] = {}
        self._unattended: list[tuple[float, int, str]] = []
        self._attending: Counter[str] = Counter()
        self._running: dict[str, Unit] = {}
        self._held: dict[str, Unit] = {}
        self._attempts: Counter[str] = Counter()
        self._open_shards: dict[str, int] = {}
        self._ready_seconds = 0.0
        by_variant: dict[str, list[Cell]] = {}
        for cell in cells:
            by_variant.setdefault(cell.variant.variant_id, []).append(cell)
        for variant_id, own in by_variant.items():
            variant = own[0].variant
            if variant.is_full_precision:
                self._baselines[variant_id] = None
            if variant.is_full_precision or has_artifact(variant_id):
                self._make_ready(variant_id, own)
            else:
                self._waiting[variant_id] = own
                self._enqueue_quantization(variant)

    @property
    def is_done(self) -> bool:
        return not (self._running or self._held or self._ready or self._to_quantize)

    def attempts(self, unit: Unit) -> int:
        """How often the unit was started, this time included."""
        return self._attempts[unit.unit_id]

    def next_unit(self, resident: str | None) -> Unit | None:
        """The next unit for a worker that holds the variant `resident`; None while nothing can start."""
        unit = self._choose(resident)
        if unit is not None:
            self._start(unit)
        return unit

    def resume(self, unit: Unit) -> bool:
        """Start a unit that `failed` has kept; False if its cell has been lost since."""
        if self._held.pop(unit.unit_id, None) is None:
            return False
        self._start(unit)
        return True

    def leave_out(self, longer_than: float) -> int:
        """Give up quantizations that would take longer than so many seconds, and with them their cells; how many."""
        num_units = 0
        while self._to_quantize and -self._to_quantize[0][0] > longer_than:
            heapq.heappop(self._to_quantize)
            num_units += 1
        return num_units

    def finished(self, unit: Unit) -> Cell | None:
        """The unit is done; the cell that is complete with it. A quantized variant's cells can start."""
        self._end(unit)
        if isinstance(unit, QuantizeUnit):
            self._make_ready(unit.variant_id, self._waiting.pop(unit.variant_id))
            return None
        cell_id = unit.cell.cell_id
        if cell_id not in self._open_shards:
            return None  # Another shard has failed, and the cell with it.
        self._open_shards[cell_id] -= 1
        if self._open_shards[cell_id]:
            return None
        if unit.shard[1] > 1:
            self._open_shards[cell_id] = 1
            self._enqueue(EvaluateUnit(unit.cell))
            self._note_unattended(unit.variant_id)
            return None
        del self._open_shards[cell_id]
        return unit.cell

    def only_scores(self, unit: Unit) -> bool:
        """Whether every request of the unit's cell has been answered, by shards."""
        return isinstance(unit, EvaluateUnit) and unit.shard[1] == 1 and self._shards_of(unit.cell) > 1

    def failed(self, unit: Unit, *, again: bool) -> list[Cell]:
        """Cells that are lost with the unit; none if it is kept to run `again`, or if its cell is lost already."""
        self._end(unit)
        if isinstance(unit, EvaluateUnit) and unit.cell.cell_id not in self._open_shards:
            return []
        if again:
            self._held[unit.unit_id] = unit
            return []
        if isinstance(unit, QuantizeUnit):
            return self._waiting.pop(unit.variant_id)
        del self._open_shards[unit.cell.cell_id]
        self._drop_shards(unit.cell)
        return [unit.cell]

    # ---- the choice

    def _choose(self, resident: str | None) -> Unit | None:
        is_baseline = resident in self._baselines
        if resident in self._ready and not is_baseline:
            return self._take(resident)
        if self._to_quantize and self._others_would_idle():
            return heapq.heappop(self._to_quantize)[-1]
        if resident in self._ready:
            return self._take(resident)
        baselines = [variant_id for variant_id in self._baselines if variant_id in self._ready]
        if baselines:
            return self._take(max(baselines, key=self._work_per_worker))
        unattended = self._next_unattended()
        if unattended is not None:
            return self._take(unattended)
        if self._to_quantize:
            return heapq.heappop(self._to_quantize)[-1]
        if self._ready:
            return self._take(max(self._ready, key=self._work_per_worker))
        return None

    def _others_would_idle(self) -> bool:
        """Whether the other workers run out of work while the next quantization runs."""
        others = self._num_workers - 1
        return others > 0 and self._ready_seconds < others * -self._to_quantize[0][0]

    def _work_per_worker(self, variant_id: str) -> float:
        """What is left of a variant for each worker that holds it, if one more does."""
        return self._ready[variant_id].seconds / (self._attending[variant_id] + 1)

    def _next_unattended(self) -> str | None:
        """The variant with the most work that no worker holds."""
        while self._unattended:
            variant_id = heapq.heappop(self._unattended)[-1]
            if variant_id in self._ready and not self._attending[variant_id]:
                return variant_id
        return None

    # ---- the books

    def _make_ready(self, variant_id: str, cells: Sequence[Cell]) -> None:
        for cell in cells:
            num_shards = self._shards_of(cell)
            self._open_shards[cell.cell_id] = num_shards
            for index in range(num_shards):
                self._enqueue(EvaluateUnit(cell, shard=(index, num_shards)))
        self._note_unattended(variant_id)

    def _enqueue_quantization(self, variant: Variant) -> None:
        unit = QuantizeUnit(variant)
        heapq.heappush(self._to_quantize, (-self._seconds_of(unit), next(self._order), unit))

    def _enqueue(self, unit: EvaluateUnit) -> None:
        variant_id, seconds = unit.variant_id, 0.0 if self.only_scores(unit) else self._seconds_of(unit)
        queue = self._ready.setdefault(variant_id, _Queue())
        queue.push(seconds, next(self._order), unit)
        self._ready_seconds += seconds

    def _note_unattended(self, variant_id: str) -> None:
        if variant_id in self._ready and variant_id not in self._baselines and not self._attending[variant_id]:
            entry = (-self._ready[variant_id].seconds, next(self._order), variant_id)
            heapq.heappush(self._unattended, entry)

    def _take(self, variant_id: str) -> EvaluateUnit:
        queue = self._ready[variant_id]
        seconds, unit = queue.pop()
        self._ready_seconds -= seconds
        if not queue:
            del self._ready[variant_id]
        return unit

    def _start(self, unit: Unit) -> None:
        self._running[unit.unit_id] = unit
        self._attempts[unit.unit_id] += 1
        self._attending[unit.variant_id] += 1

    def _end(self, unit: Unit) -> None:
        del self._running[unit.unit_id]
        self._attending[unit.variant_id] -= 1
        self._note_unattended(unit.variant_id)

    def _drop_shards(self, cell: Cell) -> None:
        """Leave out the shards of a lost cell that do not run."""
        for unit in list(self._held.values()):
            if isinstance(unit, EvaluateUnit) and unit.cell.cell_id == cell.cell_id:
                del self._held[unit.unit_id]
        queue = self._ready.pop(cell.variant.variant_id, None)
        if queue is None:
            return
        self._ready_seconds -= queue.seconds
        for unit in queue.units():
            if unit.cell.cell_id != cell.cell_id:
                self._enqueue(unit)


class _Queue:
    """A variant's units that can start, the longest first."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, EvaluateUnit]] = []
        self.seconds = 0.0

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, seconds: float, order: int, unit: EvaluateUnit) -> None:
        heapq.heappush(self._heap, (-seconds, order, unit))
        self.seconds += seconds

    def pop(self) -> tuple[float, EvaluateUnit]:
        seconds, _, unit = heapq.heappop(self._heap)
        self.seconds += seconds
        return -seconds, unit

    def units(self) -> list[EvaluateUnit]:
        """All of them, in the order in which they would be taken."""
        return [unit for _, _, unit in sorted(self._heap)]


def even_shards(seconds_of: Callable[[Cell], float], total_seconds: float, num_workers: int) -> Callable[[Cell], int]:
    """A `shards_of` that leaves no worker idle at the end: no shard is longer than a share of total / workers."""
    longest = max(SHARD_SHARE * total_seconds / num_workers, MIN_SHARD_SECONDS)
    return lambda cell: max(1, math.ceil(seconds_of(cell) / longest))
