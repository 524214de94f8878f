"""What a study has to compare: its quantized models, its columns in percent, and the cells behind them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from grids.schemes import FULL_PRECISION_BITS, parse_scheme
from reports.schemas import Row
from reports.statistics import Key, ScoreMatrix
from reports.tables import (
    REFERENCE_SCHEME,
    Layout,
    MatrixSource,
    RowSource,
    TableOrder,
    TaskColumn,
    find_rows,
    lay_out,
    model_labels,
    read_table_spec,
)


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A quantized model with all its seeds; `references` is its full precision.

    `bits` are the scheme's bit widths (w4a16), `method` is the method's own name, `label` that of tables.
    """

    model: str
    method: str
    label: str
    scheme: str
    bits: str
    group_size: int | None
    variant_ids: Key
    references: Key


@dataclass(frozen=True)
class Side:
    """One side of a comparison: the mean of some variants over some columns, and, if given, their full precision."""

    columns: tuple[TaskColumn, ...]
    variant_ids: Key
    references: Key = ()


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two sides to be compared, and the names of what they are."""

    first: Side
    second: Side
    models: tuple[str, ...]
    methods: tuple[str, ...]
    schemes: tuple[str, ...]

    @property
    def columns(self) -> tuple[TaskColumn, ...]:
        return tuple(dict.fromkeys((*self.first.columns, *self.second.columns)))


class Material:
    """The units and columns of a study; only columns in percent, for others have no points."""

    def __init__(
        self, cells: Sequence[Row], order: TableOrder | None, expected: Sequence[Row] | None, source: MatrixSource
    ) -> None:
        # As the main table is laid out, so that both are made from the same score matrices.
        spec = read_table_spec("main").model_copy(update={"seeds": "mean", "noise_floor": False})
        self._layout: Layout = lay_out(cells, spec, order or TableOrder(), expected)
        percentages = self._layout.percentages()
        self.columns = tuple(column for column in self._layout.columns if column in percentages)
        self._matrices = {
            column: _largest(source(column.title, self._layout.column_rows(column))) for column in self.columns
        }
        methods = {row["method_label"]: row["method"] for row in (*cells, *(expected or ())) if "method" in row}
        self.units = _units(find_rows(self._layout, spec), methods)
        self.models = model_labels(unit.model for unit in self.units)

    @property
    def has_items(self) -> bool:
        """Whether any column has scores of items."""
        return any(self._matrices.values())

    def has(self, column: TaskColumn, variant_ids: Key) -> bool:
        """Whether the study is to have all these cells: none is out of the grid or not applicable."""
        entries = [self._layout.entries.get((variant_id, column)) for variant_id in variant_ids]
        return all(entry is not None and (entry.row is not None or not entry.not_applicable) for entry in entries)

    def matrix(self, column: TaskColumn) -> ScoreMatrix:
        """The scores of a column's items."""
        matrix = self._matrices[column]
        assert matrix is not None, "only complete pairs have scores to ask for"
        return matrix

    def is_complete(self, pair: Pair) -> bool:
        """Whether every cell of a pair is done, and with scores of the same items."""
        return all(self._is_done(column, variant_id) for column, variant_id in _places(pair))

    def cell_ids(self, pairs: Iterable[Pair]) -> dict[str, None]:
        """The cells behind some pairs, each once, in order."""
        places = dict.fromkeys(place for pair in pairs for place in _places(pair))
        return dict.fromkeys(self._layout.entries[variant_id, column].cell_id for column, variant_id in places)

    def _is_done(self, column: TaskColumn, variant_id: str) -> bool:
        matrix = self._matrices[column]
        return matrix is not None and (variant_id,) in matrix


def _places(pair: Pair) -> list[tuple[TaskColumn, str]]:
    return [
        (column, variant_id)
        for side in (pair.first, pair.second)
        for column in side.columns
        for variant_id in (*side.variant_ids, *side.references)
    ]


def _largest(matrices: Sequence[ScoreMatrix]) -> ScoreMatrix | None:
    """The matrix of most variants: those on other items are compared with nothing."""
    return max(matrices, key=lambda matrix: len(matrix.names), default=None)


def _units(rows: Sequence[RowSource], methods: dict[str, str]) -> list[Unit]:
    """The quantized rows; those that share all names (of a store without its grid) together."""
    alike: dict[tuple[str, ...], list[RowSource]] = defaultdict(list)
    for row in rows:
        if row.names["scheme"] != REFERENCE_SCHEME:
            alike[tuple(row.names.values())].append(row)
    units = []
    for members in alike.values():
        names = members[0].names
        bits, group_size = _widths(names["scheme"])
        units.append(
            Unit(
                model=names["model"],
                method=methods.get(names["method"], names["method"]),
                label=names["method"],
                scheme=names["scheme"],
                bits=bits,
                group_size=group_size,
                variant_ids=_joined(row.variant_ids for row in members),
                references=_joined(row.references for row in members) if all(row.references for row in members) else (),
            )
        )
    return units


def _widths(text: str) -> tuple[str, int | None]:
    """A scheme's bit widths and group size.

    Keys and values are told where these alone are quantized beside the weights. What is no scheme stands for itself.
    """
    try:
        scheme = parse_scheme(text)
    except ValueError:
        return text, None
    bits = f"w{scheme.weight_bits}a{scheme.activation_bits}"
    is_cache_only = scheme.activation_bits == FULL_PRECISION_BITS and scheme.kv_bits < FULL_PRECISION_BITS
    return f"{bits}kv{scheme.kv_bits}" if is_cache_only else bits, scheme.group_size


def _joined(keys: Iterable[Key]) -> Key:
    return tuple(dict.fromkeys(name for key in keys for name in key))
