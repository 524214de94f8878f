"""What devices can do, where it was not measured: a table of makers' figures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from grids import GridError
from grids.errors import unknown_name

_FACTS = Path(__file__).parent / "facts" / "devices.yaml"
DEFAULT_DEVICE = "H100"
_GB, _TERA = 1e9, 1e12


@dataclass(frozen=True, slots=True)
class Device:
    """Operations per second that a forward is assumed to reach, by precision; memory; weights read per second."""

    name: str
    half_flops: float
    single_flops: float
    memory_bytes: float
    read_bytes_per_second: float

    @property
    def is_gpu(self) -> bool:
        return self.name != "cpu"

    def flops(self, dtype: str) -> float:
        return self.single_flops if dtype == "float32" else self.half_flops


def find_device(name: str) -> Device:
    """The device whose name is part of `name`, as in `NVIDIA H100 80GB HBM3`. Raises GridError for an unknown one."""
    table = _table()
    known: dict[str, dict[str, float]] = table["devices"]
    for key, figures in known.items():
        if key.lower() in name.lower():
            share = table["utilization"]
            return Device(
                name=name,
                half_flops=share * figures["half"] * _TERA,
                single_flops=share * figures["single"] * _TERA,
                memory_bytes=figures["memory_gb"] * _GB,
                read_bytes_per_second=table["read_gb_per_second"] * _GB,
            )
    raise GridError(unknown_name("device", name, known), key="--device")


def is_known(name: str) -> bool:
    return any(key.lower() in name.lower() for key in _table()["devices"])


@cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = yaml.safe_load(_FACTS.read_text(encoding="utf-8"))
    return table
