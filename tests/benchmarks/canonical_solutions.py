"""HumanEval's own solutions in the sandbox: all must pass, and none without its last line.

    python tests/benchmarks/canonical_solutions.py --data humaneval.jsonl
    python tests/benchmarks/canonical_solutions.py --data humaneval.jsonl --layer landlock

The data are the hub's (openai/openai_humaneval, 164 items, as JSON lines). A solution that passes without its last line
is named: there the line is redundant, which its tests or the language show.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from workers.sandbox import Limits, Verdict, sandbox_name
from workers.sandbox.execution import run_in
from workers.sandbox.layers import LAYERS


def program_of(item: dict[str, Any], solution: str) -> str:
    """A prompt with its solution, its tests, and their call."""
    return f"{item['prompt']}{solution}\n{item['test']}\ncheck({item['entry_point']})\n"


def without_last_line(solution: str) -> str:
    """The solution without its last line that is not blank; under its docstring, nothing is a body too."""
    return "\n".join(solution.rstrip().split("\n")[:-1])


def judge(programs: list[str], layer: str, what: str) -> list[Verdict]:
    """Run the programs on all cores, and print how many passed in how many seconds."""
    seconds: list[float] = []

    def timed(program: str) -> Verdict:
        started = time.perf_counter()
        verdict = run_in(layer, program)
        seconds.append(time.perf_counter() - started)
        return verdict

    started = time.perf_counter()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        verdicts = list(pool.map(timed, programs))
    wall = time.perf_counter() - started
    print(
        f"{what}: {sum(verdict.passed for verdict in verdicts)} of {len(verdicts)} pass in {wall:.1f} s on "
        f"{os.cpu_count()} cores; one takes {statistics.median(seconds):.3f} s (median), {max(seconds):.2f} s (longest)"
    )
    return verdicts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--layer", choices=LAYERS, help="default: the best that works here")
    arguments = parser.parse_args()
    layer = arguments.layer or sandbox_name()
    items = [json.loads(line) for line in arguments.data.read_text(encoding="utf-8").splitlines()]
    print(f"sandbox: {layer}; {Limits()}")

    whole = judge([program_of(item, item["canonical_solution"]) for item in items], layer, "whole")
    failed = [(item, verdict) for item, verdict in zip(items, whole, strict=True) if not verdict.passed]
    for item, verdict in failed:
        print(f"{item['task_id']} fails: {verdict.reason}\n{verdict.error_tail}")

    cut = [without_last_line(item["canonical_solution"]) for item in items]
    verdicts = judge([program_of(item, text) for item, text in zip(items, cut, strict=True)], layer, "cut")
    for item, text, verdict in zip(items, cut, verdicts, strict=True):
        if verdict.passed:
            print(f"{item['task_id']} passes without its last line; what is left:\n{text}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
