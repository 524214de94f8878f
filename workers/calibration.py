"""Calibration data: a text becomes windows of token ids, masked as the calibration says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from torch import Tensor

import methods
from grids import Calibration, Variant
from grids.resolution import HUB_TEXTS
from methods import CalibrationError
from workers.models import LoadedModel
from workers.samplers.steps import drawable_logits, top_positions

# Held-out windows of the audit: another seed than any calibration's, few and short.
AUDIT_SEED, NUM_AUDIT_WINDOWS, MAX_AUDIT_LENGTH = 2**31 - 1, 4, 128
# How many windows are denoised together for an on-policy calibration.
DENOISING_BATCH = 16


def calibration_windows(loaded: LoadedModel, calibration: Calibration) -> Tensor:
    """LongTensor [num_samples, length] on the CPU, masked as the calibration says.

    Raises CalibrationError for a text that is too short or cannot be read, and where the mask policy needs a mask token
    that the model does not have.
    """
    text = read_text(calibration)
    token_ids = torch.tensor(loaded.tokenizer(text, add_special_tokens=False)["input_ids"], dtype=torch.long)
    try:
        windows = methods.sample_windows(token_ids, calibration.num_samples, calibration.length, calibration.seed)
    except CalibrationError as error:
        raise CalibrationError(f"{calibration.source}: {error}") from error
    if calibration.mask == "on-policy":
        return denoised_windows(loaded, windows)
    return methods.apply_mask_policy(
        windows, calibration.mask, mask_token_id=loaded.mask_token_id, seed=calibration.seed
    )


def read_text(calibration: Calibration) -> str:
    """The text; documents of a column are joined by blank lines.

    Raises CalibrationError that names a missing column or a bad row.
    """
    source = Path(calibration.source)
    if calibration.source in HUB_TEXTS and not source.is_file():
        return _hub_text(calibration.source)
    if source.suffix == ".parquet":
        table = pq.read_table(source)
        if calibration.field not in table.column_names:
            raise CalibrationError(
                f"{source} has no column {calibration.field!r}; it has {', '.join(table.column_names)}"
            )
        return "\n\n".join(str(document) for document in table[calibration.field].to_pylist())
    text = source.read_text(encoding="utf-8")
    if source.suffix != ".jsonl":
        return text
    rows = [_row(source, number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    for number, row in enumerate(rows, start=1):
        if calibration.field not in row:
            raise CalibrationError(f"{source}, row {number}, has no key {calibration.field!r}; it has {', '.join(row)}")
    return "\n\n".join(str(row[calibration.field]) for row in rows)


def _row(source: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise CalibrationError(f"{source}, line {number}, is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise CalibrationError(f"{source}, line {number}, is not a JSON object with columns, but {line[:40]!r}")
    return row


def _hub_text(name: str) -> str:
    import datasets

    text = HUB_TEXTS[name]
    rows = datasets.load_dataset(text.path, text.subset, split=text.split)
    return "\n\n".join(rows[text.field])


@torch.no_grad()
def denoised_windows(loaded: LoadedModel, windows: Tensor) -> Tensor:
    """Windows as the model meets them when it generates: it writes on from the first half, and is stopped on its way.

    windows: [num_samples, length]. The second half is masked and then partly denoised by the model itself, its surest
    token first; how many tokens it commits is spread evenly over the windows, from none to all but one. Raises
    CalibrationError for a model without a mask token.
    """
    if loaded.mask_token_id is None:
        raise CalibrationError(
            "the calibration mask policy 'on-policy' needs a diffusion model, and this one is causal"
        )
    start = windows.shape[1] // 2
    length = windows.shape[1] - start
    num_committed = torch.arange(len(windows)) * length // len(windows)
    tokens = windows.clone()
    tokens[:, start:] = loaded.mask_token_id
    for rows in torch.split(torch.arange(len(windows)), DENOISING_BATCH):
        batch = tokens[rows].to(loaded.device)
        wanted = num_committed[rows].to(loaded.device)
        masked = torch.ones_like(batch[:, start:], dtype=torch.bool)
        for step in range(int(wanted.max())):
            logits = drawable_logits(loaded.logits(batch)[:, start:], loaded)
            confidence, best = logits.softmax(-1).max(-1)
            commit = top_positions(confidence, masked, (wanted > step).long())
            batch[:, start:][commit] = best[commit]
            masked &= ~commit
        tokens[rows] = batch.cpu()
    return tokens


def audit_windows(loaded: LoadedModel, variant: Variant) -> Tensor:
    """Token ids that no method has calibrated on: other windows of the same text, or random tokens without one."""
    if variant.calibration is None:
        generator = torch.Generator().manual_seed(AUDIT_SEED)
        config: Any = loaded.model.config
        return torch.randint(config.vocab_size, (NUM_AUDIT_WINDOWS, MAX_AUDIT_LENGTH), generator=generator)
    held_out = replace(
        variant.calibration,
        num_samples=NUM_AUDIT_WINDOWS,
        length=min(variant.calibration.length, MAX_AUDIT_LENGTH),
        seed=AUDIT_SEED,
    )
    return calibration_windows(loaded, held_out)
