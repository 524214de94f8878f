"""The best layer that works on this machine, found once by trying to get out of each, and running programs in it."""

from __future__ import annotations

import functools
import os
import sys
import tempfile
import threading
from pathlib import Path

from workers.sandbox.execution import DEFAULT_LIMITS, Limits, Verdict, last_line, run_in
from workers.sandbox.layers import LAYERS

_HOW_TO_GET_ONE = (
    "install bubblewrap (package `bubblewrap`, program `bwrap`), or use a Linux kernel with Landlock (5.13 or later, "
    "`landlock` in its `lsm=` list), or allow user namespaces (`sysctl user.max_user_namespaces=10000`)"
)

_PROBE = """
import _socket, os
def reach(what):
    try:
        what()
    except OSError:
        return False
    return True
assert not reach(lambda: open({secret!r})), "a program can read the user's files"
assert not reach(lambda: os.listdir({outside!r})), "a program can list the user's files"
assert not reach(lambda: open({outside!r} + "/new", "w")), "a program can write outside its directory"
assert not reach(lambda: os.unlink({secret!r})), "a program can delete the user's files"
assert not reach(_socket.socket), "a program can open a socket"
assert not reach(os.fork), "a program can start processes"
assert not reach(lambda: os.kill(os.getppid(), 0)), "a program can signal other processes"
with open("file", "w") as file:
    file.write("text")
assert os.listdir() == ["file"], "a program has no directory of its own"
"""


class SandboxError(RuntimeError):
    """No way of isolating generated code works on this machine; the message says what to install."""


def passes(program: str, *, limits: Limits = DEFAULT_LIMITS) -> bool:
    """Whether the Python program runs to its last line. Raises what `run` raises."""
    return run(program, limits=limits).passed


def run(program: str, *, limits: Limits = DEFAULT_LIMITS) -> Verdict:
    """Run a Python program in the best layer that works here.

    It gets an empty directory that disappears, this environment's packages, no arguments, no input and nothing else.
    Raises SandboxError where no layer works, and OSError where one that works could not start this program.
    """
    return run_in(sandbox_name(), program, limits)


def sandbox_name() -> str:
    """The layer that programs run in here. Raises SandboxError where none works."""
    with _CHOICE:
        return _choose()


_CHOICE = threading.Lock()


@functools.cache
def _choose() -> str:
    faults = {}
    for layer in LAYERS:
        fault = layer_fault(layer)
        if fault is None:
            return layer
        faults[layer] = fault
    found = "; ".join(f"{layer}: {fault}" for layer, fault in faults.items())
    raise SandboxError(f"no sandbox for generated code works here: {_HOW_TO_GET_ONE}. Found: {found}")


def layer_fault(layer: str) -> str | None:
    """Why a layer cannot be used here: it does not start, or what it should keep in gets out. None where it works."""
    if sys.platform != "linux":
        return f"needs Linux, and this is {sys.platform}"
    with tempfile.TemporaryDirectory(prefix="sandbox-probe-") as outside:
        secret = Path(outside, "secret")
        secret.write_text("secret")
        try:
            verdict = run_in(layer, _PROBE.format(secret=str(secret), outside=outside))
        except (OSError, ValueError) as error:
            return str(error)
        if os.listdir(outside) != ["secret"]:
            return "a program can change the user's files"
    return None if verdict.passed else f"{verdict.reason}: {last_line(verdict.error_tail)}"
