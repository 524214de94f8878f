"""Quantized variants on disk: safetensors and JSON, in a folder named by the variant's id."""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from grids import Variant

_TENSORS, _LAYOUT = "quantized.safetensors", "variant.json"


class ArtifactStore:
    """Artifacts below one folder. A folder appears whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, variant_id: str) -> Path:
        return self._folder / variant_id

    def has(self, variant_id: str) -> bool:
        return self.is_artifact(self.path(variant_id))

    @staticmethod
    def is_artifact(folder: Path) -> bool:
        return (folder / _LAYOUT).is_file()

    def save(
        self, variant: Variant, tensors: dict[str, torch.Tensor], layout: dict[str, Any], row: dict[str, Any]
    ) -> None:
        """Write a variant, or nothing. Another worker that was faster is left alone: equal ids mean equal content."""
        folder = self._folder / f".tmp-{uuid.uuid4().hex}"
        try:
            folder.mkdir(parents=True)
            _write_tensors(tensors, folder / _TENSORS)
            content = {"identity": variant.identity(), "layout": layout, "row": row}
            (folder / _LAYOUT).write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
            os.rename(folder, self.path(variant.variant_id))
        except OSError:
            if not self.has(variant.variant_id):
                raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def load(self, variant_id: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Tensors and layout. Raises FileNotFoundError with the folder's path."""
        return load_file(self.path(variant_id) / _TENSORS), self._content(variant_id)["layout"]

    def identity(self, variant_id: str) -> dict[str, Any]:
        """What decided the variant: `Variant.identity`."""
        identity: dict[str, Any] = self._content(variant_id)["identity"]
        return identity

    def row(self, variant_id: str) -> dict[str, Any]:
        """The fields of the `variants` table that were measured when the variant was made."""
        row: dict[str, Any] = self._content(variant_id)["row"]
        return row

    def _content(self, variant_id: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.path(variant_id) / _LAYOUT).read_text(encoding="utf-8"))
        return content


def _write_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Raises OSError, which safetensors knows only as a text, where the disk refuses."""
    try:
        save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
