from __future__ import annotations

import pickle

import pytest
import ray.exceptions
import torch

from grids import GridError, parse_scheme
from methods import AuditError, CalibrationError, NonFiniteError
from orchestrator.failures import classify
from workers import ModelError
from workers.sandbox import SandboxError


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "oom_gpu"),
        (ray.exceptions.OutOfMemoryError("killed by the memory monitor"), "oom_host"),
        (ray.exceptions.WorkerCrashedError(), "worker_lost"),
        (ray.exceptions.ActorDiedError(), "worker_lost"),
        (ray.exceptions.NodeDiedError("gone"), "node_lost"),
        (MemoryError(), "oom_host"),
        (AuditError(parse_scheme("w4a4"), ["q_proj is not quantized"]), "audit"),
        (NonFiniteError("nan"), "nonfinite"),
        (ModelError("no config.json"), "bad_input"),
        (CalibrationError("fewer tokens than a window"), "bad_input"),
        (SandboxError("install bubblewrap"), "bad_input"),
        (ValueError("anything else"), "error"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_each_kind_of_failure_is_told_from_its_exception(error: Exception, kind: str) -> None:
    assert classify(error).kind == kind


def test_a_tasks_own_error_is_found_inside_rays_wrapper() -> None:
    wrapped = ray.exceptions.RayTaskError("run", "the remote trace", NonFiniteError("logits of block 3"))
    failure = classify(wrapped)
    assert (failure.kind, failure.message) == ("nonfinite", "NonFiniteError: logits of block 3")
    assert "the remote trace" in failure.trace


@pytest.mark.parametrize(
    "error",
    [
        AuditError(parse_scheme("w4a4"), ["q_proj is not quantized", "k_proj is not quantized"]),
        NonFiniteError("nan"),
        ModelError("no config.json"),
        SandboxError("install bubblewrap"),
        GridError("wrong", file="grid.yaml", key="models"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_reach_the_driver_as_the_worker_raised_them(error: Exception) -> None:
    arrived = pickle.loads(pickle.dumps(error))  # noqa: S301 - what Ray does on the way
    assert (type(arrived), str(arrived), vars(arrived)) == (type(error), str(error), vars(error))
