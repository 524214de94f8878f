"""What a node of the cluster has. Travels there as it stands, for qstudy may be missing: the standard library alone."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import time
from typing import Any

PACKAGES = ("orchestrator", "workers", "reports", "methods", "grids")
# What workers import; the code travels, these do not.
NEEDED = ("torch", "transformers", "lm_eval", "safetensors", "datasets", "fsspec", "pydantic", "yaml")
# Of what ships; editors and compilers leave other files beside it.
SUFFIXES = (".py", ".yaml", ".json", ".jsonl", ".txt", ".jinja", ".safetensors")
# Below `grids`: those that a study does not use do not travel.
SHIPPED_MODELS = os.path.join("demo", "models")
WAITS = 5
LARGEST_DIGESTED = 64 * 2**20


def probe(token_place: str, token: str, inputs: list[str]) -> dict[str, Any]:
    """What this node has of what a worker needs.

    `version` and `code` (a digest) of qstudy are None where it is not there; `lacks` are packages that are missing;
    `sees_artifacts` says whether what the driver wrote at `token_place` is read here, and `why_not` what came instead;
    `inputs` are fingerprints of files and folders, None for what is not there.
    """
    sees, why_not = read_token(token_place, token)
    return {
        "host": platform.node(),
        "version": installed_version(),
        "code": code_digest(),
        "lacks": [name for name in NEEDED if importlib.util.find_spec(name) is None],
        "sees_artifacts": sees,
        "why_not": why_not,
        "inputs": {path: fingerprint(path) for path in inputs},
    }


def installed_version() -> str | None:
    """None where qstudy was not installed; it may be there as a folder."""
    try:
        return importlib.metadata.version("qstudy")
    except importlib.metadata.PackageNotFoundError:
        return None


def code_digest() -> str | None:
    """Of the five packages' files without the demo's models; None where a package is missing."""
    whole = hashlib.sha256()
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            return None
        root = next(iter(spec.submodule_search_locations))
        for folder, folders, files in os.walk(root):
            # In place: this is what the walk goes on with.
            folders[:] = sorted(name for name in folders if name != "__pycache__")
            if os.path.relpath(folder, root) == SHIPPED_MODELS:
                folders.clear()
            for name in sorted(files):
                if name.endswith(SUFFIXES):
                    path = os.path.join(folder, name)
                    whole.update(f"{package}/{os.path.relpath(path, root)}\0{digest(path)}\n".encode())
    return whole.hexdigest()


def read_token(place: str, token: str) -> tuple[bool, str]:
    """Whether a place holds the token, and what came instead. A network disk may show a new file late."""
    text = ""
    for _ in range(WAITS):
        try:
            if "://" in place:
                import fsspec

                with fsspec.open(place) as file:
                    text = file.read().decode()
            else:
                # Listing a folder has a network disk ask its server anew.
                if os.path.basename(place) not in os.listdir(os.path.dirname(place)):
                    raise OSError("the folder is there, and what the driver wrote into it is not")
                with open(place, encoding="utf-8") as file:
                    text = file.read()
            return (True, "") if text == token else (False, "another file is there")
        except FileNotFoundError as error:
            return False, f"{type(error).__name__}: {error}"
        except Exception as error:
            # Whatever a kind of storage raises: without the artifacts, a worker cannot work, and the text says why.
            text = f"{type(error).__name__}: {error}"
            time.sleep(1)
    return False, text


def fingerprint(path: str) -> list[Any] | None:
    """What tells a file or folder from another of that name without reading gigabytes; None where there is none."""
    if os.path.isdir(path):
        with os.scandir(path) as entries:
            return sorted([entry.name, entry.stat().st_size] for entry in entries if entry.is_file())
    if not os.path.isfile(path):
        return None
    num_bytes = os.path.getsize(path)
    return [num_bytes, digest(path) if num_bytes <= LARGEST_DIGESTED else ""]


def digest(path: str) -> str:
    content = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            content.update(block)
    return content.hexdigest()
