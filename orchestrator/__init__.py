"""The roof: the `qstudy` command, planning, scheduling on Ray, retries, live progress.

Everything a command does can be done from Python through the names below. No quantization, no evaluation and no
table is made here; the driver is the only writer of a study's results. Names are handed on lazily, so that
`qstudy --help` loads neither torch nor Ray.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.commands import RunOptions, load_study, plan_grid, run_grid
    from orchestrator.comparing import Comparisons, compare_variants
    from orchestrator.explaining import Explanation, explain_cell
    from orchestrator.failed_cells import FailureGroup, study_failures
    from orchestrator.paper_check import PaperCheck, check_paper
    from orchestrator.planning import Plan, PlannedCell, make_plan
    from orchestrator.priced_plan import PricedPlan, price_plan
    from orchestrator.status import Status, study_status
    from orchestrator.study_directory import StudyDirectory

_HOMES = {
    "Comparisons": "orchestrator.comparing",
    "Explanation": "orchestrator.explaining",
    "FailureGroup": "orchestrator.failed_cells",
    "PaperCheck": "orchestrator.paper_check",
    "Plan": "orchestrator.planning",
    "PlannedCell": "orchestrator.planning",
    "PricedPlan": "orchestrator.priced_plan",
    "RunOptions": "orchestrator.commands",
    "Status": "orchestrator.status",
    "StudyDirectory": "orchestrator.study_directory",
    "check_paper": "orchestrator.paper_check",
    "compare_variants": "orchestrator.comparing",
    "explain_cell": "orchestrator.explaining",
    "load_study": "orchestrator.commands",
    "make_plan": "orchestrator.planning",
    "plan_grid": "orchestrator.commands",
    "price_plan": "orchestrator.priced_plan",
    "run_grid": "orchestrator.commands",
    "study_failures": "orchestrator.failed_cells",
    "study_status": "orchestrator.status",
}

__all__ = [
    "Comparisons",
    "Explanation",
    "FailureGroup",
    "PaperCheck",
    "Plan",
    "PlannedCell",
    "PricedPlan",
    "RunOptions",
    "Status",
    "StudyDirectory",
    "check_paper",
    "compare_variants",
    "explain_cell",
    "load_study",
    "make_plan",
    "plan_grid",
    "price_plan",
    "run_grid",
    "study_failures",
    "study_status",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
