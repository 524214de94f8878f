"""What a worker runs on, as far as it is known, and whether that suits a model."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from grids import Needs
from grids.needs import selects
from grids.sizes import show_size
from orchestrator.devices import find_device, is_known

# Ray gives this label to every node with GPUs.
KIND_LABEL = "ray.io/accelerator-type"


@dataclass(frozen=True)
class Machine:
    """A worker's place: its device, and its node's labels and memory.

    device: what stored rows call it, as in `NVIDIA H200`; empty until a worker has told.  gpu_memory: bytes of that
    device.  host_memory: bytes that Ray gives to work on its node. None where it is not known.
    """

    device: str = ""
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    gpu_memory: float | None = None
    host_memory: float | None = None
    has_gpu: bool = True
    node: str = field(default="", compare=False)

    @property
    def kind(self) -> str:
        """Its label, else its device's name; empty where neither is known."""
        return self.labels.get(KIND_LABEL, self.device)

    @property
    def has_kind_label(self) -> bool:
        return KIND_LABEL in self.labels

    def is_of(self, device: str) -> bool:
        """Whether its kind is that of a recorded device; also where its kind is not known yet."""
        return not self.kind or _plain(self.kind) in _plain(device)

    def recorded_device(self, told: str) -> str:
        """What rows call the device: the name that a worker has told, unless its node's label is another."""
        label = self.labels.get(KIND_LABEL)
        return told if label is None or _plain(label) in _plain(told) else label

    @property
    def known_gpu_memory(self) -> float | None:
        """By what a worker has told, else by the table of devices."""
        if self.gpu_memory is None and is_known(self.kind):
            return find_device(self.kind).memory_bytes if self.has_gpu else 0.0
        return self.gpu_memory if self.has_gpu else 0.0

    def lacks(self, needs: Needs) -> bool:
        """Whether it is known not to suit."""
        gpu_memory = self.known_gpu_memory
        return not (
            selects(needs.label_selector, self.labels)
            and (needs.gpu_memory is None or gpu_memory is None or needs.gpu_memory <= gpu_memory)
            and (needs.host_memory is None or self.host_memory is None or needs.host_memory <= self.host_memory)
        )

    def __str__(self) -> str:
        labels = [f"{key}={value}" for key, value in self.labels.items() if key not in (KIND_LABEL, "ray.io/node-id")]
        gpu_memory = self.known_gpu_memory
        facts = [self.kind or ("GPU of unknown kind" if self.has_gpu else "CPU"), *labels]
        facts += [f"{show_size(gpu_memory)} of GPU memory"] if gpu_memory else []
        facts += [f"{show_size(self.host_memory)} of host memory"] if self.host_memory else []
        return ", ".join(facts)


def describe(machines: Iterable[Machine]) -> str:
    """`4 x H200, 141 GB of GPU memory; 2 x A100, ...`"""
    return "; ".join(f"{number} x {text}" for text, number in Counter(map(str, machines)).items())


def _plain(name: str) -> str:
    """Words between dashes: Ray has `RTX-PRO-6000` where the device says `NVIDIA RTX PRO 6000`, and H20 is no H200."""
    return re.sub(r"[^a-z0-9]+", "-", f"-{name.lower()}-")
