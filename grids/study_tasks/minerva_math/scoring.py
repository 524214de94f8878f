"""MATH (arXiv 2103.03874): its items over all subjects, and how an answer is compared with the boxed one.

`math_verify` compares what the library of that name finds in the response and in the solution. `exact_match` compares
the answer of the sentence "Final Answer: The final answer is ..." after Minerva's normalisation (arXiv 2206.14858,
appendix D), as lm-eval 0.4.13 does it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import sympy
from math_verify import parse, verify
from math_verify.errors import TimeoutException
from math_verify.utils import timeout
from sympy.parsing.latex import parse_latex

COMPARISON_SECONDS = 5

_REPLACED = (
    ("an ", ""),
    ("a ", ""),
    (".$", "$"),
    ("\\$", ""),
    ("\\ ", ""),
    (" ", ""),
    ("mbox", "text"),
    (",\\text{and}", ","),
    ("\\text{and}", ","),
    ("\\text{m}", "\\text{}"),
)
# In this order: words, and pieces of LaTeX.
_REMOVED = (
    "square",
    "ways",
    "integers",
    "dollars",
    "mph",
    "inches",
    "ft",
    "hours",
    "km",
    "units",
    "\\ldots",
    "sue",
    "points",
    "feet",
    "minutes",
    "digits",
    "cents",
    "degrees",
    "cm",
    "gm",
    "pounds",
    "meters",
    "meals",
    "edges",
    "students",
    "childrentickets",
    "multiples",
    "\\text{s}",
    "\\text{.}",
    "\\text{\ns}",
    "\\text{}^2",
    "\\text{}^3",
    "\\text{\n}",
    "\\text{}",
    r"\mathrm{th}",
    r"^\circ",
    r"^{\circ}",
    r"\;",
    r",\!",
    "{,}",
    '"',
    "\\dots",
)
_REWRITTEN = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        # What is set as mathematics, in bold, in a box, ...
        (r".*?\$(.*?)\$.*", r"$\1$"),
        (r"\\text\{(.*?)\}", r"\1"),
        (r"\\textbf\{(.*?)\}", r"\1"),
        (r"\\overline\{(.*?)\}", r"\1"),
        (r"\\boxed\{(.*)\}", r"\1"),
        # Shorthand: \frac12, \sqrt[3]8, \sqrt2.
        (r"frac([^{])(.)", r"frac{\1}{\2}"),
        (r"sqrt(\[[^\]]*\])(\w)", r"sqrt\1{\2}"),
        (r"sqrt(?!\[)([^{])", r"sqrt{\1}"),
    )
]
_COMMAND = re.compile(r"(\\[a-zA-Z]+)")
_GROUPED_DIGITS = re.compile(r"-?\d{1,3}(,\d{3})+")
_FINAL_ANSWER = re.compile(r"Final Answer: The final answer is(.*?). I hope it is correct.")


def load_subsets(path: str, subsets: Sequence[str], revision: str | None = None, **_: Any) -> dict[str, Any]:
    """The splits of a hub data set, each over all its subsets. What else a task file says is not read."""
    parts = [datasets.load_dataset(path, subset, revision=revision) for subset in subsets]
    return {split: datasets.concatenate_datasets([part[split] for part in parts]) for split in parts[0]}


def process_docs(dataset: Any) -> Any:
    """Adds `answer` to each row; subjects take turns, so that the first items are of all subjects."""
    seen: Counter[str] = Counter()
    turns = []
    for subject in dataset["type"]:
        turns.append(seen[subject])
        seen[subject] += 1
    in_turn = dataset.select(sorted(range(len(turns)), key=turns.__getitem__))
    return in_turn.map(lambda row: {"answer": normalized(boxed(row["solution"]))})


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, int]:
    """Both metrics of one response, each 0 or 1."""
    # The library has its own time limits, and finds nothing where they are reached.
    verified = verify(gold=parse(doc["solution"]), target=parse(results[0]))
    return {
        "math_verify": int(bool(verified)),
        "exact_match": int(is_equivalent(normalized(final_answer(results[0])), doc["answer"])),
    }


def boxed(solution: str) -> str:
    r"""What the last `\boxed` of a solution holds. Raises ValueError where there is none."""
    if "\\boxed " in solution:
        return solution.rpartition("\\boxed ")[2].partition("$")[0]
    box = solution.rpartition("\\boxed{")[2] if "\\boxed{" in solution else ""
    depth = 1
    for index, character in enumerate(box):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return box[:index]
    raise ValueError(f"a solution of MATH boxes its answer, and this one does not: {solution!r}")


def final_answer(response: str) -> str:
    """The answer that the response's sentence gives; the last sentence may be cut short."""
    found = _FINAL_ANSWER.search(response + "I hope it is correct.")
    return found.group(1).strip() if found else "[invalidanswer]"


def normalized(answer: str) -> str:
    """An answer without units, spaces, text commands and shorthand."""
    answer = answer.rpartition("=")[2]
    words = [removed for removed in _REMOVED if removed.isalpha()]
    for word in words:
        answer = re.sub(rf"(?<!\\)\b{word}\b", "", answer)
    for old, new in _REPLACED:
        answer = answer.replace(old, new)
    for removed in _REMOVED:
        answer = _without_word(answer, removed) if removed in words else answer.replace(removed, "")
    for pattern, replacement in _REWRITTEN:
        answer = pattern.sub(replacement, answer)
    answer = answer.replace("$", "")
    return answer.replace(",", "") if _GROUPED_DIGITS.fullmatch(answer) else answer


def _without_word(text: str, word: str) -> str:
    r"""`text` without `word`, but for commands: the ft of \left stays."""
    parts = _COMMAND.split(text)
    parts[::2] = [part.replace(word, "") for part in parts[::2]]
    return "".join(parts)


def is_equivalent(answer: str, reference: str) -> bool:
    """Whether two normalised answers are the same text, or their difference simplifies to 0 in time."""
    if answer and answer == reference:
        return True
    try:
        return bool(timeout(COMPARISON_SECONDS)(_difference_is_zero)(answer, reference))
    except TimeoutException:
        return False
    # A computer algebra system raises anything at all over what a model writes; such an answer is not the reference.
    except Exception:
        return False


def _difference_is_zero(answer: str, reference: str) -> bool:
    return bool(sympy.simplify(parse_latex(answer) - parse_latex(reference)) == 0)
