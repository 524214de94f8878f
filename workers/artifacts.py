"""Quantized variants on disk: safetensors and JSON, in a folder named by the variant's id."""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from grids import Variant

TENSORS, LAYOUT = "quantized.safetensors", "variant.json"
Tensors = dict[str, torch.Tensor]


class Artifacts(Protocol):
    """Where quantized variants are kept, by id. What is there is whole."""

    def has(self, variant_id: str) -> bool:
        """Whether there is one, for this node or another."""

    def fetch(self, variant_id: str) -> bool:
        """Have a variant on this node, to be loaded; False where there is none, or only a damaged one."""

    def save(self, variant: Variant, tensors: Tensors, layout: dict[str, Any], row: dict[str, Any]) -> None:
        """Write a variant, or nothing. Another worker that was faster is left alone: equal ids mean equal content."""

    def load(self, variant_id: str) -> tuple[Tensors, dict[str, Any]]:
        """Tensors and layout of what was fetched. Raises FileNotFoundError with the folder's path."""

    def row(self, variant_id: str) -> dict[str, Any]:
        """The fields of the `variants` table that were measured when the variant was made."""


class ArtifactStore:
    """Artifacts below one folder. A folder appears whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, variant_id: str) -> Path:
        return self._folder / variant_id

    def has(self, variant_id: str) -> bool:
        return self.is_artifact(self.path(variant_id))

    def fetch(self, variant_id: str) -> bool:
        return self.has(variant_id)

    @staticmethod
    def is_artifact(folder: Path) -> bool:
        return (folder / LAYOUT).is_file()

    def save(self, variant: Variant, tensors: Tensors, layout: dict[str, Any], row: dict[str, Any]) -> None:
        folder = self._folder / f".tmp-{uuid.uuid4().hex}"
        try:
            folder.mkdir(parents=True)
            _write_tensors(tensors, folder / TENSORS)
            content = {"identity": variant.identity(), "layout": layout, "row": row}
            (folder / LAYOUT).write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
            self.adopt(folder, variant.variant_id)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def adopt(self, folder: Path, variant_id: str) -> None:
        """Give a complete folder its name, unless another has it."""
        try:
            os.rename(folder, self.path(variant_id))
        except OSError:
            if not self.has(variant_id):
                raise

    def load(self, variant_id: str) -> tuple[Tensors, dict[str, Any]]:
        return load_file(self.path(variant_id) / TENSORS), self.content(variant_id)["layout"]

    def identity(self, variant_id: str) -> dict[str, Any]:
        """What decided the variant: `Variant.identity`."""
        identity: dict[str, Any] = self.content(variant_id)["identity"]
        return identity

    def row(self, variant_id: str) -> dict[str, Any]:
        row: dict[str, Any] = self.content(variant_id)["row"]
        return row

    def content(self, variant_id: str) -> dict[str, Any]:
        """Identity, layout and row."""
        content: dict[str, Any] = json.loads((self.path(variant_id) / LAYOUT).read_text(encoding="utf-8"))
        return content


def _write_tensors(tensors: Tensors, path: Path) -> None:
    """Raises OSError, which safetensors knows only as a text, where the disk refuses."""
    try:
        save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
