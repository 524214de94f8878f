"""Ray on this machine for tests: clusters that leave nothing behind, and the processes of one, found by a mark."""

from __future__ import annotations

import os
import re
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MARK = "QSTUDY_TEST_MARK"
STORE_BYTES = 80 * 2**20
# Ray's own are for data centres: a lost node would be noticed after 12 s.
QUICK_HEALTH_CHECK = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 3,
}


class Cluster:
    """A head without workers, and nodes with two logical GPUs each."""

    def __init__(self, num_nodes: int) -> None:
        from ray.cluster_utils import Cluster as RayCluster

        head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": STORE_BYTES}
        self._cluster = RayCluster(initialize_head=True, head_node_args=head | {"_system_config": QUICK_HEALTH_CHECK})
        self.nodes: list[Any] = []
        for _ in range(num_nodes):
            self.add_node()

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def add_node(self, **options: Any) -> None:
        """options: of Ray's own, as `labels`."""
        self.nodes.append(self._cluster.add_node(num_cpus=1, num_gpus=2, object_store_memory=STORE_BYTES, **options))

    def remove_node(self, node: Any) -> None:
        """As if its machine had lost power."""
        self.nodes.remove(node)
        self._cluster.remove_node(node, allow_graceful=False)

    def kill_head(self, process: str) -> None:
        """SIGKILL for the head's `raylet` or `gcs_server`."""
        os.kill(self._cluster.head_node.all_processes[process][0].process.pid, signal.SIGKILL)

    def shutdown(self) -> None:
        self._cluster.shutdown()


@contextmanager
def cluster(num_nodes: int, **environment: str) -> Iterator[Cluster]:
    """A cluster whose processes, and those that they start, carry `environment`."""
    with marked(RAY_process_group_cleanup_enabled="true", **environment):
        made = Cluster(num_nodes)
        try:
            yield made
        finally:
            made.shutdown()


@contextmanager
def marked(**environment: str) -> Iterator[str]:
    """The environment with a new mark in it: what is started inside is found by `processes`."""
    mark = uuid.uuid4().hex
    added = {"RAY_USAGE_STATS_ENABLED": "0", MARK: mark} | environment
    before = {name: os.environ.get(name) for name in added}
    os.environ.update(added)
    try:
        yield mark
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def processes(mark: str) -> dict[int, str]:
    """Process ids and titles of all that carry the mark, but for this process."""
    wanted = f"{MARK}={mark}".encode()
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (folder / "environ").read_bytes().split(b"\0") and int(folder.name) != os.getpid():
                found[int(folder.name)] = (
                    (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
        except OSError:
            continue  # It has ended.
    return {pid: title for pid, title in found.items() if title}


def busy_workers(mark: str) -> list[int]:
    """Workers that run a unit: Ray names their processes after it."""
    return sorted(pid for pid, title in processes(mark).items() if re.match("ray::[0-9a-f]{16}", title))


def wait_until(condition: Callable[[], bool], *, seconds: float = 60.0) -> bool:
    """Whether the condition came true within the time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
