"""How fast a study's cells and variants were: medians over what its store holds of one device."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from grids import Cell, Variant
from grids.identity import canonical_json

Row = Mapping[str, Any]
Key = tuple[str, ...]


class Rates:
    """Seconds per item of finished cells, and seconds of finished variants, on one kind of device.

    device_name: part of that device's name; without it, the one that most was done on.

    A cell is measured by cells of the same model and task under the same settings, whatever their limit: of the same
    method and scheme where there are any, else of every variant. Cells with less than half of the most items are left
    out, for they spend much of their time on loading. A variant is measured by those of its model and method.
    """

    def __init__(self, cells: Iterable[Row], variants: Iterable[Row], device_name: str | None = None) -> None:
        # A cell has one row per metric, all with its seconds.
        done = {row["cell_id"]: row for row in cells if row["status"] == "done" and row["seconds"]}
        made = [row for row in variants if row["status"] == "done" and row["quantize_seconds"]]
        self.device = _most_common((row["device"] for row in [*done.values(), *made]), device_name or "")
        self.num_cells = 0
        self._seconds: dict[Key, float] = {}
        self._read_cells([row for row in done.values() if row["device"] == self.device])
        quantize_seconds: dict[Key, list[float]] = defaultdict(list)
        for row in made:
            if row["device"] == self.device:
                quantize_seconds[row["model"], row["method"]].append(row["quantize_seconds"])
                quantize_seconds[row["model"], row["method"], row["scheme"]].append(row["quantize_seconds"])
        self._quantize_seconds = {key: median(values) for key, values in quantize_seconds.items()}

    def seconds_per_item(self, cell: Cell) -> float | None:
        """None where nothing like the cell was measured."""
        if not self._seconds:
            return None
        variant = cell.variant
        base = (variant.model.digest, variant.model.dtype, _task_key(cell.task.identity(variant.model.family)))
        found = self._seconds.get((*base, variant.method, variant.scheme.name))
        return found if found is not None else self._seconds.get(base)

    def quantize_seconds(self, variant: Variant) -> float | None:
        base = (variant.model.label, variant.method)
        return self._quantize_seconds.get((*base, variant.scheme.name)) or self._quantize_seconds.get(base)

    def _read_cells(self, rows: Sequence[Row]) -> None:
        by_task: dict[Key, list[Row]] = defaultdict(list)
        for row in rows:
            config = json.loads(row["config"])
            model = config["variant"]["model"]
            if row["num_items"] and row["num_forwards"]:
                by_task[model["digest"], model["dtype"], _task_key(config["task"])].append(row)
        for base, alike in by_task.items():
            # A cell that went on after an interruption has the seconds and the forwards of its last part only. Equal
            # tasks take equal forwards, so that the most that was seen tells how many a whole cell takes.
            forwards_per_item = max(row["num_forwards"] / row["num_items"] for row in alike)
            most_items = max(row["num_items"] for row in alike)
            seconds: dict[Key, list[float]] = defaultdict(list)
            for row in (row for row in alike if 2 * row["num_items"] >= most_items):
                value = row["seconds"] / row["num_forwards"] * forwards_per_item
                seconds[base].append(value)
                seconds[*base, row["method"], row["scheme"]].append(value)
            self._seconds |= {key: median(values) for key, values in seconds.items()}
            self.num_cells += len(alike)


def _task_key(identity: Mapping[str, Any]) -> str:
    """What decides the work of one item."""
    return canonical_json({key: value for key, value in identity.items() if key != "limit"})


def _most_common(devices: Iterable[str | None], part: str) -> str | None:
    counts = Counter(device for device in devices if device is not None and part.lower() in device.lower())
    return counts.most_common(1)[0][0] if counts else None
