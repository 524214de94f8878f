"""A priced plan for people: its cells, its variants, their sum, and simulated runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

from orchestrator.planning import Plan
from orchestrator.priced_plan import PricedPlan
from orchestrator.pricing import Price
from orchestrator.simulation import Simulation

# More cells than anyone reads; `--json` has all of them.
MAX_CELL_ROWS = 500
_PIPE_WIDTH = 160
_SOURCES = {
    "given": "as asked for",
    "measured": "where this study ran",
    "assumed": "assumed; --device names another",
}


def summary(plan: Plan) -> str:
    """`12 cells: 8 to run, 4 done`"""
    words = {
        "run": "to run",
        "stale": "stale, to run again",
        "reuse": "done",
        "failed": "failed before (--retry-failed runs them again)",
        "not_applicable": "not applicable",
    }
    counts = plan.counts()
    parts = [f"{counts[action]} {text}" for action, text in words.items() if counts[action]]
    return f"{len(plan.cells)} cells: {', '.join(parts)}"


def print_plan(priced: PricedPlan, simulations: Sequence[Simulation] = (), *, as_json: bool = False) -> None:
    """The plan on standard output: one JSON document, or tables."""
    if as_json:
        _print_json(priced, simulations)
        return
    # A pipe has no width of its own.
    console = Console() if sys.stdout.isatty() else Console(width=_PIPE_WIDTH)
    console.print(_cell_table(priced.plan))
    if len(priced.plan.cells) > MAX_CELL_ROWS:
        console.print(f"... and {len(priced.plan.cells) - MAX_CELL_ROWS} more (--json lists all)")
    console.print()
    console.print(_variant_table(priced))
    console.print()
    for line in _lines(priced):
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    if simulations:
        console.print()
        console.print(_simulation_table(simulations))


def _print_json(priced: PricedPlan, simulations: Sequence[Simulation]) -> None:
    """A line per cell: indented JSON would take seconds for a large grid."""
    content = priced.to_json(simulations)
    cells = ",\n".join(json.dumps(cell, ensure_ascii=False) for cell in content.pop("cells"))
    head = json.dumps(content, indent=1, ensure_ascii=False).rstrip("\n}")
    sys.stdout.write(f'{head},\n "cells": [\n{cells}\n]\n}}\n')


def _cell_table(plan: Plan) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("model", "method", "scheme", "task", "action", "why"):
        table.add_column(column, overflow="fold")
    for planned in plan.cells[:MAX_CELL_ROWS]:
        names = planned.cell.names()
        row = [str(names[key]) for key in ("model", "method", "scheme", "task")]
        table.add_row(*row, planned.action.replace("_", " "), planned.reason)
    return table


def _variant_table(priced: PricedPlan) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("variant", overflow="fold")
    for column in ("cells", "to run", "forwards", "FLOPs", "quantize", "evaluate", "memory", "disk", "basis"):
        table.add_column(column, justify="right", no_wrap=True)
    for variant in priced.variants[:MAX_CELL_ROWS]:
        price, quantization = variant.price, variant.quantization
        table.add_row(
            str(variant.variant),
            str(variant.num_cells),
            str(variant.num_to_run or ""),
            *(_costs(price, quantization, variant.evaluation) if variant.num_to_run else [""] * 7),
        )
    return table


def _costs(price: Price, quantization: Price | None, evaluation: Price) -> Iterable[str]:
    yield count(price.num_forwards)
    yield count(price.flops)
    yield duration(quantization.seconds) if quantization else ""
    yield duration(evaluation.seconds)
    yield size(price.memory_bytes)
    yield size(price.disk_bytes) if price.disk_bytes else ""
    yield price.basis


def _lines(priced: PricedPlan) -> Iterable[str]:
    """The sum, in words, and what it rests on."""
    yield summary(priced.plan)
    total, device = priced.total, priced.pricer.device
    if not total.seconds:
        return
    kind = "GPU" if device.is_gpu else "CPU worker"
    yield (
        f"to do: {count(total.num_forwards)} forward passes, {count(total.flops)} FLOPs, "
        f"{total.seconds / 3600:.2f} {kind}-hours on {device.name} ({_SOURCES[priced.device_source]})"
    )
    if total.measured_seconds < total.seconds:
        models: dict[tuple[float, bool], list[str]] = {}
        for label, priced_with in priced.speeds().items():
            models.setdefault(priced_with, []).append(label)
        for (speed, is_measured), labels in models.items():
            reason = "what finished cells reached" if is_measured else "an assumed share of its peak"
            yield f"modelled time: FLOPs at {count(speed)} FLOP/s, {reason} ({', '.join(labels)})"
    if total.measured_seconds:
        yield f"measured in this study: {total.measured_seconds / total.seconds:.0%} of the time"
    fits = "" if total.memory_bytes <= device.memory_bytes else f", more than the {size(device.memory_bytes)} there"
    yield f"peak memory {size(total.memory_bytes)}{fits}; artifacts {size(total.disk_bytes)}"
    reasons: dict[str, list[str]] = {}
    for task, reason in priced.bounds.items():
        reasons.setdefault(reason, []).append(task)
    for reason, tasks in reasons.items():
        yield f"at most, where it is modelled: {', '.join(tasks)} ({reason})"
    for model, needs in priced.plan.study.needs.items():
        if needs:
            yield f"{model} needs {needs}"
    longest, seconds = priced.longest
    yield f"longest pole: {longest}, {duration(seconds)}"
    if guessed := priced.pricer.guessed_tasks():
        yield f"size unknown, taken as 1,000 items: {', '.join(guessed)}"


def _simulation_table(simulations: Sequence[Simulation]) -> Table:
    table = Table(box=None, pad_edge=False, title="simulated runs", title_justify="left")
    for column in ("workers", "wall time", "lower bound", "over it", "busy", "units", "failures", "lost cells"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("longest pole", overflow="fold")
    for made in simulations:
        over = made.makespan / made.lower_bound - 1 if made.lower_bound else 0.0
        table.add_row(
            f"{made.num_workers:,}",
            duration(made.makespan),
            duration(made.lower_bound),
            f"{over:.1%}",
            f"{made.utilization:.1%}",
            f"{made.num_units:,}",
            str(made.num_failures or ""),
            str(made.num_lost_cells or ""),
            made.longest_pole,
        )
    return table


def count(number: float) -> str:
    """`4.89 E`, `337.7 k`: three digits or more and a decimal prefix."""
    for prefix, unit in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= unit:
            return f"{number / unit:.3g} {prefix}" if number < 1000 * unit else f"{number / unit:,.0f} {prefix}"
    return f"{number:.0f}"


def size(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.1f} MB"


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 07 min`"""
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
