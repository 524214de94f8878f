"""What a piece of work costs: seconds, and the most memory that it held."""

from __future__ import annotations

import resource
import sys
import time

import torch

# The unit of ru_maxrss.
_RESIDENT_UNIT = 1 if sys.platform == "darwin" else 1024


class CostMeter:
    """Laps of work on one device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._started = time.perf_counter()
        self.lap()

    def lap(self) -> tuple[float, int]:
        """Seconds since the last lap, and the peak of memory in bytes.

        On a GPU, what this process had allocated there at most in the lap; on a CPU, the most that the process has held
        since it began, for no finer peak is kept.
        """
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            peak = torch.cuda.max_memory_allocated(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RESIDENT_UNIT
        started, self._started = self._started, time.perf_counter()
        return self._started - started, peak
