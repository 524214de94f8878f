"""Cells that ran on another kind of device than most of their model's: they are compared all the same, and say so."""

from __future__ import annotations

from collections import Counter, defaultdict

from reports.tables.grid import Layout


def mixed_devices(layout: Layout) -> dict[str, str]:
    """The footnote of each such cell, by cell id. Of two devices with as many cells each, the later by name."""
    by_model: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for entry in layout.entries.values():
        if entry.row is not None and entry.row["status"] == "done" and entry.row.get("device"):
            by_model[entry.model][entry.cell_id] = entry.row["device"]
    notes = {}
    for devices in by_model.values():
        counts = Counter(devices.values())
        usual = min(counts, key=lambda device: (-counts[device], device))
        for cell_id, device in devices.items():
            if device != usual:
                notes[cell_id] = f"ran on {device}, most cells of its model on {usual}: mixed kinds of device"
    return notes
