"""From a study's cells to its findings: every topic's complete pairs, their estimates, and what these allow to say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from reports.findings import wording
from reports.findings.claims import EQUAL_WITHIN, claim_source, judge_claim
from reports.findings.material import Material, Pair, Side
from reports.findings.model import ClaimVerdict, Finding, Findings, Strength
from reports.findings.questions import FULL_PRECISION, Topic, find_topics
from reports.schemas import Row
from reports.statistics import (
    SIGNIFICANCE,
    Change,
    Estimate,
    ScoreMatrix,
    Weights,
    add_weight,
    change_of,
    estimate_changes,
    estimate_differences,
    holm,
    mean,
)
from reports.tables import MatrixSource, TableOrder

# Item scores are shares; findings are told in percent.
_POINTS = 100.0


def build_findings(
    cells: Sequence[Row],
    *,
    order: TableOrder | None = None,
    expected: Sequence[Row] | None = None,
    matrices: MatrixSource,
) -> Findings:
    """What the store's rows of `cells` say about the study's four questions.

    `order` and `expected` as for `build_study_table`; `matrices` gives the scores of items (`ItemLibrary.matrices`).
    Every claim of the paper has a finding, if only one that says why the study cannot tell; results without any scores
    of items (published ones) have a note and no findings.
    """
    material = Material(cells, order, expected, matrices)
    if not material.has_items:
        return Findings(notes=(wording.NO_ITEMS,))
    topics, num_left_out = find_topics(material)
    judge = _Judge(material, topics)
    found = tuple(judge.finding(index) for index in range(len(topics)))
    has_changes = any(finding.changes is not None for finding in found)
    return Findings(
        findings=found,
        num_tests=judge.num_tests,
        notes=wording.notes(judge.num_tests, num_left_out, claim_source(), has_changes=has_changes),
        source=claim_source(),
    )


class _Judge:
    """Estimates all topics together and makes a finding of each."""

    def __init__(self, material: Material, topics: Sequence[Topic]) -> None:
        self._material = material
        self._topics = topics
        self._complete = [_complete(material, topic) for topic in topics]
        self._estimates = self._estimated()
        adjusted = holm([estimate.p_value for estimate in self._estimates.values()])
        self._adjusted = dict(zip(self._estimates, adjusted, strict=True))
        self.num_tests = len(adjusted)

    def _estimated(self) -> dict[int, Estimate]:
        """The estimate of each topic that has a complete pair."""
        tested = [index for index, pairs in enumerate(self._complete) if pairs]
        relative = [index for index in tested if self._topics[index].is_relative]
        plain = [index for index in tested if index not in relative]
        changes = estimate_changes([[_changes(self._material, p) for p in self._complete[i]] for i in relative])
        differences = estimate_differences([_weights(self._material, self._complete[index]) for index in plain])
        estimates = dict(zip((*relative, *plain), (*changes, *differences), strict=True))
        return {index: estimates[index] for index in tested}

    def finding(self, index: int) -> Finding:
        """The finding of a topic."""
        topic, pairs = self._topics[index], self._complete[index]
        estimate = self._estimates.get(index)
        if estimate is None:
            return self._nothing(topic)
        adjusted_p = self._adjusted[index]
        strength = _strength(adjusted_p)
        low, high = estimate.interval
        is_equal = low > -EQUAL_WITHIN and high < EQUAL_WITHIN
        changes = _mean_changes(self._material, pairs) if topic.is_relative else None
        schemes = _distinct(pair.schemes for pair in pairs)
        methods = _distinct(pair.methods for pair in pairs)
        tasks = tuple(dict.fromkeys(column.title for pair in pairs for column in pair.columns))
        where = f" at {wording.joined(schemes)}" if topic.question == "method" else ""
        if changes is None:
            sentence = wording.score_sentence(topic.first, topic.second, where, estimate, strength, is_equal)
        else:
            sentence = wording.change_sentence(topic.first, topic.second, where, estimate, strength, is_equal, changes)
        models = tuple(self._material.models[model] for model in _distinct(pair.models for pair in pairs))
        all_ids = self._material.cell_ids(topic.pairs)
        used = self._material.cell_ids(pairs)
        num_cells = (len(used), len(all_ids))
        return Finding(
            question=topic.question,
            first=topic.first,
            second=topic.second,
            sentence=sentence,
            basis=wording.basis(
                models=() if topic.question == "model_type" else models,
                methods=() if topic.question == "method" else methods,
                schemes=schemes if topic.is_relative or _several_groups(topic, schemes) else (),
                tasks=tasks,
                num=num_cells,
            ),
            unit="percent of full precision" if topic.is_relative else "points",
            estimate=estimate,
            adjusted_p=adjusted_p,
            strength=strength,
            is_equal=is_equal,
            changes=changes,
            models=models,
            methods=methods,
            schemes=schemes,
            tasks=tasks,
            num_comparisons=(len(pairs), len(topic.pairs)),
            num_cells=num_cells,
            cell_ids=tuple(used),
            cell_ids_left_out=tuple(cell_id for cell_id in all_ids if cell_id not in used),
            claim=_claim(topic, estimate, adjusted_p),
        )

    def _nothing(self, topic: Topic) -> Finding:
        """The finding that there is nothing to compare, or nothing complete."""
        all_ids = tuple(self._material.cell_ids(topic.pairs))
        reason = topic.reason or f"of {len(topic.pairs)} comparisons none has both cells, with scores of items"
        return Finding(
            question=topic.question,
            first=topic.first,
            second=topic.second,
            sentence=wording.nothing_sentence(topic.first, topic.second, reason),
            basis=f"0 of {len(all_ids)} cells" if all_ids else "",
            unit="percent of full precision" if topic.is_relative else "points",
            num_comparisons=(0, len(topic.pairs)),
            num_cells=(0, len(all_ids)),
            cell_ids_left_out=all_ids,
            claim=_claim(topic, None, None),
        )


def _complete(material: Material, topic: Topic) -> list[Pair]:
    pairs = [pair for pair in topic.pairs if material.is_complete(pair)]
    if not topic.is_relative:
        return pairs
    # A full precision without a right answer has nothing to lose.
    return [pair for pair in pairs if all(_has_base(material, side) for side in (pair.first, pair.second))]


def _has_base(material: Material, side: Side) -> bool:
    return any(material.matrix(column).mean(side.references) > 0 for column in side.columns)


def _weights(material: Material, pairs: Sequence[Pair]) -> Weights:
    """All pairs count the same."""
    weights: dict[ScoreMatrix, dict[str, float]] = {}
    for pair in pairs:
        for side, sign in ((pair.first, 1.0), (pair.second, -1.0)):
            (column,) = side.columns
            of_task = weights.setdefault(material.matrix(column), {})
            add_weight(of_task, side.variant_ids, sign * _POINTS / len(pairs))
    return weights


def _changes(material: Material, pair: Pair) -> tuple[Change, Change]:
    return _change(material, pair.first), _change(material, pair.second)


def _change(material: Material, side: Side) -> Change:
    return Change(tuple(material.matrix(column) for column in side.columns), side.variant_ids, side.references)


def _mean_changes(material: Material, pairs: Sequence[Pair]) -> tuple[float, float]:
    found = [_changes(material, pair) for pair in pairs]
    return mean([change_of(first) for first, _ in found]), mean([change_of(second) for _, second in found])


def _strength(adjusted_p: float) -> Strength:
    if adjusted_p < wording.STRONG_BELOW:
        return "strong"
    return "moderate" if adjusted_p < SIGNIFICANCE else "none"


def _claim(topic: Topic, estimate: Estimate | None, adjusted_p: float | None) -> ClaimVerdict | None:
    claim = topic.claim
    if claim is None:
        return None
    if estimate is None or adjusted_p is None:
        return ClaimVerdict(name=claim.name, text=claim.text, place=claim.place, verdict="cannot tell")
    verdict = judge_claim(claim.direction, estimate, adjusted_p)
    return ClaimVerdict(name=claim.name, text=claim.text, place=claim.place, verdict=verdict)


def _several_groups(topic: Topic, schemes: Sequence[str]) -> bool:
    """Whether a bit width is not the name of the only scheme behind it."""
    return topic.question == "bit_width" and topic.second == FULL_PRECISION and schemes != (topic.first,)


def _distinct(names: Iterable[Sequence[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for each in names for name in each))
