"""Which models may run on which machines: by what they need, and so that no comparison mixes kinds of device.

All cells of a model are compared with its full precision, so a model keeps to one kind: the one that its stored cells
ran on, else the one that has most to offer when models are dealt out, the most expensive first. Pure bookkeeping.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from grids import GridError, Needs
from grids.identity import canonical_json
from orchestrator.devices import find_device, is_known
from orchestrator.machines import KIND_LABEL, Machine, describe
from orchestrator.priced_plan import PricedPlan

_ANY = Needs()


@dataclass(frozen=True)
class Load:
    """A model's work in this run.

    seconds: on one worker.  ran_on: the device of what is done of it.  key: where the grid states its needs.
    """

    model: str
    needs: Needs = _ANY
    seconds: float = 0.0
    ran_on: str | None = None
    key: str = "needs"


class Placement:
    """Tells for each model whether a machine may run it."""

    def __init__(self, loads: Sequence[Load] = (), devices: Mapping[str, str] | None = None) -> None:
        """devices: the kind that each model keeps to, empty where only a worker can tell it; no entry for any kind."""
        self.models = [load.model for load in loads]
        self._needs = {load.model: load.needs for load in loads}
        self._devices = dict(devices or {})
        self._answers: dict[tuple[str, Machine], bool] = {}

    def serves(self, model: str, machine: Machine) -> bool:
        if (model, machine) not in self._answers:
            self._answers[model, machine] = self._serves(model, machine)
        return self._answers[model, machine]

    def host_memory(self, model: str) -> int:
        """Bytes that a worker with the model takes of its node."""
        return self._needs.get(model, _ANY).host_memory or 0

    def lane(self, model: str) -> tuple[str | None, str]:
        """Models of one lane may run on the same machines."""
        return self._devices.get(model), canonical_json(self._needs.get(model, _ANY).to_json())

    def settle(self, model: str, device: str) -> None:
        """Bind the model, and all of its lane, to the device that it began on, where only that could tell its kind."""
        if self._devices.get(model) == "" and device:
            for other in [other for other in self._devices if self.lane(other) == self.lane(model) and other != model]:
                self._devices[other] = device
            self._devices[model] = device
            self._answers.clear()

    @property
    def label_keys(self) -> set[str]:
        """Labels of nodes that make a difference."""
        return {KIND_LABEL}.union(*(needs.label_selector for needs in self._needs.values()))

    @property
    def reserved_memory(self) -> int:
        """Bytes of its node that every worker takes, whatever model it holds."""
        return min((self.host_memory(model) for model in self.models), default=0)

    def summary(self) -> str:
        """`llada on H200, dream on A100`; empty where all models keep to one kind."""
        if len(set(self._devices.values())) < 2:
            return ""
        return ", ".join(f"{model} on {self._devices[model] or 'unlabelled devices'}" for model in self.models)

    def describe(self, model: str) -> str:
        """What the model waits for, in words."""
        device, needs = self._devices.get(model), self._needs.get(model, _ANY)
        return " and ".join(filter(None, [device, str(needs)])) or "any worker"

    def _serves(self, model: str, machine: Machine) -> bool:
        device = self._devices.get(model)
        if machine.lacks(self._needs.get(model, _ANY)):
            return False
        return device is None or (machine.is_of(device) if device else not machine.has_kind_label)


def find_loads(priced: PricedPlan, ran_on: Mapping[str, str]) -> list[Load]:
    """The models that a plan runs, in the grid's order; `ran_on`: devices of what is done of them."""
    plan, seconds = priced.plan, dict[str, float]()
    for priced_variant in priced.variants:
        if priced_variant.num_to_run:
            label = priced_variant.variant.model.label
            seconds[label] = seconds.get(label, 0.0) + priced_variant.price.seconds
    stated = list(plan.study.needs)
    return [
        Load(
            model,
            plan.study.needs.get(model, _ANY),
            total,
            ran_on.get(model),
            f"models[{stated.index(model)}].needs" if model in stated else "needs",
        )
        for model, total in seconds.items()
    ]


def place_models(loads: Sequence[Load], machines: Sequence[Machine], *, allow_mixed: bool = False) -> Placement:
    """Deal models out to kinds of machine (`machines`: one for each worker that there may be).

    Raises GridError for a model that no machine suits, or none of the kind that it ran on.
    """
    kinds: dict[str, list[Machine]] = {}
    for machine in machines:
        kinds.setdefault(machine.kind, []).append(machine)
    speeds = _speeds(kinds)
    busy = dict.fromkeys(kinds, 0.0)
    devices: dict[str, str] = {}
    for load in sorted(loads, key=lambda load: -load.seconds):
        fitting = [machine for machine in machines if not machine.lacks(load.needs)]
        if not fitting:
            raise GridError(
                f"{load.model} needs {load.needs}, and no machine has that; there are {describe(machines)}",
                key=load.key,
            )
        if load.ran_on is not None and not allow_mixed:
            fitting = [machine for machine in fitting if machine.is_of(load.ran_on)]
            if not fitting:
                raise _moved(load, machines)
        # When each kind would be done with all that it has been given, this model included.
        capacity = {kind: speeds[kind] * number for kind, number in Counter(each.kind for each in fitting).items()}
        ends = {kind: busy[kind] + load.seconds / capacity[kind] for kind in capacity}
        kind = min(ends, key=lambda kind: (ends[kind], -capacity[kind]))
        busy[kind] = ends[kind]
        devices[load.model] = kind or load.ran_on or ""
    return Placement(loads, None if allow_mixed else devices)


def _speeds(kinds: Iterable[str]) -> dict[str, float]:
    """How fast one worker of each kind is; all alike where a kind is not in the table of devices."""
    if not all(map(is_known, kinds)):
        return dict.fromkeys(kinds, 1.0)
    return {kind: find_device(kind).half_flops for kind in kinds}


def _moved(load: Load, machines: Sequence[Machine]) -> GridError:
    kinds = ", ".join(sorted({machine.kind or "a device of unknown kind" for machine in machines}))
    return GridError(
        f"{load.model} ran on {load.ran_on} so far, and there is only {kinds} for the rest. A "
        "comparison keeps to one kind of device; `allow_mixed_devices: true` in the grid, or --allow-mixed-devices, "
        "mixes them, and the tables say so",
        key=load.model,
    )


def choose_machines(machines: Sequence[Machine], placement: Placement, num_workers: int) -> list[Machine]:
    """Where so many workers go, at most: to machines that some model may run on, so that each model has one.

    A node gets no more workers than its memory holds. Raises GridError for too few workers.
    """
    reserved = placement.reserved_memory
    groups: dict[tuple[str, ...], list[Machine]] = {}
    taken: Counter[str] = Counter()
    for machine in machines:
        served = tuple(model for model in placement.models if placement.serves(model, machine))
        taken[machine.node] += reserved
        has_room = machine.host_memory is None or taken[machine.node] <= machine.host_memory
        if has_room and (served or not placement.models):
            groups.setdefault(served, []).append(machine)
    # In turn from each group, first from those that few models can use.
    rounds = zip_longest(*(groups[served] for served in sorted(groups, key=len)))
    chosen = [machine for one in rounds for machine in one if machine is not None][:num_workers]
    for model in placement.models:
        if not any(placement.serves(model, machine) for machine in chosen):
            raise GridError(
                f"{num_workers} workers are too few: {len(groups)} kinds of machine are needed, one of them by {model} "
                f"({placement.describe(model)})",
                key="--workers",
            )
    return chosen


def node_selector(machine: Machine, machines: Sequence[Machine], keys: Iterable[str]) -> dict[str, str]:
    """Ray's selector of nodes like the machine's; empty where all are alike."""
    selector = {}
    for key in keys:
        others = {other.labels[key] for other in machines if key in other.labels}
        own = machine.labels.get(key)
        if own is None and others:
            selector[key] = f"!in({','.join(sorted(others))})"
        elif own is not None and any(other.labels.get(key) != own for other in machines):
            selector[key] = own
    return selector
