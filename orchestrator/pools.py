"""Where workers live: Ray actors, one per GPU, or one worker in this process. Both are driven the same way."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from grids import GridError
from orchestrator.failures import Failure, classify
from workers.units import Event, Unit, WorkerSettings

MAX_CPU_WORKERS = 8


@dataclass(frozen=True)
class Finished:
    """A unit's last event was delivered."""


Message = Event | Finished | Failure


class Slot:
    """A worker as the driver sees it: what it runs, and the variant that it holds."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.unit: Unit | None = None
        self.resident: str | None = None


class Pool(Protocol):
    """Workers that run one unit at a time."""

    slots: list[Slot]

    def start(self, slot: Slot, unit: Unit) -> None:
        """Hand a unit to an idle worker."""

    def poll(self, timeout: float) -> Iterator[tuple[Slot, Message]]:
        """What workers said since; waits up to `timeout` seconds for the first word."""

    def close(self) -> None:
        """Let the workers go."""


class InProcessPool:
    """One worker in this process, without Ray: for tests and for finding faults."""

    def __init__(self, settings: WorkerSettings) -> None:
        from workers.engine import Worker

        self._worker = Worker(settings)
        self._events: Iterator[Event] = iter(())
        self.slots = [Slot("here")]

    def start(self, slot: Slot, unit: Unit) -> None:
        slot.unit, slot.resident = unit, unit.variant_id
        self._events = self._worker.run(unit)

    def poll(self, timeout: float) -> Iterator[tuple[Slot, Message]]:
        slot = self.slots[0]
        if slot.unit is None:
            return
        message: Message
        try:
            message = next(self._events)
        except StopIteration:
            message = Finished()
        except Exception as error:
            # Whatever a unit raises becomes its marked failure; the other units go on.
            message = classify(error)
        if isinstance(message, Finished | Failure):
            slot.unit = None
        yield slot, message

    def close(self) -> None:
        self._events = iter(())


class RayPool:
    """Ray actors: one per GPU of the cluster, or one per CPU slot where there is no GPU."""

    def __init__(self, settings: WorkerSettings, *, address: str | None, num_workers: int | None) -> None:
        # Ray reads these when it is imported or started.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        import ray

        self._ray = ray
        if address is None:
            cpus = os.cpu_count() or 1
            ray.init(
                # Else a cluster that somebody else has started on this machine would be joined.
                address="local",
                num_cpus=max(cpus, num_workers or 1),
                include_dashboard=False,
                log_to_driver=False,
                logging_level="error",
            )
        else:
            ray.init(address=address, log_to_driver=False, logging_level="error")
        resources = ray.cluster_resources()
        self._num_gpus = int(resources.get("GPU", 0))
        available = self._num_gpus or min(int(resources.get("CPU", 0)), MAX_CPU_WORKERS)
        if available < (num_workers or 1):
            ray.shutdown()
            kind = "GPUs" if self._num_gpus else "CPUs"
            raise GridError(
                f"{num_workers or 1} workers were asked for, but the cluster has {available} {kind}", key="--workers"
            )
        self._settings = settings
        self._names = itertools.count()
        self._actors: dict[Slot, Any] = {}
        self._streams: dict[Slot, Any] = {}
        self.slots = [Slot(f"worker-{next(self._names)}") for _ in range(num_workers or available)]
        for slot in self.slots:
            self._actors[slot] = self._make_actor()

    def _make_actor(self) -> Any:
        from workers.engine import Worker

        amount = {"num_gpus": 1} if self._num_gpus else {"num_cpus": 1}
        quiet = {"TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": "false"}
        # Retries are the driver's: it knows the reason.
        actor = self._ray.remote(max_restarts=0, max_task_retries=0, **amount)(Worker)
        return actor.options(runtime_env={"env_vars": quiet}).remote(self._settings)

    def start(self, slot: Slot, unit: Unit) -> None:
        slot.unit, slot.resident = unit, unit.variant_id
        self._streams[slot] = self._actors[slot].run.options(num_returns="streaming", name=unit.unit_id).remote(unit)

    def poll(self, timeout: float) -> Iterator[tuple[Slot, Message]]:
        by_stream = {stream: slot for slot, stream in self._streams.items()}
        if not by_stream:
            return
        ready, _ = self._ray.wait(list(by_stream), num_returns=1, timeout=timeout)
        for stream in ready:
            slot = by_stream[stream]
            message = self._next_message(stream)
            if isinstance(message, Finished | Failure):
                slot.unit = None
                del self._streams[slot]
            if isinstance(message, Failure) and message.kind in ("worker_lost", "node_lost", "oom_host", "oom_gpu"):
                self._replace(slot)
            yield slot, message

    def _next_message(self, stream: Any) -> Message:
        try:
            event: Event = self._ray.get(next(stream))
        except StopIteration:
            return Finished()
        except Exception as error:
            # Ray re-raises here whatever the worker raised, and its own losses.
            return classify(error)
        return event

    def _replace(self, slot: Slot) -> None:
        """A new actor in the place of one that is dead, or whose memory is not to be trusted."""
        self._ray.kill(self._actors[slot])
        self._actors[slot] = self._make_actor()
        slot.resident = None

    def close(self) -> None:
        self._ray.shutdown()
