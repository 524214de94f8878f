"""`qstudy export` and `qstudy verify`: a study's results for others, and whether they hold. Loads no torch, no Ray."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

import orchestrator
from grids import GridError
from orchestrator.reporting import write_study_report
from orchestrator.study_directory import StudyDirectory
from reports import REPORT_FORMATS
from reports.export import ArchiveError, Limits, capsule_name, check_manifest, export_dataset, unpack, write_capsule
from reports.export.archive import MANIFEST
from reports.verification import Verification, verify_results

EXPORT_FOLDER = "export"
_LOCK = Path(orchestrator.__file__).parents[1] / "requirements.lock"


@dataclass(frozen=True)
class Exported:
    """The files that were written, and the SHA-256 of the capsule's manifest if there is a capsule."""

    paths: tuple[Path, ...]
    capsule_digest: str | None


def export_study(folder: Path, output: Path | None = None, *, samples: bool = False, capsule: bool = False) -> Exported:
    """Write a study's data set, and its capsule if asked for. Raises GridError for a folder without results."""
    directory = StudyDirectory.existing(folder)
    description = directory.description()
    study, expected = str(description["name"]), description["cells"]
    out_dir = output or folder / EXPORT_FOLDER
    digest = None
    try:
        paths = export_dataset(directory.store, out_dir, study=study, expected=expected, samples=samples)
        if capsule:
            target = out_dir / capsule_name(study)
            with tempfile.TemporaryDirectory() as report_dir:
                write_study_report(folder, REPORT_FORMATS, Path(report_dir))
                digest = write_capsule(
                    directory.store,
                    target,
                    description=description,
                    report_dir=Path(report_dir),
                    lock=_LOCK if _LOCK.is_file() else None,
                )
            paths.append(target)
    except GridError:
        raise
    except ValueError as error:
        raise GridError(str(error), file=str(folder)) from error
    return Exported(tuple(paths), digest)


@dataclass(frozen=True)
class Verdict:
    """What was checked, in sentences, and what did not hold."""

    checked: tuple[str, ...]
    problems: tuple[str, ...]

    def print(self) -> None:
        """Problems on standard output, a line each; what was checked on standard error."""
        told = Console(stderr=True)
        for sentence in self.checked:
            told.print(sentence, markup=False, highlight=False, soft_wrap=True)
        for problem in self.problems:
            sys.stdout.write(" ".join(problem.split()) + "\n")
        told.print(f"{len(self.problems)} problems" if self.problems else "all of it holds", highlight=False)


def verify(path: Path, limits: Limits) -> Verdict:
    """Check a capsule, an unpacked one, or a study. Raises GridError for a path that is neither."""
    if path.is_dir():
        if not (path / MANIFEST).is_file():
            StudyDirectory.existing(path)
            return _verify_study(path)
        return _verify_capsule(path)
    if not path.is_file():
        raise GridError("no such capsule or study", file=str(path))
    with tempfile.TemporaryDirectory() as folder:
        try:
            unpack(path, Path(folder), limits)
        except ArchiveError as error:
            return Verdict((), (f"{path.name}: {error}",))
        return _verify_capsule(Path(folder))


def _verify_capsule(folder: Path) -> Verdict:
    try:
        complaints, digest = check_manifest(folder)
    except ArchiveError as error:
        return Verdict((), (str(error),))
    inner = _verify_study(folder)
    checked = (f"SHA-256 of the manifest: {digest}", *inner.checked)
    return Verdict(checked, (*complaints, *inner.problems))


def _verify_study(folder: Path) -> Verdict:
    try:
        directory = StudyDirectory.existing(folder)
        found = verify_results(directory.store, directory.description()["cells"])
    except (ValueError, KeyError, TypeError) as error:
        # A capsule from elsewhere may hold a study.json of any shape.
        return Verdict((), (f"the study cannot be read: {error!r}",))
    return Verdict(_sentences(found), tuple(map(str, found.mismatches)))


def _sentences(found: Verification) -> tuple[str, ...]:
    lines = [
        f"{found.num_cells} cells and {found.num_variants} variants: ids and labels against their configurations",
        f"{found.num_values} values: value, stderr and num_items against their items' scores",
    ]
    if found.not_means:
        lines.append(f"{found.not_means} values are no means of items' scores and were not computed again")
    if found.missing:
        lines.append(f"{found.missing} cells of the grid have no result")
    return tuple(lines)
