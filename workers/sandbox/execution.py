"""One program in one layer: start it, read what it prints within its limits, end it, and judge how it ended."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import selectors
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from typing import IO

from workers.sandbox.launcher import STARTED, TOKEN_BYTES
from workers.sandbox.layers import BUBBLEWRAP, ENVIRONMENT, command

# How often a program's scratch directory and its deadline are looked at.
_LOOK_SECONDS = 0.1
_ERROR_TAIL_BYTES = 2000
_READ_BYTES = 2**16
# What a file costs beside its content.
_FILE_BYTES = 4096


@dataclass(frozen=True)
class Limits:
    """What one program may use. It is always one process with one thread, without network.

    Wall time has to be several times the CPU time, because cores are shared.
    """

    cpu_seconds: int = 4
    wall_seconds: float = 30.0
    memory_bytes: int = 2**30
    file_bytes: int = 2**20
    scratch_bytes: int = 2**24
    output_bytes: int = 2**24
    num_open_files: int = 64

    def resources(self) -> dict[str, int]:
        """The limits that the kernel keeps, by their names in the resource module."""
        return {
            "RLIMIT_CPU": self.cpu_seconds,
            "RLIMIT_AS": self.memory_bytes,
            "RLIMIT_FSIZE": self.file_bytes,
            "RLIMIT_NOFILE": self.num_open_files,
            "RLIMIT_NPROC": 0,
            "RLIMIT_CORE": 0,
        }


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class Verdict:
    """Whether a program reached its end, why not, and the end of what it wrote to standard error."""

    passed: bool
    reason: str
    error_tail: str


def run_in(layer: str, program: str, limits: Limits = DEFAULT_LIMITS) -> Verdict:
    """Run a Python program in the layer of that name.

    To pass, a program must hand back a random token that its interpreter receives out of its sight and reads when the
    last line has run: leaving early does not do. What remains: the token waits in an open file of the same process, so
    a program that knows this harness, or tries its open files one by one, can fetch it. No check inside one process
    can exclude that. Raises OSError where the program could not be started.
    """
    text = program.encode("utf-8", errors="surrogatepass")
    token = secrets.token_bytes(TOKEN_BYTES)
    output = _Output()
    with tempfile.TemporaryDirectory(prefix="sandbox-") as folder:
        scratch = os.path.join(folder, "scratch")
        os.mkdir(scratch)
        running = _Running(layer, scratch, limits, text, token)
        try:
            overrun = _watch(running.process, output, scratch, limits)
        finally:
            running.end()
    error_tail = output.error_tail.decode(errors="replace")
    if not output.head.startswith(STARTED):
        raise OSError(f"the {layer} sandbox did not start a program: {overrun or last_line(error_tail)}")
    status = running.process.returncode
    passed = overrun is None and status == 0 and output.tail == token
    return Verdict(passed, "passed" if passed else overrun or _ending(status), error_tail)


def last_line(text: str) -> str:
    """The line of a traceback that says what happened."""
    return text.strip().rpartition("\n")[2]


class _Running:
    """A started program, and how to end it."""

    def __init__(self, layer: str, scratch: str, limits: Limits, text: bytes, token: bytes) -> None:
        self._info, info_for_child = os.pipe()
        os.set_blocking(self._info, False)
        try:
            with _in_memory(text + token) as stdin:
                # Nothing runs between fork and exec here, so Python can use vfork: this process may hold a model.
                self.process = subprocess.Popen(
                    command(layer, scratch, limits.resources(), len(text), info_for_child),
                    stdin=stdin,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    env=ENVIRONMENT,
                    cwd="/",
                    # Bubblewrap closes it before the program starts, which could else name any process.
                    pass_fds=(info_for_child,) if layer == BUBBLEWRAP else (),
                    start_new_session=True,
                )
        except BaseException:
            os.close(self._info)
            raise
        finally:
            os.close(info_for_child)

    def end(self) -> None:
        """Kill the program if it still runs, and wait until nothing of it is left.

        Bubblewrap ends by itself, and only then, when all that it had started has been killed and waited for.
        """
        with self.process as process:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._started_by_bubblewrap() or process.pid, signal.SIGKILL)
        os.close(self._info)

    def _started_by_bubblewrap(self) -> int | None:
        try:
            told = os.read(self._info, _READ_BYTES)
        except BlockingIOError:
            return None
        found = re.search(rb'"child-pid": (\d+)', told)
        return int(found[1]) if found else None


class _Output:
    """Both ends of what a program prints, and how much it was."""

    def __init__(self) -> None:
        self.head = self.tail = self.error_tail = b""
        self.num_bytes = 0

    def add(self, piece: bytes, *, is_error: bool) -> None:
        self.num_bytes += len(piece)
        if is_error:
            self.error_tail = (self.error_tail + piece)[-_ERROR_TAIL_BYTES:]
        else:
            self.head += piece[: len(STARTED) - len(self.head)]
            self.tail = (self.tail + piece)[-TOKEN_BYTES:]


def _watch(process: subprocess.Popen[bytes], output: _Output, scratch: str, limits: Limits) -> str | None:
    """Read what a program prints until it has ended; the limit that it went over, if any."""
    started = looked = time.monotonic()
    with selectors.DefaultSelector() as selector:
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            selector.register(stream, selectors.EVENT_READ, data=stream is process.stderr)
        while selector.get_map() or not _ends_soon(process):
            for key, _ in selector.select(_LOOK_SECONDS) if selector.get_map() else ():
                piece = os.read(key.fd, _READ_BYTES)
                if not piece:
                    selector.unregister(key.fileobj)
                output.add(piece, is_error=key.data)
            if output.num_bytes > limits.output_bytes:
                return "too much output"
            now = time.monotonic()
            if now > started + limits.wall_seconds:
                return "wall time"
            if now > looked + _LOOK_SECONDS:
                looked = now
                if _bytes_in(scratch) > limits.scratch_bytes:
                    return "too many files"
    return None


def _ends_soon(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(_LOOK_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return True


def _bytes_in(scratch: str) -> int:
    """Of the files in a directory; it has no others below it, because none can be made."""
    total = 0
    with os.scandir(scratch) as entries:
        for entry in entries:
            try:
                total += entry.stat(follow_symlinks=False).st_size + _FILE_BYTES
            except FileNotFoundError:
                continue
    return total


def _ending(status: int) -> str:
    """An exit status in words; bubblewrap reports a signal as 128 and its number."""
    if status == 0:
        return "left before its end"
    number = -status if status < 0 else status - 128
    if number == signal.SIGXCPU:
        return "CPU time"
    return f"signal {number}" if number > 0 else f"exit status {status}"


def _in_memory(content: bytes) -> IO[bytes]:
    """An open file that has no name, at its start."""
    file = os.fdopen(os.memfd_create("program"), "r+b", buffering=0)
    file.write(content)
    file.seek(0)
    return file
