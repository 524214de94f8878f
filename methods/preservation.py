"""Proof that a transform of a full-precision model left its function alone, before anything is rounded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from grids.schemes import Scheme
from methods.audit import AuditError
from methods.blocks import BlockStep

# Relative change (Frobenius norm) that arithmetic in a dtype explains, through all blocks of a deep model. A transform
# that is wrong in one place changes the logits by about their own size.
_LOGIT_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 2e-1}
# The same for what one block adds to its input.
_BLOCK_TOLERANCE = 1e-4
_BLOCK_TOLERANCE_IN_EPS = 16
_NUM_SAMPLES, _LENGTH = 2, 64


@contextmanager
def logits_preserved(model: nn.Module, token_ids: Tensor, scheme: Scheme, what: str) -> Iterator[None]:
    """Compares a few logits before and after the body. Raises AuditError that names `what` if they are not the same."""
    few = token_ids[:_NUM_SAMPLES, :_LENGTH].to(next(model.parameters()).device)
    before = _logits(model, few)
    yield
    change = relative_change(_logits(model, few), before)
    tolerance = _LOGIT_TOLERANCE[next(model.parameters()).dtype]
    if not change <= tolerance:
        finding = f"{what} changes the unquantized model's logits by {change:.1e} of their norm, over {tolerance:.0e}"
        raise AuditError(scheme, [finding])


@contextmanager
def block_preserved(step: BlockStep, scheme: Scheme, what: str) -> Iterator[None]:
    """Compares a block's output on one calibration batch before and after the body, of full-precision linears both.

    What the block adds decides: the residual stream that it adds to may be far larger, and so its rounding.
    Raises AuditError that names the block and `what` if the output is not the same.
    """
    hidden = next(step.inputs())
    before = step.forward(hidden)
    yield
    eps = torch.finfo(before.dtype).eps
    change = torch.linalg.vector_norm((step.forward(hidden) - before).double())
    update = torch.linalg.vector_norm((before - hidden).double())
    output = torch.linalg.vector_norm(before.double())
    if not change <= max(_BLOCK_TOLERANCE, _BLOCK_TOLERANCE_IN_EPS * eps) * update + eps * output:
        finding = f"{step.name} changes its output by {float(change / update):.1e} of its update: {what}"
        raise AuditError(scheme, [finding])


def relative_change(after: Tensor, before: Tensor) -> float:
    """||after - before||_F / ||before||_F in float64."""
    return float(torch.linalg.vector_norm((after - before).double()) / torch.linalg.vector_norm(before.double()))


@torch.no_grad()
def _logits(model: nn.Module, token_ids: Tensor) -> Tensor:
    logits: Tensor = model(input_ids=token_ids, use_cache=False).logits
    return logits
