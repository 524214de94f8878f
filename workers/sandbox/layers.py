"""The three ways of shutting a program in, as command lines, and what of this machine a program may see."""

from __future__ import annotations

import functools
import os
import shutil
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from workers.sandbox import launcher
from workers.sandbox.seccomp import seccomp_filter

BUBBLEWRAP = "bubblewrap"
LAYERS = (BUBBLEWRAP, launcher.LANDLOCK, launcher.NAMESPACES)

# No variable of ours. Sets of strings come in one order, so that a score is the same in every run, and libraries that
# would start a thread per core start none.
ENVIRONMENT = {"PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

_DEVICES = ["/dev/null"]
_SYSTEM = ("/usr", "/lib", "/lib64", "/nix/store", "/gnu/store", "/etc/ld.so.cache", "/etc/alternatives")


def command(layer: str, scratch: str, limits: dict[str, int], program_size: int, info_fd: int) -> list[str]:
    """The command that runs a program of `program_size` bytes from its standard input inside `layer`.

    Bubblewrap tells on file descriptor `info_fd` which process it has started. Raises FileNotFoundError where it is
    needed and not installed, ValueError on an architecture whose system calls are not listed.
    """
    wrapper: list[str] = []
    inner_scratch = scratch
    if layer == BUBBLEWRAP:
        inner_scratch = "/scratch"
        wrapper = _bubblewrap(scratch, inner_scratch, info_fd)
    settings = {
        "layer": layer,
        "parent": 0 if layer == BUBBLEWRAP else os.getpid(),
        "scratch": inner_scratch,
        "readable": readable_paths(),
        "writable_devices": _DEVICES,
        "packages": package_folders(),
        "limits": limits,
        "seccomp_filter": _seccomp_filter(),
        "program_size": program_size,
    }
    # No site module: it would run the .pth files of the environment, which costs more than all the rest.
    python = [_interpreter(), "-P", "-s", "-S", "-B", "-c"]
    return [*wrapper, *python, f"{_launcher_text()}\nlaunch(**{settings!r})\n"]


def _bubblewrap(scratch: str, inner_scratch: str, info_fd: int) -> list[str]:
    program = shutil.which("bwrap")
    if program is None:
        raise FileNotFoundError("bwrap is not installed")
    binds = [word for path in readable_paths() for word in ("--ro-bind", path, path)]
    binds += [word for path in _DEVICES for word in ("--dev-bind", path, path)]
    # No process namespace: there is one process, and the first of a namespace would stay behind as a zombie.
    return [
        program, "--unshare-user-try", "--unshare-ipc", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try",
        "--die-with-parent", "--cap-drop", "ALL", *binds,
        "--bind", scratch, inner_scratch, "--remount-ro", "/", "--info-fd", str(info_fd), "--",
    ]  # fmt: skip


@functools.cache
def readable_paths() -> list[str]:
    """Libraries of the system, and of the interpreter no more than it needs: its prefix may be a home folder itself."""
    prefixes = [os.path.realpath(prefix) for prefix in (sys.base_prefix, sys.base_exec_prefix)]
    libraries = [f"{prefix}/{name}" for prefix in prefixes for name in ("lib", "lib64")]
    paths = [*_SYSTEM, _interpreter(), *libraries, *package_folders()]
    return _without_nested([path for path in paths if os.path.exists(path)])


@functools.cache
def package_folders() -> list[str]:
    """Where the packages of this environment are: a program may import NumPy where this process can."""
    folders = (sysconfig.get_path(name) for name in ("purelib", "platlib"))
    return list(dict.fromkeys(os.path.realpath(folder) for folder in folders))


def _without_nested(paths: Sequence[str]) -> list[str]:
    """The paths that are not below another one of them."""
    kept: list[str] = []
    for path in sorted(set(paths), key=len):
        if not any(path.startswith(f"{outer}/") for outer in kept):
            kept.append(path)
    return kept


@functools.cache
def _interpreter() -> str:
    """The interpreter behind a virtual environment's link: a program finds its packages without the environment."""
    return os.path.realpath(f"{sys.base_exec_prefix}/bin/python{sysconfig.get_python_version()}")


@functools.cache
def _launcher_text() -> str:
    return Path(launcher.__file__).read_text(encoding="utf-8")


@functools.cache
def _seccomp_filter() -> bytes:
    return seccomp_filter()
