"""On which device each model of a study began: from its finished cells, else from a small file beside them.

The file is for cells that have answers and no number yet: they too are not to be finished on another kind.
"""

from __future__ import annotations

import json
from pathlib import Path

from orchestrator.planning import Plan
from reports import ResultStore
from reports.files import write_file

DEVICES_NAME = "devices.json"


class ModelDevices:
    """Reads and writes a study's devices, by model."""

    def __init__(self, root: Path, store: ResultStore) -> None:
        self._path, self._store = root / DEVICES_NAME, store
        self._written = self._read()

    def of(self, plan: Plan) -> dict[str, str]:
        """The device on which the first of each model's cells ran that the study still asks for."""
        first: dict[str, tuple[object, str]] = {}
        for cell in plan.study.cells:
            row = plan.records.row(cell.cell_id)
            if row is None or row["status"] != "done" or not row.get("device"):
                continue
            model, found = cell.variant.model.label, (row["finished_at"], row["device"])
            if model not in first or found < first[model]:
                first[model] = found
        return self._unfinished(plan) | {model: device for model, (_, device) in first.items()}

    def began(self, model: str, device: str) -> None:
        """Write down that a model without any cell yet begins on a device. Raises StorageError."""
        if device and self._written.get(model) != device:
            self._written[model] = device
            text = json.dumps(self._written, indent=1, ensure_ascii=False)
            write_file(self._path, lambda file: file.write(text.encode()))

    def _unfinished(self, plan: Plan) -> dict[str, str]:
        """The written devices of models that have answers."""
        answered = self._store.cells_with_samples() if self._written else set()
        begun = {cell.variant.model.label for cell in plan.study.cells if cell.cell_id in answered}
        return {model: device for model, device in self._written.items() if model in begun}

    def _read(self) -> dict[str, str]:
        """Nothing where the file is not there, or makes no sense."""
        try:
            content = json.loads(self._path.read_bytes())
            return {str(model): str(device) for model, device in content.items()}
        except (OSError, ValueError, AttributeError):
            return {}
