"""A few made-up rows of each data set of the study, in the hub's columns."""

from __future__ import annotations

from typing import Any

Rows = list[dict[str, Any]]

_PIQA = [
    {"goal": "Dry wet boots.", "sol1": "Fill them with paper.", "sol2": "Fill them with milk and wait.", "label": 0},
    {"goal": "Keep soup hot", "sol1": "Leave it open.", "sol2": "Put a lid on it.", "label": 1},
    {"goal": 'Mark the "good" jar', "sol1": "Use chalk.", "sol2": "Don't use anything at all, ever.", "label": 0},
]
_HELLASWAG = [
    {
        "activity_label": "Mowing the lawn",
        "ctx_a": "A man starts a machine.",
        "ctx_b": "he",
        "endings": ["pushes it over the grass.", "[substeps] eats  it.", "sings. [title] The end", "sleeps [note] now"],
        "label": "0",
    },
    {
        "activity_label": "Home [header] How to bake",
        "ctx_a": " [title] Buy flour. [step]  You need two bags.",
        "ctx_b": "",
        "endings": ["Then mix.", "Then [title] run.", " Then fly.", "Then stop  and  stop."],
        "label": "3",
    },
]
_WINOGRANDE = [
    {"sentence": "The cup did not fit the box because _ was too large .", "option1": "the cup", "option2": "the box"}
    | {"answer": "1"},
    {
        "sentence": "Ann thanked Eve as _ had helped with a form_field.",
        "option1": "Ann",
        "option2": "Eve",
        "answer": "2",
    },
]
_ARC = [
    {
        "question": "Which of these melts?",
        "choices": {"text": ["ice", "a long stone wall", "fire"], "label": ["A", "B", "C"]},
        "answerKey": "A",
    },
    {
        "question": "What is 3 squared?",
        "choices": {"text": ["6", "9", "3", "33"], "label": ["1", "2", "3", "4"]},
        "answerKey": "2",
    },
]
SUBJECTS = ("abstract_algebra", "high_school_us_history", "virology")
_MMLU_TEST = [
    {
        "question": f" What is true of {subject} number {number}? ",
        "subject": subject,
        "choices": [f"{subject} {number} {letter}" for letter in "wxyz"],
        "answer": (number + len(subject)) % 4,
    }
    for subject in SUBJECTS
    for number in range(2)
]
_MMLU_DEV = [
    {
        "question": f"Example {number} of {subject}?",
        "subject": subject,
        "choices": ["one", "two", "three", "four"],
        "answer": number % 4,
    }
    for number in range(6)
    for subject in reversed(SUBJECTS)
]
_GSM8K_TEST = [
    {"question": f"Tom has {n} bags of 3 nuts. How many nuts?", "answer": f"{n} * 3 = {3 * n}\n#### {3 * n:,}"}
    for n in (2, 400, 7)
]
_GSM8K_TRAIN = [
    {"question": f"What is {n} plus one?", "answer": f"It is {n} + 1 = <<{n}+1={n + 1}>>{n + 1}.\n#### {n + 1}"}
    for n in range(12)
]
_MATH = [
    {"problem": "What is half of $\\pi$?", "solution": "It is $\\boxed{\\frac{\\pi}{2}}$.", "type": "Algebra"},
    {"problem": "How many?", "solution": "We get $x=\\boxed{1,200}$ ways.", "type": "Algebra"},
    {"problem": "Which pair?", "solution": "First \\boxed{3}, then $\\boxed{(1,\\frac12)}$.", "type": "Geometry"},
    {"problem": "What root?", "solution": "So \\boxed 7$ it is.", "type": "Geometry"},
    {"problem": "What text?", "solution": "$\\boxed{\\text{blue}}$", "type": "Prealgebra"},
    {"problem": "What radical?", "solution": "$\\boxed{\\sqrt[3]4+\\sqrt2\\text{ cm}}$", "type": "Prealgebra"},
]
_HUMANEVAL = [
    {
        "task_id": f"HumanEval/{n}",
        "prompt": f'def add_{n}(x):\n    """Return x plus {n}."""\n',
        "entry_point": f"add_{n}",
        "canonical_solution": f"    return x + {n}\n",
        "test": f"\n\ndef check(candidate):\n    assert candidate(1) == {n + 1}\n",
    }
    for n in (1, 2)
]
_MBPP = [
    {
        "task_id": n,
        "text": f"Write a function to multiply by {n}.",
        "code": f"def times(x):\r\n  return {n} * x",
        "test_list": [f"assert times({k}) == {n * k}" for k in range(4)],
        "test_setup_code": "",
    }
    for n in (3, 5)
]

DOCUMENTS: dict[str, dict[str, Rows]] = {
    "piqa": {"validation": _PIQA, "train": _PIQA},
    "hellaswag": {"validation": _HELLASWAG, "train": _HELLASWAG},
    "winogrande": {"validation": _WINOGRANDE, "train": _WINOGRANDE},
    "arc_easy": {"test": _ARC, "train": _ARC},
    "arc_challenge": {"test": _ARC, "train": _ARC},
    "mmlu": {"test": _MMLU_TEST, "dev": _MMLU_DEV},
    "gsm8k": {"test": _GSM8K_TEST, "train": _GSM8K_TRAIN},
    "minerva_math": {"test": _MATH, "train": _MATH},
    "humaneval": {"test": _HUMANEVAL},
    "mbpp": {"test": _MBPP},
}
