"""Files of a study: written whole or not at all, and a clear word where the system refuses."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

# Not named like a result, so that no tool's pattern takes a file that is still being written.
TEMPORARY_PREFIX = ".tmp-"
_LONGEST_SYNC_SECONDS = 0.1


class StorageError(Exception):
    """The system refuses to read or write a file of a study; the text says which, why, and how much space is left."""

    def __init__(self, deed: str, path: Path, error: OSError) -> None:
        self.path, self.errno = path, error.errno
        super().__init__(f"cannot {deed} {path}: {error.strerror or error}{_free_space(path)}")


@contextmanager
def storage_errors(deed: str, path: Path) -> Iterator[None]:
    """Raise what the system refuses as StorageError."""
    try:
        yield
    except OSError as error:
        # Arrow's complaint about broken bytes has no error number; a disk's or a permission's has one.
        if error.errno is None:
            raise
        raise StorageError(deed, path, error) from error


def write_file(path: Path, write: Callable[[BinaryIO], object], *, sync: bool = True) -> None:
    """Write a file that appears complete, under its name, or not at all; with `sync`, it lasts through a power cut.

    Raises StorageError; nothing half-written is left.
    """
    with storage_errors("write", path):
        temporary = path.parent / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
        try:
            with _created(temporary) as file:
                write(file)
                if sync:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        if sync:
            _sync(path.parent)


def _created(path: Path) -> BinaryIO:
    """A new file, open for writing; its folder is made if need be."""
    try:
        return path.open("wb")
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("wb")


class SyncQueue:
    """Files that are visible and not yet forced to the disk.

    Forcing one takes milliseconds, so it may take a tenth of the time: where writes come slowly, each is forced at
    once; where hundreds come in a second, most are merged into others before their turn. A kill of the process costs
    nothing, for the system has the bytes; a power cut can leave a file that waits empty, which counts as damaged.
    """

    def __init__(self) -> None:
        self._paths: deque[Path] = deque()
        self._idle_until = 0.0

    def add(self, path: Path) -> None:
        """Force `path` and others that wait, oldest first, as far as the time allows. Raises StorageError."""
        self._paths.append(path)
        began = now = time.monotonic()
        if began < self._idle_until:
            return
        while self._paths and now - began < _LONGEST_SYNC_SECONDS:
            path = self._paths.popleft()
            with storage_errors("write", path), suppress(FileNotFoundError):
                _sync(path)
                _sync(path.parent)
            now = time.monotonic()
        self._idle_until = now + 9 * (now - began)


def remove_temporary_files(folder: Path) -> None:
    """Remove what killed writers left in `folder`: files and folders under a temporary name."""
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        with storage_errors("remove", path):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _free_space(path: Path) -> str:
    """`, 1.2 GB free there`, or nothing where the system does not say."""
    folder = next(parent for parent in (path, *path.absolute().parents) if parent.is_dir())
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return ""
    return f" ({free / 1e9:.1f} GB free there)"
