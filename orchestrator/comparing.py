"""`qstudy compare`: which variants are meant, whether they may be compared, and what a limit on drops says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grids import GridError
from grids.identity import differing_fields
from orchestrator.selection import Cell, select_variants
from orchestrator.study_directory import StudyDirectory
from reports import ResultStore
from reports.flips import Flips, find_flips, flip_json
from reports.pairing import Pair, PairedScore, Side, compare_pairs
from reports.statistics import SIGNIFICANCE

_MAX_NAMED = 8


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a limit on drops says: `drops` beyond it that are significant, what cannot be judged and why, and what the
    tests are too weak for: scores whose minimum detectable difference is larger than the limit.
    """

    max_drop: float
    drops: tuple[str, ...]
    unjudged: tuple[str, ...]
    blind: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Comparisons:
    """The pairs of a study that were compared; `num_tests` is how many tests the p-values are corrected for."""

    study: str
    pairs: tuple[Pair, ...]
    num_tests: int
    store: ResultStore

    def flips(self, score: PairedScore, limit: int) -> Flips | None:
        """The items gained and lost on a task; None for an average, and where nothing was compared."""
        if score.cell_ids is None or score.comparison is None:
            return None
        return find_flips(self.store, score.cell_ids, score.metric, limit=limit)

    def judge(self, max_drop: float) -> Verdict:
        """Hold every task and average against a limit in points.

        A drop counts where it is larger than the limit and its two-sided paired test, corrected (Holm) for all tests of
        this comparison, rejects "no difference" at 5 %.
        """
        drops, unjudged, blind = [], [], []
        for pair in self.pairs:
            for score in pair.scores:
                name = f"{score.task}, {pair.a.label} -> {pair.b.label}"
                found = score.comparison
                if found is None or not score.is_percentage or score.drop is None or found.adjusted_p is None:
                    reason = score.problem or "its metric is not in percent, and a limit in points says nothing of it"
                    unjudged.append(f"{name}: {reason}")
                    continue
                if score.drop > max_drop and found.adjusted_p < SIGNIFICANCE:
                    drops.append(f"{name}: a drop of {score.drop:.1f} points, p {found.adjusted_p:.2g} after Holm")
                elif found.minimum_detectable is not None and found.minimum_detectable > max_drop:
                    blind.append(f"{name}: {found.minimum_detectable:.1f}")
            unjudged += [f"{task}: only one of {pair.a.label} and {pair.b.label} has it" for task in pair.unshared]
        return Verdict(max_drop=max_drop, drops=tuple(drops), unjudged=tuple(unjudged), blind=tuple(blind))

    def to_json(self, *, flips_limit: int | None = None) -> dict[str, Any]:
        return {
            "study": self.study,
            "num_tests": self.num_tests,
            "pairs": [self._pair_json(pair, flips_limit) for pair in self.pairs],
        }

    def _pair_json(self, pair: Pair, flips_limit: int | None) -> dict[str, Any]:
        return {
            "a": {"label": pair.a.label, "variant_id": pair.a.variant_id},
            "b": {"label": pair.b.label, "variant_id": pair.b.variant_id},
            "scores": [self._score_json(score, flips_limit) for score in pair.scores],
            "unshared_tasks": pair.unshared,
        }

    def _score_json(self, score: PairedScore, flips_limit: int | None) -> dict[str, Any]:
        found = score.comparison
        content: dict[str, Any] = {
            "task": score.task,
            "cell_ids": score.cell_ids,
            "unit": "percent" if score.is_percentage else "metric",
            "a": score.values[0],
            "b": score.values[1],
            "problem": score.problem,
            "comparison": vars(found) if found else None,
        }
        flips = None if flips_limit is None else self.flips(score, flips_limit)
        return content if flips is None else content | {"flips": [flip_json(flip) for flip in flips.shown]}


def compare_variants(folder: Path, a: str, b: str) -> Comparisons:
    """Compare what `a` names in a study with what `b` names: model by model, and seed by seed where there are several.

    Raises GridError for a folder that is not a study, a name of nothing, sides that do not pair up, that share no task,
    or that score a task differently.
    """
    directory = StudyDirectory.existing(folder)
    description = directory.description()
    sides = _paired(select_variants(description["cells"], a), select_variants(description["cells"], b))
    for one, other in sides:
        _check_comparable(one, other, description["tasks"])
    pairs = compare_pairs(directory.store, sides)
    num_tests = sum(score.comparison is not None for pair in pairs for score in pair.scores)
    return Comparisons(study=description["name"], pairs=tuple(pairs), num_tests=num_tests, store=directory.store)


def _paired(a: Mapping[str, Sequence[Cell]], b: Mapping[str, Sequence[Cell]]) -> list[tuple[Side, Side]]:
    sides = [{variant_id: _side(variant_id, cells) for variant_id, cells in each.items()} for each in (a, b)]
    if all(len(each) == 1 for each in sides):
        # One of each may be of different models, too.
        pairs = [(next(iter(sides[0].values())), next(iter(sides[1].values())))]
    else:
        by_model = [_by_model(each) for each in (a, b)]
        _check_models(by_model)
        pairs = []
        for model in by_model[0]:
            chosen = _paired_seeds(model, by_model[0][model], by_model[1][model])
            pairs += [(sides[0][one], sides[1][other]) for one, other in chosen]
    for one, other in pairs:
        if one.variant_id == other.variant_id:
            raise GridError(f"A and B are the same variant: {one.label} ({one.variant_id})")
    return pairs


def _side(variant_id: str, cells: Sequence[Cell]) -> Side:
    first = cells[0]
    return Side(
        label=_label(first) + (f" seed {first['seed']}" if first["seed"] else ""),
        variant_id=variant_id,
        cells={cell["task"]: cell for cell in cells},
    )


def _label(cell: Cell) -> str:
    return " ".join(str(cell[key]) for key in ("model", "method_label", "scheme"))


# Variants of one model: their ids, by seed.
_Seeds = dict[Any, str]


def _by_model(variants: Mapping[str, Sequence[Cell]]) -> dict[str, _Seeds]:
    """Raises GridError where a model has several variants that seeds do not tell apart."""
    models: dict[str, _Seeds] = {}
    for variant_id, cells in variants.items():
        seeds = models.setdefault(cells[0]["model"], {})
        if cells[0]["seed"] in seeds:
            model = cells[0]["model"]
            alike = [each[0] for each in variants.values() if each[0]["model"] == model]
            named = ", ".join(f"{_label(cell)} ({cell['variant_id']})" for cell in alike[:_MAX_NAMED])
            raise GridError(
                f"one side names {len(alike)} variants of {model}: {named}"
                f"{', ...' if len(alike) > _MAX_NAMED else ''}; write more of it, or a variant's id"
            )
        seeds[cells[0]["seed"]] = variant_id
    return models


def _check_models(by_model: Sequence[Mapping[str, _Seeds]]) -> None:
    only_a, only_b = ([model for model in by_model[place] if model not in by_model[1 - place]] for place in range(2))
    if only_a or only_b:
        told = [f"{side} has {', '.join(models)}" for side, models in (("A", only_a), ("B", only_b)) if models]
        raise GridError(f"models of one side only: {'; '.join(told)}; name the same with model=... on either side")


def _paired_seeds(model: str, a: _Seeds, b: _Seeds) -> list[tuple[str, str]]:
    """Each seed with its own, or all with the only one of the other side."""
    if len(b) == 1:
        return [(variant_id, next(iter(b.values()))) for variant_id in a.values()]
    if len(a) == 1:
        return [(next(iter(a.values())), variant_id) for variant_id in b.values()]
    if set(a) != set(b):
        raise GridError(f"{model}: seeds {sorted(a)} of A and {sorted(b)} of B; name one with seed=...")
    return [(a[seed], b[seed]) for seed in sorted(a)]


def _check_comparable(a: Side, b: Side, identities: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises GridError that names what differs in how a task is scored, or that no task is shared."""
    shared = [task for task in a.cells if task in b.cells]
    if not shared:
        raise GridError(
            f"A and B share no task: {a.label} has {', '.join(a.cells)}; {b.label} has {', '.join(b.cells)}"
        )
    for task in shared:
        keys = (a.cells[task]["task_key"], b.cells[task]["task_key"])
        # Families have samplers of their own; what they share must be the same.
        differing = differing_fields(identities[keys[0]], identities[keys[1]], shared_only=True)
        if keys[0] != keys[1] and differing:
            raise GridError(
                f"{task} is not scored alike for {a.label} and {b.label}: {'; '.join(differing)}; "
                "scores under different protocols are not compared"
            )
