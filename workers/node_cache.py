"""A folder of this node's own: copies of artifacts that are elsewhere, artifacts that no other node sees, locks."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VARIABLE = "QSTUDY_CACHE"


def node_cache() -> Path:
    """$QSTUDY_CACHE as this node has it, else a folder of this user's in the temporary folder; made if need be.

    Raises PermissionError where the latter belongs to somebody else.
    """
    if given := os.environ.get(VARIABLE):
        folder = Path(given)
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    folder = Path(tempfile.gettempdir()) / f"qstudy-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    # Anybody can make a folder of that name there first.
    found = folder.lstat()
    if found.st_uid != os.getuid() or folder.is_symlink() or found.st_mode & 0o022:
        raise PermissionError(f"{folder} can be written by others; set {VARIABLE} to a folder of your own")
    return folder


@contextmanager
def node_lock(name: str) -> Iterator[None]:
    """Among the processes of this node, one at a time; the end of a process, however it comes, frees it."""
    folder = node_cache() / "locks"
    folder.mkdir(exist_ok=True)
    with (folder / name).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def make_room(folder: Path, num_bytes: int, *, keep: Path | None = None) -> None:
    """Remove what was used longest ago in `folder`, but for `keep`, until its disk has twice `num_bytes` free."""
    folder.mkdir(parents=True, exist_ok=True)
    used = sorted((path for path in folder.iterdir() if path != keep), key=lambda path: path.stat().st_mtime)
    for path in used:
        if shutil.disk_usage(folder).free >= 2 * num_bytes:
            return
        shutil.rmtree(path, ignore_errors=True)
