"""Rows as the driver records them, for the tests of the results store and of the reports."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

RowFactory = Callable[..., dict[str, Any]]

PROVENANCE = {
    "qstudy_version": "0.1.0",
    "package_versions": json.dumps({"torch": "2.13.0", "lm-eval": "0.4.13"}),
    "git_revision": "0123abcd",
    "device": "cpu",
    "seeds": json.dumps([0]),
    "config": json.dumps({"mc_num": 8}),
    "host": "somewhere",
}


def _cell(**changes: Any) -> dict[str, Any]:
    """A done cell; ids follow from the names unless given."""
    row = {
        "model": "tiny",
        "method": "rtn",
        "scheme": "w4a4",
        "task": "facts",
        "task_group": "general",
        "task_version": "1.0",
        "num_fewshot": 0,
        "metric": "acc",
        "filter": "none",
        "value": 0.5,
        "stderr": 0.05,
        "num_items": 100,
        "higher_is_better": True,
        "is_primary": True,
        "status": "done",
        "attempts": 1,
        "seconds": 2.0,
        "num_forwards": 10,
        "finished_at": datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
        **PROVENANCE,
        **changes,
    }
    row.setdefault("method_label", row["method"])
    row.setdefault("variant_id", f"{row['model']}-{row['method_label']}-{row['scheme']}".replace("/", "_"))
    row.setdefault("cell_id", f"{row['variant_id']}-{row['task']}")
    return row


@pytest.fixture(scope="session")
def cell_row() -> RowFactory:
    return _cell


@pytest.fixture(scope="session")
def failed_row() -> RowFactory:
    def failed(**changes: Any) -> dict[str, Any]:
        failure = {"metric": "", "value": None, "stderr": None, "is_primary": False, "status": "failed"}
        return _cell(**{**failure, "failure_kind": "oom_gpu", "failure_message": "out of memory", **changes})

    return failed


@pytest.fixture
def expected_cell() -> RowFactory:
    """A cell as the grid lists it."""

    def expected(**changes: Any) -> dict[str, Any]:
        reason = changes.pop("not_applicable", None)
        row = _cell(**changes)
        keys = ("cell_id", "variant_id", "model", "method_label", "scheme", "task", "task_group")
        return {**{key: row[key] for key in keys}, "not_applicable": reason}

    return expected


@pytest.fixture
def variant_row() -> RowFactory:
    def variant(**changes: Any) -> dict[str, Any]:
        return {
            "variant_id": "v1",
            "model": "tiny",
            "method": "rtn",
            "scheme": "w4a4",
            "method_version": 1,
            "parameters": "{}",
            "calibration": None,
            "seed": 0,
            "status": "done",
            "num_linears": 28,
            "effective_bits": 4.125,
            "max_relative_error": 0.2,
            "audit": "[]",
            "quantize_seconds": 1.5,
            "peak_memory_bytes": 1 << 33,
            "created_at": datetime(2026, 1, 2, tzinfo=UTC),
            **PROVENANCE,
            **changes,
        }

    return variant


@pytest.fixture
def sample_row() -> RowFactory:
    def sample(index: int, **changes: Any) -> dict[str, Any]:
        return {
            "request_key": f"key{index}",
            "request_index": index,
            "doc_id": index // 2,
            "request_type": "loglikelihood",
            "arguments": json.dumps(["context", " continuation"]),
            "logprob": -0.5 * index,
            **changes,
        }

    return sample
