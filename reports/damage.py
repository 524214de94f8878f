"""Files of a store that cannot be used: set aside with the reason by the driver, left and reported by others."""

from __future__ import annotations

import logging
import os
import uuid
from pathlib import Path

_LOGGER = logging.getLogger("qstudy.reports")
_FOLDER = "set-aside"
_REASON_SUFFIX = ".reason.txt"


class DamagedFiles:
    """What was found damaged or foreign below `results_dir`.

    Only the driver, which alone writes, moves files (`sets_aside`): to `set-aside/`, under the same path, with the
    reason in a text file beside.
    """

    def __init__(self, results_dir: Path) -> None:
        self._results_dir = results_dir
        self.sets_aside = False
        self._messages: dict[Path, str] = {}
        self._left_out: dict[Path, str] = {}
        self._stuck: set[Path] = set()

    @property
    def messages(self) -> list[str]:
        """A sentence for each file that was found by this process."""
        return list(self._messages.values())

    def report(self, path: Path, reason: object) -> None:
        """Leave a file out from now on. Told once, however often it is met."""
        if path in self._messages and (path in self._stuck or not self.sets_aside):
            return
        self._left_out[path] = str(reason)
        outcome = self._move(path, str(reason)) if self.sets_aside else "left out; `qstudy run` will set it aside"
        message = f"{path} is damaged or not a file of this store, {outcome}: {reason}"
        self._messages[path] = message
        _LOGGER.warning(message)

    def files(self) -> dict[Path, str]:
        """The files that were moved, now or by an earlier run, and those that were left out; the reason of each."""
        folder = self._results_dir / _FOLDER
        found = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(_REASON_SUFFIX))
        left_out = {path: reason for path, reason in self._left_out.items() if path.exists()}
        return {path: _read_reason(path) for path in found} | left_out

    def _move(self, path: Path, reason: str) -> str:
        target = self._results_dir / _FOLDER / path.relative_to(self._results_dir)
        if target.exists():
            target = target.with_name(f"{target.stem}-{uuid.uuid4().hex[:8]}{target.suffix}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _reason_file(target).write_text(reason + "\n", encoding="utf-8")
            os.replace(path, target)
            del self._left_out[path]
        except OSError as error:
            self._stuck.add(path)
            return f"left out, and could not be moved ({error.strerror})"
        return f"set aside as {target.relative_to(self._results_dir)}"


def _reason_file(path: Path) -> Path:
    return path.with_name(path.name + _REASON_SUFFIX)


def _read_reason(path: Path) -> str:
    try:
        return _reason_file(path).read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        return "no reason was kept"
