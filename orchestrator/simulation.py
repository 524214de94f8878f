"""A run on any number of workers, replayed by discrete events: the real scheduler, with durations in place of work."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from typing import Any

import numpy as np

from grids import Cell, Retries
from orchestrator.pricing import Pricer
from orchestrator.scheduling import Scheduler, even_shards
from workers.units import EvaluateUnit, QuantizeUnit, Unit

# What a lost worker costs beside its work: a new process that imports torch.
RESTART_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Simulation:
    """What a run on `num_workers` workers would take, in seconds.

    busy_seconds: of all workers together, spent on units that ended; loading models, restarts and what failures undid
    are not in it. lower_bound: no schedule is shorter than the work over the workers, or than a variant's quantization
    with its longest unit. longest_pole: that chain, in words.
    """

    num_workers: int
    makespan: float
    busy_seconds: float
    lower_bound: float
    longest_pole: str
    num_units: int
    num_failures: int
    num_lost_cells: int

    @property
    def utilization(self) -> float:
        return self.busy_seconds / (self.makespan * self.num_workers) if self.makespan else 1.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"utilization": round(self.utilization, 4)}


@dataclass(slots=True)
class _Worker:
    resident: str | None = None


def simulate(
    cells: Sequence[Cell],
    pricer: Pricer,
    *,
    num_workers: int,
    has_artifact: Callable[[str], bool],
    failures_per_hour: float = 0.0,
    seed: int = 0,
) -> Simulation:
    """Run `cells` on workers that all start at once.

    failures_per_hour: how often a worker dies, drawn from a generator with `seed`. It takes its unit with it, of which
    a cell keeps its finished requests and a quantization nothing.
    """
    chains = _Chains(cells, pricer, has_artifact)
    shards_of = even_shards(lambda cell: pricer.cell(cell).seconds, chains.total_seconds, num_workers)
    scheduler = Scheduler(
        cells,
        has_artifact=has_artifact,
        seconds_of=pricer.unit_seconds,
        shards_of=shards_of,
        num_workers=num_workers,
    )
    max_retries = Retries().worker_lost
    draws = np.random.default_rng(seed)
    order = count()
    events: list[tuple[float, int, _Worker, Unit, bool]] = []
    idle = [_Worker() for _ in range(num_workers)]
    remaining: dict[str, float] = {}
    again: list[Unit] = []
    now = busy = 0.0
    num_units = num_failures = num_lost = 0

    def seconds_of(unit: Unit) -> float:
        return 0.0 if scheduler.only_scores(unit) else pricer.unit_seconds(unit)

    def hand_out() -> None:
        while idle:
            worker = idle[-1]
            while again and not scheduler.resume(again[-1]):
                again.pop()
            unit = again.pop() if again else scheduler.next_unit(worker.resident)
            if unit is None:
                return
            idle.pop()
            variant = unit.variant if isinstance(unit, QuantizeUnit) else unit.cell.variant
            # Quantizing has the loading in its own price.
            is_loaded = worker.resident == unit.variant_id or isinstance(unit, QuantizeUnit)
            load = 0.0 if is_loaded else pricer.load_seconds(variant)
            needed = load + remaining.setdefault(unit.unit_id, seconds_of(unit))
            lifetime = float(draws.exponential(3600 / failures_per_hour)) if failures_per_hour else math.inf
            worker.resident = unit.variant_id
            if lifetime < needed:
                if isinstance(unit, EvaluateUnit):
                    remaining[unit.unit_id] -= max(0.0, lifetime - load)
                heapq.heappush(events, (now + lifetime + RESTART_SECONDS, next(order), worker, unit, False))
            else:
                heapq.heappush(events, (now + needed, next(order), worker, unit, True))

    hand_out()
    while events:
        now, _, worker, unit, is_done = heapq.heappop(events)
        if is_done:
            scheduler.finished(unit)
            num_units += 1
            busy += seconds_of(unit)
        else:
            num_failures += 1
            may_retry = scheduler.attempts(unit) <= max_retries
            num_lost += len(scheduler.failed(unit, again=may_retry))
            again += [unit] if may_retry else []
            worker.resident = None
        idle.append(worker)
        hand_out()
    assert scheduler.is_done
    bound, pole = chains.lower_bound(num_workers, shards_of)
    return Simulation(num_workers, now, busy, bound, pole, num_units, num_failures, num_lost)


class _Chains:
    """The work of a run, and which of it must follow which."""

    def __init__(self, cells: Sequence[Cell], pricer: Pricer, has_artifact: Callable[[str], bool]) -> None:
        self._longest: dict[str, Cell] = {}
        self._pricer = pricer
        self.total_seconds = 0.0
        for cell in cells:
            variant_id, seconds = cell.variant.variant_id, pricer.cell(cell).seconds
            self.total_seconds += seconds
            other = self._longest.get(variant_id)
            if other is None or pricer.cell(other).seconds < seconds:
                self._longest[variant_id] = cell
        self._quantize_seconds = {
            variant_id: pricer.quantization(cell.variant).seconds
            for variant_id, cell in self._longest.items()
            if not (cell.variant.is_full_precision or has_artifact(variant_id))
        }
        self.total_seconds += sum(self._quantize_seconds.values())

    def lower_bound(self, num_workers: int, shards_of: Callable[[Cell], int]) -> tuple[float, str]:
        """max(work / workers, longest chain), and that chain in words."""
        longest, pole = 0.0, ""
        for variant_id, cell in self._longest.items():
            quantizing, num_shards = self._quantize_seconds.get(variant_id, 0.0), shards_of(cell)
            seconds = quantizing + self._pricer.cell(cell).seconds / num_shards
            if seconds > longest:
                part = f", 1 of {num_shards} shards" if num_shards > 1 else ""
                longest, pole = seconds, f"{'quantization, then ' if quantizing else ''}{cell}{part}"
        return max(self.total_seconds / num_workers, longest), pole
