"""What the main commands do, as functions: plain values in, typed results out, nothing printed.

A mistake of the caller raises GridError, and nothing is written; what the system refuses to read or write raises
StorageError. These are names of the module `qstudy` (see `orchestrator`). What looks at results loads no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from grids import Study, parse_duration
from orchestrator.comparing import Comparisons, compare_variants
from orchestrator.explaining import Explanation, explain_cell
from orchestrator.exporting import Exported, Verdict, export_study
from orchestrator.exporting import verify as verify_path
from orchestrator.paper_check import PaperCheck
from orchestrator.paper_check import check_paper as check_paper_numbers
from orchestrator.reporting import RUN_FORMATS, write_joined_report, write_study_report
from orchestrator.run_result import RunResult
from orchestrator.study_state import Status, study_status
from reports.export import Limits

if TYPE_CHECKING:
    from orchestrator.priced_plan import PricedPlan

PathLike = str | Path


def load_grid(grid: PathLike, *, limit: int | None = None, overrides: Sequence[str] = ()) -> Study:
    """The cells that a grid file means: `limit` items per task, with `KEY=VALUE` changes of the grid."""
    from orchestrator import commands

    return commands.load_grid(Path(grid), limit=limit, overrides=overrides)


def plan(
    grid: PathLike,
    study: PathLike | None = None,
    *,
    limit: int | None = None,
    overrides: Sequence[str] = (),
    only: Sequence[str] = (),
    retry_failed: bool = False,
    device: str | None = None,
    artifacts: str | None = None,
) -> PricedPlan:
    """What `run` would do in the folder `study` and what it would cost; the arguments are the command's options.

    `.plan.cells` has each cell with its action and reason, `.total` the price, `.simulate(8)` a run on 8 workers.
    """
    from orchestrator import commands

    options = commands.RunOptions(
        study=_path(study),
        limit=limit,
        overrides=tuple(overrides),
        only=tuple(only),
        retry_failed=retry_failed,
        artifacts=artifacts,
    )
    return commands.plan_grid(Path(grid), options, device=device)


def run(
    grid: PathLike,
    study: PathLike | None = None,
    *,
    address: str | None = None,
    num_workers: int | None = None,
    batch_size: int | None = None,
    shards: int | None = None,
    limit: int | None = None,
    overrides: Sequence[str] = (),
    only: Sequence[str] = (),
    retry_failed: bool = False,
    fail_fast: bool = False,
    time_limit: float | str | None = None,
    artifacts: str | None = None,
    in_process: bool = False,
    show_progress: bool = False,
) -> RunResult:
    """Compute what is missing and write the report; the arguments are the command's options.

    time_limit: seconds, or a text such as `3h55m`.  in_process: one worker in this process, without Ray.
    show_progress: tell on standard error how far it is.

    A cell that fails is part of the result. Raises RunInterruptedError where a run that has begun cannot go on; what
    was saved is kept, and the same call goes on from there.
    """
    from orchestrator import commands
    from orchestrator.pools import InProcessPool
    from orchestrator.preflight import artifact_location

    options = commands.RunOptions(
        study=_path(study),
        address=address,
        num_workers=num_workers,
        batch_size=batch_size,
        shards=shards,
        limit=limit,
        overrides=tuple(overrides),
        only=tuple(only),
        retry_failed=retry_failed,
        fail_fast=fail_fast,
        time_limit=parse_duration(time_limit) if isinstance(time_limit, str) else time_limit,
        artifacts=artifacts,
    )
    pool = None
    if in_process:
        folder = options.study or commands.default_folder(load_grid(grid, limit=limit, overrides=overrides))
        pool = InProcessPool(commands.worker_settings(artifact_location(artifacts, folder), options))
    return commands.run_grid(Path(grid), options, pool, console=Console(stderr=True) if show_progress else None)


def status(study: PathLike) -> Status:
    """How far a study is at this moment, also while another process runs it."""
    return study_status(Path(study))


def report(
    *studies: PathLike,
    formats: Sequence[str] = RUN_FORMATS,
    output: PathLike | None = None,
    tables: Sequence[str] = (),
    figures: Sequence[str] = (),
) -> list[Path]:
    """Write the tables of a study, or of several together, to the folder `output`; the files.

    `figures` are kinds of files (`pdf`, `svg`, `png`) to draw figures as; none are drawn without.
    `output` is `STUDY/report` for one study unless given; several studies need one.
    """
    folders = [Path(study) for study in studies]
    if len(folders) == 1:
        return write_study_report(folders[0], formats, _path(output), tables, figures)
    return write_joined_report(folders, formats, _path(output), tables, figures)


def compare(study: PathLike, a: str, b: str) -> Comparisons:
    """Two variants of a study, or two methods or schemes, item by item: what changed and whether it is significant."""
    return compare_variants(Path(study), a, b)


def check_paper(file: PathLike, study: PathLike, *, tables: Sequence[str] = ()) -> PaperCheck:
    """Check the numbers that a LaTeX file uses against the study's tables."""
    return check_paper_numbers(Path(file), Path(study), tables)


def explain(study: PathLike, cell: str) -> Explanation:
    """What decides a cell's id, why it will or will not run, and where its traces are."""
    return explain_cell(Path(study), cell)


def export(
    study: PathLike, output: PathLike | None = None, *, samples: bool = False, capsule: bool = False
) -> Exported:
    """Write a study's results as Parquet and CSV to the folder `output` (default: `STUDY/export`)."""
    return export_study(Path(study), _path(output), samples=samples, capsule=capsule)


def verify(path: PathLike, *, max_gigabytes: int = 16) -> Verdict:
    """Check a capsule or a study: checksums, values against items' scores, ids against configurations."""
    return verify_path(Path(path), Limits(num_bytes=max_gigabytes << 30))


def _path(path: PathLike | None) -> Path | None:
    return None if path is None else Path(path)
