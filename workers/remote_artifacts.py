"""Artifacts at a URL (`s3://`, `gs://`, `file://`, whatever fsspec knows), and their copies on this node.

An object store has no rename. The tensors are written first, under their digest for a name, and the manifest last: a
variant is there when its manifest is, and what the manifest does not name is not looked at. Two workers that write one
variant leave two sets of tensors at most, and one of their manifests; either names tensors that are there.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

import fsspec

from grids import GridError, Variant
from workers.artifacts import LAYOUT, TENSORS, Artifacts, ArtifactStore, Tensors
from workers.node_cache import make_room, node_cache

# Before the name of a folder that each node has for itself.
NODE = "node:"
_READ_BYTES = 1 << 22


def open_artifacts(location: str) -> Artifacts:
    """The artifacts at a folder that all nodes see, at a URL, or, as `node:NAME`, those that this node has itself.

    Raises GridError for a URL that nothing here can read.
    """
    if location.startswith(NODE):
        return ArtifactStore(node_cache() / "own" / location.removeprefix(NODE))
    return RemoteArtifacts(location) if is_url(location) else ArtifactStore(Path(location))


def is_url(location: str) -> bool:
    return "://" in location


class RemoteArtifacts:
    """Artifacts below a URL. What is loaded is copied to this node once, and compared with its digest then.

    Raises GridError for a URL that nothing here can read.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._files, self._root = _connect(self._url)
        self._folder = node_cache() / "copies" / hashlib.sha256(self._url.encode()).hexdigest()[:16]
        self._copies = ArtifactStore(self._folder)
        self._manifests: dict[str, dict[str, Any]] = {}
        self._damaged: set[str] = set()

    def has(self, variant_id: str) -> bool:
        return self._manifest(variant_id) is not None

    def fetch(self, variant_id: str) -> bool:
        manifest = self._manifest(variant_id)
        if manifest is None:
            return False
        if self._copies.has(variant_id):
            os.utime(self._copies.path(variant_id))
            return True
        if self._copy(variant_id, manifest):
            return True
        self._damaged.add(variant_id)
        return False

    def save(self, variant: Variant, tensors: Tensors, layout: dict[str, Any], row: dict[str, Any]) -> None:
        variant_id = variant.variant_id
        make_room(self._folder, sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()))
        self._copies.save(variant, tensors, layout, row)
        if self.has(variant_id) and variant_id not in self._damaged:
            return
        file = self._copies.path(variant_id) / TENSORS
        digest = _digest(file)
        self._files.makedirs(f"{self._root}/{variant_id}", exist_ok=True)
        self._files.put_file(str(file), self._tensors_path(variant_id, digest))
        manifest = self._copies.content(variant_id) | {"tensors": {"sha256": digest, "num_bytes": file.stat().st_size}}
        self._files.pipe_file(self._manifest_path(variant_id), json.dumps(manifest, ensure_ascii=False).encode())
        self._manifests[variant_id] = manifest
        self._damaged.discard(variant_id)

    def load(self, variant_id: str) -> tuple[Tensors, dict[str, Any]]:
        return self._copies.load(variant_id)

    def row(self, variant_id: str) -> dict[str, Any]:
        manifest = self._manifest(variant_id)
        if manifest is None:
            raise FileNotFoundError(self._manifest_path(variant_id))
        row: dict[str, Any] = manifest["row"]
        return row

    def _manifest(self, variant_id: str) -> dict[str, Any] | None:
        """None where there is none, or one that is being written; the latter is whole the next time."""
        if variant_id not in self._manifests:
            try:
                content = json.loads(self._files.cat_file(self._manifest_path(variant_id)))
                is_whole = isinstance(content["row"], dict) and isinstance(content["tensors"]["sha256"], str)
            except (FileNotFoundError, ValueError, KeyError, TypeError):
                return None
            except Exception as error:
                # Each kind of storage has errors of its own: no such bucket, no credentials, no network.
                raise _refusal("read", self._url, error) from error
            if not is_whole:
                return None
            self._manifests[variant_id] = content
        return self._manifests[variant_id]

    def _copy(self, variant_id: str, manifest: dict[str, Any]) -> bool:
        """Bring a variant to this node; False where what arrives is not what the manifest says."""
        said = manifest["tensors"]
        folder = self._folder / f".tmp-{uuid.uuid4().hex}"
        try:
            folder.mkdir(parents=True)
            make_room(self._folder, said["num_bytes"], keep=folder)
            self._files.get_file(self._tensors_path(variant_id, said["sha256"]), str(folder / TENSORS))
            if _digest(folder / TENSORS) != said["sha256"]:
                return False
            content = {key: manifest[key] for key in ("identity", "layout", "row")}
            (folder / LAYOUT).write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
            self._copies.adopt(folder, variant_id)
            return True
        except FileNotFoundError:
            return False
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _manifest_path(self, variant_id: str) -> str:
        return f"{self._root}/{variant_id}/{LAYOUT}"

    def _tensors_path(self, variant_id: str, digest: str) -> str:
        return f"{self._root}/{variant_id}/{digest}.safetensors"


def leave_token(location: str, token: str) -> str:
    """Write a small file where artifacts go, and give its place; raises GridError where that cannot be done."""
    name = f".tmp-token-{token}"
    try:
        if is_url(location):
            files, root = _connect(location.rstrip("/"))
            files.makedirs(root, exist_ok=True)
            files.pipe_file(f"{root}/{name}", token.encode())
        else:
            Path(location).mkdir(parents=True, exist_ok=True)
            (Path(location) / name).write_text(token)
    except GridError:
        raise
    except Exception as error:
        raise _refusal("write to", location, error) from error
    return f"{location.rstrip('/')}/{name}"


def take_token(place: str) -> None:
    """Remove what `leave_token` has written."""
    files, path = _connect(place)
    files.rm_file(path)


def _refusal(deed: str, location: str, error: Exception) -> GridError:
    return GridError(f"cannot {deed} {location}: {type(error).__name__}: {error}", key="--artifacts")


def _connect(url: str) -> tuple[Any, str]:
    """A file system and the path on it. Raises GridError that names the package to install."""
    try:
        # Others write there: what was listed before is not what is there.
        files, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        raise GridError(f"{url} needs one more package, here and on every node: {error}", key="--artifacts") from error
    except ValueError as error:
        allowed = "a folder, or a URL such as s3://bucket/folder, gs://bucket/folder or file:///folder"
        raise GridError(f"{url!r} is not {allowed}", key="--artifacts") from error
    return files, path


def _digest(file: Path) -> str:
    content = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(_READ_BYTES):
            content.update(block)
    return content.hexdigest()
