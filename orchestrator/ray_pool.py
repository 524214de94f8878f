"""Workers on Ray: one actor per GPU of the cluster, or one per CPU where there is no GPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from grids import GridError
from grids.needs import selects
from orchestrator.failures import Failure, RunInterruptedError, classify
from orchestrator.machines import Machine
from orchestrator.placement import Placement, choose_machines, node_selector
from orchestrator.pools import Finished, Message, Slot
from orchestrator.progress import unit_label
from orchestrator.ray_cluster import RayCluster
from workers.units import LAST_EVENTS, Event, Unit, WorkerSettings

if TYPE_CHECKING:
    from workers.engine import Worker

# A worker imports torch, maybe from a network disk, and a preempted node may come back.
START_SECONDS = 600.0
MAX_FAILED_STARTS, REST_SECONDS = 5, 2.0
CHECK_SECONDS = 2.0
# After these, a worker is dead, or its memory is not to be trusted.
_FATAL = ("worker_lost", "node_lost", "oom_host", "oom_gpu")


class _Place(Slot):
    """A slot with its actor, and what the actor is asked."""

    def __init__(self, name: str, machine: Machine, selector: Mapping[str, str]) -> None:
        super().__init__(name, is_ready=False)
        self.machine, self.selector = machine, selector
        self.actor: Any = None
        self.ready: Any = None
        self.stream: Any = None
        self.num_failed_starts = 0
        self.rests_until = 0.0


class RayPool:
    """Actors that Ray never restarts, since the driver knows why one died: each is replaced by a new process.

    start_seconds: how long no worker at all may be ready before the run ends.
    placing: says which models may run on which of the cluster's machines; what it raises is raised.
    prepare: what the cluster has to be asked before workers start; it gives the settings that they get.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        *,
        address: str | None,
        num_workers: int | None,
        start_seconds: float = START_SECONDS,
        placing: Callable[[Sequence[Machine]], Placement] = lambda machines: Placement(),
        prepare: Callable[[RayCluster, WorkerSettings], WorkerSettings] | None = None,
    ) -> None:
        self._cluster = RayCluster(address, num_workers)
        if prepare is not None:
            try:
                settings = prepare(self._cluster, settings)
            except BaseException:
                self._cluster.shutdown()
                raise
        import ray

        from workers.engine import Worker

        self._ray, self._settings, self._start_seconds = ray, settings, start_seconds
        env = {"TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": "false"}
        if not self._cluster.has_gpus:
            # Ray hides no GPU from a worker that asked for none.
            env["CUDA_VISIBLE_DEVICES"] = ""
        self._actor_class = ray.remote(max_restarts=0, max_task_retries=0, **self._cluster.worker_resources)(Worker)
        self._runtime_env = {"env_vars": env}
        self._avoided: set[str] = set()
        self._last_start_failure = ""
        try:
            self.placement, self._places = self._make_places(placing)
        except GridError:
            self._cluster.shutdown()
            raise
        self.slots: list[Slot] = [*self._places]
        self._alive = self._checked = time.monotonic()
        for place in self._places:
            self._start_actor(place)

    def _make_places(self, placing: Callable[[Sequence[Machine]], Placement]) -> tuple[Placement, list[_Place]]:
        machines = self._cluster.machines()
        placement = placing(machines)
        chosen = choose_machines(machines, placement, self._cluster.num_workers)
        if memory := placement.reserved_memory:
            self._cluster.worker_resources["memory"] = memory
        selectors = [node_selector(machine, machines, placement.label_keys) for machine in chosen]
        return placement, [
            _Place(f"worker-{number}", machine, selector)
            for number, (machine, selector) in enumerate(zip(chosen, selectors, strict=True))
        ]

    def start(self, slot: Slot, unit: Unit) -> None:
        place = self._place(slot)
        place.unit, place.resident = unit, unit.variant_id
        place.stream = place.actor.run.options(num_returns="streaming", name=_task_name(unit)).remote(unit)

    def poll(self, timeout: float) -> Iterator[tuple[Slot, Message]]:
        self._watch()
        waiting: dict[Any, _Place] = {}
        for place in self._places:
            if place.actor is None and time.monotonic() >= place.rests_until:
                self._start_actor(place)
            asked = place.stream or place.ready
            if asked is not None:
                waiting[asked] = place
        if not waiting:
            time.sleep(timeout)
            return
        # All that have something to say by now, for each round costs; else the first who has.
        answered, _ = self._ray.wait(list(waiting), num_returns=len(waiting), timeout=0)
        if not answered and timeout:
            answered, _ = self._ray.wait(list(waiting), num_returns=1, timeout=timeout)
        for asked in answered:
            place = waiting[asked]
            if asked is place.ready:
                self._started(place)
            elif asked is place.stream:  # Else it was replaced since.
                message = self._next_message(place)
                yield place, message
                if isinstance(message, LAST_EVENTS):
                    self._free(place)
                    yield place, Finished()

    def kill(self, slot: Slot) -> None:
        self._replace(self._place(slot))

    def avoid(self, node: str) -> bool:
        others = set(self._cluster.nodes_for_workers()) - {node, *self._avoided}
        alike = [place.selector for place in self._places if place.node == node]
        is_needed = not all(
            any(selects(selector, self._cluster.machine_of(other).labels) for other in others) for selector in alike
        )
        if node in self._avoided or not others or is_needed:
            return False
        self._avoided.add(node)
        self._replace_idle(node)
        return True

    def close(self) -> None:
        self._cluster.shutdown()

    def _place(self, slot: Slot) -> _Place:
        assert isinstance(slot, _Place)
        return slot

    def _start_actor(self, place: _Place) -> None:
        options: dict[str, Any] = {"runtime_env": self._runtime_env, "label_selector": dict(place.selector)}
        if self._avoided:
            options["label_selector"]["ray.io/node-id"] = f"!in({','.join(sorted(self._avoided))})"
        place.actor = self._actor_class.options(**options).remote(self._settings)
        place.ready = place.actor.__ray_call__.remote(_whereabouts)

    def _started(self, place: _Place) -> None:
        try:
            place.node, device, gpu_memory = self._ray.get(place.ready)
        except self._ray.exceptions.RayError as error:
            # Ray's text ends with what the worker itself said.
            self._last_start_failure = str(error).strip().rpartition("\n")[2]
            place.num_failed_starts += 1
            place.actor = place.ready = None
            # Forever, after so many: the machine it is sent to does not work.
            rest = REST_SECONDS * 2**place.num_failed_starts
            place.rests_until = time.monotonic() + rest if place.num_failed_starts < MAX_FAILED_STARTS else float("inf")
            return
        machine = self._cluster.machine_of(place.node)
        place.machine = replace(machine, device=machine.recorded_device(device), gpu_memory=gpu_memory)
        place.ready, place.is_ready, place.num_failed_starts = None, True, 0
        if place.node in self._avoided:
            self._replace(place)

    def _next_message(self, place: _Place) -> Message:
        message: Message
        try:
            event: Event = self._ray.get(next(place.stream))
            return event
        except StopIteration:
            message = Finished()
        except Exception as error:
            # Ray re-raises here whatever the worker raised, and its own losses.
            message = classify(error)
        place.unit = place.stream = None
        if isinstance(message, Failure) and message.kind in _FATAL:
            # Its death may be the whole cluster's.
            self._cluster.check()
            if message.kind == "worker_lost" and not self._cluster.is_alive(place.node):
                message = replace(message, kind="node_lost")
            if message.kind == "node_lost":
                self._replace_idle(place.node)
            else:
                self._replace(place)
        return message

    def _free(self, place: _Place) -> None:
        """After a unit's last event; to wait for the stream's end would let the worker idle for one more round."""
        place.unit = place.stream = None
        if place.node in self._avoided:
            self._replace(place)

    def _replace_idle(self, node: str) -> None:
        """New actors for those that idle on a node, or are still on their way to some node."""
        for place in self._places:
            if place.unit is None and (place.node == node or not place.is_ready):
                self._replace(place)

    def _replace(self, place: _Place) -> None:
        """A new actor in the place of one that is dead, or not wanted any more."""
        if place.actor is not None:
            self._ray.kill(place.actor)
        place.unit = place.stream = place.resident = None
        place.is_ready = False
        self._start_actor(place)

    def _watch(self) -> None:
        """Raises RunInterruptedError where Ray is dead, or no worker is left and none comes."""
        now = time.monotonic()
        if now - self._checked >= CHECK_SECONDS:
            self._checked = now
            self._cluster.check()
        if any(place.is_ready for place in self._places):
            self._alive = now
        gave_up = all(place.rests_until == float("inf") for place in self._places)
        if gave_up or now - self._alive > self._start_seconds:
            why = f"; the last one said: {self._last_start_failure}" if self._last_start_failure else ""
            raise RunInterruptedError(
                f"no worker became ready in {now - self._alive:.0f} s{why} ({self._cluster.describe()})"
            )


def _whereabouts(worker: Worker) -> tuple[str, str, float | None]:
    """An actor's node, and its device's name and memory; runs there."""
    import ray

    return ray.get_runtime_context().get_node_id(), worker.device_name, worker.device_memory


def _task_name(unit: Unit) -> str:
    """What Ray's dashboard and process list call a unit: its id, and in words."""
    return f"{unit.unit_id} {unit_label(unit)}"
