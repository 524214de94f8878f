"""The tables of the results store: explicit, versioned Arrow schemas.

A column that is not nullable is required in every row. A new column is added as nullable, with the table's version
raised: files written before it then read as null. A column's name or type never changes its meaning within a table.
"""

from __future__ import annotations

import datetime
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import NoneType
from typing import Any, NamedTuple

import pyarrow as pa

Row = Mapping[str, Any]

STATUSES = ("done", "failed")
_TIMESTAMP = pa.timestamp("us", tz="UTC")
_WHOLE = {int, NoneType}


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


# Where a number came from: enough to run it again and to explain it.
_PROVENANCE = [
    _required("qstudy_version", pa.string()),
    _required("package_versions", pa.string()),  # JSON object: distribution -> version
    pa.field("git_revision", pa.string()),
    pa.field("device", pa.string()),
    _required("seeds", pa.string()),  # JSON
    _required("config", pa.string()),  # JSON: the full resolved configuration
    pa.field("host", pa.string()),
]


class Field(NamedTuple):
    """A column of a table."""

    name: str
    type: pa.DataType
    nullable: bool
    is_integer: bool
    is_time: bool


@dataclass(frozen=True)
class TableSchema:
    """One table of the store: its name, its version, and its columns (the first is its key)."""

    name: str
    version: int
    columns: pa.Schema

    @property
    def key(self) -> str:
        """The column that names the file (or the folder) that a row lies in."""
        return str(self.columns.names[1])

    @cached_property
    def fields(self) -> list[Field]:
        """The columns as plain values: Arrow makes its objects anew each time they are asked for."""
        return [_field(field) for field in self.columns]


def _field(field: pa.Field) -> Field:
    is_integer, is_time = pa.types.is_integer(field.type), pa.types.is_timestamp(field.type)
    return Field(field.name, field.type, field.nullable, is_integer, is_time)


def _table(name: str, version: int, columns: list[pa.Field]) -> TableSchema:
    return TableSchema(name, version, pa.schema([_required("schema_version", pa.int32()), *columns]))


VARIANTS = _table(
    "variants",
    1,
    [
        _required("variant_id", pa.string()),
        _required("model", pa.string()),
        _required("method", pa.string()),
        _required("scheme", pa.string()),
        pa.field("method_version", pa.int32()),
        _required("parameters", pa.string()),  # JSON object
        pa.field("calibration", pa.string()),  # JSON object; null for a method that needs none
        pa.field("seed", pa.int64()),
        _required("status", pa.string()),
        pa.field("failure_kind", pa.string()),
        pa.field("failure_message", pa.string()),
        pa.field("num_linears", pa.int32()),
        pa.field("effective_bits", pa.float64()),
        pa.field("max_relative_error", pa.float64()),
        pa.field("audit", pa.string()),  # JSON: one entry per linear
        pa.field("quantize_seconds", pa.float64()),
        pa.field("peak_memory_bytes", pa.int64()),
        _required("created_at", _TIMESTAMP),
        *_PROVENANCE,
    ],
)

# One row per (cell, metric, filter); a failed cell is one row with metric "" and a null value.
CELLS = _table(
    "cells",
    1,
    [
        _required("cell_id", pa.string()),
        _required("variant_id", pa.string()),
        _required("model", pa.string()),
        _required("method", pa.string()),
        _required("scheme", pa.string()),
        _required("method_label", pa.string()),  # the method with its parameters that are not the defaults
        _required("task", pa.string()),
        _required("task_group", pa.string()),
        pa.field("task_version", pa.string()),
        pa.field("num_fewshot", pa.int32()),
        _required("metric", pa.string()),
        _required("filter", pa.string()),
        pa.field("value", pa.float64()),
        pa.field("stderr", pa.float64()),
        pa.field("num_items", pa.int64()),
        pa.field("higher_is_better", pa.bool_()),
        _required("is_primary", pa.bool_()),  # the metric that tables show
        _required("status", pa.string()),
        pa.field("failure_kind", pa.string()),
        pa.field("failure_message", pa.string()),
        pa.field("attempts", pa.int32()),
        pa.field("seconds", pa.float64()),
        pa.field("num_forwards", pa.int64()),
        _required("finished_at", _TIMESTAMP),
        *_PROVENANCE,
    ],
)

# One row per request: a likelihood fills `logprob`, a generation fills `response`.
SAMPLES = _table(
    "samples",
    3,
    [
        _required("cell_id", pa.string()),
        _required("request_key", pa.string()),
        _required("request_index", pa.int64()),
        pa.field("doc_id", pa.int64()),
        _required("request_type", pa.string()),
        pa.field("arguments", pa.string()),  # JSON
        pa.field("response", pa.string()),
        pa.field("logprob", pa.float64()),
        pa.field("is_greedy", pa.bool_()),  # greedy decoding gives the continuation; null where no metric reads it
        # Version 1 had two columns more, for batches of fixed requests; nothing ever read them.
        pa.field("target", pa.string()),  # version 3: the item's right answer, for people to read
    ],
)

# One row per (item, filter, metric): what paired tests and flips are made from.
SCORES = _table(
    "scores",
    2,
    [
        _required("cell_id", pa.string()),
        _required("doc_id", pa.int64()),
        _required("filter", pa.string()),
        _required("metric", pa.string()),
        _required("value", pa.float64()),
        # Version 2: what the item shares with others, such as a passage or a subject; standard errors allow for it.
        pa.field("cluster", pa.string()),
    ],
)


def to_arrow(schema: TableSchema, rows: Sequence[Row]) -> pa.Table:
    """Rows as an Arrow table of the schema; `schema_version` is filled in.

    Raises ValueError that names table, row and column for an unknown column, a missing required one, or a value that
    is not of the column's type.
    """
    names = [field.name for field in schema.fields]
    given = set().union(*rows)
    if unknown := min(given - set(names), default=None):
        index = next(index for index, row in enumerate(rows) if unknown in row)
        raise ValueError(f"{schema.name} row {index}: unknown column {unknown!r}; columns are {', '.join(names)}")
    arrays = [pa.array([schema.version] * len(rows), pa.int32())]
    for field in schema.fields[1:]:
        values = [row.get(field.name) for row in rows] if field.name in given else [None] * len(rows)
        arrays.append(_column(schema, field, values))
    return pa.Table.from_arrays(arrays, schema=schema.columns)


def _column(schema: TableSchema, field: Field, values: list[Any]) -> pa.Array:
    kinds = set(map(type, values))
    # Few columns need a look at each value; it took longer than Arrow's own work.
    if (NoneType in kinds and not field.nullable) or field.is_time or (field.is_integer and not kinds <= _WHOLE):
        _check_values(schema, field, values)
    try:
        return pa.array(values, type=field.type)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{schema.name}: column {field.name!r} takes {field.type}: {error}") from error


def _check_values(schema: TableSchema, field: Field, values: list[Any]) -> None:
    """Refuse what Arrow would let pass: a null in a required column, a cut-off fraction, a time without a zone."""
    for index, value in enumerate(values):
        complaint = None
        if value is None:
            complaint = None if field.nullable else "is required"
        elif field.is_integer and not isinstance(value, numbers.Integral):
            complaint = f"takes a whole number, not {value!r}"
        elif field.is_time and isinstance(value, datetime.datetime) and value.tzinfo is None:
            complaint = f"takes a time with a time zone, not {value!r}"
        if complaint:
            raise ValueError(f"{schema.name} row {index}: column {field.name!r} {complaint}")


def check_columns(schema: TableSchema, found: pa.Schema, *, version: int) -> None:
    """Raise ValueError where a file of today's `version` does not have exactly today's columns."""
    if version == schema.version and (found.names != schema.columns.names or found.types != schema.columns.types):
        raise ValueError(f"its columns are not those of table {schema.name!r}, version {version}")


def conform(schema: TableSchema, table: pa.Table, names: Sequence[str]) -> pa.Table:
    """The columns `names` of a table read from a file, of today's types; those that an older file lacks are null.

    Raises ValueError where a value does not fit.
    """
    # Fields that older files lack hold nulls, whatever is required today.
    fields = [schema.columns.field(name).with_nullable(True) for name in names]
    return pa.Table.from_arrays([_as_field(table, field) for field in fields], schema=pa.schema(fields))


def _as_field(table: pa.Table, field: pa.Field) -> pa.ChunkedArray:
    if field.name not in table.column_names:
        return pa.chunked_array([pa.nulls(len(table), field.type)])
    column = table[field.name]
    return column if column.type == field.type else column.cast(field.type)


def to_rows(table: pa.Table) -> list[dict[str, Any]]:
    """An Arrow table as rows. Equal texts are one object: a study repeats most of them in every row."""
    columns = [_texts(column) if pa.types.is_string(column.type) else column.to_pylist() for column in table.columns]
    names = table.column_names
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def _texts(column: pa.ChunkedArray) -> list[str | None]:
    encoded = column.combine_chunks().dictionary_encode()
    texts = encoded.dictionary.to_pylist()
    return [None if index is None else texts[index] for index in encoded.indices.to_pylist()]
