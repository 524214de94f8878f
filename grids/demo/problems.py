"""Generated problems of a made-up world: facts, relations, word problems and one-line functions.

Every problem belongs to the train or to the test split by a rule on its content, never by chance at
sampling time, so the splits are disjoint by construction:

* facts and relations: each fact is known in four wordings; one of them is held out for the test.
* math: 15 % of the operand pairs of each operation are held out (for `+`, in both orders).
* code: a sixth of the (kind, constants) combinations is held out, whatever the wording and the name.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .wordings import (
    ATTRIBUTES,
    CODE_KINDS,
    FUNCTION_NAMES,
    MATH_WORDINGS,
    OBJECTS,
    PARAPHRASES,
    PEOPLE,
    PLACES,
    RELATIONS,
    CodeKind,
)

WORLD_SEED = 2508_14896
NUM_CHOICES = 4
MAX_NUMBER = 39
HELD_OUT_OPERANDS = 0.15
MAX_CONSTANT = 40
MAX_CONSTANT_OF_TWO = 20
TASKS = ("demo_facts", "demo_relations", "demo_math", "demo_code")


@dataclass(frozen=True)
class Problem:
    """One problem: `prompt` + `answer` is what a model reads; `doc` is its row in the task's data file."""

    task: str
    prompt: str
    answer: str
    doc: dict[str, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Fact:
    """One fact of the world: `subject` has `answer`; its wording number `held_out` is kept for the test."""

    task: str
    relation: str
    subject: str
    answer: str
    wordings: tuple[str, ...]
    held_out: int


def seeded(key: int | str) -> random.Random:
    """A generator whose whole stream follows from `key`."""
    return random.Random(key)  # noqa: S311


def question_prompt(question: str) -> str:
    """The prompt of every question task."""
    return f"Question: {question}\nAnswer:"


class World:
    """All facts, operand pairs and code constants of the made-up world, split into train and test."""

    def __init__(self, seed: int = WORLD_SEED) -> None:
        rng = seeded(seed)
        self.seed = seed
        self.facts = _make_facts(rng)
        self.relations = _make_relations(rng)
        self.math_train, self.math_test = _split_operands(rng)
        self.code_train, self.code_test = _split_constants(rng)
        self._kinds = sorted(self.code_train)

    def sample_train(self, task: str, rng: random.Random, *, paraphrase: bool = False) -> Problem:
        """A random problem of the train split of `task`; with `paraphrase`, relations are asked in more ways."""
        if task in ("demo_facts", "demo_relations"):
            fact = rng.choice(self.facts if task == "demo_facts" else self.relations)
            seen = [wording for i, wording in enumerate(fact.wordings) if i != fact.held_out]
            if paraphrase and task == "demo_relations":
                seen += [wording.format(x=fact.subject) for wording in PARAPHRASES[fact.relation]]
            return _fact_problem(fact, rng.choice(seen), self._pool(fact), rng)
        if task == "demo_math":
            op = rng.choice("+-")
            a, b = rng.choice(self.math_train[op])
            return _math_problem(op, a, b, rng)
        if task == "demo_code":
            name = rng.choice(self._kinds)
            return _code_problem(name, rng.choice(self.code_train[name]), rng)
        raise ValueError(f"unknown demo task {task!r}; there are: {', '.join(TASKS)}")

    def test_problems(self, task: str, num_problems: int = 200) -> list[Problem]:
        """The test split of `task`: every fact once, or `num_problems` problems from what is held out."""
        rng = seeded(f"{self.seed}-test-{task}")
        if task in ("demo_facts", "demo_relations"):
            facts = self.facts if task == "demo_facts" else self.relations
            problems = [_fact_problem(fact, fact.wordings[fact.held_out], self._pool(fact), rng) for fact in facts]
            rng.shuffle(problems)  # so that the first N are as good as any
            return problems
        if task == "demo_math":
            operands = [[(op, a, b) for a, b in pairs] for op, pairs in self.math_test.items()]
            return _round_robin(operands, num_problems, rng, lambda item: _math_problem(item[0], item[1], item[2], rng))
        if task == "demo_code":
            constants = [[(name, values) for values in self.code_test[name]] for name in self._kinds]
            return _round_robin(constants, num_problems, rng, lambda item: _code_problem(item[0], item[1], rng))
        raise ValueError(f"unknown demo task {task!r}; there are: {', '.join(TASKS)}")

    def _pool(self, fact: Fact) -> tuple[str, ...]:
        return ATTRIBUTES[fact.relation].values if fact.task == "demo_facts" else PEOPLE


def _round_robin(
    strata: Sequence[list[Any]], count: int, rng: random.Random, make: Callable[[Any], Problem]
) -> list[Problem]:
    """`count` problems with distinct prompts, as many of each stratum, going round its shuffled items."""
    for items in strata:
        rng.shuffle(items)
    problems: dict[str, Problem] = {}
    for i in range(50 * count):
        items = strata[i % len(strata)]
        problem = make(items[i // len(strata) % len(items)])
        problems.setdefault(problem.prompt, problem)
        if len(problems) == count:
            return list(problems.values())
    raise ValueError(f"cannot make {count} distinct problems from what is held out")


def _make_facts(rng: random.Random) -> list[Fact]:
    facts = []
    for relation, attribute in ATTRIBUTES.items():
        for place in PLACES:
            wordings = tuple(w.format(x=place) for w in attribute.wordings)
            answer = rng.choice(attribute.values)
            facts.append(Fact("demo_facts", relation, place, answer, wordings, rng.randrange(len(wordings))))
    return facts


def _make_relations(rng: random.Random) -> list[Fact]:
    """Three relations between people: teacher and boss with their inverses, neighbour its own inverse."""
    linked: dict[str, dict[str, str]] = {}
    for forward, backward in (("teacher", "pupil"), ("boss", "worker")):
        order = rng.sample(PEOPLE, len(PEOPLE))
        linked[forward] = dict(zip(order, order[1:] + order[:1], strict=True))
        linked[backward] = {b: a for a, b in linked[forward].items()}
    order = rng.sample(PEOPLE, len(PEOPLE))
    pairs = list(zip(order[::2], order[1::2], strict=True))
    linked["neighbour"] = {a: b for pair in pairs for a, b in (pair, pair[::-1])}
    facts = []
    for relation, templates in RELATIONS.items():
        for person in PEOPLE:
            wordings = tuple(w.format(x=person) for w in templates)
            answer = linked[relation][person]
            facts.append(Fact("demo_relations", relation, person, answer, wordings, rng.randrange(len(wordings))))
    return facts


def _fact_problem(fact: Fact, question: str, pool: tuple[str, ...], rng: random.Random) -> Problem:
    others = [v for v in pool if v not in (fact.answer, fact.subject)]
    choices = [*rng.sample(others, NUM_CHOICES - 1), fact.answer]
    rng.shuffle(choices)
    doc = {"question": question, "choices": choices, "label": choices.index(fact.answer)}
    return Problem(fact.task, question_prompt(question), f" {fact.answer}", doc)


Operands = dict[str, list[tuple[int, int]]]


def _split_operands(rng: random.Random) -> tuple[Operands, Operands]:
    """Operand pairs per operation, the second of one digit; a sum is held out in both orders."""
    digits = range(1, 10)
    pairs = {
        "+": [(a, b) for a in range(1, MAX_NUMBER) for b in digits if a + b <= MAX_NUMBER],
        "-": [(a, b) for a in range(2, MAX_NUMBER + 1) for b in digits if b < a],
    }
    train: Operands = {}
    test: Operands = {}
    for op, of_op in pairs.items():
        keys = {pair: (max(pair), min(pair)) for pair in of_op}
        distinct = sorted(set(keys.values()))
        held_out = set(rng.sample(distinct, round(HELD_OUT_OPERANDS * len(distinct))))
        test[op] = [pair for pair in of_op if keys[pair] in held_out]
        train[op] = [pair for pair in of_op if keys[pair] not in held_out]
    return train, test


def _math_problem(op: str, a: int, b: int, rng: random.Random) -> Problem:
    first, second = rng.sample(PEOPLE, 2)
    wording = rng.choice(MATH_WORDINGS[op])
    question = wording.format(a=a, b=b, n=first, m=second, o=rng.choice(OBJECTS))
    answer = f"{a}{op}{b}\n#### {a + b if op == '+' else a - b}"
    return Problem("demo_math", question_prompt(question), f" {answer}", {"question": question, "answer": answer})


Constants = dict[str, list[tuple[int, ...]]]


def _split_constants(rng: random.Random) -> tuple[Constants, Constants]:
    train: Constants = {}
    test: Constants = {}
    for name, kind in sorted(CODE_KINDS.items()):
        values: list[tuple[int, ...]] = [(n,) for n in range(2, MAX_CONSTANT + 1)]
        if kind.num_constants == 2:
            two = range(2, MAX_CONSTANT_OF_TWO + 1)
            values = [(n, m) for n in two for m in two if n < m or not kind.ordered]
        rng.shuffle(values)
        cut = len(values) // 6
        test[name], train[name] = sorted(values[:cut]), sorted(values[cut:])
    return train, test


def _code_problem(name: str, constants: tuple[int, ...], rng: random.Random) -> Problem:
    kind = CODE_KINDS[name]
    n, m = (*constants, 0)[:2]
    function = rng.choice(FUNCTION_NAMES)
    comment = rng.choice(kind.wordings).format(n=n, m=m)
    prompt = f"# {comment}\ndef {function}({kind.parameter}):\n    return"
    answer = " " + kind.expression.format(n=n, m=m)
    doc = {
        "prompt": prompt,
        "canonical_solution": answer,
        "test": _code_test(kind, n, m),
        "entry_point": function,
        "kind": name,
    }
    return Problem("demo_code", prompt, answer, doc)


def _code_test(kind: CodeKind, n: int, m: int) -> str:
    """Assertions on values around the constants, with the results written out."""
    lines = ["def check(candidate):"]
    for argument in kind.arguments(n, m):
        expected = kind.meaning(argument, n, m)
        lines.append(f"    assert candidate({argument!r}) == {expected!r}")
        if isinstance(expected, bool):
            lines[-1] = f"    assert candidate({argument!r}) is {expected!r}"
    return "\n".join(lines) + "\n"
