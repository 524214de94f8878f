"""The hub as `fetch` sees it: the folder of a model or data set in the local cache, downloaded where that is asked."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Protocol

from workers.models.checkpoint import check_files, find_folder

_COMMIT = re.compile(r"[0-9a-f]{40}")


class DataError(ValueError):
    """A data set that cannot be had. The text says which, and where it was looked for."""


class Hub(Protocol):
    """Gives the cached folder, whose name is the commit that it holds. Raises ValueError that says where it looked."""

    def model(self, path: str, revision: str | None, *, download: bool) -> Path:
        """All files that a worker reads of a model."""

    def data(self, path: str, subset: str | None, revision: str | None, *, download: bool) -> Path:
        """One configuration of a data set, prepared."""


class HuggingFaceHub:
    """The Hugging Face hub, through the caches that its own libraries keep and workers read."""

    def model(self, path: str, revision: str | None, *, download: bool) -> Path:
        folder = find_folder(path, revision, cached_only=not download)
        check_files(folder)
        return folder

    def data(self, path: str, subset: str | None, revision: str | None, *, download: bool) -> Path:
        return _download(path, subset, revision) if download else _cached(path, subset, revision)


def _cached(path: str, subset: str | None, revision: str | None) -> Path:
    """The folder that `datasets` would read without a network: NAMESPACE___NAME/SUBSET/VERSION/COMMIT, the newest."""
    from datasets import config
    from datasets.naming import camelcase_to_snakecase

    *namespace, name = path.split("/")
    root = Path(config.HF_DATASETS_CACHE) / "___".join([*namespace, camelcase_to_snakecase(name)])
    commit = revision if revision and _COMMIT.fullmatch(revision) else "*"
    prepared = list(root.glob(f"{subset or '*'}/*/{commit}/{config.DATASET_INFO_FILENAME}"))
    if not prepared:
        raise DataError(f"the cache {root} does not hold it")
    return max(prepared, key=lambda file: file.stat().st_mtime).parent


def _download(path: str, subset: str | None, revision: str | None) -> Path:
    import datasets
    from datasets.exceptions import DatasetsError

    try:
        builder = datasets.load_dataset_builder(path, subset, revision=revision)
        builder.download_and_prepare()
    except (OSError, ValueError, DatasetsError) as error:
        raise DataError(
            f"cannot get data set {' '.join(filter(None, [path, subset]))!r}, revision {revision or 'main'!r}: neither "
            f"the cache {datasets.config.HF_DATASETS_CACHE} nor {datasets.config.HF_ENDPOINT} gave it "
            f"({type(error).__name__}: {error})"
        ) from error
    return Path(builder.cache_dir)
