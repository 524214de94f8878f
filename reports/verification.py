"""Whether a results store holds together: values from scores, ids from configurations, labels from both."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grids.expansion import FULL_PRECISION
from grids.identity import content_id
from reports.schemas import Row
from reports.statistics import mean, standard_error
from reports.store import ResultStore

# A sum in another order differs in the last digits.
_RELATIVE_TOLERANCE = 1e-9
# lm-eval's metrics that have a number per item and are another function of these than their mean.
_NO_MEANS = frozenset(
    {"perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "weighted_perplexity"}
    | {"f1", "mcc", "median", "bleu", "chrf", "ter"}
)


@dataclass(frozen=True)
class Mismatch:
    """Something stored that does not follow from what it rests on: where it is, and what is wrong."""

    place: str
    problem: str

    def __str__(self) -> str:
        return f"{self.place}: {self.problem}"


@dataclass(frozen=True)
class Verification:
    """What was checked, and what did not hold. `not_means` counts values that scores do not give as a mean."""

    num_cells: int
    num_values: int
    num_variants: int
    not_means: int
    missing: int
    mismatches: tuple[Mismatch, ...]


def verify_results(store: ResultStore, expected: Sequence[Row] = ()) -> Verification:
    """Check every cell and variant of a store; `expected` are the cells of the study's description.

    Each value, standard error and number of items is computed again from the items' scores, where the metric is their
    mean; each id is computed again from the configuration beside it; each label must be the configuration's and the
    description's; a done cell has its samples and its variant. Cells that are not there yet are counted as missing.
    """
    variants = {row["variant_id"]: row for row in store.variants()}
    cells: dict[str, list[Row]] = defaultdict(list)
    for row in store.cells():
        cells[row["cell_id"]].append(row)
    described = {cell["cell_id"]: cell for cell in expected}
    mismatches = [mismatch for row in variants.values() for mismatch in _variant_mismatches(row)]
    num_values = not_means = 0
    for cell_id, rows in cells.items():
        mismatches += _cell_mismatches(rows, variants, described.get(cell_id))
        if rows[0]["status"] == "done":
            scores = _by_metric(store.scores(cell_id))
            means = [row for row in rows if not _is_no_mean(row, scores)]
            num_values += len(means)
            not_means += len(rows) - len(means)
            mismatches += [mismatch for row in means for mismatch in _value_mismatches(row, scores)]
            mismatches += _sample_mismatches(store, rows[0], scores)
    missing = [cell for cell in expected if not cell["not_applicable"] and cell["cell_id"] not in cells]
    mismatches += [
        Mismatch(_place(cell), "it has scores and no value; `qstudy run` computes what is missing")
        for cell in missing
        if store.scores(cell["cell_id"])
    ]
    # Read last, when every file has been looked at.
    mismatches += [Mismatch("results", warning) for warning in store.warnings]
    return Verification(
        num_cells=len(cells),
        num_values=num_values,
        num_variants=len(variants),
        not_means=not_means,
        missing=len(missing),
        mismatches=tuple(mismatches),
    )


def _variant_mismatches(row: Row) -> Iterator[Mismatch]:
    place = f"variant {row['variant_id']} ({row['model']} {row['method']} {row['scheme']})"
    config = _config(row)
    if config is None:
        yield Mismatch(place, "its config is not a JSON object")
        return
    if (found := content_id(config)) != row["variant_id"]:
        yield Mismatch(place, f"its config has the id {found}")
    stored = {
        "method": row["method"],
        "scheme": row["scheme"],
        "method_version": row["method_version"],
        "parameters": _parsed(row["parameters"]),
        "calibration": _parsed(row["calibration"]),
        "seed": row["seed"],
    }
    yield from _label_mismatches(place, stored, _variant_labels(config))


def _cell_mismatches(rows: Sequence[Row], variants: Mapping[str, Row], expected: Row | None) -> Iterator[Mismatch]:
    for row in rows:
        config = _config(row)
        if config is None:
            yield Mismatch(_place(row), "its config is not a JSON object")
            return
        if (found := content_id(config)) != row["cell_id"]:
            yield Mismatch(_place(row), f"its config has the id {found}")
        task, variant = _inner(config, "task"), _inner(config, "variant")
        stored = {name: row[name] for name in ("variant_id", "method", "scheme", "task", "num_fewshot", "task_version")}
        configured = _variant_labels(variant) | {
            "variant_id": content_id(variant),
            "task": task.get("name"),
            "num_fewshot": task.get("num_fewshot"),
            "task_version": task.get("version"),
        }
        yield from _label_mismatches(_place(row), stored, configured)
        if expected is not None:
            names = ("variant_id", "model", "method", "method_label", "scheme", "task", "task_group")
            shown = {name: row[name] for name in names}
            yield from _label_mismatches(_place(row), shown, expected, "the study's description")
    row = rows[0]
    if row["status"] == "done" and row["method"] != FULL_PRECISION:
        variant_row = variants.get(row["variant_id"])
        if variant_row is None:
            yield Mismatch(_place(row), f"its variant {row['variant_id']} is not recorded")
        elif variant_row["model"] != row["model"]:
            yield Mismatch(_place(row), f"its variant is one of {variant_row['model']!r}, not of {row['model']!r}")


def _variant_labels(identity: Mapping[str, Any]) -> dict[str, Any]:
    method = _inner(identity, "method")
    return {
        "method": method.get("name"),
        "method_version": method.get("version"),
        "parameters": method.get("parameters"),
        "scheme": identity.get("scheme"),
        "calibration": identity.get("calibration"),
        "seed": identity.get("seed"),
    }


def _label_mismatches(
    place: str, stored: Mapping[str, Any], right: Mapping[str, Any], source: str = "its config"
) -> Iterator[Mismatch]:
    for name, value in stored.items():
        if name in right and value != right[name]:
            yield Mismatch(place, f"{name} is {value!r}; {source} says {right[name]!r}")


Scores = Mapping[tuple[str, str], Sequence[Row]]


def _by_metric(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    found: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        found[row["metric"], row["filter"]].append(row)
    return dict(found)


def _is_no_mean(row: Row, scores: Scores) -> bool:
    """Whether a value is another function of its items than their mean; without a number per item it has no stderr."""
    has_no_numbers = (
        (row["metric"], row["filter"]) not in scores and row["stderr"] is None and (row["num_items"] or 0) > 1
    )
    return row["metric"] in _NO_MEANS or has_no_numbers


def _value_mismatches(row: Row, scores: Scores) -> Iterator[Mismatch]:
    place = f"{_place(row)}, {row['metric']},{row['filter']}"
    items = scores.get((row["metric"], row["filter"]), ())
    if not items:
        yield Mismatch(place, "no scores of its items are stored")
        return
    if len({item["doc_id"] for item in items}) != len(items):
        yield Mismatch(place, "an item has two scores")
    values = [item["value"] for item in items]
    if row["num_items"] != len(values):
        yield Mismatch(place, f"num_items is {row['num_items']}; scores of {len(values)} items are stored")
    for name, computed in (("value", mean(values)), ("stderr", standard_error(values))):
        if not _agree(row[name], computed):
            yield Mismatch(place, f"{name} is {row[name]!r}; the items' scores give {computed!r}")


def _agree(stored: float | None, computed: float | None) -> bool:
    if stored is None or computed is None:
        return stored is computed
    return math.isclose(stored, computed, rel_tol=_RELATIVE_TOLERANCE, abs_tol=1e-12)


def _sample_mismatches(store: ResultStore, row: Row, scores: Scores) -> Iterator[Mismatch]:
    scored = {item["doc_id"] for items in scores.values() for item in items}
    sampled = {sample["doc_id"] for sample in store.samples(row["cell_id"])}
    if lacking := sorted(scored - sampled):
        yield Mismatch(_place(row), f"{len(lacking)} items have scores and no samples, the first is item {lacking[0]}")


def _place(row: Row) -> str:
    return f"cell {row['cell_id']} ({row['model']} {row['method_label']} {row['scheme']} {row['task']})"


def _config(row: Row) -> dict[str, Any] | None:
    """The configuration; None where it is no JSON object of finite numbers."""
    config = _parsed(row["config"])
    return config if isinstance(config, dict) else None


def _parsed(text: str | None) -> object:
    """The JSON value of a text; the text itself where it is not JSON, which then equals nothing that is."""
    try:
        return None if text is None else json.loads(text, parse_constant=_refuse)
    except ValueError:
        return text


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a finite number")


def _inner(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    inner = content.get(key)
    return inner if isinstance(inner, dict) else {}
