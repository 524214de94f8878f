"""Live progress on standard error: a table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from orchestrator.failures import Failure
from orchestrator.pools import Slot
from orchestrator.time_left import TimeLeft
from workers.units import Progress, QuantizeUnit, Unit


def unit_label(unit: Unit) -> str:
    """What a unit does, in words."""
    if isinstance(unit, QuantizeUnit):
        return f"quantize {unit.variant}"
    index, num_shards = unit.shard
    return str(unit.cell) if num_shards == 1 else f"{unit.cell}, part {index + 1} of {num_shards}"


class Display(Protocol):
    """Told of everything that happens in a run."""

    def __enter__(self) -> Display: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def started(self, slot: Slot, unit: Unit) -> None: ...

    def progressed(self, slot: Slot, step: Progress) -> None: ...

    def finished(self, slot: Slot, unit: Unit, result: str, *, num_cells: int) -> None:
        """The unit is over; `num_cells` cells ended with it, done or failed."""

    def failed(self, slot: Slot, unit: Unit, failure: Failure, *, num_cells: int) -> None:
        """The unit failed; it will be tried again if no cell ended with it."""

    def noted(self, text: str) -> None:
        """Something befell the run itself."""


class PlainDisplay:
    """One line per unit that ends: for logs."""

    def __init__(self, console: Console, num_cells: int) -> None:
        self._console, self._num_cells, self._ended = console, num_cells, 0

    def __enter__(self) -> PlainDisplay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def started(self, slot: Slot, unit: Unit) -> None:
        return None

    def progressed(self, slot: Slot, step: Progress) -> None:
        return None

    def finished(self, slot: Slot, unit: Unit, result: str, *, num_cells: int) -> None:
        self._line(num_cells, slot, f"{unit_label(unit)}: {result}")

    def failed(self, slot: Slot, unit: Unit, failure: Failure, *, num_cells: int) -> None:
        outcome = "FAILED" if num_cells else "lost, will be tried again"
        self._line(num_cells, slot, f"{unit_label(unit)}: {outcome} ({failure.kind}) {failure.message}")

    def noted(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _line(self, num_cells: int, slot: Slot, text: str) -> None:
        self._ended += num_cells
        self._console.out(f"[{self._ended}/{self._num_cells}] {slot.name}: {text}", highlight=False)


class LiveDisplay:
    """A row per worker: what it does, how far it is, its rate and when it will be done."""

    def __init__(self, console: Console, num_cells: int, slots: Sequence[Slot], time_left: TimeLeft) -> None:
        self._num_cells, self._ended, self._num_failed = num_cells, 0, 0
        self._slots, self._time_left = slots, time_left
        self._begun = time.monotonic()
        self._steps: dict[str, tuple[Progress, Progress, float]] = {}
        self._console = console
        self._live = Live(console=console, refresh_per_second=4, get_renderable=self._render)

    def __enter__(self) -> LiveDisplay:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def started(self, slot: Slot, unit: Unit) -> None:
        self._steps.pop(slot.name, None)

    def progressed(self, slot: Slot, step: Progress) -> None:
        first = self._steps.get(slot.name)
        if first is None or first[0].phase != step.phase:
            self._steps[slot.name] = (step, step, time.monotonic())
        else:
            self._steps[slot.name] = (first[0], step, first[2])

    def finished(self, slot: Slot, unit: Unit, result: str, *, num_cells: int) -> None:
        self._ended += num_cells

    def failed(self, slot: Slot, unit: Unit, failure: Failure, *, num_cells: int) -> None:
        self._ended += num_cells
        self._num_failed += num_cells
        outcome = "failed" if num_cells else "lost, will be tried again:"
        self._console.print(
            Text(f"{unit_label(unit)} {outcome} ({failure.kind}) {failure.message}", style="red"), soft_wrap=True
        )

    def noted(self, text: str) -> None:
        self._console.print(Text(text, style="yellow"), soft_wrap=True)

    def _render(self) -> Group:
        elapsed = time.monotonic() - self._begun
        failed = f", {self._num_failed} failed" if self._num_failed else ""
        left = self._time_left.seconds()
        head = Text(
            f"{self._ended} of {self._num_cells} cells{failed}   {clock(elapsed)} elapsed"
            + (f", about {clock(left)} left" if left is not None else ""),
            style="bold",
        )
        table = Table(box=None, pad_edge=False)
        for column in ("worker", "unit", "phase"):
            table.add_column(column, overflow="fold")
        for column in ("done", "per s", "left"):
            table.add_column(column, justify="right", no_wrap=True)
        for slot in self._slots:
            table.add_row(slot.name, *self._worker_row(slot))
        return Group(head, table)

    def _worker_row(self, slot: Slot) -> tuple[str, ...]:
        if slot.unit is None:
            return "idle" if slot.is_ready else "starting", "", "", "", ""
        label = unit_label(slot.unit)
        if slot.name not in self._steps:
            return label, "load", "", "", ""
        first, last, since = self._steps[slot.name]
        seconds, steps = time.monotonic() - since, last.done - first.done
        rate = steps / seconds if steps and seconds > 0 else 0.0
        left = clock((last.total - last.done) / rate) if rate else ""
        return label, last.phase, f"{last.done}/{last.total}", f"{rate:.1f}" if rate else "", left


class Displays:
    """Several displays as one."""

    def __init__(self, *displays: Display) -> None:
        self._displays = displays
        self._open = ExitStack()

    def __enter__(self) -> Displays:
        for display in self._displays:
            self._open.enter_context(display)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)

    def started(self, slot: Slot, unit: Unit) -> None:
        for display in self._displays:
            display.started(slot, unit)

    def progressed(self, slot: Slot, step: Progress) -> None:
        for display in self._displays:
            display.progressed(slot, step)

    def finished(self, slot: Slot, unit: Unit, result: str, *, num_cells: int) -> None:
        for display in self._displays:
            display.finished(slot, unit, result, num_cells=num_cells)

    def failed(self, slot: Slot, unit: Unit, failure: Failure, *, num_cells: int) -> None:
        for display in self._displays:
            display.failed(slot, unit, failure, num_cells=num_cells)

    def noted(self, text: str) -> None:
        for display in self._displays:
            display.noted(text)


def clock(seconds: float) -> str:
    """`1:02:03`, or `2:03` below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def make_display(console: Console, num_cells: int, slots: Sequence[Slot], time_left: TimeLeft) -> Display:
    """The live table where there is a terminal, else plain lines."""
    if console.is_terminal:
        return LiveDisplay(console, num_cells, slots, time_left)
    return PlainDisplay(console, num_cells)
