"""Of the demo's wall time on two workers, the share that is not work on models, and where it goes.

    OMP_NUM_THREADS=1 python tests/benchmarks/demo_share.py             # the whole demo: some minutes
    OMP_NUM_THREADS=1 python tests/benchmarks/demo_share.py --limit 26

Runs `qstudy demo` as a process of its own, from its start to its exit. Work on models is what the units took by the
workers' own clocks: loading, quantizing, auditing, answering, scoring. All the rest of the workers' time is split into
the start (imports, Ray, the workers' own imports), the end (report, shutdown), and waiting in between. Target: at most
15 % of the whole demo.
"""

from __future__ import annotations

import argparse
import datetime
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from orchestrator.logs import study_log
from reports import ResultStore

NUM_WORKERS = 2
_MOMENT = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) [0-9a-f]{16}\S* (?:===|---)")


def run_demo(study: Path, limit: int | None) -> tuple[float, float]:
    """When the command began and when it ended, in seconds since 1970."""
    command = [sys.executable, "-c", "from orchestrator.cli import main; main()", "demo"]
    command += ["--study", str(study), "--workers", str(NUM_WORKERS)]
    began = time.time()
    subprocess.run(command + (["--limit", str(limit)] if limit else []), check=True, stdout=subprocess.DEVNULL)
    return began, time.time()


def work_seconds(study: Path) -> float:
    """What units took, by the workers' clocks."""
    store = ResultStore(study)
    cells = {row["cell_id"]: row["seconds"] for row in store.cells()}
    return sum(cells.values()) + sum(row["quantize_seconds"] for row in store.variants())


def first_and_last(study: Path) -> tuple[float, float]:
    """When the first unit began and the last one ended, by the study's log, to the second."""
    found = [match[1] for match in map(_MOMENT.match, study_log(study)) if match]
    moments = [datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC).timestamp() for text in found]
    return min(moments), max(moments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, help="items per task; by default the demo's own")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        study = Path(name) / "study"
        began, ended = run_demo(study, arguments.limit)
        work, (first, last) = work_seconds(study), first_and_last(study)
    wall = ended - began
    waiting = last - first - work / NUM_WORKERS
    print(f"the demo took {wall:.0f} s; {1 - work / NUM_WORKERS / wall:.1%} of it was not work on models:")
    print(f"  start {first - began:.0f} s, waiting between units {waiting:.0f} s a worker, end {ended - last:.0f} s")


if __name__ == "__main__":
    main()
