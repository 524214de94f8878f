"""The roof: the `qstudy` command, planning, scheduling on Ray, retries, live progress.

Everything a command does is a function here, with a typed result: `load_grid`, `plan`, `run`, `status`, `report` and
the others below; `import qstudy` gives the same names. No quantization, no evaluation and no table is made here; the
driver is the only writer of a study's results. Names are handed on lazily, so that `qstudy --help` loads neither torch
nor Ray.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grids import GridError, Study
    from orchestrator.comparing import Comparisons
    from orchestrator.door import check_paper, compare, explain, export, load_grid, plan, report, run, status, verify
    from orchestrator.explaining import Explanation
    from orchestrator.exporting import Exported, Verdict
    from orchestrator.failed_cells import FailureGroup, study_failures
    from orchestrator.failures import RunInterruptedError
    from orchestrator.fetching import Fetched, fetch_grid
    from orchestrator.listing import Listing, list_names
    from orchestrator.logs import study_log
    from orchestrator.paper_check import PaperCheck
    from orchestrator.planning import Plan, PlannedCell
    from orchestrator.priced_plan import PricedPlan
    from orchestrator.quantizing import QuantizedVariant, QuantizeFailedError, QuantizeOptions, quantize_model
    from orchestrator.run_result import RunResult
    from orchestrator.study_directory import StudyDirectory
    from orchestrator.study_state import FailedCell, Status
    from reports import StorageError

_NAMES = {
    "grids": ("GridError", "Study"),
    "orchestrator.comparing": ("Comparisons",),
    "orchestrator.door": (
        *("check_paper", "compare", "explain", "export", "load_grid", "plan", "report", "run", "status", "verify"),
    ),
    "orchestrator.explaining": ("Explanation",),
    "orchestrator.exporting": ("Exported", "Verdict"),
    "orchestrator.failed_cells": ("FailureGroup", "study_failures"),
    "orchestrator.failures": ("RunInterruptedError",),
    "orchestrator.fetching": ("Fetched", "fetch_grid"),
    "orchestrator.listing": ("Listing", "list_names"),
    "orchestrator.logs": ("study_log",),
    "orchestrator.paper_check": ("PaperCheck",),
    "orchestrator.planning": ("Plan", "PlannedCell"),
    "orchestrator.priced_plan": ("PricedPlan",),
    "orchestrator.quantizing": ("QuantizeFailedError", "QuantizeOptions", "QuantizedVariant", "quantize_model"),
    "orchestrator.run_result": ("RunResult",),
    "orchestrator.study_directory": ("StudyDirectory",),
    "orchestrator.study_state": ("FailedCell", "Status"),
    "reports": ("StorageError",),
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "Comparisons",
    "Explanation",
    "Exported",
    "FailedCell",
    "FailureGroup",
    "Fetched",
    "GridError",
    "Listing",
    "PaperCheck",
    "Plan",
    "PlannedCell",
    "PricedPlan",
    "QuantizeFailedError",
    "QuantizeOptions",
    "QuantizedVariant",
    "RunInterruptedError",
    "RunResult",
    "Status",
    "StorageError",
    "Study",
    "StudyDirectory",
    "Verdict",
    "check_paper",
    "compare",
    "explain",
    "export",
    "fetch_grid",
    "list_names",
    "load_grid",
    "plan",
    "quantize_model",
    "report",
    "run",
    "status",
    "study_failures",
    "study_log",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
