"""Kinds of failure, told apart from the exceptions that reach the driver; and what stops a whole run."""

from __future__ import annotations

import errno
import textwrap
import traceback
from dataclasses import dataclass
from typing import Literal

# Of the one line that tables and displays show; the log has the whole trace.
MESSAGE_LENGTH = 300

Kind = Literal["oom_gpu", "oom_host", "timeout", "worker_lost", "node_lost", "nonfinite", "audit", "bad_input", "error"]

# Ray's own memory-monitor error has the same class name as torch's, so Ray's are looked up first, by module.
_RAY_KINDS: dict[str, Kind] = {
    "OutOfMemoryError": "oom_host",
    "NodeDiedError": "node_lost",
    "ActorDiedError": "worker_lost",
    "ActorUnavailableError": "worker_lost",
    "RayActorError": "worker_lost",
    "WorkerCrashedError": "worker_lost",
    "GetTimeoutError": "timeout",
}
# Ray tells an actor that died with its node from one that died alone only in the text of its ActorDiedError.
_NODE_DEATH = "its node has died"
_KINDS: dict[str, Kind] = {
    "OutOfMemoryError": "oom_gpu",
    "MemoryError": "oom_host",
    "NonFiniteError": "nonfinite",
    "AuditError": "audit",
    "CalibrationError": "bad_input",
    "ModelError": "bad_input",
    "SandboxError": "bad_input",
    "GridError": "bad_input",
}
# No cell is to blame for a full or read-only disk, and the next one would meet it too.
_STORAGE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG})


class RunInterruptedError(Exception):
    """The run cannot go on, for a reason that is no cell's. What was saved stays; the text says what to mend."""


@dataclass(frozen=True)
class Failure:
    """Why a unit did not finish: its kind, one line for tables, and the whole trace for the log."""

    kind: Kind
    message: str
    trace: str
    is_storage: bool = False


def classify(error: BaseException) -> Failure:
    """The failure behind an exception. A task's error is what its worker raised, not Ray's wrapper."""
    trace = "".join(traceback.format_exception(error))
    cause = getattr(error, "cause", None)
    if isinstance(cause, BaseException):
        error = cause
    names = [kind.__name__ for kind in type(error).__mro__]
    is_of_ray = type(error).__module__.startswith("ray.")
    kinds = _RAY_KINDS if is_of_ray else _KINDS
    kind: Kind = next((kinds[name] for name in names if name in kinds), "error")
    if is_of_ray and kind == "worker_lost" and _NODE_DEATH in str(error):
        kind = "node_lost"
    message = textwrap.shorten(str(error), MESSAGE_LENGTH)
    is_storage = isinstance(error, OSError) and error.errno in _STORAGE
    return Failure(kind, f"{type(error).__name__}: {message}" if message else type(error).__name__, trace, is_storage)
