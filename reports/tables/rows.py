"""The rows of a table: variants in order, one row for all seeds of a variant, and the noise floor of full precision."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from grids.errors import GridError
from reports.statistics import Key
from reports.tables.grid import REFERENCE_SCHEME, Entry, Layout, model_labels
from reports.tables.model import RowKind
from reports.tables.spec import Axis, TableSpec

# What a full-precision row shows in place of a method.
NO_METHOD = "-"
NOISE_FLOOR = "noise floor"
AXIS_TITLES: Mapping[Axis, str] = {"model": "Model", "scheme": "Scheme", "method": "Method"}


@dataclass(frozen=True, kw_only=True)
class RowSource:
    """What a row is made from: one variant, or the seeds of one; `references` is the full precision of each of these.

    `names` are model, scheme and method label as the study has them. `is_reference` marks full precision itself.
    """

    kind: RowKind
    names: Mapping[Axis, str]
    labels: tuple[str, ...]
    variant_ids: Key
    references: Key = ()
    seed: int | None = None

    @property
    def is_reference(self) -> bool:
        return self.names["scheme"] == REFERENCE_SCHEME

    @property
    def key(self) -> Key:
        """The row's columns in score matrices."""
        return self.variant_ids


@dataclass(frozen=True, kw_only=True)
class _Variant:
    variant_id: str
    names: Mapping[Axis, str]
    seed: int | None


def find_rows(layout: Layout, spec: TableSpec) -> list[RowSource]:
    """The rows of a table, in order. Raises GridError where the spec's label columns cannot tell them apart."""
    variants = [_variant(variant_id, entries) for variant_id, entries in layout.variants.items()]
    _check_labels_suffice(variants, spec)
    labels = _Labels(variants, spec)
    alike: dict[tuple[str, ...], list[_Variant]] = defaultdict(list)
    for variant in variants:
        alike[tuple(variant.names.values())].append(variant)
    rows = []
    for members in sorted(alike.values(), key=lambda members: _place(members[0], layout, spec)):
        rows += _rows_of(sorted(members, key=_seed_order), variants, labels, spec)
    return rows


def _variant(variant_id: str, entries: Sequence[Entry]) -> _Variant:
    first = entries[0]
    return _Variant(
        variant_id=variant_id,
        names={"model": first.model, "scheme": first.scheme, "method": first.method_label},
        seed=next((entry.seed for entry in entries if entry.seed is not None), None),
    )


def _check_labels_suffice(variants: Sequence[_Variant], spec: TableSpec) -> None:
    for axis in AXIS_TITLES:
        kept = [variant for variant in variants if axis == "model" or variant.names["scheme"] != REFERENCE_SCHEME]
        values = sorted({variant.names[axis] for variant in kept})
        if axis not in spec.rows and len(values) > 1:
            raise GridError(
                f"{axis!r} is left out, and the table has several: {', '.join(values)}; add it, or choose one with "
                f"only.{axis}s",
                file=f"table {spec.name}",
                key="rows",
            )


def _place(variant: _Variant, layout: Layout, spec: TableSpec) -> tuple[int, ...]:
    # Full precision comes first among what it is compared with, also where rows are sorted by method.
    places = {axis: layout.places[axis][variant.names[axis]] for axis in AXIS_TITLES}
    if variant.names["scheme"] == REFERENCE_SCHEME:
        places |= {"scheme": -1, "method": -1}
    return tuple(places[axis] for axis in dict.fromkeys((*spec.rows, *AXIS_TITLES)))


def _seed_order(variant: _Variant) -> tuple[int, str]:
    return (-1 if variant.seed is None else variant.seed, variant.variant_id)


class _Labels:
    """A row's label texts."""

    def __init__(self, variants: Sequence[_Variant], spec: TableSpec) -> None:
        self._spec = spec
        self._short = model_labels(variant.names["model"] for variant in variants)

    def texts(self, names: Mapping[Axis, str], addition: str = "") -> tuple[str, ...]:
        """The labels of a row; an `addition` stands with the method, or with the last label where there is none."""
        shown = {axis: self._text(axis, names) for axis in self._spec.rows}
        place: Axis = "method" if "method" in shown else self._spec.rows[-1]
        shown[place] += f" ({addition})" if addition else ""
        return tuple(shown.values())

    def _text(self, axis: Axis, names: Mapping[Axis, str]) -> str:
        name, labels = names[axis], self._spec.labels
        if axis == "model":
            return labels.models.get(name) or labels.models.get(self._short[name]) or self._short[name]
        if axis == "scheme":
            return labels.schemes.get(name, name)
        if names["scheme"] == REFERENCE_SCHEME:
            return labels.methods.get(name, NO_METHOD)
        return labels.methods.get(name, name)


def _rows_of(alike: list[_Variant], variants: list[_Variant], labels: _Labels, spec: TableSpec) -> list[RowSource]:
    """The rows of variants that share all labels: each, then all seeds together, then how far these are apart."""
    names, seeds = alike[0].names, [variant.seed for variant in alike]
    are_seeds = len(alike) > 1 and None not in seeds and len(set(seeds)) == len(seeds)
    rows = []
    for variant in alike:
        addition = "" if len(alike) == 1 else _difference(variant, are_seeds=are_seeds)
        rows.append(
            RowSource(
                kind="variant",
                names=names,
                labels=labels.texts(names, addition),
                variant_ids=(variant.variant_id,),
                references=_reference(variant, variants),
                seed=variant.seed,
            )
        )
    if not are_seeds:
        return rows
    references = [row.references for row in rows]
    mean = replace(
        rows[0],
        kind="mean",
        labels=labels.texts(names, f"mean of {len(rows)} seeds"),
        seed=None,
        variant_ids=tuple(variant.variant_id for variant in alike),
        # Without a full precision for each seed, the mean has none to be compared with.
        references=tuple(dict.fromkeys(sum(references, ()))) if all(references) else (),
    )
    shown = {"each": rows, "mean": [mean], "both": [*rows, mean]}[spec.seeds]
    if rows[0].is_reference and spec.noise_floor:
        told = ", ".join(map(str, seeds))
        texts = labels.texts(names, f"{NOISE_FLOOR}, seeds {told}")
        shown.append(replace(mean, kind="noise_floor", labels=texts, references=()))
    return shown


def _difference(variant: _Variant, *, are_seeds: bool) -> str:
    """What tells apart variants of one model, scheme and method: their seeds, else their ids."""
    return f"seed {variant.seed}" if are_seeds else f"variant {variant.variant_id[:8]}"


def _reference(variant: _Variant, variants: Sequence[_Variant]) -> Key:
    """The full precision to compare with: the model's only one, or of several the one with the same seed."""
    if variant.names["scheme"] == REFERENCE_SCHEME:
        return ()
    found = [
        other
        for other in variants
        if other.names["scheme"] == REFERENCE_SCHEME and other.names["model"] == variant.names["model"]
    ]
    if len(found) > 1:
        found = [other for other in found if other.seed == variant.seed]
    return (found[0].variant_id,) if len(found) == 1 else ()
