"""A study's status on a terminal: once, or again and again while the run lasts."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from orchestrator.progress import clock
from orchestrator.progress_file import RunningUnit
from orchestrator.study_state import STATES, Status, study_status

WATCH_SECONDS = 2.0
_SHOWN_FAILURES = 10
# Of a study with more variants, only those that fail or run.
_SHOWN_VARIANTS = 50


def status_view(status: Status, *, now: float) -> RenderableType:
    """Status as text and tables; `now` in seconds since 1970, for how long units have been running."""
    parts: list[RenderableType] = [Text(f"{status.name} ({status.folder}): {_driver(status)}", style="bold")]
    parts.append(_cells(status))
    if status.running:
        parts.append(_running(status, now))
    if status.failures:
        kinds = ", ".join(f"{number} {kind}" for kind, number in status.failed_by_kind.most_common())
        parts.append(Text(f"failed: {kinds}; `qstudy failures {status.folder}` says why", style="red"))
        parts += [Text(f"  {cell.label}: {cell.kind}: {cell.message}") for cell in status.failures[:_SHOWN_FAILURES]]
    parts += [Text(f"does not count: {path}: {reason}", style="yellow") for path, reason in status.damaged.items()]
    return Group(*parts)


def watch_status(folder: Path, console: Console, *, wait: Callable[[float], None] = time.sleep) -> Status:
    """Show a study's status until its run ends, or Ctrl-C. The last status that was shown."""
    with Live(console=console, auto_refresh=False) as live:
        while True:
            began = time.monotonic()
            status = study_status(folder)
            live.update(status_view(status, now=time.time()), refresh=True)
            if not status.is_running:
                return status
            # A large study takes time to read; most of the time should not go there.
            try:
                wait(max(WATCH_SECONDS, 4 * (time.monotonic() - began)))
            except KeyboardInterrupt:
                return status


def _driver(status: Status) -> str:
    if status.lock is None:
        return "complete" if status.is_complete else "no run is on"
    owner = status.lock.owner or "a driver that has just begun"
    if not status.lock.is_alive:
        return f"no run is on; the last driver died ({owner})"
    left = f", about {clock(status.seconds_left)} left" if status.seconds_left is not None else ""
    return f"run by {owner}{left}"


def _cells(status: Status) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("variant")
    for state in STATES:
        table.add_column(state, justify="right")
    shown = list(status.variants.items())
    if len(shown) > _SHOWN_VARIANTS:
        shown = [(label, counts) for label, counts in shown if counts["failed"] or counts["running"]][:_SHOWN_VARIANTS]
    for label, counts in [*shown, (f"all {len(status.variants)} variants", status.total)]:
        table.add_row(Text(label), *(str(counts[state] or "") for state in STATES))
    return table


def _running(status: Status, now: float) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("worker", "running", "phase"):
        table.add_column(column, overflow="fold")
    for column in ("done", "for"):
        table.add_column(column, justify="right", no_wrap=True)
    for unit in status.running:
        table.add_row(unit.worker, Text(unit.label), unit.phase, _share(unit), clock(max(0.0, now - unit.since)))
    return table


def _share(unit: RunningUnit) -> str:
    return f"{unit.done}/{unit.total}" if unit.total else ""
