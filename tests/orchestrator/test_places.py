"""A grid submitted as a job to a cluster whose nodes are not alike: one shares the driver's code, one has none."""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster
from ray.job_submission import JobSubmissionClient

from orchestrator.node_probe import PACKAGES
from orchestrator.study_state import study_status
from reports import ResultStore
from tests.orchestrator.ray_machine import STORE_BYTES, marked, processes, wait_until

ROOT = Path(__file__).parents[2]
GRID = """
name: little
models: [tiny-llada-base]
methods: [rtn]
schemes: [w4a16g128]
tasks: [{name: demo_facts, likelihood: {mc_num: 4}}]
limit: 8
dtype: float32
"""
# Python imports it at its start: takes the folders off the path that hold qstudy, but for those that Ray has brought.
WITHOUT_QSTUDY = """
import os
import sys


def is_without(folder):
    return "py_modules" in folder or not os.path.isdir(os.path.join(folder, "orchestrator"))


sys.path[:] = filter(is_without, sys.path)
"""
NO_QSTUDY = f"import importlib.util, sys; sys.exit(any(map(importlib.util.find_spec, {PACKAGES})))"


@dataclass(frozen=True)
class Submitted:
    """What a job has left: how it ended, what it printed, its study, and the disks of its two nodes."""

    status: str
    log: str
    study: Path
    disks: tuple[Path, Path]


@pytest.fixture(scope="module")
def submitted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Submitted]:
    """`ray job submit`, by the same client, and the job's end."""
    folder = tmp_path_factory.mktemp("submitted")
    (folder / "grid.yaml").write_text(GRID)
    (folder / "path").mkdir()
    (folder / "path" / "sitecustomize.py").write_text(WITHOUT_QSTUDY)
    disks = folder / "disk-0", folder / "disk-1"
    with marked(PYTHONPATH=str(ROOT), RAY_process_group_cleanup_enabled="true") as mark:
        head = {
            "num_cpus": 0,
            "include_dashboard": True,
            "dashboard_port": free_port(),
            # Ray's own is one number for the whole machine: another cluster's agent would leave this one without jobs.
            "dashboard_agent_listen_port": free_port(),
            "object_store_memory": STORE_BYTES,
        }
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            for number, disk in enumerate(disks):
                env = {"QSTUDY_CACHE": str(disk)} | ({"PYTHONPATH": str(folder / "path")} if number else {})
                cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES, env_vars=env)
            client = JobSubmissionClient(f"http://{cluster.webui_url}")
            command = f'{sys.executable} -c "from orchestrator.cli import main; main()"'
            # `auto` would be any of the clusters on this machine.
            arguments = f"run {folder}/grid.yaml --study {folder}/study --address {cluster.address} --artifacts node"
            job = submit(client, f"cd {folder} && {command} {arguments}")
            assert wait_until(lambda: has_ended(client, job), seconds=300), client.get_job_logs(job)
            yield Submitted(client.get_job_status(job).value, client.get_job_logs(job), folder / "study", disks)
        finally:
            cluster.shutdown()
        assert wait_until(lambda: not processes(mark), seconds=60), processes(mark)


def has_ended(client: JobSubmissionClient, job: str) -> bool:
    # Each question is work for the machine that the job runs on.
    time.sleep(0.5)
    ended: bool = client.get_job_status(job).is_terminal()
    return ended


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def submit(client: JobSubmissionClient, entrypoint: str) -> str:
    """Ray's agents, of which one starts the job, come up after the nodes."""
    jobs: list[str] = []

    def is_accepted() -> bool:
        try:
            jobs.append(client.submit_job(entrypoint=entrypoint))
        except RuntimeError as error:
            if "No available agent" not in str(error):
                raise
            time.sleep(0.5)
            return False
        return True

    assert wait_until(is_accepted, seconds=120)
    return jobs[0]


def test_a_submitted_grid_is_done_and_its_table_is_in_the_jobs_log(submitted: Submitted) -> None:
    assert submitted.status == "SUCCEEDED", submitted.log
    status = study_status(submitted.study)
    assert status.is_complete
    assert status.total["done"] == 2
    assert not status.is_running
    assert {row["num_items"] for row in ResultStore(submitted.study).cells()} == {8}
    assert re.search(r"tiny-llada-base +fp16 ", submitted.log)
    assert "cells: 2 done" in submitted.log


def test_code_travelled_to_the_node_that_had_none(submitted: Submitted) -> None:
    # The node is truly without it: its Python finds none of the packages.
    env = os.environ | {"PYTHONPATH": str(submitted.study.parent / "path")}
    code = os.spawnve(os.P_WAIT, sys.executable, [sys.executable, "-c", f"import os; os.chdir('/'); {NO_QSTUDY}"], env)
    assert code == 0
    assert "1 of 2 nodes have no qstudy: its code travels to them (" in submitted.log


def test_artifacts_stayed_on_the_nodes_disks(submitted: Submitted) -> None:
    assert "artifacts stay on the disk of each node (2), which makes those that it needs" in submitted.log
    made = [path for disk in submitted.disks for path in disk.glob("own/*/*/quantized.safetensors")]
    assert made
    assert len({path.read_bytes() for path in made}) == 1
    assert not list(submitted.study.rglob("*.safetensors"))
