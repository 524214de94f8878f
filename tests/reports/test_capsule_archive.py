"""The archive of a capsule: equal bytes for equal content, and no harm from one that comes from elsewhere."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from reports.export import ArchiveError, Limits, check_manifest, pack, unpack


def contents(folder: Path) -> dict[str, Path | bytes]:
    folder.mkdir(exist_ok=True)
    (folder / "file").write_bytes(b"three" * 1000)
    return {"one.txt": b"one", "tables/two.tex": b"", "results/00000001..00000064.parquet": folder / "file"}


def hostile(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    """An archive with a header like a capsule's and any members."""
    with (
        path.open("wb") as raw,
        gzip.GzipFile("", "wb", 9, raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for member, data in members:
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def test_what_is_packed_comes_out_again(tmp_path: Path) -> None:
    digest = pack(contents(tmp_path / "in"), tmp_path / "a.tar.gz")
    unpack(tmp_path / "a.tar.gz", tmp_path / "out", Limits())
    assert (tmp_path / "out" / "one.txt").read_bytes() == b"one"
    assert (tmp_path / "out" / "tables" / "two.tex").read_bytes() == b""
    assert (tmp_path / "out" / "results" / "00000001..00000064.parquet").read_bytes() == b"three" * 1000
    manifest = (tmp_path / "out" / "manifest.json").read_bytes()
    assert hashlib.sha256(manifest).hexdigest() == digest
    assert {"path": "one.txt", "size": 3, "sha256": hashlib.sha256(b"one").hexdigest()} in json.loads(manifest)["files"]
    assert check_manifest(tmp_path / "out") == ([], digest)


def test_equal_contents_give_equal_bytes_whatever_their_order_times_and_modes(tmp_path: Path) -> None:
    first, second = contents(tmp_path / "one"), contents(tmp_path / "two")
    file = tmp_path / "two" / "file"
    os.utime(file, (1, 1))
    file.chmod(0o600)
    digests = {pack(first, tmp_path / "a.tar.gz"), pack(dict(reversed(second.items())), tmp_path / "renamed.tar.gz")}
    assert len(digests) == 1
    assert (tmp_path / "a.tar.gz").read_bytes() == (tmp_path / "renamed.tar.gz").read_bytes()


def test_another_content_or_name_gives_another_digest(tmp_path: Path) -> None:
    packed = [{"a": b"1"}, {"a": b"2"}, {"b": b"1"}, {"a": b"1", "b": b""}]
    assert len({pack(dict(files), tmp_path / "x.tar.gz") for files in packed}) == 4


@pytest.mark.parametrize(
    "name",
    [
        "../up",
        "/etc/passwd",
        "a/../../up",
        "a//b",
        "a/.",
        "C:/x",
        "a\\..\\b",
        ".hidden",
        "a/.git/config",
        "a\nb",
        "",
        "é",
    ],
)
def test_a_name_that_leads_elsewhere_is_refused_in_both_directions(name: str, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="may not be in a capsule"):
        pack({name: b"x"}, tmp_path / "a.tar.gz")
    archive = hostile(tmp_path / "b.tar.gz", (tarfile.TarInfo("ok"), b"x"), (tarfile.TarInfo(name or "/"), b"x"))
    with pytest.raises(ArchiveError, match="may not be in a capsule"):
        unpack(archive, tmp_path / "deep" / "out", Limits())
    found = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert found == ["a.tar.gz", "b.tar.gz", "deep/out/ok"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE])
def test_links_devices_and_folders_are_refused(kind: bytes, tmp_path: Path) -> None:
    member = tarfile.TarInfo("link")
    member.type, member.linkname = kind, "/etc/passwd"
    with pytest.raises(ArchiveError, match="not a plain file"):
        unpack(hostile(tmp_path / "a.tar.gz", (member, b"")), tmp_path / "out", Limits())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("names", [("a", "a"), ("a", "a/b"), ("a/b", "a")])
def test_a_name_that_comes_twice_is_refused(names: tuple[str, str], tmp_path: Path) -> None:
    archive = hostile(tmp_path / "a.tar.gz", *((tarfile.TarInfo(name), b"x") for name in names))
    with pytest.raises(ArchiveError, match="twice"):
        unpack(archive, tmp_path / "out", Limits())


def test_a_small_archive_of_many_zeros_stops_at_the_limit(tmp_path: Path) -> None:
    archive = hostile(tmp_path / "a.tar.gz", (tarfile.TarInfo("zeros"), bytes(1 << 22)))
    assert archive.stat().st_size < 10_000
    with pytest.raises(ArchiveError, match="more than"):
        unpack(archive, tmp_path / "out", Limits(num_bytes=1 << 20))
    assert not (tmp_path / "out").exists()
    many = hostile(tmp_path / "b.tar.gz", *((tarfile.TarInfo(f"f{index}"), b"") for index in range(4)))
    with pytest.raises(ArchiveError, match="more than 3 files"):
        unpack(many, tmp_path / "out", Limits(num_files=3))


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\x03\x04 a zip", gzip.compress(b"no tar", mtime=5), b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xffno"],
)
def test_a_file_that_is_no_capsule_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(content)
    with pytest.raises(ArchiveError):
        unpack(tmp_path / "a.tar.gz", tmp_path / "out", Limits())


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"version": 2, "files": []}', '{"version": 1, "files": [{"path": "a", "sha256": "short"}]}'],
)
def test_a_manifest_that_says_nothing_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ArchiveError, match=r"manifest\.json"):
        check_manifest(tmp_path)


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="it has no manifest"):
        check_manifest(tmp_path)
