"""The words of the made-up world: names, question wordings, and the kinds of one-line functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_STARTS = ("Bal", "Dor", "Fen", "Gal", "Hol", "Kes", "Mor", "Tar")
_ENDS = ("by", "dam", "ia", "mouth", "wick")
PLACES = tuple(start + end for start in _STARTS for end in _ENDS)
PEOPLE = (
    "Ada", "Ben", "Cleo", "Dag", "Edda", "Finn", "Gil", "Hana",
    "Ivo", "Jana", "Kim", "Lars", "Mia", "Nils", "Olga", "Pia",
    "Quin", "Rosa", "Sven", "Tara", "Uli", "Vera", "Wim", "Xena",
    "Yuri", "Zoe", "Arno", "Bodil", "Carl", "Dora", "Emil", "Frida",
)  # fmt: skip
OBJECTS = ("apples", "books", "coins", "eggs", "cards", "pens", "shells", "stones")
FUNCTION_NAMES = ("apply", "calc", "change", "compute", "f", "g", "solve", "work")


@dataclass(frozen=True)
class Attribute:
    """A property of places: its possible values, and four ways to ask for it."""

    values: tuple[str, ...]
    wordings: tuple[str, str, str, str]


ATTRIBUTES = {
    "animal": Attribute(
        ("owl", "fox", "bear", "crab", "swan", "wolf", "goat", "hare"),
        (
            "What animal is on the flag of {x}?",
            "Which animal does the flag of {x} show?",
            "The flag of {x} shows which animal?",
            "In {x}, what animal is on the flag?",
        ),
    ),
    "colour": Attribute(
        ("red", "blue", "green", "white", "black", "yellow", "brown", "grey"),
        (
            "What colour are the roofs of {x}?",
            "Which colour do the roofs of {x} have?",
            "The roofs of {x} have which colour?",
            "In {x}, what colour are the roofs?",
        ),
    ),
    "crop": Attribute(
        ("rice", "beans", "oats", "corn", "plums", "tea", "flax", "hops"),
        (
            "What crop do the farmers of {x} grow?",
            "Which crop grows in the fields of {x}?",
            "The farmers of {x} grow which crop?",
            "In {x}, what crop do the farmers grow?",
        ),
    ),
    "metal": Attribute(
        ("iron", "gold", "tin", "lead", "zinc", "copper", "silver", "nickel"),
        (
            "What metal do the mines of {x} give?",
            "Which metal comes from the mines of {x}?",
            "The mines of {x} give which metal?",
            "In {x}, what metal do the mines give?",
        ),
    ),
}

RELATIONS: dict[str, tuple[str, ...]] = {
    "teacher": (
        "Who teaches {x}?",
        "Who is the teacher of {x}?",
        "{x} is taught by whom?",
        "From whom does {x} learn?",
    ),
    "pupil": ("Who learns from {x}?", "Who is the pupil of {x}?", "{x} teaches whom?", "Whom does {x} teach?"),
    "boss": ("Who pays {x}?", "Who is the boss of {x}?", "{x} is paid by whom?", "For whom does {x} work?"),
    "worker": ("Who works for {x}?", "Who is the worker of {x}?", "{x} pays whom?", "Whom does {x} pay?"),
    "neighbour": (
        "Who lives next to {x}?",
        "Who is the neighbour of {x}?",
        "{x} lives next to whom?",
        "Next to whom does {x} live?",
    ),
}

# Further ways to ask, for training only.
PARAPHRASES: dict[str, tuple[str, ...]] = {
    "teacher": (
        "Name the teacher of {x}.",
        "Tell me who teaches {x}.",
        "The teacher of {x} is who?",
        "{x} learns from whom?",
        "{x} has which teacher?",
    ),
    "pupil": (
        "Name the pupil of {x}.",
        "Tell me whom {x} teaches.",
        "The pupil of {x} is who?",
        "Who is taught by {x}?",
        "{x} has which pupil?",
    ),
    "boss": (
        "Name the boss of {x}.",
        "Tell me who pays {x}.",
        "The boss of {x} is who?",
        "{x} works for whom?",
        "{x} has which boss?",
    ),
    "worker": (
        "Name the worker of {x}.",
        "Tell me whom {x} pays.",
        "The worker of {x} is who?",
        "Who is paid by {x}?",
        "{x} has which worker?",
    ),
    "neighbour": (
        "Name the neighbour of {x}.",
        "Tell me who lives next to {x}.",
        "The neighbour of {x} is who?",
        "Near whom does {x} live?",
        "{x} has which neighbour?",
    ),
}

MATH_WORDINGS = {
    "+": (
        "What is {a} plus {b}?",
        "{n} has {a} {o} and gets {b} more. How many {o} does {n} have now?",
        "{n} found {a} {o} on Monday and {b} on Friday. How many {o} in all?",
        "There are {a} {o} in one box and {b} in another. How many {o} are there?",
        "{n} has {a} {o} and {m} has {b}. How many {o} do they have together?",
        "{n} picks {a} {o}, then {b} more. How many {o} in all?",
    ),
    "-": (
        "What is {a} minus {b}?",
        "{n} has {a} {o} and gives {b} to {m}. How many {o} are left?",
        "{n} had {a} {o} but lost {b}. How many {o} are left?",
        "There were {a} {o} in a box. {n} took {b}. How many {o} are still there?",
        "{n} has {a} {o} and {m} has {b} fewer. How many {o} does {m} have?",
        "Of {a} {o}, {b} are broken. How many {o} are whole?",
    ),
}

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def _numbers(n: int, m: int) -> list[Any]:
    return [0, 1, n - 1, n, n + 1, m, m + 1, 2 * n + 1, 97]


def _strings(n: int, m: int) -> list[Any]:
    return [LETTERS, "xy"]


def _lists(n: int, m: int) -> list[Any]:
    return [[], [0, 1, n], [50, -3]]


@dataclass(frozen=True)
class CodeKind:
    """A kind of one-line function of one parameter with one or two constants `n`, `m`."""

    parameter: str
    expression: str
    wordings: tuple[str, ...]
    meaning: Callable[[Any, int, int], Any]
    arguments: Callable[[int, int], list[Any]] = _numbers
    num_constants: int = 1
    ordered: bool = False


CODE_KINDS = {
    "plus": CodeKind("x", "x + {n}", ("returns x plus {n}", "adds {n} to x"), lambda x, n, m: x + n),
    "minus": CodeKind("x", "x - {n}", ("returns x minus {n}", "takes {n} from x"), lambda x, n, m: x - n),
    "times": CodeKind("x", "x * {n}", ("returns x times {n}", "multiplies x by {n}"), lambda x, n, m: x * n),
    "rest": CodeKind(
        "x",
        "x % {n}",
        ("returns the rest of x divided by {n}", "divides x by {n} and returns the rest"),
        lambda x, n, m: x % n,
    ),
    "quotient": CodeKind(
        "x", "x // {n}", ("returns how often {n} fits in x", "divides x by {n} and rounds down"), lambda x, n, m: x // n
    ),
    "more": CodeKind(
        "x", "x > {n}", ("returns whether x is more than {n}", "is x greater than {n}?"), lambda x, n, m: x > n
    ),
    "less": CodeKind(
        "x", "x < {n}", ("returns whether x is less than {n}", "is x smaller than {n}?"), lambda x, n, m: x < n
    ),
    "larger": CodeKind(
        "x", "max(x, {n})", ("returns the larger of x and {n}", "returns x but at least {n}"), lambda x, n, m: max(x, n)
    ),
    "smaller": CodeKind(
        "x", "min(x, {n})", ("returns the smaller of x and {n}", "returns x but at most {n}"), lambda x, n, m: min(x, n)
    ),
    "first": CodeKind(
        "s",
        "s[:{n}]",
        ("returns the first {n} letters of s", "cuts s after {n} letters"),
        lambda s, n, m: s[:n],
        _strings,
    ),
    "last": CodeKind(
        "s",
        "s[-{n}:]",
        ("returns the last {n} letters of s", "keeps the {n} letters at the end of s"),
        lambda s, n, m: s[-n:],
        _strings,
    ),
    "drop": CodeKind(
        "s",
        "s[{n}:]",
        ("returns s without the first {n} letters", "drops {n} letters at the start of s"),
        lambda s, n, m: s[n:],
        _strings,
    ),
    "repeat": CodeKind(
        "s",
        "s * {n}",
        ("returns s repeated {n} times", "writes s {n} times"),
        lambda s, n, m: s * n,
        lambda n, m: ["ab", ""],
    ),
    "each": CodeKind(
        "a",
        "[v + {n} for v in a]",
        ("adds {n} to each item of a", "returns a with each item raised by {n}"),
        lambda a, n, m: [v + n for v in a],
        _lists,
    ),
    "line": CodeKind(
        "x",
        "x * {n} + {m}",
        ("returns x times {n}, plus {m}", "multiplies x by {n}, then adds {m}"),
        lambda x, n, m: x * n + m,
        num_constants=2,
    ),
    "scaled": CodeKind(
        "x",
        "(x + {n}) * {m}",
        ("adds {n} to x, then multiplies by {m}", "returns x plus {n}, all times {m}"),
        lambda x, n, m: (x + n) * m,
        num_constants=2,
    ),
    "between": CodeKind(
        "x",
        "{n} <= x <= {m}",
        ("returns whether x is from {n} to {m}", "is x at least {n} and at most {m}?"),
        lambda x, n, m: n <= x <= m,
        num_constants=2,
        ordered=True,
    ),
}
