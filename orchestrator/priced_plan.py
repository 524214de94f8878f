"""A plan with its prices: per cell, per variant and in sum, and how long it takes on so many workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from grids import Cell, Model, Variant
from orchestrator.devices import DEFAULT_DEVICE, Device, find_device, is_known
from orchestrator.planning import Plan
from orchestrator.pricing import Price, Pricer, total_price
from orchestrator.rates import Rates
from orchestrator.simulation import Simulation, simulate
from orchestrator.workload import at_most
from reports import ResultStore
from workers.models.info import ModelInfo, inspect_model


@dataclass(frozen=True, slots=True)
class PricedVariant:
    """What is to be done of a variant. `quantization` is None where it is full precision, or quantized already."""

    variant: Variant
    num_cells: int
    num_to_run: int
    quantization: Price | None
    evaluation: Price

    @property
    def price(self) -> Price:
        return total_price([self.evaluation] + ([self.quantization] if self.quantization else []))

    def to_json(self) -> dict[str, Any]:
        names = {"variant_id": self.variant.variant_id} | self.variant.names()
        counts = {"num_cells": self.num_cells, "num_to_run": self.num_to_run}
        quantization = self.quantization.to_json() if self.quantization else None
        return names | counts | self.price.to_json() | {"quantization": quantization}


class PricedPlan:
    """A plan, and what the cells that run in it cost on one kind of device.

    `device_source` says why on that one: `given`, `measured` (the study ran there) or `assumed`.
    """

    def __init__(
        self, plan: Plan, pricer: Pricer, device_source: str, has_artifact: Callable[[str], bool] = lambda _: False
    ) -> None:
        self.plan, self.pricer, self.device_source = plan, pricer, device_source
        self._has_artifact = has_artifact

    @cached_property
    def variants(self) -> list[PricedVariant]:
        """Each variant of the plan with an applicable cell, in the grid's order."""
        cells: dict[str, list[Cell]] = {}
        to_run: dict[str, list[Price]] = {}
        for planned in self.plan.cells:
            if planned.action != "not_applicable":
                variant_id = planned.cell.variant.variant_id
                cells.setdefault(variant_id, []).append(planned.cell)
                if planned.runs:
                    to_run.setdefault(variant_id, []).append(self.pricer.cell(planned.cell))
        return [self._variant(own, to_run.get(variant_id, [])) for variant_id, own in cells.items()]

    @cached_property
    def total(self) -> Price:
        return total_price(variant.price for variant in self.variants)

    @cached_property
    def bounds(self) -> dict[str, str]:
        """Tasks whose price is a bound, each with the reason: answers may take less."""
        return {
            cell.task.info.name: reason
            for cell in self.plan.to_run()
            if (reason := at_most(cell.task, cell.variant.model.family)) is not None
        }

    @cached_property
    def longest(self) -> tuple[str, float]:
        """The cell that takes longest, and its seconds."""
        cells = self.plan.to_run()
        if not cells:
            return "", 0.0
        cell = max(cells, key=lambda cell: self.pricer.cell(cell).seconds)
        return str(cell), self.pricer.cell(cell).seconds

    def simulate(self, num_workers: int, *, failures_per_hour: float = 0.0) -> Simulation:
        """The run on so many workers."""
        return simulate(
            self.plan.to_run(),
            self.pricer,
            num_workers=num_workers,
            has_artifact=self._has_artifact,
            failures_per_hour=failures_per_hour,
        )

    def speeds(self) -> dict[str, tuple[float, bool]]:
        """Operations per second that each model is priced with where its cells were not measured; whether it was."""
        models: Mapping[str, Model] = {cell.variant.model.label: cell.variant.model for cell in self.plan.study.cells}
        return {
            label: (self.pricer.speed(model), self.pricer.has_measured_speed(model)) for label, model in models.items()
        }

    def to_json(self, simulations: Sequence[Simulation] = ()) -> dict[str, Any]:
        longest, seconds = self.longest
        return {
            "study": self.plan.study.name,
            "counts": dict(self.plan.counts()),
            "device": {"name": self.pricer.device.name, "source": self.device_source},
            "speeds": {
                label: {"flops_per_second": speed, "is_measured": is_measured}
                for label, (speed, is_measured) in self.speeds().items()
            },
            "needs": {model: needs.to_json() for model, needs in self.plan.study.needs.items() if needs},
            "at_most": self.bounds,
            "total": self.total.to_json(),
            "longest_pole": {"cell": longest, "seconds": round(seconds, 3)},
            "simulations": [simulation.to_json() for simulation in simulations],
            "variants": [variant.to_json() for variant in self.variants],
            "cells": [
                planned.to_json()
                | {"price": None if planned.action == "not_applicable" else self.pricer.cell(planned.cell).to_json()}
                for planned in self.plan.cells
            ],
        }

    def _variant(self, cells: Sequence[Cell], to_run: Sequence[Price]) -> PricedVariant:
        variant = cells[0].variant
        is_made = variant.is_full_precision or not to_run or self._has_artifact(variant.variant_id)
        quantization = None if is_made else self.pricer.quantization(variant)
        return PricedVariant(variant, len(cells), len(to_run), quantization, total_price(to_run))


def price_plan(
    plan: Plan,
    store: ResultStore | None = None,
    *,
    device: str | None = None,
    has_artifact: Callable[[str], bool] = lambda _: False,
    shape_of: Callable[[Model], ModelInfo] = lambda model: inspect_model(model.path, revision=model.revision),
) -> PricedPlan:
    """Price a plan by what its store measured, else by the cost model.

    device: what it will run on; without one, what the study ran on so far, else an H100.
    Raises GridError for a device that is not in the table.
    """
    if device is not None:
        find_device(device)
    rates = Rates(plan.records.rows, store.variants() if store and plan.records.rows else (), device)
    chosen, source = _choose_device(device, rates.device)
    return PricedPlan(plan, Pricer(plan.study.cells, rates, chosen, shape_of), source, has_artifact)


def _choose_device(given: str | None, measured: str | None) -> tuple[Device, str]:
    if given is not None:
        return find_device(given), "given"
    if measured is not None:
        # A device that the table lacks has its measured speeds; only its memory and what was not measured are guessed.
        known = find_device(measured if is_known(measured) else DEFAULT_DEVICE)
        return replace(known, name=measured), "measured"
    return find_device(DEFAULT_DEVICE), "assumed"
