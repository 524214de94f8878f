"""Reading and writing a folder of parts (`reports.parts` says what its files mean)."""

from __future__ import annotations

import errno
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from reports.damage import DamagedFiles
from reports.files import StorageError, SyncQueue, remove_temporary_files, storage_errors, write_file
from reports.parts import Part, current_parts, list_parts
from reports.schemas import TableSchema, check_columns, conform, to_rows

MERGE_AT = 64
# Of a merged part, before compression: it is read into memory when it is merged again.
MAX_MERGED_BYTES = 64 << 20
_ROWS_PER_GROUP = 4096
_KEYS = b"qstudy.keys"
# For a few rows with long texts, dictionaries and statistics triple the size and add half to the time of reading.
_LOOSE_OPTIONS = {"write_page_checksum": True, "use_dictionary": False, "write_statistics": False}
# Below it, a part takes longer to compress than to write, and no less of the disk.
_COMPRESS_BYTES = 16 << 10
_MERGED_OPTIONS = {"compression": "zstd", "write_page_checksum": True, "write_statistics": False}

Result = TypeVar("Result")
# A key, and how many rows of a part it has.
KeyCount = tuple[str, int]
# Keys, and where the rows of each begin and end.
Places = dict[str, tuple[int, int]]


def _file_of_few(table: pa.Table, keys: Sequence[KeyCount] | None) -> pa.Buffer:
    """A table as a Parquet file in memory: Arrow's own writing to a file takes half as long again."""
    stream = pa.BufferOutputStream()
    compression = "zstd" if table.nbytes > _COMPRESS_BYTES else "none"
    with pq.ParquetWriter(stream, table.schema, compression=compression, **_LOOSE_OPTIONS) as writer:
        writer.write_table(table)
        if keys is not None:
            writer.add_key_value_metadata(_key_list(keys))
    return stream.getvalue()


def _key_list(keys: Sequence[KeyCount]) -> dict[bytes, bytes]:
    return {_KEYS: json.dumps(keys).encode()}


def _is_small(part: Part) -> bool:
    """Whether it counts for the next merge. The small parts of a folder are its newest."""
    return part.num_writes < MERGE_AT


class PartFolder(ABC):
    """What all folders share: reading a part, writing one, and when to merge."""

    def __init__(self, folder: Path, schema: TableSchema, damage: DamagedFiles, unsynced: SyncQueue) -> None:
        self.folder = folder
        self._schema, self._damage, self._unsynced = schema, damage, unsynced
        # The writer's own: nobody else adds parts, and it need not read again what it is going to merge.
        self._parts: list[Part] | None = None
        self._tables: dict[Part, pa.Table] = {}
        self._footers: dict[Part, pq.FileMetaData] = {}
        # Where the rows of each key lie in merged parts.
        self._places: dict[Part, Places] = {}

    # ---- writing

    def append(self, tag: str, table: pa.Table) -> None:
        """Add a part; merge if enough have gathered. Raises StorageError."""
        number = self._next_number()
        self._add(Part(number, number, tag), table)

    def _next_number(self) -> int:
        parts = self._own_parts()
        return parts[-1].last + 1 if parts else 1

    def _add(self, part: Part, table: pa.Table, keys: Sequence[KeyCount] | None = None) -> None:
        content = _file_of_few(table, keys)
        write_file(self._path(part), lambda file: file.write(content), sync=False)
        self._unsynced.add(self._path(part))
        parts = self._own_parts()
        parts.append(part)
        self._tables[part] = table
        if keys is not None:
            self._places[part] = _places(keys)
        if sum(map(_is_small, parts)) >= MERGE_AT:
            self._merge(self._newest(parts))

    def merge_all(self) -> None:
        """Make one part of all, for a folder that will not grow any more."""
        parts = self._own_parts()
        if len(parts) > 1:
            self._merge(list(parts))

    def tidy(self) -> None:
        """Remove what a killed writer left: files under temporary names, and parts that count for nothing."""
        remove_temporary_files(self.folder)
        counting = set(current_parts(self.folder)[0])
        for part in list_parts(self.folder)[0]:
            if part not in counting:
                self._remove(part)

    def _own_parts(self) -> list[Part]:
        if self._parts is None:
            self._damage.sets_aside = True
            self.tidy()
            self._parts = current_parts(self.folder)[0]
        return self._parts

    def _newest(self, parts: Sequence[Part]) -> list[Part]:
        """All small parts, with the large ones before them that are no larger: few remain, few are written again."""
        chosen, num_bytes = [part for part in parts if _is_small(part)], 0
        for part in reversed([part for part in parts if not _is_small(part)]):
            num_bytes += self._num_bytes(part)
            if part.num_writes > chosen[-1].last - chosen[0].first + 1 or num_bytes > MAX_MERGED_BYTES:
                break
            chosen.insert(0, part)
        return chosen

    def _num_bytes(self, part: Part) -> int:
        def read(file: pq.ParquetFile) -> int:
            groups = range(file.metadata.num_row_groups)
            return sum(file.metadata.row_group(index).total_byte_size for index in groups)

        return self._opened(part, read) or 0

    def _merge(self, sources: list[Part]) -> None:
        """Put one part in the place of neighbours, of which the last is the newest of all."""
        tables = {part: self._tables[part] if part in self._tables else self._read(part) for part in sources}
        found = [(part, table) for part, table in tables.items() if table is not None]
        if not found:
            return
        table, counts = self._combined(found)
        merged = Part(sources[0].first, sources[-1].last, None)

        def write(file: Any) -> None:
            with pq.ParquetWriter(file, table.schema, **_MERGED_OPTIONS) as writer:
                writer.write_table(table, row_group_size=_ROWS_PER_GROUP)
                writer.add_key_value_metadata(_key_list(counts))

        write_file(self._path(merged), write)
        self._parts = [part for part in self._own_parts() if part not in sources] + [merged]
        self._places[merged] = _places(counts)
        for part, _ in found:
            self._remove(part)

    def _remove(self, part: Part) -> None:
        self._forget(part)
        with storage_errors("remove", self._path(part)):
            self._path(part).unlink(missing_ok=True)

    def _forget(self, part: Part) -> None:
        for known in (self._tables, self._footers, self._places):
            known.pop(part, None)

    @abstractmethod
    def _combined(self, found: Sequence[tuple[Part, pa.Table]]) -> tuple[pa.Table, list[KeyCount]]:
        """What counts of some parts, oldest first, as one table, and its keys in order."""

    # ---- reading

    def _path(self, part: Part) -> Path:
        return self.folder / part.name

    def _consistently(self, work: Callable[[list[Part]], Result]) -> Result:
        """What `work` makes of the parts that count; from the start where one of them was merged away meanwhile."""
        vanished: list[Part] = []
        while True:
            parts, foreign = current_parts(self.folder)
            for name in foreign:
                self._damage.report(self.folder / name, "its name is not that of a part")
            try:
                return work([part for part in parts if vanished.count(part) < 2])
            except _VanishedError as error:
                vanished.append(error.part)
                if vanished.count(error.part) == 2:
                    self._damage.report(self._path(error.part), "it is listed, but cannot be opened")

    def _read(self, part: Part, columns: Sequence[str] | None = None) -> pa.Table | None:
        """A part, or some of its columns, the key among them; None where it is damaged."""
        names = columns or self._schema.columns.names

        def read(file: pq.ParquetFile) -> pa.Table:
            table = file.read(columns=self._present(file, names), use_threads=False)
            self._check_keys(part, file, table[self._schema.key])
            return self._conformed(file, table, names)

        return self._opened(part, read)

    def _opened(self, part: Part, read: Callable[[pq.ParquetFile], Result]) -> Result | None:
        """What `read` makes of a part's file; None where it is damaged. Raises StorageError, and _VanishedError."""
        try:
            path, footer = self._path(part), self._footers.get(part)
            with pq.ParquetFile(path, metadata=footer, page_checksum_verification=True) as file:
                if part.is_merged:
                    self._footers[part] = file.metadata
                return read(file)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESTALE):
                raise _VanishedError(part) from error
            # Arrow's complaint about broken bytes has no error number; a disk's or a permission's has one.
            if error.errno is not None:
                raise StorageError("read", path, error) from error
            self._reject(part, error)
        except (ValueError, pa.ArrowException) as error:
            self._reject(part, error)
        return None

    def _present(self, file: pq.ParquetFile, names: Sequence[str]) -> list[str]:
        """The columns to read: those of `names` that the file has, and those that say whether it is sound."""
        known = file.schema_arrow.names
        checked = ("schema_version", self._schema.key)
        for name in checked:
            if name not in known:
                raise ValueError(f"it has no column {name}")
        return [name for name in dict.fromkeys((*checked, *names)) if name in known]

    def _conformed(self, file: pq.ParquetFile, table: pa.Table, names: Sequence[str]) -> pa.Table:
        check_columns(self._schema, file.schema_arrow, version=_version(self._schema, table))
        return conform(self._schema, table, names)

    def _reject(self, part: Part, reason: object) -> None:
        self._damage.report(self._path(part), reason)
        self._forget(part)
        if self._parts is not None:
            self._parts = [other for other in self._parts if other != part]

    @abstractmethod
    def _check_keys(self, part: Part, file: pq.ParquetFile, keys: pa.ChunkedArray) -> None:
        """Raise ValueError for a part with other keys than it says."""


class KeyedParts(PartFolder):
    """A table that is recorded key by key: a loose part is all rows of the key that is its tag, and replaces them."""

    def append_all(self, table: pa.Table, counts: Sequence[KeyCount]) -> None:
        """Add the rows of several keys, key by key, as one part that is merged from the start. Raises StorageError."""
        if len(counts) == 1:
            self.append(counts[0][0], table)
            return
        first = self._next_number()
        self._add(Part(first, first + len(counts) - 1, None), table, counts)

    def rows(self, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """All rows that count, in no order; of `columns`, and of the key."""
        key = self._schema.key
        names = list(dict.fromkeys([key, *columns])) if columns else None
        read: dict[Part, tuple[list[str], list[dict[str, Any]]]] = {}

        def work(parts: list[Part]) -> list[dict[str, Any]]:
            for part in parts:
                if part not in read:
                    table = self._read(part, names)
                    read[part] = ([], []) if table is None else (list(self._keys(part, table)), to_rows(table))
            winner = {key: part for part in parts for key in read[part][0]}
            return [row for part in parts for row in read[part][1] if winner[row[key]] is part]

        return self._consistently(work)

    def table_of(self, key: str) -> pa.Table | None:
        """The rows of one key; None where it is not recorded."""

        def work(parts: list[Part]) -> pa.Table | None:
            for part in reversed(parts):
                if part.tag == key:
                    table = self._read(part)
                elif part.is_merged and key in self._merged_places(part):
                    table = self._read_key(part, key)
                else:
                    continue
                if table is not None:
                    return table
            return None

        return self._consistently(work)

    def keys(self) -> set[str]:
        """The keys that are recorded."""

        def work(parts: list[Part]) -> set[str]:
            return {key for part in parts for key in ([part.tag] if part.tag else self._merged_places(part))}

        return self._consistently(work)

    def _read_key(self, part: Part, key: str) -> pa.Table | None:
        """The rows of one key of a merged part, reading no more row groups than they lie in."""
        names = self._schema.columns.names
        start, stop = self._merged_places(part)[key]
        groups = range(start // _ROWS_PER_GROUP, -(-stop // _ROWS_PER_GROUP))

        def read(file: pq.ParquetFile) -> pa.Table:
            table = file.read_row_groups(list(groups), columns=self._present(file, names), use_threads=False)
            table = table.slice(start - groups.start * _ROWS_PER_GROUP, stop - start)
            _check_single(table[self._schema.key], key)
            return self._conformed(file, table, names)

        return self._opened(part, read)

    def _combined(self, found: Sequence[tuple[Part, pa.Table]]) -> tuple[pa.Table, list[KeyCount]]:
        winner = {key: part for part, table in found for key in self._keys(part, table)}
        tables: list[pa.Table] = []
        counts: list[KeyCount] = []
        for part, table in found:
            places = self._keys(part, table)
            kept = {key: stop - start for key, (start, stop) in places.items() if winner[key] is part}
            if len(kept) < len(places):
                table = table.filter(pc.is_in(table[self._schema.key], value_set=pa.array(list(kept), pa.string())))
            tables.append(table)
            counts += kept.items()
        return pa.concat_tables(tables, promote_options="default"), counts

    def _keys(self, part: Part, table: pa.Table) -> Places:
        """The keys of a part that was read, and where the rows of each begin and end."""
        return {part.tag: (0, len(table))} if part.tag is not None else self._merged_places(part)

    def _merged_places(self, part: Part) -> Places:
        """The same of a merged part; nothing if it is damaged."""
        if part not in self._places:
            self._places[part] = self._opened(part, _key_places) or {}
        return self._places[part]

    def _check_keys(self, part: Part, file: pq.ParquetFile, keys: pa.ChunkedArray) -> None:
        if part.tag is not None:
            _check_single(keys, part.tag)
            return
        runs = pc.run_end_encode(keys.combine_chunks())
        expected = {key: stop for key, (start, stop) in _key_places(file).items() if stop > start}
        if runs.values.to_pylist() != list(expected) or runs.run_ends.to_pylist() != list(expected.values()):
            raise ValueError(f"its rows are not those of each {self._schema.key} that it lists")


class AppendedParts(PartFolder):
    """The rows of one key, added in batches; of two rows that agree in the columns `unique`, the later one counts."""

    def __init__(
        self,
        folder: Path,
        schema: TableSchema,
        damage: DamagedFiles,
        unsynced: SyncQueue,
        *,
        key: str,
        unique: tuple[str, str],
    ) -> None:
        super().__init__(folder, schema, damage, unsynced)
        self._key, self._unique = key, unique

    def table(self, before: pa.Table | None = None) -> pa.Table | None:
        """All rows that count, in the order in which they were added; to those of `before`, if given."""
        read: dict[Part, pa.Table | None] = {}

        def work(parts: list[Part]) -> pa.Table | None:
            for part in parts:
                if part not in read:
                    read[part] = self._read(part)
            tables = [table for table in (before, *(read[part] for part in parts)) if table is not None]
            return self._latest(pa.concat_tables(tables)) if tables else None

        return self._consistently(work)

    def _latest(self, table: pa.Table) -> pa.Table:
        first, second = (table[name].to_pylist() for name in self._unique)
        places = {pair: place for place, pair in enumerate(zip(first, second, strict=True))}
        return table if len(places) == len(table) else table.take(sorted(places.values()))

    def _combined(self, found: Sequence[tuple[Part, pa.Table]]) -> tuple[pa.Table, list[KeyCount]]:
        table = self._latest(pa.concat_tables([table for _, table in found], promote_options="default"))
        return table, [(self._key, len(table))]

    def _check_keys(self, part: Part, file: pq.ParquetFile, keys: pa.ChunkedArray) -> None:
        _check_single(keys, self._key)


class _VanishedError(Exception):
    """A part that was listed is no longer there."""

    def __init__(self, part: Part) -> None:
        self.part = part


def _version(schema: TableSchema, table: pa.Table) -> int:
    """The version that wrote a part's rows. Raises ValueError for one that is newer than this program."""
    versions = [version for version in pc.unique(table["schema_version"]).to_pylist() if version is not None]
    newest = max(versions, default=schema.version)
    if newest > schema.version:
        raise ValueError(
            f"schema version {newest} of table {schema.name!r} is newer than {schema.version}, the latest that this "
            "qstudy knows; to use the file, put it back and install the qstudy that wrote it, or a later one"
        )
    return newest


def _check_single(keys: pa.ChunkedArray, key: str) -> None:
    found = pc.unique(keys).to_pylist()
    if not set(found) <= {key}:
        raise ValueError(f"it holds rows of {', '.join(sorted(map(str, found)))}, not only of {key}")


def _places(counts: Iterable[KeyCount]) -> Places:
    places, start = {}, 0
    for key, num_rows in counts:
        places[key] = (start, start + num_rows)
        start += num_rows
    return places


def _key_places(file: pq.ParquetFile) -> Places:
    """A merged part's list of keys, as the places of their rows. Raises ValueError if it is not of this store."""
    text = (file.metadata.metadata or {}).get(_KEYS)
    if text is None:
        raise ValueError("it has no list of keys: this store did not merge it")
    try:
        return _places(json.loads(text))
    except TypeError as error:
        raise ValueError(f"its list of keys is damaged: {error}") from error
