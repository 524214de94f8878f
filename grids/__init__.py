"""What a study is: the grid file's schema, bit schemes, tasks, expansion to cells, and the identity of each.

The grid and task files that ship live here too. Nothing in this package imports torch, Ray or lm-eval, runs a model,
or knows where results are kept.
"""

from grids.durations import parse_duration, show_duration
from grids.errors import GridError
from grids.expansion import Calibration, Cell, CellTask, Model, Study, Variant
from grids.loading import read_grid
from grids.needs import Needs
from grids.resolution import Catalog, MethodInfo, Preset, resolve, resolve_data
from grids.schema import Grid, ModelEntry, Retries
from grids.schemes import Scheme, parse_scheme
from grids.tasks import TaskInfo, find_tasks

__all__ = [
    "Calibration",
    "Catalog",
    "Cell",
    "CellTask",
    "Grid",
    "GridError",
    "MethodInfo",
    "Model",
    "ModelEntry",
    "Needs",
    "Preset",
    "Retries",
    "Scheme",
    "Study",
    "TaskInfo",
    "Variant",
    "find_tasks",
    "parse_duration",
    "parse_scheme",
    "read_grid",
    "resolve",
    "resolve_data",
    "show_duration",
]
