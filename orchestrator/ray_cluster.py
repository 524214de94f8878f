"""The Ray cluster that a run uses: connected to, checked before the run, and watched while it lasts."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from grids import GridError
from orchestrator.failures import RunInterruptedError
from orchestrator.machines import Machine

MAX_CPU_WORKERS = 8
CONNECT_SECONDS = 5.0
# A node starts a process to answer, maybe from a network disk.
ANSWER_SECONDS = 120.0
# A head that is started anew (with Ray's fault tolerance) is back by then; Ray ends the driver after 60 s.
MAX_HEAD_ABSENCE = 20.0
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    # What a worker has started dies with it, however it dies.
    "RAY_process_group_cleanup_enabled": "true",
}


class RayCluster:
    """A cluster that is there already (`address`), or one of this machine's own that ends with the run.

    `worker_resources` is what one worker takes: a GPU, or a CPU where the cluster has no GPU. Raises GridError, within
    seconds, for a cluster that is not there and for more workers than it can hold.
    """

    def __init__(self, address: str | None, num_workers: int | None) -> None:
        # Ray reads these when it is imported or started.
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        import ray

        self._ray, self._address = ray, address
        self._connect(address, num_workers or 1)
        self._kind = "GPU"
        if not self.nodes_for_workers():
            self._kind = "CPU"
        self.has_gpus = self._kind == "GPU"
        self.worker_resources = {"num_gpus": 1, "num_cpus": 0} if self.has_gpus else {"num_cpus": 1}
        nodes = self.nodes_for_workers()
        available = sum(nodes.values()) if self.has_gpus else min(sum(nodes.values()), MAX_CPU_WORKERS)
        self.num_workers = num_workers or available
        if not available or self.num_workers > available:
            self.shutdown()
            raise GridError(
                f"{num_workers or 1} workers were asked for, but the cluster has {available} {self._kind}s for them, "
                f"on {len(nodes)} nodes",
                key="--workers",
            )
        node = ray._private.worker.global_worker.node
        self._raylet, self._head = node.raylet_socket_name, _host_and_port(node.gcs_address)
        self._head_seen = time.monotonic()

    def _connect(self, address: str | None, num_workers: int, **options: Any) -> None:
        quiet = {"log_to_driver": False, "logging_level": "error"} | options
        if address is None:
            num_cpus = max(os.cpu_count() or 1, num_workers)
            # "local": else a cluster that somebody has started on this machine would be joined.
            self._ray.init(address="local", num_cpus=num_cpus, include_dashboard=False, **quiet)
            return
        if address != "auto" and not _answers(_host_and_port(address)):
            raise GridError(
                f"no Ray cluster answers at {address}; `ray start --head` starts one, and prints its address",
                key="--address",
            )
        try:
            self._ray.init(address=address, **quiet)
        except (ConnectionError, ValueError) as error:
            raise GridError(f"cannot join the Ray cluster: {error}", key="--address") from error

    def rejoin(self, runtime_env: dict[str, Any]) -> None:
        """Join the same cluster anew, so that what starts from now on gets `runtime_env`. Folders in it travel."""
        assert self._address is not None
        self._ray.shutdown()
        self._connect(self._address, 1, runtime_env=runtime_env)

    def ask_nodes(self, question: Callable[..., dict[str, Any]], *arguments: object) -> dict[str, dict[str, Any]]:
        """What a function gives on each node for workers, by id. Its module travels, so that nothing need be there.

        Raises GridError where a node does not answer.
        """
        from ray import cloudpickle
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        module = sys.modules[question.__module__]
        cloudpickle.register_pickle_by_value(module)
        try:
            task = self._ray.remote(num_cpus=0, max_retries=0)(question)
            asked = {}
            for node in self.nodes_for_workers():
                there = NodeAffinitySchedulingStrategy(node, soft=False)
                asked[task.options(scheduling_strategy=there).remote(*arguments)] = node
        finally:
            cloudpickle.unregister_pickle_by_value(module)
        answered, silent = self._ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_SECONDS)
        try:
            if silent:
                raise GridError(f"{len(silent)} nodes do not answer in {ANSWER_SECONDS:.0f} s", key="--address")
            return {asked[answer]: self._ray.get(answer) for answer in answered}
        except self._ray.exceptions.RayError as error:
            last = str(error).strip().rpartition("\n")[2]
            raise GridError(f"a node cannot be asked what it has: {last}", key="--address") from error

    def nodes_for_workers(self) -> dict[str, int]:
        """How many workers each node holds, by id: of those that are alive and hold any, whatever runs there now."""
        return {
            node["NodeID"]: int(node["Resources"][self._kind])
            for node in self._ray.nodes()
            if node["Alive"] and node["Resources"].get(self._kind, 0) >= 1
        }

    def machines(self) -> list[Machine]:
        """One for each worker that the nodes hold."""
        holds = self.nodes_for_workers()
        return [self._machine(node) for node in self._ray.nodes() for _ in range(holds.get(node["NodeID"], 0))]

    def machine_of(self, node_id: str) -> Machine:
        """What a worker on a node runs on, as far as the cluster knows."""
        return next((self._machine(node) for node in self._ray.nodes() if node["NodeID"] == node_id), Machine())

    def _machine(self, node: dict[str, Any]) -> Machine:
        return Machine(
            device="" if self.has_gpus else "cpu",
            labels=node["Labels"],
            host_memory=node["Resources"].get("memory"),
            has_gpu=self.has_gpus,
            node=node["NodeID"],
        )

    def is_alive(self, node_id: str) -> bool:
        """Whether Ray runs on a node. Asked there, since the cluster hears of a death some seconds later."""
        return any(
            node["Alive"] and _answers((node["NodeManagerAddress"], node["NodeManagerPort"]))
            for node in self._ray.nodes()
            if node["NodeID"] == node_id
        )

    def describe(self) -> str:
        """What workers need and what there is, in words."""
        nodes, free = self.nodes_for_workers(), self._ray.available_resources().get(self._kind, 0)
        return f"each takes a {self._kind}; {len(nodes)} nodes have {sum(nodes.values())} of them, {free:g} are free"

    def check(self) -> None:
        """Raises RunInterruptedError where Ray on this machine, or its head, is dead."""
        with socket.socket(socket.AF_UNIX) as raylet:
            raylet.settimeout(CONNECT_SECONDS)
            try:
                raylet.connect(self._raylet)
            except (ConnectionRefusedError, FileNotFoundError) as error:
                raise RunInterruptedError("Ray on this machine has died (its raylet does not answer)") from error
            except OSError:
                pass  # Alive, and too busy to answer.
        if _answers(self._head):
            self._head_seen = time.monotonic()
        elif time.monotonic() - self._head_seen > MAX_HEAD_ABSENCE:
            raise RunInterruptedError(f"the head of the Ray cluster has died (nothing answers at {self._head[0]})")

    def shutdown(self) -> None:
        """Leave the cluster; one of our own ends."""
        self._ray.shutdown()


def _host_and_port(address: str) -> tuple[str, int]:
    """Raises GridError for what is not HOST:PORT."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise GridError(f"{address!r} is not the address of a Ray cluster; write auto or HOST:PORT", key="--address")
    return host.strip("[]"), int(port)


def _answers(place: tuple[str, int]) -> bool:
    try:
        socket.create_connection(place, CONNECT_SECONDS).close()
    except OSError:
        return False
    return True
