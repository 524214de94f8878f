"""The guide's example is a method: it quantizes, and passes the audit."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import methods
from grids import parse_scheme
from methods import audit

GUIDE = Path(methods.__file__).parent / "README.md"


def test_the_example_of_the_guide_quantizes_and_passes_the_audit(build_model: Callable[..., Any]) -> None:
    code = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), flags=re.DOTALL)
    assert len(code) == 1
    assert len(code[0].splitlines()) < 60
    names: dict[str, Any] = {}
    exec(compile(code[0], str(GUIDE), "exec"), names)  # noqa: S102 - our own guide
    model = build_model()
    scheme = parse_scheme("w4a8kv4")
    method = names["Coarse"](names["CoarseParameters"](share=0.8))
    report = method.quantize(model, scheme, None, seed=0)
    assert len(report.linears) == audit(model, scheme, torch.arange(24).reshape(2, 12)).num_linears
    assert method.refusal(parse_scheme("w16a8")) is not None
