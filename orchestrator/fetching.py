"""The verb `fetch`: every model and data set of a grid into the local cache, once, with the commits that were got."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from grids import Calibration, CellTask, Grid, GridError, read_grid, resolve_data
from grids.resolution import HUB_TEXTS
from orchestrator.catalog import local_model, make_catalog
from orchestrator.hub import Hub, HuggingFaceHub

Kind = Literal["model", "data"]
State = Literal["present", "fetched", "missing"]


@dataclass(frozen=True)
class Item:
    """A model or a data set, and whether it is here.

    `asked` is the revision of the grid or the task file, `revision` the commit that is here; both None for local files.
    `where` is a folder, or for a missing item what was tried.
    """

    kind: Kind
    name: str
    source: str
    subset: str | None
    asked: str | None
    state: State
    revision: str | None
    where: str

    @property
    def title(self) -> str:
        source = "" if self.where == self.source else f" ({' '.join(filter(None, [self.source, self.subset]))})"
        return f"{self.name}{source}"


@dataclass(frozen=True)
class Fetched:
    """All items of a grid, in its order."""

    grid: str
    items: tuple[Item, ...]

    @property
    def is_complete(self) -> bool:
        return all(item.state != "missing" for item in self.items)

    def to_json(self) -> dict[str, Any]:
        return {"grid": self.grid, "items": [asdict(item) for item in self.items]}

    def to_lines(self) -> list[str]:
        """Per item its state, what it is, and where it is or was looked for."""
        return [f"{item.state:8} {item.kind:6} {item.title}: {item.where}" for item in self.items]


def fetch_grid(
    grid_file: Path, record: Path | None = None, *, overrides: Sequence[str] = (), hub: Hub | None = None
) -> tuple[Fetched, Path]:
    """Look for what a grid names and download what is not here; the items, and the file that they were written to.

    Local models and data are only checked. Raises GridError for a bad grid, before anything is downloaded or written.
    """
    hub = hub or HuggingFaceHub()
    grid = read_grid(grid_file, overrides)
    tasks, calibrations = resolve_data(grid, grid_file, make_catalog())
    local = _local_models(grid, grid_file)
    made = Fetched(grid.name, (*_models(grid, local, hub), *_data(tasks, calibrations, hub)))
    record = record or Path(f"{grid.name}.fetched.json")
    record.write_text(json.dumps(made.to_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return made, record


def _local_models(grid: Grid, grid_file: Path) -> list[Path | None]:
    """Per model its folder, or None where it is on the hub."""
    folders = []
    for index, entry in enumerate(grid.models):
        try:
            folders.append(local_model(entry, grid_file.parent))
        except ValueError as error:
            raise GridError(str(error), file=str(grid_file), key=f"models[{index}]") from error
    return folders


def _models(grid: Grid, local: Sequence[Path | None], hub: Hub) -> Iterator[Item]:
    for entry, folder in zip(grid.models, local, strict=True):
        if folder is not None:
            yield _local("model", entry.label, str(folder))
        else:
            found = _get(partial(hub.model, entry.path, entry.revision))
            yield Item("model", entry.label, entry.path, None, entry.revision, *found)


def _data(tasks: Sequence[CellTask], calibrations: Sequence[Calibration], hub: Hub) -> Iterator[Item]:
    for task in tasks:
        info = task.info
        if info.is_on_hub:
            for subset in info.data.subsets:
                yield _hub_data(info.name, info.data.path, subset, info.data.kwargs.get("revision"), hub)
        else:
            for file in (info.given_files or info.data_files).values():
                yield _local("data", info.name, file)
    for source in dict.fromkeys(calibration.source for calibration in calibrations):
        if source in HUB_TEXTS:
            yield _hub_data("calibration", HUB_TEXTS[source].path, HUB_TEXTS[source].subset, None, hub)
        else:
            yield _local("data", "calibration", source)


def _local(kind: Kind, name: str, place: str) -> Item:
    return Item(kind, name, place, None, None, "present", None, place)


def _hub_data(name: str, path: str, subset: str | None, asked: str | None, hub: Hub) -> Item:
    return Item("data", name, path, subset, asked, *_get(partial(hub.data, path, subset, asked)))


def _get(look: Callable[..., Path]) -> tuple[State, str | None, str]:
    """State, commit and place of what `look(download=...)` finds: in the cache first, then on the hub."""
    try:
        folder = look(download=False)
        return "present", folder.name, str(folder)
    except ValueError:
        try:
            folder = look(download=True)
            return "fetched", folder.name, str(folder)
        except ValueError as error:
            return "missing", None, str(error)
