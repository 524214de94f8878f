"""Before the first worker starts on a cluster: do its nodes have code, inputs and artifacts? If not, what is done."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from grids import Cell, GridError
from orchestrator import node_probe
from orchestrator.catalog import shipped_models
from orchestrator.ray_cluster import RayCluster
from workers.remote_artifacts import NODE, is_url, leave_token, take_token
from workers.shipped_files import SHIPPED
from workers.units import WorkerSettings

# What is said of more paths or nodes than these is their number.
MAX_NAMED = 3
Reports = Mapping[str, Mapping[str, Any]]


def artifact_location(given: str | None, study_folder: Path) -> str:
    """Where artifacts go: below the study's folder, or as `--artifacts` says."""
    if given is None:
        return str((study_folder / "artifacts").resolve())
    if given == "node":
        return _own_of_each_node(study_folder)
    return given if is_url(given) else str(Path(given).expanduser().resolve())


def _own_of_each_node(study_folder: Path) -> str:
    return NODE + hashlib.sha256(str(study_folder.resolve()).encode()).hexdigest()[:16]


class Preflight:
    """Asks each node what it has, and settles where artifacts go and whether the code travels.

    `say` is told in a line what was found. `location` is where artifacts go, once a cluster was asked. Raises GridError
    for a place of artifacts that the driver cannot write to.
    """

    def __init__(
        self, cells: Iterable[Cell], study_folder: Path, *, artifacts: str | None, say: Callable[[str], None]
    ) -> None:
        self._cells, self._study_folder, self._say = list(cells), study_folder, say
        self._was_given = artifacts is not None
        self.location = artifact_location(artifacts, study_folder)
        if self._was_given:
            with _token(self.location):
                pass  # Nothing is begun whose artifacts could not be written.

    def __call__(self, cluster: RayCluster, settings: WorkerSettings) -> WorkerSettings:
        """The settings for workers on this cluster.

        Raises GridError for nodes that lack packages, have another qstudy, do not see the inputs, or do not see the
        artifacts' place that was given.
        """
        inputs = sorted(local_inputs(self._cells))
        with _token(self.location) as (place, token):
            reports = cluster.ask_nodes(node_probe.probe, place, token, inputs)
            self._check_packages(reports)
            if without := _hosts(reports, lambda report: report["code"] is None):
                self._send_code(cluster, without, len(reports))
                reports = cluster.ask_nodes(node_probe.probe, place, token, inputs)
        self._check_code(reports)
        self._check_inputs(reports, inputs)
        self._settle_artifacts(reports)
        return replace(settings, artifact_dir=self.location, shipped_folder=str(SHIPPED))

    def _check_packages(self, reports: Reports) -> None:
        lacking = sorted({name for report in reports.values() for name in report["lacks"]})
        if lacking:
            hosts = _hosts(reports, lambda report: report["lacks"])
            raise GridError(
                f"{_of(hosts, reports)} lack {', '.join(lacking)}: {_named(hosts)}; install qstudy there, or at least "
                "what it depends on. Its own code can travel, packages cannot",
                key="--address",
            )

    def _check_code(self, reports: Reports) -> None:
        if hosts := _hosts(reports, lambda report: report["code"] is None):
            raise GridError(f"{_of(hosts, reports)} did not get the code: {_named(hosts)}; install it", key="--address")
        own, version = node_probe.code_digest(), node_probe.installed_version()
        hosts = _hosts(reports, lambda report: report["code"] != own)
        if not hosts:
            return
        found = sorted({str(report["version"]) for report in reports.values() if report["code"] != own})
        what = f"version {', '.join(found)}, not {version}" if found != [str(version)] else "its files are not the same"
        raise GridError(
            f"{_of(hosts, reports)} have another qstudy than the driver ({what}): {_named(hosts)}; install the same on "
            "all nodes, or remove it from these, and the driver's code travels to them",
            key="--address",
        )

    def _send_code(self, cluster: RayCluster, hosts: list[str], num_nodes: int) -> None:
        packages = [str(SHIPPED.parent / name) for name in node_probe.PACKAGES]
        used = {cell.variant.model.path for cell in self._cells}
        unused = [folder for folder in shipped_models().values() if str(folder) not in used]
        left_out = [f"{node_probe.SHIPPED_MODELS}/{folder.name}" for folder in unused]
        num_bytes = sum(
            file.stat().st_size
            for package in packages
            for file in Path(package).rglob("*")
            if file.suffix in node_probe.SUFFIXES and not any(file.is_relative_to(folder) for folder in unused)
        )
        self._say(
            f"{len(hosts)} of {num_nodes} nodes have no qstudy: its code travels to them ({num_bytes / 1e6:.1f} MB)"
        )
        cluster.rejoin({"py_modules": packages, "excludes": ["__pycache__", *left_out]})

    def _check_inputs(self, reports: Reports, inputs: list[str]) -> None:
        own = {path: node_probe.fingerprint(path) for path in inputs}
        missing = _disagreeing(reports, own, lambda seen, mine: seen is None)
        other = _disagreeing(reports, own, lambda seen, mine: seen != mine)
        if missing or other:
            what, found = ("do not see", missing) if missing else ("have other files at", other)
            assert found is not None
            hosts, paths = found
            raise GridError(
                f"{_of(hosts, reports)} {what} {_named(paths)}: {_named(hosts)}; models, tasks and data must be the "
                "same, and in the same place, on all nodes",
                key="--address",
            )

    def _settle_artifacts(self, reports: Reports) -> None:
        hosts = _hosts(reports, lambda report: not report["sees_artifacts"])
        num_nodes = len(reports)
        if self.location.startswith(NODE):
            self._say(f"artifacts stay on the disk of each node ({num_nodes}), which makes those that it needs")
        elif not hosts:
            self._say(f"artifacts go to {self.location}, which every node sees ({num_nodes})")
        elif self._was_given:
            reason = next(report["why_not"] for report in reports.values() if not report["sees_artifacts"])
            raise GridError(
                f"{_of(hosts, reports)} do not see {self.location}: {_named(hosts)} ({reason})", key="--artifacts"
            )
        else:
            self._say(f"{_of(hosts, reports)} do not share the study's folder: artifacts are rebuilt per node")
            self.location = _own_of_each_node(self._study_folder)


def local_inputs(cells: Iterable[Cell]) -> set[str]:
    """Files and folders that workers read, without those that ship with qstudy."""
    paths: set[Path] = set()
    for cell in cells:
        variant, info = cell.variant, cell.task.info
        named = [variant.model.path, *info.data_files.values(), *info.given_files.values()]
        if variant.calibration is not None:
            named.append(variant.calibration.source)
        # What is not here is the hub's.
        paths |= {info.file, *(path for path in map(Path, named) if path.exists())}
    return {str(path.resolve()) for path in paths if not path.resolve().is_relative_to(SHIPPED)}


@contextmanager
def _token(location: str) -> Iterator[tuple[str, str]]:
    """A file where artifacts go, for a while, and what is in it; nowhere for disks of nodes. Raises GridError."""
    token = uuid.uuid4().hex
    if location.startswith(NODE):
        yield "", token
        return
    place = leave_token(location, token)
    try:
        yield place, token
    finally:
        take_token(place)


def _disagreeing(
    reports: Reports, own: Mapping[str, object], differs: Callable[[object, object], bool]
) -> tuple[list[str], list[str]] | None:
    """Hosts that see inputs otherwise than the driver, and which inputs; None if there are none."""
    paths = {
        node: [path for path, mine in own.items() if differs(report["inputs"][path], mine)]
        for node, report in reports.items()
    }
    found = sorted(set().union(*paths.values()))
    return (sorted(reports[node]["host"] for node in reports if paths[node]), found) if found else None


def _hosts(reports: Reports, is_meant: Callable[[Mapping[str, Any]], object]) -> list[str]:
    return sorted(report["host"] for report in reports.values() if is_meant(report))


def _of(hosts: list[str], reports: Reports) -> str:
    return f"{len(hosts)} of {len(reports)} nodes"


def _named(names: list[str]) -> str:
    shown = ", ".join(names[:MAX_NAMED])
    return shown if len(names) <= MAX_NAMED else f"{shown} and {len(names) - MAX_NAMED} more"
