"""One archive of files with a manifest of checksums: equal content gives equal bytes, and reading one is safe."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

MANIFEST = "manifest.json"
_MANIFEST_VERSION = 1
# gzip's own header as `pack` writes it: no name, no time. Its bytes are in no checksum.
_GZIP_HEADER = bytes.fromhex("1f8b08000000000002ff")
_CHUNK = 1 << 20
# Letters, digits and a few marks, not beginning with a dot: no `..`, nothing hidden, no drive, no device of any system.
_PART = re.compile(r"[A-Za-z0-9_=+@][A-Za-z0-9_.=+@-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class ArchiveError(ValueError):
    """An archive that is damaged, or that no `pack` has written."""


@dataclass(frozen=True)
class Limits:
    """The most that an archive may unpack to; a small file can hold a great many zeros."""

    num_bytes: int = 16 << 30
    num_files: int = 500_000


def pack(contents: Mapping[str, Path | bytes], target: Path) -> str:
    """Write a tar.gz with the contents by their names in the archive, and a manifest; return the manifest's SHA-256.

    Names are sorted and times, owners and modes are fixed, so that equal contents give equal bytes (with the same
    version of zlib). Raises ValueError for a name that `unpack` would refuse.
    """
    files = []
    with (
        target.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name in sorted(contents):
            _check_name(name)
            content = contents[name]
            with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as file:
                files.append(_add(archive, name, file))
        manifest = json.dumps({"version": _MANIFEST_VERSION, "files": files}, indent=1).encode()
        return str(_add(archive, MANIFEST, io.BytesIO(manifest))["sha256"])


def _add(archive: tarfile.TarFile, name: str, file: IO[bytes]) -> dict[str, Any]:
    """Add a file; the hash is of the very bytes that went in."""
    member = tarfile.TarInfo(name)
    member.size = file.seek(0, io.SEEK_END)
    member.mode = 0o644
    file.seek(0)
    reader = _HashingReader(file)
    archive.addfile(member, reader)
    return {"path": name, "size": member.size, "sha256": reader.digest.hexdigest()}


class _HashingReader(io.RawIOBase):
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.digest.update(data)
        return data


def unpack(archive: Path, folder: Path, limits: Limits) -> None:
    """Unpack what `pack` wrote into an empty folder. Only plain files with plain names are ever written.

    Raises ArchiveError for bytes that are not gzip or tar, that are cut short or fail gzip's checksum, for a name that
    leads elsewhere or comes twice, for links and devices, and for more than the limits.
    """
    num_bytes = num_files = 0
    try:
        with archive.open("rb") as raw:
            if raw.read(len(_GZIP_HEADER)) != _GZIP_HEADER:
                raise ArchiveError("it does not begin as a capsule does")
            raw.seek(0)
            with gzip.GzipFile(fileobj=raw) as packed:
                with tarfile.open(fileobj=packed, mode="r|") as members:
                    for member in members:
                        num_files += 1
                        num_bytes += member.size
                        if num_files > limits.num_files or num_bytes > limits.num_bytes:
                            raise ArchiveError(
                                f"it unpacks to more than {limits.num_files} files or {limits.num_bytes} bytes"
                            )
                        _write_member(members, member, folder)
                # To the end, where gzip's checksum is.
                while packed.read(_CHUNK):
                    pass
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ArchiveError(f"it is damaged: {error}") from error


def _write_member(members: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    if not member.isreg() or member.issparse():
        raise ArchiveError(f"it holds {member.name!r}, which is not a plain file")
    _check_name(member.name)
    target = folder / member.name
    file = members.extractfile(member)
    assert file is not None, "a plain file has content"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as out:
            while chunk := file.read(_CHUNK):
                out.write(chunk)
    except (FileExistsError, NotADirectoryError) as error:
        raise ArchiveError(f"it holds {member.name!r} twice, or as a file and as a folder") from error


def _check_name(name: str) -> None:
    if not all(_PART.fullmatch(part) for part in name.split("/")):
        raise ArchiveError(f"the name {name!r} may not be in a capsule")


def check_manifest(folder: Path) -> tuple[list[str], str]:
    """What in an unpacked archive is not as its manifest says, a sentence each, and the manifest's SHA-256.

    Raises ArchiveError where there is no manifest, or none that can be read.
    """
    content = (folder / MANIFEST).read_bytes() if (folder / MANIFEST).is_file() else None
    if content is None:
        raise ArchiveError(f"it has no {MANIFEST}")
    listed = _read_manifest(content)
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {MANIFEST}
    complaints = [f"{name}: missing" for name in sorted(listed.keys() - found)]
    complaints += [f"{name}: not in the manifest" for name in sorted(found - listed.keys())]
    for name in sorted(listed.keys() & found):
        with (folder / PurePosixPath(name)).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != listed[name]:
            complaints.append(f"{name}: its content is not that of the manifest (SHA-256 {digest}, not {listed[name]})")
    return complaints, hashlib.sha256(content).hexdigest()


def _read_manifest(content: bytes) -> dict[str, str]:
    """SHA-256 by name."""
    try:
        manifest = json.loads(content)
        if manifest["version"] != _MANIFEST_VERSION:
            raise ArchiveError(f"{MANIFEST} has version {manifest['version']!r}, not {_MANIFEST_VERSION}")
        listed = {str(file["path"]): str(file["sha256"]) for file in manifest["files"]}
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, ArchiveError):
            raise
        raise ArchiveError(f"{MANIFEST} cannot be read: {error!r}") from error
    if not all(_SHA256.fullmatch(digest) for digest in listed.values()):
        raise ArchiveError(f"{MANIFEST} cannot be read: a SHA-256 is not 64 hex digits")
    return listed
