"""Public results as data: who published which score of which quantized model, and how it was measured."""

from __future__ import annotations

import csv
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import yaml

from grids.expansion import FULL_PRECISION

_FOLDER = files("reports") / "published"
_FULL_PRECISION_SCHEME = "fp16"
PAPER = "paper"


@dataclass(frozen=True)
class PublicationSource:
    """Where numbers were published."""

    name: str
    title: str
    url: str
    version: str


@dataclass(frozen=True, kw_only=True)
class PublishedResult:
    """One published score, `value` in percent.

    `place` says where in the source. `protocol` holds what the source states about scoring, `making` what it states
    about quantizing (`parameters.NAME` of the method, `calibration.NAME`); what it does not state is absent. `unstated`
    names what it leaves open about the scheme. `num_items` is the size of the public evaluation split, where known.
    """

    source: PublicationSource
    place: str
    model: str
    method: str
    scheme: str
    task: str
    value: float
    num_items: int | None
    protocol: Mapping[str, Any] = field(default_factory=dict)
    making: Mapping[str, Any] = field(default_factory=dict)
    unstated: tuple[str, ...] = ()

    @property
    def stderr(self) -> float | None:
        """The standard error in points that the score would have if items were independent: 100 sqrt(p (1 - p) / n).

        No source states one.
        """
        if self.num_items is None:
            return None
        share = self.value / 100
        return 100 * math.sqrt(share * (1 - share) / self.num_items)


@dataclass(frozen=True, kw_only=True)
class PublishedAverage:
    """An average over a row of the paper's table, and its change against full precision in percent, as printed."""

    table: int
    model: str
    method: str
    scheme: str
    average: float
    change: float | None


@functools.cache
def published_results() -> tuple[PublishedResult, ...]:
    """All published scores: the paper's tables 1 to 5, then other public results."""
    return (*_paper_results(), *_other_results())


@functools.cache
def paper_averages() -> tuple[PublishedAverage, ...]:
    """The averages and changes that the paper prints, by table and row."""
    return tuple(
        PublishedAverage(
            table=int(row["table"]),
            model=row["model"],
            method=row["method"],
            scheme=row["scheme"],
            average=float(row["average"]),
            change=float(row["change_percent"]) if row["change_percent"] else None,
        )
        for row in _rows("paper-averages.csv")
    )


def paper_tables() -> dict[int, tuple[str, ...]]:
    """The tasks of each of the paper's tables, in the order of its columns."""
    tables: dict[int, dict[str, None]] = {}
    for row in _rows("paper.csv"):
        tables.setdefault(int(row["table"]), {})[row["task"]] = None
    return {table: tuple(tasks) for table, tasks in tables.items()}


def paper_groups() -> Mapping[int, str]:
    """The task group of each of the paper's tables."""
    groups: Mapping[int, str] = _facts()["paper_groups"]
    return groups


def erratum_notes() -> tuple[Mapping[str, Any], ...]:
    """What is known to be wrong in the paper's tables: `table`, `quantity` (average or change), `note`."""
    return tuple(_facts()["paper_errata"])


def model_name(name: str) -> str:
    """The name that published results have for a model: `GSAI-ML/LLaDA-8B-Base` and `LLaDA-8B` are llada-8b-base.

    A name that no source uses is given back in lower case, without its organisation or folder.
    """
    short = name.rstrip("/").rpartition("/")[2].lower()
    return _aliases().get(short, short)


@functools.cache
def _aliases() -> dict[str, str]:
    models: Mapping[str, Sequence[str]] = _facts()["models"]
    return {alias.lower(): name for name, aliases in models.items() for alias in aliases}


def _paper_results() -> Iterator[PublishedResult]:
    facts = _facts()
    for row in _rows("paper.csv"):
        yield PublishedResult(
            source=_sources()[PAPER],
            place=f"Table {row['table']}",
            model=row["model"],
            method=row["method"],
            scheme=row["scheme"],
            task=row["task"],
            value=float(row["value"]),
            num_items=facts["num_items"].get(row["task"]),
            protocol=facts["paper_tasks"][row["task"]],
            making=facts["paper_methods"][row["method"]],
            unstated=tuple(facts["paper_unstated"].get(row["scheme"], ())),
        )


def _other_results() -> Iterator[PublishedResult]:
    facts = _facts()
    for block in facts["others"]:
        for task, value in block["scores"].items():
            yield PublishedResult(
                source=_sources()[block["source"]],
                place=block["place"],
                model=block["model"],
                method=block.get("method", FULL_PRECISION),
                scheme=block.get("scheme", _FULL_PRECISION_SCHEME),
                task=task,
                value=float(value),
                num_items=facts["num_items"].get(task),
                protocol=block.get("protocol", {}),
                unstated=tuple(block.get("unstated", ())),
            )


@functools.cache
def _sources() -> dict[str, PublicationSource]:
    return {name: PublicationSource(name, **about) for name, about in _facts()["sources"].items()}


@functools.cache
def _facts() -> Mapping[str, Any]:
    facts: Mapping[str, Any] = yaml.safe_load((_FOLDER / "sources.yaml").read_text(encoding="utf-8"))
    return facts


def _rows(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader((_FOLDER / name).read_text(encoding="utf-8").splitlines()))
