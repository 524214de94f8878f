"""A run's figures for Prometheus, through Ray: samples, cells by state, how busy workers are, failures by kind.

They are reckoned in the driver from what displays are told, and handed to Ray every few seconds. Ray serves them, with
`ray_` before their names and `_total` after those of counters, at every node's metrics port, of which the driver's has
the run's. They decide nothing: where they cannot be exported, the run says so once and goes on.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

from orchestrator.failures import Failure
from orchestrator.pools import Slot
from workers.units import EvaluateUnit, Progress, QuantizeUnit, Unit

TELL_SECONDS = 5.0
Tags = tuple[str, ...]
# Set a value of a metric; of a counter, its sum so far.
Export = Callable[["Metric", Mapping[str, str], float], None]


@dataclass(frozen=True)
class Metric:
    """What a figure is called, what tags its values have, and whether it only grows."""

    name: str
    about: str
    tags: Tags
    kind: Literal["counter", "gauge"] = "gauge"


SAMPLES = Metric(
    "qstudy_samples", "Requests answered in this run", ("study", "model", "method", "scheme", "task"), "counter"
)
CELLS = Metric("qstudy_cells", "Cells that this run is to end, by state", ("study", "state"))
UNITS = Metric("qstudy_units_running", "Units that run, by what they do", ("study", "unit"))
WORKERS = Metric("qstudy_workers", "Workers by state", ("study", "state"))
BUSY_SECONDS = Metric("qstudy_busy_seconds", "Seconds in units", ("study", "worker", "node", "device"), "counter")
BUSY_SHARE = Metric("qstudy_busy_share", "Share of the run's time in units", ("study", "worker"))
FAILURES = Metric("qstudy_failures", "Units that failed, also where they run again", ("study", "kind"), "counter")
METRICS = (SAMPLES, CELLS, UNITS, WORKERS, BUSY_SECONDS, BUSY_SHARE, FAILURES)


class RunMetrics:
    """A display that counts, and exports its figures at most every TELL_SECONDS.

    export: hands one value on, or None for nowhere; the first error that it raises is told to `complain`, and nothing
    is exported any more.
    """

    def __init__(
        self,
        study: str,
        num_cells: int,
        slots: Sequence[Slot],
        export: Export | None,
        complain: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._study, self._num_cells, self._slots = study, num_cells, slots
        self._export = export
        self._complain, self._clock = complain, clock
        self._began = self._told = clock()
        self._since: dict[str, float] = {}
        self._units: dict[str, Unit] = {}
        self._answered: dict[str, int] = {}
        self._num_done = self._num_failed = 0
        self._samples: Counter[Tags] = Counter()
        self._busy: dict[str, dict[Tags, float]] = {}
        self._failures: Counter[str] = Counter()

    def __enter__(self) -> RunMetrics:
        self.tell()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.tell()

    def started(self, slot: Slot, unit: Unit) -> None:
        self._units[slot.name], self._since[slot.name] = unit, self._clock()

    def progressed(self, slot: Slot, step: Progress) -> None:
        unit = self._units[slot.name]
        if step.phase != "evaluate" or not isinstance(unit, EvaluateUnit):
            return
        # What the first step counts was answered in earlier attempts.
        before = self._answered.get(slot.name, step.done)
        self._answered[slot.name] = step.done
        variant = unit.cell.variant
        names = (variant.model.label, variant.method_label, str(variant.scheme), unit.cell.task.info.name)
        self._samples[names] += step.done - before

    def finished(self, slot: Slot, unit: Unit, result: str, *, num_cells: int) -> None:
        self._ended(slot)
        self._num_done += num_cells

    def failed(self, slot: Slot, unit: Unit, failure: Failure, *, num_cells: int) -> None:
        self._ended(slot)
        self._num_failed += num_cells
        self._failures[failure.kind] += 1

    def noted(self, text: str) -> None:
        """What befalls the run itself is no figure."""

    def tell_if_due(self) -> None:
        """Export, if the last time is long enough ago."""
        if self._clock() - self._told >= TELL_SECONDS:
            self.tell()

    def tell(self) -> None:
        """Export everything."""
        self._told = self._clock()
        if self._export is None:
            return
        try:
            for metric, tags, value in self._values():
                named = dict(zip(metric.tags, (self._study, *tags), strict=True))
                self._export(metric, named, value)
        except Exception as error:
            # Whatever it is, it is not worth a run of days.
            self._export = None
            self._complain(f"the run's metrics are not exported any more ({type(error).__name__}: {error})")

    def _ended(self, slot: Slot) -> None:
        self._credit(slot, self._clock())
        del self._units[slot.name], self._since[slot.name]
        self._answered.pop(slot.name, None)

    def _credit(self, slot: Slot, now: float) -> None:
        """Write down what a worker has worked since the last time."""
        busy, place = self._busy.setdefault(slot.name, {}), (slot.name, slot.node, slot.machine.device)
        busy[place] = busy.get(place, 0.0) + now - self._since[slot.name]
        self._since[slot.name] = now

    def _values(self) -> Iterable[tuple[Metric, Tags, float]]:
        now = self._clock()
        for names, number in self._samples.items():
            yield SAMPLES, names, number
        running = {unit.cell.cell_id for unit in self._units.values() if isinstance(unit, EvaluateUnit)}
        num_waiting = self._num_cells - self._num_done - self._num_failed - len(running)
        states = {"done": self._num_done, "failed": self._num_failed, "running": len(running), "queued": num_waiting}
        for state, number in states.items():
            yield CELLS, (state,), number
        num_quantizing = sum(isinstance(unit, QuantizeUnit) for unit in self._units.values())
        yield UNITS, ("quantize",), num_quantizing
        yield UNITS, ("evaluate",), len(self._units) - num_quantizing
        num_ready = sum(slot.is_ready for slot in self._slots)
        yield WORKERS, ("busy",), len(self._units)
        yield WORKERS, ("idle",), max(0, num_ready - len(self._units))
        yield WORKERS, ("starting",), len(self._slots) - num_ready
        for slot in self._slots:
            if slot.name in self._since:
                self._credit(slot, now)
            seconds = self._busy.get(slot.name, {})
            for place, spent in seconds.items():
                yield BUSY_SECONDS, place, spent
            yield BUSY_SHARE, (slot.name,), sum(seconds.values()) / (now - self._began) if now > self._began else 0.0
        for kind, number in self._failures.items():
            yield FAILURES, (kind,), number


def ray_export() -> Export | None:
    """Hands values to Ray; None where this process is in no cluster."""
    import ray

    if not ray.is_initialized():
        return None
    from ray.util.metrics import Counter as RayCounter
    from ray.util.metrics import Gauge

    made: dict[str, Any] = {}
    told: dict[tuple[str, Tags], float] = {}

    def export(metric: Metric, tags: Mapping[str, str], value: float) -> None:
        if metric.name not in made:
            kind = RayCounter if metric.kind == "counter" else Gauge
            made[metric.name] = kind(metric.name, description=metric.about, tag_keys=metric.tags)
        if metric.kind == "gauge":
            made[metric.name].set(value, tags=dict(tags))
            return
        key = (metric.name, tuple(tags.values()))
        added = value - told.get(key, 0.0)
        if added > 0:
            made[metric.name].inc(added, tags=dict(tags))
            told[key] = value

    return export
