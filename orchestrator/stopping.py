"""Ends a run before its work does: signals and the time limit of a batch job."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from grids import show_duration

# How long batches in flight may take to finish. Who sends SIGTERM kills after 30 s, and Ray and the report need some.
INTERRUPT_GRACE, TERMINATE_GRACE = 60.0, 12.0
# Before a time limit ends, batches in flight finish and the report is written.
LIMIT_MARGIN, LIMIT_MARGIN_SHARE = 120.0, 0.1


class Stop:
    """Whether a run must end, why, and until when batches in flight may finish.

    time_limit: seconds from now within which the run ends, None for no limit.
    """

    def __init__(
        self,
        time_limit: float | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._asked: str | None = None
        self._deadline = math.inf
        self._limit = time_limit
        self._ends = math.inf if time_limit is None else clock() + time_limit
        self._margin = min(LIMIT_MARGIN, LIMIT_MARGIN_SHARE * (time_limit or math.inf))

    @property
    def seconds_left(self) -> float:
        """For work that starts now; infinite without a time limit."""
        return self._ends - self._margin - self._clock()

    @property
    def reason(self) -> str | None:
        """Why no unit may start any more, and what happens now; None while the run goes on."""
        if self._asked is None and self.seconds_left <= 0:
            assert self._limit is not None
            self._ask(f"the time limit of {show_duration(self._limit)} is near", self._margin / 2)
        return self._asked

    @property
    def is_overdue(self) -> bool:
        """Whether batches in flight have had their time."""
        return self._clock() >= self._deadline

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While inside: Ctrl-C or SIGTERM ask the run to end, a second Ctrl-C raises KeyboardInterrupt."""
        if threading.current_thread() is not threading.main_thread():
            yield  # Python hands signals to the main thread alone.
            return
        handlers = {signal.SIGINT: self._interrupt, signal.SIGTERM: self._terminate}
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._asked is not None:
            raise KeyboardInterrupt
        self._ask("Ctrl-C", INTERRUPT_GRACE, ", Ctrl-C again to stop at once")

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        self._ask("SIGTERM", TERMINATE_GRACE)

    def _ask(self, reason: str, grace: float, hint: str = "") -> None:
        self._deadline = min(self._deadline, self._clock() + grace)
        if self._asked is None:
            self._asked = f"{reason}: batches in flight have up to {show_duration(grace)} to finish{hint}"
