"""The study's four questions as comparisons of its cells: what is held against what, and why where nothing is."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from reports.findings.claims import Claim, Question, claims
from reports.findings.material import Material, Pair, Side, Unit
from reports.statistics import Key
from reports.tables import REFERENCE_SCHEME, TaskColumn

FULL_PRECISION = "full precision"
# What other methods are held against where the paper compares them with nothing: rounding to the nearest, the least
# that a method can do.
PLAIN_METHOD = "rtn"
PLAIN_GROUP = "general"
# A question with more comparisons than this leaves the others to the tables.
MAX_TOPICS = 12
_WEIGHT_ONLY, _WITH_ACTIVATIONS = "w*a16*", "w*a[2-8]*"
_TUNED = frozenset({"instruct", "chat", "it", "sft"})
_BASE = "base"


@dataclass(frozen=True, kw_only=True)
class Topic:
    """`first` against `second`, with all pairs that the study is to have; without any, `reason` says why."""

    question: Question
    first: str
    second: str
    pairs: tuple[Pair, ...]
    reason: str = ""
    claim: Claim | None = None

    @property
    def is_relative(self) -> bool:
        """Whether changes from full precision are compared, and not scores."""
        return self.question in ("task_category", "model_type")


def find_topics(material: Material) -> tuple[list[Topic], int]:
    """What the paper claims and what else the study can answer, by question; and how many more there would be."""
    finders: dict[Question, Callable[[Material, Sequence[Claim]], list[Topic]]] = {
        "bit_width": _bit_widths,
        "method": _methods,
        "task_category": _task_categories,
        "model_type": _model_types,
    }
    topics: list[Topic] = []
    num_left_out = 0
    for question, find in finders.items():
        known = [claim for claim in claims() if claim.question == question]
        found = find(material, known)
        # Every claim has its finding; the others take what room is left.
        room = max(MAX_TOPICS - sum(topic.claim is not None for topic in found), 0)
        others = itertools.islice((topic for topic in found if topic.claim is None), room)
        kept = {id(topic) for topic in others} | {id(topic) for topic in found if topic.claim}
        num_left_out += len(found) - len(kept)
        # What the study can answer is read first.
        topics += sorted((topic for topic in found if id(topic) in kept), key=lambda topic: not topic.pairs)
    return topics, num_left_out


def _bit_widths(material: Material, known: Sequence[Claim]) -> list[Topic]:
    """Each bit width against full precision, and against the next one below it."""
    bits = _in_order(unit.bits for unit in material.units)
    topics = [_bits_topic(material, claim.first, claim.second, claim) for claim in known]
    told = {(claim.first, claim.second) for claim in known}
    for first in bits:
        if (first, REFERENCE_SCHEME) not in told:
            topics.append(_bits_topic(material, first, REFERENCE_SCHEME))
    for pattern in (_WEIGHT_ONLY, _WITH_ACTIVATIONS):
        alike = [name for name in bits if fnmatchcase(name, pattern)]
        for first, second in itertools.pairwise(alike):
            topic = _bits_topic(material, first, second)
            if (first, second) not in told and topic.pairs:
                topics.append(topic)
    # The cost of a width is read before what a width gains over another.
    return sorted(topics, key=lambda topic: (topic.second != FULL_PRECISION, _place_of_bits(topic.first)))


def _in_order(bits: Iterable[str]) -> list[str]:
    return sorted(set(bits), key=_place_of_bits)


def _place_of_bits(bits: str) -> tuple[bool, list[int]]:
    """Bit widths from many to few, those of weights alone first."""
    return not fnmatchcase(bits, _WEIGHT_ONLY), [-int(width) for width in re.findall(r"\d+", bits)]


def _bits_topic(material: Material, first: str, second: str, claim: Claim | None = None) -> Topic:
    ours = [unit for unit in material.units if unit.bits == first]
    if second == REFERENCE_SCHEME:
        pairs = [
            _pair(column, unit.variant_ids, unit.references, [unit])
            for unit in ours
            for column in _common(material, unit.variant_ids, unit.references)
        ]
        reason = "the study has no full precision to compare with" if ours else _lacking(material, first)
        return _topic("bit_width", first, FULL_PRECISION, pairs, reason, claim)
    theirs = [unit for unit in material.units if unit.bits == second]
    matched = _matched(ours, theirs, lambda unit: (unit.model, unit.label, unit.group_size))
    pairs = _score_pairs(material, matched)
    lacking = [name for name, units in ((first, ours), (second, theirs)) if not units]
    reason = _lacking(material, *lacking) if lacking else "no model has both under one method and group size"
    return _topic("bit_width", first, second, pairs, reason, claim)


def _lacking(material: Material, *bits: str) -> str:
    has = ", ".join(_in_order(unit.bits for unit in material.units)) or "no quantized model"
    return f"the study has {has}, and no {' and no '.join(bits)}"


def _methods(material: Material, known: Sequence[Claim]) -> list[Topic]:
    """The methods that the paper compares, and every other one against plain rounding."""
    topics = [_method_topic(material, claim.first, claim.second, claim.schemes, claim) for claim in known]
    methods = list(dict.fromkeys(unit.method for unit in material.units))
    if PLAIN_METHOD in methods:
        others = [(method, PLAIN_METHOD) for method in methods if method != PLAIN_METHOD]
    else:
        told = {frozenset((claim.first, claim.second)) for claim in known}
        others = [pair for pair in itertools.combinations(methods, 2) if frozenset(pair) not in told]
    for pattern in (_WEIGHT_ONLY, _WITH_ACTIVATIONS):
        found = (_method_topic(material, first, second, pattern) for first, second in others)
        topics += [topic for topic in found if topic.pairs]
    return topics


def _method_topic(material: Material, first: str, second: str, schemes: str, claim: Claim | None = None) -> Topic:
    among = [unit for unit in material.units if fnmatchcase(unit.bits, schemes)]
    ours, theirs = ([unit for unit in among if unit.method == name] for name in (first, second))
    pairs = _score_pairs(material, _matched(ours, theirs, lambda unit: (unit.model, unit.scheme)))
    lacking = [name for name, units in ((first, ours), (second, theirs)) if not units]
    where = " among its weight-only variants" if schemes.startswith("w*a16") else f" at {schemes}"
    reason = f"the study has no {' and no '.join(lacking)}{where}" if lacking else "no model and scheme has both"
    return _topic("method", first, second, pairs, reason, claim)


def _task_categories(material: Material, known: Sequence[Claim]) -> list[Topic]:
    """Each group of tasks against the general ones: how much of full precision is kept."""
    groups = list(dict.fromkeys(column.group for column in material.columns))
    topics = [_category_topic(material, claim.first, claim.second, claim) for claim in known]
    told = {claim.first for claim in known}
    if PLAIN_GROUP in groups:
        others = [group for group in groups if group not in (PLAIN_GROUP, *told)]
        topics += [_category_topic(material, group, PLAIN_GROUP) for group in others]
    return topics


def _category_topic(material: Material, first: str, second: str, claim: Claim | None = None) -> Topic:
    pairs = []
    for unit in material.units:
        columns = _common(material, unit.variant_ids, unit.references)
        sides = [
            Side(tuple(column for column in columns if column.group == group), unit.variant_ids, unit.references)
            for group in (first, second)
        ]
        if unit.references and all(side.columns for side in sides):
            pairs.append(_pair_of(sides[0], sides[1], [unit]))
    present = {column.group for column in material.columns}
    lacking = [group for group in (first, second) if group not in present]
    reason = f"the study has no {' and no '.join(lacking)} tasks" if lacking else "no quantized model has both"
    return _topic("task_category", first, second, pairs, reason, claim)


def _model_types(material: Material, known: Sequence[Claim]) -> list[Topic]:
    """Every instruction-tuned model against the base model of its family."""
    families = _families(list(dict.fromkeys(unit.model for unit in material.units)))
    topics = []
    for claim in known:
        for tuned, base in families:
            topic = _model_topic(material, tuned, base)
            topics.append(replace(topic, claim=claim))
        if not families:
            reason = "the study has no base and instruction-tuned model of one family (told by their names)"
            topics.append(_topic("model_type", claim.first, claim.second, [], reason, claim))
    return topics


def _families(models: Sequence[str]) -> list[tuple[str, str]]:
    """Models whose names differ in nothing but words such as instruct and base: the tuned one, and its base."""
    tuned: dict[tuple[str, ...], str] = {}
    plain: dict[tuple[str, ...], str] = {}
    for model in models:
        words = re.split(r"[-_.\s]+", model.rstrip("/").rsplit("/", 1)[-1].lower())
        stem = tuple(word for word in words if word not in _TUNED and word != _BASE)
        (tuned if _TUNED & set(words) else plain).setdefault(stem, model)
    return [(model, plain[stem]) for stem, model in tuned.items() if stem in plain]


def _model_topic(material: Material, tuned: str, base: str) -> Topic:
    ours, theirs = ([unit for unit in material.units if unit.model == model] for model in (tuned, base))
    pairs = []
    for members in _matched(ours, theirs, lambda unit: (unit.label, unit.scheme)):
        (mine, mine_full), (other, other_full) = (
            (_joined(unit.variant_ids for unit in units), _joined(unit.references for unit in units))
            for units in members
        )
        columns = tuple(_common(material, mine + mine_full, other + other_full))
        if columns and mine_full and other_full:
            sides = Side(columns, mine, mine_full), Side(columns, other, other_full)
            pairs.append(_pair_of(*sides, [*members[0], *members[1]]))
    names = material.models
    return _topic("model_type", names[tuned], names[base], pairs, "they share no method, scheme and task")


# ---- pairs


def _matched(
    ours: Sequence[Unit], theirs: Sequence[Unit], key: Callable[[Unit], Hashable]
) -> list[tuple[list[Unit], list[Unit]]]:
    """The units of either side that share a key."""
    sides: dict[Hashable, tuple[list[Unit], list[Unit]]] = defaultdict(lambda: ([], []))
    for units, place in ((ours, 0), (theirs, 1)):
        for unit in units:
            sides[key(unit)][place].append(unit)
    return [members for members in sides.values() if members[0] and members[1]]


def _score_pairs(material: Material, matched: Iterable[tuple[list[Unit], list[Unit]]]) -> list[Pair]:
    pairs = []
    for first, second in matched:
        ours, theirs = (_joined(unit.variant_ids for unit in units) for units in (first, second))
        pairs += [_pair(column, ours, theirs, [*first, *second]) for column in _common(material, ours, theirs)]
    return pairs


def _common(material: Material, first: Key, second: Key) -> list[TaskColumn]:
    """The columns that the study is to have for all of these variants; none without variants."""
    if not first or not second:
        return []
    return [column for column in material.columns if material.has(column, first) and material.has(column, second)]


def _pair(column: TaskColumn, first: Key, second: Key, units: Sequence[Unit]) -> Pair:
    return _pair_of(Side((column,), first), Side((column,), second), units)


def _pair_of(first: Side, second: Side, units: Sequence[Unit]) -> Pair:
    return Pair(
        first=first,
        second=second,
        models=tuple(dict.fromkeys(unit.model for unit in units)),
        methods=tuple(dict.fromkeys(unit.method for unit in units)),
        schemes=tuple(dict.fromkeys(unit.scheme for unit in units)),
    )


def _topic(
    question: Question, first: str, second: str, pairs: Sequence[Pair], reason: str, claim: Claim | None = None
) -> Topic:
    return Topic(
        question=question,
        first=first,
        second=second,
        pairs=tuple(pairs),
        reason="" if pairs else reason,
        claim=claim,
    )


def _joined(keys: Iterable[Key]) -> Key:
    return tuple(dict.fromkeys(name for key in keys for name in key))
