"""A checkpoint as files: where its folder is, what it must hold, and the digest of what decides its numbers."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

CONFIG, TOKENIZER_CONFIG = "config.json", "tokenizer_config.json"
WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
# Any one of these groups is a tokenizer.
TOKENIZER_FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("tokenizer.model",))

_DECIDING_FILES = (
    CONFIG,
    "generation_config.json",
    "tokenizer.json",
    TOKENIZER_CONFIG,
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.json",
    "chat_template.jinja",
)
_DOWNLOADS = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_READ_BYTES = 1 << 20


class ModelError(ValueError):
    """A checkpoint that cannot be used. The text says which, what is wrong or missing, and what is supported."""


def find_folder(
    path: str, revision: str | None = None, *, config_only: bool = False, cached_only: bool = False
) -> Path:
    """The local folder of a checkpoint: `path` itself, or a snapshot of the hub repository of that name.

    `config_only` fetches no more than config.json, `cached_only` nothing at all. Raises ModelError that says what was
    looked for, and where.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise ModelError(f"{path!r} is a local folder, which has no revision (got {revision!r})")
        return folder
    if folder.exists():
        raise ModelError(f"{path!r} is a file; a model is a folder with {CONFIG}, or a hub id")
    if not _HUB_ID.fullmatch(path):
        raise ModelError(f"no such model folder: {folder}")
    return _download(path, revision, [CONFIG] if config_only else _DOWNLOADS, cached_only=cached_only)


def _download(repo_id: str, revision: str | None, patterns: list[str], *, cached_only: bool) -> Path:
    """Snapshot of a hub repository: safetensors, configuration and tokenizer files; no code, no pickle."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(
            snapshot_download(repo_id, revision=revision, allow_patterns=patterns, local_files_only=cached_only)
        )
    # Everything that the hub client raises for a missing or unreachable repository is one of these two.
    except (OSError, HFValidationError) as error:
        raise ModelError(
            f"cannot get model {repo_id!r}, revision {revision or 'main'!r}: there is no local folder of that name, "
            f"and neither the cache {constants.HF_HUB_CACHE} nor {constants.ENDPOINT} gave it "
            f"({type(error).__name__}: {error})"
        ) from error


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises ModelError with the file's name."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{file.parent} is not a model: {file.name} is missing") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(f"cannot read {file}: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"cannot read {file}: it holds {type(content).__name__}, not an object")
    return content


def check_files(folder: Path) -> None:
    """Raise ModelError that names every kind of file that a checkpoint needs and this folder does not have."""
    missing = []
    if not (folder / CONFIG).is_file():
        missing.append(CONFIG)
    if not any(all((folder / name).is_file() for name in names) for names in TOKENIZER_FILES):
        missing.append("tokenizer files (" + ", or ".join(" with ".join(names) for names in TOKENIZER_FILES) + ")")
    if (folder / WEIGHTS_INDEX).is_file() and not (folder / WEIGHTS).is_file():
        weight_map = read_json(folder / WEIGHTS_INDEX).get("weight_map")
        if not isinstance(weight_map, dict):
            raise ModelError(f"cannot read {folder / WEIGHTS_INDEX}: it has no object 'weight_map'")
        shards = sorted({str(name) for name in weight_map.values()})
        missing += [f"{name} (named in {WEIGHTS_INDEX})" for name in shards if not (folder / name).is_file()]
    elif not (folder / WEIGHTS).is_file():
        pickles = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in folder.glob(pattern))
        note = f"; pickled weights are not read: {', '.join(pickles)}" if pickles else ""
        missing.append(f"safetensors weights ({WEIGHTS}, or shards with {WEIGHTS_INDEX}{note})")
    if missing:
        raise ModelError(f"{folder} is not a model: missing {'; '.join(missing)}")


def model_digest(folder: str | Path) -> str:
    """SHA-256 (hex) over names and contents of configuration, tokenizer and safetensors files; no path is in it.

    Raises ModelError where the folder has no config.json.
    """
    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        raise ModelError(f"{folder} is not a model: {CONFIG} is missing")
    files = [folder / name for name in _DECIDING_FILES if (folder / name).is_file()]
    files += [*folder.glob("*.safetensors"), *folder.glob("*.safetensors.index.json")]
    whole = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.name):
        whole.update(f"{file.name}\0{_content_digest(file)}\n".encode())
    return whole.hexdigest()


def _content_digest(file: Path) -> str:
    content = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(_READ_BYTES):
            content.update(block)
    return content.hexdigest()
