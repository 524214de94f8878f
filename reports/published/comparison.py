"""A study's scores beside published ones: the difference and whether it is noise, or why the two do not compare."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from grids.identity import flatten
from grids.resolution import HUB_TEXTS
from grids.schemes import Scheme, parse_scheme
from reports.published.results import PublishedResult, model_name, published_results
from reports.schemas import Row

# Of a normal distribution: 95 % within this many standard errors.
_QUANTILE = 1.96
# Settings that are no part of how a task is scored.
_NO_SETTINGS = frozenset({"version"})
# Scores with other numbers of examples are not the same benchmark, so a source that does not say cannot be compared.
_MUST_BE_STATED = "num_fewshot"


@dataclass(frozen=True, kw_only=True)
class PublishedComparison:
    """A cell of the study beside a published score; scores, errors and differences in percent points.

    `reasons` say why the two do not compare; then `difference` and `within_noise` are None. `published` is None where
    nobody published the like. `unstated` names what the source leaves open, `caveats` say where its variant was made
    otherwise.
    """

    cell_id: str
    model: str
    method: str
    scheme: str
    task: str
    value: float
    stderr: float | None
    published: PublishedResult | None
    reasons: tuple[str, ...]
    unstated: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()

    @property
    def difference(self) -> float | None:
        """Ours minus published."""
        return None if self.reasons or self.published is None else self.value - self.published.value

    @property
    def difference_stderr(self) -> float | None:
        """Of the difference of two independent scores; None where one's own is not known."""
        if self.published is None or self.published.stderr is None or self.stderr is None:
            return None
        return math.hypot(self.stderr, self.published.stderr)

    @property
    def within_noise(self) -> bool | None:
        """Whether |difference| is at most 1.96 of its standard errors; None where there is none to judge."""
        if self.difference is None or self.difference_stderr is None:
            return None
        return abs(self.difference) <= _QUANTILE * self.difference_stderr


def compare_with_published(
    cells: Sequence[Row], results: Sequence[PublishedResult] | None = None
) -> list[PublishedComparison]:
    """The done cells of a study (rows of the store's `cells`), each beside every published score of the like.

    The primary metric of each cell counts. A cell that nobody published the like of has one row that says what lacks.
    """
    known = published_results() if results is None else results
    return [
        comparison
        for row in cells
        if row["status"] == "done" and row["is_primary"]
        for comparison in published_comparisons(row, known)
    ]


def published_comparisons(row: Row, results: Sequence[PublishedResult]) -> Iterator[PublishedComparison]:
    """A done row of the store's `cells` beside every published score of the like, or one that says what lacks."""
    ours = _Measured(row)
    alone = PublishedComparison(
        cell_id=row["cell_id"],
        model=row["model"],
        method=row["method"],
        scheme=row["scheme"],
        task=row["task"],
        value=100 * row["value"],
        stderr=None if row["stderr"] is None else 100 * row["stderr"],
        published=None,
        reasons=(),
    )
    of_model = [result for result in results if result.model in ours.model_names]
    of_task = [result for result in of_model if result.task == row["task"]]
    of_method = [result for result in of_task if result.method == row["method"]]
    if not of_model:
        yield replace(alone, reasons=(f"no public result of model {row['model']}",))
        return
    if not of_task:
        yield replace(alone, reasons=(f"no public result of this model on {row['task']}",))
        return
    if not of_method:
        names = ", ".join(sorted({result.method for result in of_task}))
        yield replace(alone, reasons=(f"no public result of {row['method']} here, only of {names}",))
        return
    scheme = parse_scheme(row["scheme"])
    candidates = [result for result in of_method if _same_bits(scheme, parse_scheme(result.scheme))]
    for result in candidates:
        reasons = (*_scheme_reasons(scheme, result), *_protocol_reasons(ours, result))
        unstated, caveats = tuple(_unstated(ours, result)), tuple(_caveats(ours, result))
        yield replace(alone, published=result, reasons=reasons, unstated=unstated, caveats=caveats)
    if not candidates:
        names = ", ".join(sorted({result.scheme for result in of_method}))
        yield replace(alone, reasons=(f"no public result at {row['scheme']} here, only at {names}",))


class _Measured:
    """What decided a cell's number, as facts by the names that sources state them under."""

    def __init__(self, row: Row) -> None:
        config: Mapping[str, Any] = json.loads(row["config"])
        variant, task = config.get("variant", {}), config.get("task", {})
        digest = str(variant.get("model", {}).get("digest", ""))
        # A hub model is known by its id, whatever the grid calls it.
        self.model_names = {model_name(row["model"]), model_name(digest.rpartition("@")[0])}
        protocol = {key: value for key, value in task.get("protocol", {}).items() if key not in _NO_SETTINGS}
        self.limit: int | None = task.get("limit")
        self.protocol = protocol | {
            "num_fewshot": row["num_fewshot"],
            "output_type": "generation" if "gen_length" in protocol else "likelihood",
            "metric": row["metric"],
            "filter": row["filter"],
            # qstudy's samplers have no classifier-free guidance.
            "cfg": 0.0,
        }
        self.chat_template = bool(variant.get("model", {}).get("chat_template"))
        parameters = variant.get("method", {}).get("parameters", {})
        self.making = dict(flatten({"parameters": parameters, "calibration": variant.get("calibration") or {}}))


def _same_bits(ours: Scheme, published: Scheme) -> bool:
    return ours.operand_bits == published.operand_bits


def _scheme_reasons(ours: Scheme, result: PublishedResult) -> Iterator[str]:
    if "group size" in result.unstated:
        yield "the source does not state the group size of its scheme"
    elif ours.group_size != (size := parse_scheme(result.scheme).group_size):
        yield f"scheme differs in granularity: ours has {_groups(ours.group_size)}, published {_groups(size)}"


def _groups(size: int | None) -> str:
    return f"groups of {size}" if size else "a scale per output channel"


def _protocol_reasons(ours: _Measured, result: PublishedResult) -> Iterator[str]:
    if ours.limit is not None and (result.num_items is None or ours.limit < result.num_items):
        yield f"limit differs: ours is the first {ours.limit} items, published all {result.num_items or 'items'}"
    if _MUST_BE_STATED not in result.protocol:
        yield f"the source does not state {_MUST_BE_STATED}"
    for name, value in result.protocol.items():
        found = ours.protocol.get(name)
        if found != value:
            yield f"protocol differs: {name} is {'not set' if found is None else found}, published {value}"


def _unstated(ours: _Measured, result: PublishedResult) -> Iterator[str]:
    stated = result.protocol.keys() | {_MUST_BE_STATED, "output_type", "cfg"}
    yield from result.unstated
    yield from sorted(name for name in ours.protocol.keys() - stated)
    if ours.chat_template:
        yield "chat_template"


def _caveats(ours: _Measured, result: PublishedResult) -> Iterator[str]:
    for name, value in result.making.items():
        if name == "calibration.dataset":
            if ours.making.get("calibration.digest") != HUB_TEXTS[value].digest:
                yield f"calibrated on another text or another copy than {value}"
        elif ours.making.get(name) != value:
            yield f"made otherwise: {name} is {ours.making.get(name)}, published {value}"
