"""What made the numbers of a report: programs, devices, seeds, and how much was run."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from reports.plain_text import words_of_json
from reports.schemas import Row


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """The provenance of some cells, merged: each field lists every value that occurs.

    `publications`: where numbers that nobody ran were published (`reports.published.record_paper`).
    """

    qstudy_versions: tuple[str, ...]
    git_revisions: tuple[str, ...]
    package_versions: dict[str, tuple[str, ...]]
    devices: tuple[str, ...]
    seeds: tuple[str, ...]
    first_finished: datetime | None
    last_finished: datetime | None
    seconds: float
    num_forwards: int
    publications: tuple[str, ...] = ()

    def sentences(self) -> list[str]:
        """The provenance in words, a line each; what is not known is said to be so."""
        if self.publications:
            return [f"As published, not run: {publication}" for publication in self.publications]
        packages = ", ".join(f"{name} {' and '.join(versions)}" for name, versions in self.package_versions.items())
        lines = [
            f"qstudy {_listed(self.qstudy_versions)}, git revision {_listed(self.git_revisions)}",
            f"Packages: {packages or 'not recorded'}",
            f"Devices: {_listed(self.devices)}",
            f"Seeds: {_listed(tuple(map(words_of_json, self.seeds)))}",
        ]
        if self.first_finished and self.last_finished:
            first, last = (f"{time:%Y-%m-%d %H:%M} UTC" for time in (self.first_finished, self.last_finished))
            lines.append(f"Cells finished from {first} to {last}")
        lines.append(f"Evaluation took {self.seconds:.0f} s of workers' time and {self.num_forwards} forward passes")
        return lines

    def as_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {
            **{name: value for name, value in vars(self).items() if not isinstance(value, datetime)},
            "first_finished": self.first_finished.isoformat() if self.first_finished else None,
            "last_finished": self.last_finished.isoformat() if self.last_finished else None,
        }


def merge_provenance(cells: Sequence[Row]) -> Provenance:
    """The merged provenance of rows of the store's `cells` (a cell's several rows count once)."""
    by_cell = list({row["cell_id"]: row for row in cells}.values())
    packages: dict[str, set[str]] = defaultdict(set)
    for row in by_cell:
        for name, version in json.loads(row["package_versions"]).items():
            packages[name].add(str(version))
    finished = [row["finished_at"] for row in by_cell]
    return Provenance(
        qstudy_versions=_distinct(row["qstudy_version"] for row in by_cell),
        git_revisions=_distinct(row["git_revision"] for row in by_cell),
        package_versions={name: tuple(sorted(packages[name])) for name in sorted(packages)},
        devices=_distinct(row["device"] for row in by_cell),
        seeds=_distinct(row["seeds"] for row in by_cell),
        first_finished=min(finished, default=None),
        last_finished=max(finished, default=None),
        seconds=sum(row["seconds"] or 0.0 for row in by_cell),
        num_forwards=sum(row["num_forwards"] or 0 for row in by_cell),
        # What no version of qstudy made was published elsewhere.
        publications=_distinct(_publication(row) for row in by_cell if not row["qstudy_version"]),
    )


def _publication(row: Row) -> str | None:
    found = json.loads(row["config"]).get("publication")
    return None if found is None else str(found)


def _distinct(values: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(sorted({value for value in values if value is not None}))


def _listed(values: tuple[str, ...]) -> str:
    return "; ".join(values) if values else "not recorded"
