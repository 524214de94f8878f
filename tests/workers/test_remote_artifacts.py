"""Artifacts that are not in a folder which all workers see: at a URL, or on the disk of each node."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch

from grids import GridError, Variant
from tests.workers.test_engine import folder, make_cell, rows_of
from workers import node_cache, remote_artifacts
from workers.artifacts import LAYOUT, TENSORS, ArtifactStore
from workers.engine import Worker
from workers.remote_artifacts import RemoteArtifacts, leave_token, open_artifacts, take_token
from workers.units import EvaluateUnit, Event, Quantized, QuantizeUnit, Warned, WorkerSettings

__all__ = ["folder"]

ROW = {"num_linears": 14, "effective_bits": 4.5}
LAYOUT_OF_TENSORS = {"linears": ["a"]}
TENSOR = torch.arange(12, dtype=torch.float32)


@pytest.fixture(autouse=True)
def _node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_node(monkeypatch, tmp_path / "node-0")


def on_node(monkeypatch: pytest.MonkeyPatch, disk: Path) -> None:
    """What follows happens on the node with this disk."""
    monkeypatch.setenv("QSTUDY_CACHE", str(disk))


@pytest.fixture(params=["file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Somewhere that is no folder in place; a memory of this process keeps nothing but whole files, as S3 does."""
    if request.param == "file":
        yield f"file://{tmp_path / 'bucket'}"
    else:
        yield f"memory://{tmp_path.name}"
        fsspec.filesystem("memory").rm("/", recursive=True)


def variant_of(folder: Path) -> Variant:
    return make_cell(folder, "choose", "w4a16g16").variant


def save(store: RemoteArtifacts, variant: Variant, tensor: torch.Tensor = TENSOR) -> None:
    store.save(variant, {"a": tensor}, LAYOUT_OF_TENSORS, ROW)


def objects(url: str) -> dict[str, bytes]:
    files, root = fsspec.core.url_to_fs(url)
    return {Path(path).name: files.cat_file(path) for path in files.find(root)}


def test_what_one_node_saves_another_loads(url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variant = variant_of(folder)
    store = open_artifacts(url)
    assert not store.has(variant.variant_id)
    assert not store.fetch(variant.variant_id)
    save(store, variant)  # type: ignore[arg-type]

    on_node(monkeypatch, folder / "node-1")
    other = open_artifacts(url)
    assert other.has(variant.variant_id)
    assert other.row(variant.variant_id) == ROW
    assert other.fetch(variant.variant_id)
    tensors, layout = other.load(variant.variant_id)
    assert torch.equal(tensors["a"], TENSOR)
    assert layout == LAYOUT_OF_TENSORS
    # The copy is an artifact like any other: `qstudy lm-eval` takes it.
    (copy,) = (folder / "node-1" / "copies").glob(f"*/{variant.variant_id}")
    assert ArtifactStore(copy.parent).identity(variant.variant_id) == variant.identity()


def test_without_its_manifest_a_variant_is_not_there(url: str, folder: Path) -> None:
    variant = variant_of(folder)
    save(RemoteArtifacts(url), variant)
    files, root = fsspec.core.url_to_fs(url)
    manifest = f"{root}/{variant.variant_id}/{LAYOUT}"
    text = files.cat_file(manifest)
    # A writer that was killed before the manifest, or while it wrote it.
    files.rm_file(manifest)
    assert not RemoteArtifacts(url).has(variant.variant_id)
    files.pipe_file(manifest, text[: len(text) // 2])
    assert not RemoteArtifacts(url).has(variant.variant_id)
    reader = RemoteArtifacts(url)
    assert not reader.fetch(variant.variant_id)
    # It was only slow.
    files.pipe_file(manifest, text)
    assert reader.fetch(variant.variant_id)


@pytest.mark.parametrize("damage", ["a flipped bit", "half of it", "nothing"])
def test_tensors_that_are_not_what_the_manifest_says_are_refused_and_replaced(
    url: str, folder: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant = variant_of(folder)
    save(RemoteArtifacts(url), variant)
    files, root = fsspec.core.url_to_fs(url)
    (tensors,) = files.glob(f"{root}/{variant.variant_id}/*.safetensors")
    content = bytearray(files.cat_file(tensors))
    if damage == "nothing":
        files.rm_file(tensors)
    elif damage == "half of it":
        files.pipe_file(tensors, bytes(content[: len(content) // 2]))
    else:
        content[-1] ^= 1
        files.pipe_file(tensors, bytes(content))

    on_node(monkeypatch, folder / "node-1")
    reader = RemoteArtifacts(url)
    assert not reader.fetch(variant.variant_id)
    assert not any((folder / "node-1").rglob(TENSORS))
    save(reader, variant)
    on_node(monkeypatch, folder / "node-2")
    assert RemoteArtifacts(url).fetch(variant.variant_id)


def test_two_writers_of_a_variant_do_no_harm(url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variant = variant_of(folder)
    first, second = RemoteArtifacts(url), None
    publish = first._files.pipe_file

    def slow(path: str, content: bytes) -> None:
        # Another node writes the same variant, with other bits, between the tensors and the manifest of this one.
        nonlocal second
        first._files.pipe_file = publish
        on_node(monkeypatch, folder / "node-1")
        second = RemoteArtifacts(url)
        save(second, variant, TENSOR + 1)
        publish(path, content)

    monkeypatch.setattr(first._files, "pipe_file", slow)
    save(first, variant)
    assert second is not None
    on_node(monkeypatch, folder / "node-2")
    reader = RemoteArtifacts(url)
    assert reader.fetch(variant.variant_id)
    assert torch.equal(reader.load(variant.variant_id)[0]["a"], TENSOR)
    assert sorted(Path(name).suffix for name in objects(url)) == [".json", ".safetensors", ".safetensors"]
    # A third comes when it is there, and changes nothing.
    before = objects(url)
    on_node(monkeypatch, folder / "node-3")
    save(RemoteArtifacts(url), variant, TENSOR + 2)
    assert objects(url) == before


def test_copies_that_were_not_used_for_long_make_room(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, name in enumerate(("old", "older", "new")):
        (folder / "copies" / name).mkdir(parents=True)
        os.utime(folder / "copies" / name, (0, [2000, 1000, 3000][number]))

    def free(path: Path) -> Any:
        return type("Usage", (), {"free": 100 * (3 - len(list(Path(path).iterdir())))})

    monkeypatch.setattr(node_cache.shutil, "disk_usage", free)
    node_cache.make_room(folder / "copies", 50)
    assert sorted(path.name for path in (folder / "copies").iterdir()) == ["new", "old"]


def test_a_temporary_folder_of_somebody_else_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QSTUDY_CACHE")
    monkeypatch.setattr(node_cache.tempfile, "gettempdir", lambda: str(tmp_path))
    made = node_cache.node_cache()
    assert made.parent == tmp_path
    assert made.stat().st_mode & 0o777 == 0o700
    made.chmod(0o777)
    with pytest.raises(PermissionError, match="set QSTUDY_CACHE to a folder of your own"):
        node_cache.node_cache()


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("s3://bucket/x", "s3://bucket/x needs one more package, here and on every node: Install s3fs"),
        ("nope://x", "'nope://x' is not a folder, or a URL such as s3://bucket/folder"),
    ],
)
def test_a_url_that_nothing_can_read_is_bad_input(location: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = fsspec.core.url_to_fs

    def without_s3fs(url: str, **options: object) -> Any:
        if url.startswith("s3:"):
            raise ImportError("Install s3fs to access S3")
        return connect(url, **options)

    monkeypatch.setattr(remote_artifacts.fsspec.core, "url_to_fs", without_s3fs)
    with pytest.raises(GridError) as caught:
        open_artifacts(location)
    assert caught.value.key == "--artifacts"
    assert message in caught.value.message


def test_a_token_shows_whether_artifacts_can_be_written(tmp_path: Path) -> None:
    for location in (str(tmp_path / "in place"), f"file://{tmp_path / 'bucket'}"):
        place = leave_token(location, "abc")
        with fsspec.open(place) as file:
            assert file.read() == b"abc"
        take_token(place)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    (tmp_path / "file").touch()
    with pytest.raises(GridError, match="cannot write to "):
        leave_token(str(tmp_path / "file" / "below"), "abc")


# ---- workers


def worker_on(monkeypatch: pytest.MonkeyPatch, disk: Path, location: str) -> Worker:
    on_node(monkeypatch, disk)
    return Worker(WorkerSettings(location, device="cpu"))


def was_made_again(events: list[Event]) -> bool:
    return any(isinstance(event, Warned) and "quantized again here" in event.text for event in events)


def test_with_disks_of_their_own_each_node_makes_a_variant_once_with_the_same_bits(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell, other = (make_cell(folder, task, "w4a16g16") for task in ("choose", "write"))
    first = worker_on(monkeypatch, folder / "node-1", "node:study")
    assert isinstance(list(first.run(QuantizeUnit(cell.variant)))[-1], Quantized)
    expected = list(first.run(EvaluateUnit(cell)))
    assert not was_made_again(expected)

    second = worker_on(monkeypatch, folder / "node-2", "node:study")
    events = list(second.run(EvaluateUnit(cell)))
    assert was_made_again(events)
    assert rows_of(events) == rows_of(expected)
    assert not was_made_again(list(second.run(EvaluateUnit(other))))
    # Another worker of that node finds what the first has made.
    assert not was_made_again(list(worker_on(monkeypatch, folder / "node-2", "node:study").run(EvaluateUnit(cell))))
    made = [folder / node / "own" / "study" / cell.variant.variant_id / TENSORS for node in ("node-1", "node-2")]
    assert made[0].read_bytes() == made[1].read_bytes()


def test_two_workers_of_a_node_that_miss_a_variant_make_it_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = make_cell(folder, "choose", "w4a16g16")
    workers = [worker_on(monkeypatch, folder / "node-1", "node:study") for _ in range(2)]
    ended: list[list[Event]] = []
    threads = [threading.Thread(target=lambda w=w: ended.append(list(w.run(EvaluateUnit(cell))))) for w in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(was_made_again, ended)) == [False, True]
    assert rows_of(ended[0]) == rows_of(ended[1])


def test_a_variant_at_a_url_is_quantized_once_for_all_nodes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = make_cell(folder, "choose", "w4a16g16")
    url = f"file://{folder / 'bucket'}"
    first = worker_on(monkeypatch, folder / "node-1", url)
    (quantized,) = [event for event in first.run(QuantizeUnit(cell.variant)) if isinstance(event, Quantized)]
    expected = rows_of(list(first.run(EvaluateUnit(cell))))
    second = worker_on(monkeypatch, folder / "node-2", url)
    assert list(second.run(QuantizeUnit(cell.variant))) == [quantized]
    events = list(second.run(EvaluateUnit(cell)))
    assert not was_made_again(events)
    assert rows_of(events) == expected
    assert json.loads(quantized.row["audit"])["linears"]


def test_an_artifact_that_was_deleted_under_a_run_is_made_again(folder: Path) -> None:
    cell = make_cell(folder, "choose", "w4a16g16")
    settings = WorkerSettings(str(folder / "artifacts"), device="cpu")
    list(Worker(settings).run(QuantizeUnit(cell.variant)))
    os.rename(folder / "artifacts", folder / "gone")
    assert was_made_again(list(Worker(settings).run(EvaluateUnit(cell))))
