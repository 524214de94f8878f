"""Who runs a study: a lock file in its folder, taken before anything is written, and kept fresh while the run lasts.

The file is made by an exclusive create, which also holds on network file systems; no lock of the operating system is
involved, for those do not. It says who made it. Another driver takes it over when that one is dead: on the same
machine, when its process is gone (or the number belongs to another one by now); seen from elsewhere, when the file was
not touched for STALE_SECONDS, which its owner does every HEARTBEAT_SECONDS.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import logging
import os
import platform
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from grids import GridError
from orchestrator.failures import RunInterruptedError
from reports.files import storage_errors

HEARTBEAT_SECONDS = 30.0
STALE_SECONDS = 300.0
LOCK_NAME = "study.lock"
_LOGGER = logging.getLogger("qstudy.orchestrator")


class StudyLockedError(GridError):
    """Another driver runs the study."""


@dataclass(frozen=True)
class Owner:
    """A driver. Its process is told from a later one of the same number by its start, and the machine's by its boot."""

    host: str
    pid: int
    since: str
    process_started: str
    boot: str
    pid_namespace: str
    token: str

    @classmethod
    def this_process(cls) -> Owner:
        return cls(
            host=platform.node(),
            pid=os.getpid(),
            since=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            process_started=_process_start(os.getpid()),
            boot=_boot(),
            pid_namespace=_pid_namespace(),
            token=uuid.uuid4().hex,
        )

    def is_alive(self, *, silent_seconds: float) -> bool:
        """Whether the driver still runs, as far as this process can tell; its lock was touched that long ago."""
        if (self.host, self.boot, self.pid_namespace) != (platform.node(), _boot(), _pid_namespace()):
            # Its process cannot be seen from here: another machine, or another container on this one.
            return silent_seconds < STALE_SECONDS
        return _is_running(self.pid) and _process_start(self.pid) == self.process_started

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


@dataclass(frozen=True)
class LockState:
    """What a lock file says, and whether it is to be believed. `owner` is None while the file is being written."""

    owner: Owner | None
    is_alive: bool
    silent_seconds: float


def read_lock(folder: Path) -> LockState | None:
    """The lock of a study, without touching anything; None where nobody holds one."""
    path = folder / LOCK_NAME
    try:
        return _judge(path.read_text(encoding="utf-8"), time.time() - path.stat().st_mtime)
    except FileNotFoundError:
        return None


class StudyLock:
    """The right to write a study, for the time of a `with` block. The folder is made if need be.

    Raises StudyLockedError where another driver holds it, StorageError where the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.owner = Owner.this_process()
        self._folder, self._path = folder, folder / LOCK_NAME
        self._text = json.dumps(dataclasses.asdict(self.owner), indent=1)
        self._made: list[Path] = []
        self._touched_at = time.time()
        self._lost: str | None = None
        self._released = threading.Event()
        self._heart = threading.Thread(target=self._keep_fresh, name="study lock", daemon=True)

    def __enter__(self) -> StudyLock:
        self._make_folder()
        try:
            while not self._create(self._text):
                self._remove_if_dead()
        except BaseException:
            self._remove_empty_folders()
            raise
        self._touched_at = time.time()
        self._heart.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._released.set()
        self._heart.join()
        # A lock that cannot be removed is taken over by the next driver, once this process is gone.
        with suppress(OSError):
            if self._path.read_text(encoding="utf-8") == self._text:
                self._path.unlink()
        self._remove_empty_folders()

    def check(self) -> None:
        """Raise RunInterruptedError if the lock is no longer this driver's. To be called often; costs nothing."""
        if time.time() - self._touched_at > STALE_SECONDS / 2:
            # The process was suspended, or the file system hangs: others may take this driver for dead by now.
            self._touch()
        if time.time() - self._touched_at > STALE_SECONDS:
            self._lost = f"it could not be kept fresh for {STALE_SECONDS:.0f} s"
        if self._lost is not None:
            raise RunInterruptedError(f"{self._path} is no longer this driver's: {self._lost}")

    def _keep_fresh(self) -> None:
        while not self._released.wait(HEARTBEAT_SECONDS):
            self._touch()

    def _touch(self) -> None:
        try:
            text = self._path.read_text(encoding="utf-8")
            if text == self._text:
                os.utime(self._path)
                self._touched_at = time.time()
            else:
                self._lost = f"{_parse(text) or 'another driver'} has taken it over"
        except FileNotFoundError:
            self._lost = "it was removed"
        except OSError as error:
            # A network file system may come back; `check` knows how long to wait for it.
            _LOGGER.warning("%s cannot be kept fresh: %s", self._path, error)

    def _make_folder(self) -> None:
        missing = [path for path in (self._folder, *self._folder.parents) if not path.exists()]
        with storage_errors("write", self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        self._made = missing

    def _remove_empty_folders(self) -> None:
        """A run that never began leaves nothing behind."""
        with suppress(OSError):
            for path in self._made:
                path.rmdir()

    def _create(self, text: str) -> bool:
        """Make the lock file, unless there is one."""
        with storage_errors("write", self._path):
            try:
                descriptor = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            except FileExistsError:
                return False
            try:
                with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
            except BaseException:
                self._path.unlink()
                raise
        return True

    def _remove_if_dead(self) -> None:
        """Move a dead driver's lock out of the way. Raises StudyLockedError if it lives."""
        try:
            text = self._path.read_text(encoding="utf-8")
            state = _judge(text, self._silent_seconds())
        except FileNotFoundError:
            return
        if state.is_alive:
            who = state.owner or "a driver that has just begun"
            raise StudyLockedError(
                f"another driver runs this study: {who}, seen {state.silent_seconds:.0f} s ago; "
                f"wait for it or stop it. If it is certainly gone, delete {LOCK_NAME}",
                file=str(self._folder),
            )
        aside = self._path.with_name(f"{LOCK_NAME}.{self.owner.token}")
        with storage_errors("write", self._path):
            try:
                # Of several drivers that found the same dead one, a single one can move its file.
                os.rename(self._path, aside)
            except FileNotFoundError:
                return
            moved = aside.read_text(encoding="utf-8")
            aside.unlink()
        if moved != text:
            # Another driver was faster, and this is its lock: give it back.
            self._create(moved)
            return
        _LOGGER.warning("took over %s from a driver that is gone: %s", self._path, state.owner or "unknown")

    def _silent_seconds(self) -> float:
        """Since when the lock was not touched, by the file system's own clock, for machines' clocks differ."""
        probe = self._path.with_name(f"{LOCK_NAME}.{self.owner.token}")
        with storage_errors("write", probe):
            probe.touch()
            now = probe.stat().st_mtime
            probe.unlink()
        return now - self._path.stat().st_mtime


def _judge(text: str, silent_seconds: float) -> LockState:
    owner = _parse(text)
    # Whoever has made the file and not yet written it is alive for as long as a driver elsewhere would be.
    is_alive = owner.is_alive(silent_seconds=silent_seconds) if owner else silent_seconds < STALE_SECONDS
    return LockState(owner, is_alive, max(0.0, silent_seconds))


def _parse(text: str) -> Owner | None:
    try:
        return Owner(**json.loads(text))
    except (ValueError, TypeError):
        return None


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    # A zombie has ended; only its parent has not asked for its exit code.
    return _process_fields(pid)[:1] != ["Z"]


def _process_start(pid: int) -> str:
    """When a process began, in ticks since the boot; empty where the system does not say."""
    return "".join(_process_fields(pid)[19:20])


def _process_fields(pid: int) -> list[str]:
    """What Linux tells of a process, from its state on; nothing elsewhere."""
    try:
        # Before the state comes the command's name, which may hold spaces and brackets.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
