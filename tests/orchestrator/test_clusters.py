"""Items that share a subject: from a task's data, through a worker, to the store and a table."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest
from scipy import stats

from orchestrator.commands import RunOptions, run_grid
from orchestrator.pools import InProcessPool
from orchestrator.study_directory import StudyDirectory
from reports import ItemLibrary, build_study_table
from workers.units import WorkerSettings

SUBJECTS = ("astronomy", "botany", "college_physics", "logic", "marketing", "nutrition", "sociology", "virology")
ITEMS_PER_SUBJECT = 4
GRID = """
name: subjects
models: [tiny-llada-base]
methods: []
schemes: []
tasks:
  - {name: mmlu, num_fewshot: 0, likelihood: {mc_num: 2}}
data: {mmlu: {test: questions.jsonl}}
dtype: float32
"""


def _write_questions(file: Path) -> None:
    """The same question over and over within a subject, so that its items are right or wrong together."""
    rows = [
        {"question": f"What is {subject}?", "subject": subject, "choices": list("wxyz"), "answer": place % 4}
        for place, subject in enumerate(SUBJECTS)
        for _ in range(ITEMS_PER_SUBJECT)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _clustered_error(scores: list[float], clusters: list[str]) -> float:
    """Over all pairs of items of one cluster, times G / (G - 1)."""
    mean, num_clusters = sum(scores) / len(scores), len(set(clusters))
    pairs = itertools.product(zip(scores, clusters, strict=True), repeat=2)
    total = sum((one - mean) * (other - mean) for (one, its), (other, others) in pairs if its == others)
    return math.sqrt(total * num_clusters / (num_clusters - 1)) / len(scores)


def test_the_subjects_of_items_reach_the_store_and_widen_the_tables_interval(tmp_path: Path) -> None:
    _write_questions(tmp_path / "questions.jsonl")
    (tmp_path / "grid.yaml").write_text(GRID)
    directory = StudyDirectory(tmp_path / "study")
    pool = InProcessPool(WorkerSettings(str(directory.artifact_dir), device="cpu"))
    assert run_grid(tmp_path / "grid.yaml", RunOptions(study=directory.root), pool).is_complete

    (cell,) = [row for row in directory.store.cells() if row["is_primary"]]
    rows = sorted(directory.store.scores(cell["cell_id"]), key=lambda row: row["doc_id"])
    rows = [row for row in rows if row["metric"] == "acc"]
    scores, clusters = [row["value"] for row in rows], [row["cluster"] for row in rows]
    assert sorted(clusters) == sorted(SUBJECTS * ITEMS_PER_SUBJECT)
    assert 0 < cell["value"] < 1

    def shown(*, with_clusters: bool) -> tuple[float, float]:
        matrices = ItemLibrary(directory.store).matrices
        if not with_clusters:
            matrices = ItemLibrary(_WithoutClusters(directory.store)).matrices  # type: ignore[arg-type]
        table = build_study_table(directory.store.cells(), matrices=matrices)
        found = table.rows[0].cells[0]
        assert found.stderr is not None
        assert found.interval is not None
        return found.stderr, found.interval[1] - found.interval[0]

    stderr, width = shown(with_clusters=True)
    plain_stderr, plain_width = shown(with_clusters=False)
    assert stderr == pytest.approx(100 * _clustered_error(scores, clusters))
    assert plain_stderr == pytest.approx(100 * stats.sem(scores))
    # Items of a subject say one thing: the 32 of them tell no more than eight do.
    assert width > 1.5 * plain_width


class _WithoutClusters:
    """A store whose items have nothing in common."""

    def __init__(self, store: object) -> None:
        self._store = store

    def score_table(self, cell_id: str) -> object:
        import pyarrow as pa

        table = self._store.score_table(cell_id)  # type: ignore[attr-defined]
        place = table.column_names.index("cluster")
        return table.set_column(place, "cluster", pa.nulls(len(table), pa.string()))
