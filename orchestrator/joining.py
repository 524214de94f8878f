"""The report of several studies: whether they may stand in one table, and what they expect together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from grids import GridError
from grids.identity import differing_fields
from grids.protocol import unlike_settings
from orchestrator.study_directory import StudyDirectory
from reports.joined import JoinedStores

Description = Mapping[str, Any]


def join_studies(folders: Sequence[Path]) -> tuple[JoinedStores, list[dict[str, Any]], str]:
    """The results of several studies, the cells that they expect, and their names as one.

    Raises GridError for a folder that is not a study or has no results, for a study that is given twice, and where a
    task is scored, shown, or a model loaded in two ways: it names the studies, the fields and both values.
    """
    directories = {folder: StudyDirectory.existing(folder) for folder in folders}
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise GridError(f"a study is given twice: {', '.join(map(str, folders))}")
    descriptions = {folder: directory.description() for folder, directory in directories.items()}
    for folder, directory in directories.items():
        if not directory.store.cells([]):
            raise GridError("no results: run the study first (qstudy run)", file=str(folder))
    _check_tasks(descriptions)
    _check_models(descriptions)
    expected = {cell["cell_id"]: cell for description in descriptions.values() for cell in description["cells"]}
    stores = JoinedStores({folder: directory.store for folder, directory in directories.items()})
    names = dict.fromkeys(str(description["name"]) for description in descriptions.values())
    return stores, list(expected.values()), " and ".join(names)


def _check_tasks(descriptions: Mapping[Path, Description]) -> None:
    seen: dict[str, list[tuple[Path, str, Mapping[str, Any]]]] = {}
    for folder, description in descriptions.items():
        for key, identity in description["tasks"].items():
            task, _, family = key.rpartition("/")
            shown = next(cell for cell in description["cells"] if cell["task_key"] == key)
            facts = identity | {name: shown[name] for name in ("metric", "filter", "task_group")}
            for other_folder, other_family, other in seen.get(task, ()):
                if other_folder != folder:
                    differing = unlike_settings(other, facts, same_family=family == other_family)
                    _refuse(f"task {task}", other_folder, folder, differing)
            seen.setdefault(task, []).append((folder, family, facts))


def _check_models(descriptions: Mapping[Path, Description]) -> None:
    """One name for two models would give a row another model's full precision."""
    seen: dict[str, tuple[Path, Mapping[str, Any]]] = {}
    for folder, description in descriptions.items():
        for cell in description["cells"]:
            identity = description["variants"][cell["variant_id"]]["model"]
            other_folder, other = seen.setdefault(cell["model"], (folder, identity))
            _refuse(f"model {cell['model']}", other_folder, folder, differing_fields(other, identity))


def _refuse(what: str, one: Path, other: Path, differing: Sequence[str]) -> None:
    if differing:
        raise GridError(
            f"{what} is not the same in {one} and {other}: {'; '.join(differing)}; "
            "one table cannot show both, report the studies apart"
        )
