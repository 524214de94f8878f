"""Scores of single items, from the store to matrices: which variants answered the same items, and what each scored."""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from reports.joined import Results
from reports.schemas import Row
from reports.statistics import FloatArray, IntArray, ScoreMatrix

_NUM_READERS = 4
_ITEM_COLUMNS = ["doc_id", "value", "cluster"]
# A metric that is the mean of its items' scores differs from it only by rounding.
_TOLERANCE = 1e-6


@dataclass(frozen=True, eq=False)
class ItemScores:
    """One metric of one cell, by item: `doc_ids` ascending; `clusters`, where items have one, its name for each."""

    doc_ids: IntArray
    values: FloatArray
    clusters: npt.NDArray[np.object_] | None = None


class ItemLibrary:
    """Item scores of a study's cells as score matrices, each read and built once."""

    def __init__(self, store: Results) -> None:
        self._store = store
        self._matrices: dict[tuple[object, ...], tuple[ScoreMatrix, ...]] = {}

    def matrices(self, task: str, rows: Mapping[str, Row]) -> tuple[ScoreMatrix, ...]:
        """The matrices of one task: variants on the same items share one. `rows`: a done row of `cells` per variant.

        Left out are cells whose scores are not stored, are not as many as the cell has items, or do not average to the
        cell's value (a metric such as perplexity is no mean over items).
        """
        key = (task, *((name, row["cell_id"], row["metric"], row["filter"]) for name, row in rows.items()))
        if key not in self._matrices:
            with ThreadPoolExecutor(_NUM_READERS) as readers:
                items = readers.map(self._items, rows.values())
                known = {name: found for name, found in zip(rows, items, strict=True) if found is not None}
            self._matrices[key] = score_matrices(task, known)
        return self._matrices[key]

    def _items(self, row: Row) -> ItemScores | None:
        table = self._store.score_table(row["cell_id"])
        if table is None:
            return None
        is_metric = pc.and_(pc.equal(table["metric"], row["metric"]), pc.equal(table["filter"], row["filter"]))
        table = table.select(_ITEM_COLUMNS)
        items = _items_of(table if pc.all(is_metric, skip_nulls=False).as_py() else table.filter(is_metric))
        if len(items.values) != row["num_items"] or not len(items.values):
            return None
        is_mean = math.isclose(float(items.values.mean()), row["value"], rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
        return items if is_mean else None


def score_matrices(task: str, items: Mapping[str, ItemScores]) -> tuple[ScoreMatrix, ...]:
    """Matrices of the variants that have the same items, in the order of their first variants."""
    by_items: dict[bytes, dict[str, ItemScores]] = {}
    for name, scores in items.items():
        by_items.setdefault(scores.doc_ids.tobytes(), {})[name] = scores
    matrices = []
    for alike in by_items.values():
        clusters = next((scores.clusters for scores in alike.values() if scores.clusters is not None), None)
        numbers = None if clusters is None else np.unique(clusters.astype(str), return_inverse=True)[1].astype(np.int64)
        matrices.append(ScoreMatrix(task, {name: scores.values for name, scores in alike.items()}, numbers))
    return tuple(matrices)


def _items_of(table: pa.Table) -> ItemScores:
    doc_ids = table["doc_id"].to_numpy()
    order = np.argsort(doc_ids, kind="stable")
    clusters = table["cluster"]
    # Items without a name of their own among others that have one would make one large cluster.
    is_clustered = len(table) and clusters.null_count == 0
    return ItemScores(
        doc_ids=doc_ids[order],
        values=table["value"].to_numpy()[order],
        clusters=clusters.to_numpy()[order] if is_clustered else None,
    )
