"""Score generated one-line functions: run them with their assertions in a limited subprocess."""

from __future__ import annotations

import secrets
import subprocess
import sys
import tempfile
from typing import Any

WALL_SECONDS = 10.0
CPU_SECONDS = 4
MEMORY_BYTES = 512 * 2**20


# The child limits itself before it reads the program: a child that is limited between fork and exec would first need a
# copy of this process, which holds a model.
_LAUNCHER = f"""
import resource, sys
for kind, limit in (
    (resource.RLIMIT_CPU, {CPU_SECONDS}),
    (resource.RLIMIT_AS, {MEMORY_BYTES}),
    (resource.RLIMIT_FSIZE, 0),
    (resource.RLIMIT_NPROC, 0),
    (resource.RLIMIT_CORE, 0),
):
    resource.setrlimit(kind, (limit, limit))
exec(compile(sys.stdin.read(), "program", "exec"), {{"__name__": "__main__"}})
"""


def passes(program: str) -> bool:
    """Whether `program` runs to its last line; it gets no environment, no files of ours, and little of everything."""
    token = secrets.token_hex(8)  # leaving early with status 0 does not count
    with tempfile.TemporaryDirectory(prefix="demo-code-") as folder:
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-S", "-c", _LAUNCHER],
                input=f"{program}\nprint({token!r})\n".encode(),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={},
                cwd=folder,
                timeout=WALL_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return False
    return done.returncode == 0 and done.stdout.decode(errors="replace").strip() == token


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """pass@1 of the first completion of `doc["prompt"]`: 1.0 where every assertion of `doc["test"]` holds."""
    program = f"{doc['prompt']}{results[0]}\n\n{doc['test']}\ncheck({doc['entry_point']})\n"
    return {"pass@1": float(passes(program))}
