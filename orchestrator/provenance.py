"""Where a number came from: versions, source revision, host."""

from __future__ import annotations

import functools
import json
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = ("torch", "transformers", "lm-eval", "ray", "pyarrow", "datasets", "tokenizers", "safetensors", "numpy")


@functools.cache
def provenance() -> dict[str, Any]:
    """Columns that every row of `cells` and `variants` carries beside its own."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "qstudy_version": qstudy_version(),
        "package_versions": json.dumps(versions, sort_keys=True),
        "git_revision": _git_revision(Path(__file__).parent),
        "host": platform.node(),
    }


def qstudy_version() -> str:
    try:
        return version("qstudy")
    except PackageNotFoundError:
        return "unknown"


def _git_revision(folder: Path) -> str | None:
    """The commit of the source, with `-dirty` where files differ; None if it does not run from a checkout."""
    try:
        revision = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return revision + ("-dirty" if changed else "")


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
