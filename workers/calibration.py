"""Calibration data: a text file becomes windows of token ids."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import methods
from grids import Calibration, Variant
from workers.models import LoadedModel

# Held-out windows of the audit: another seed than any calibration's, few and short.
AUDIT_SEED, NUM_AUDIT_WINDOWS, MAX_AUDIT_LENGTH = 2**31 - 1, 4, 128


def calibration_windows(loaded: LoadedModel, calibration: Calibration) -> torch.Tensor:
    """LongTensor [num_samples, length] on the CPU, masked as the calibration says.

    Raises ValueError if the text is too short, or the mask policy needs a mask token that the model does not have.
    """
    text = Path(calibration.path).read_text(encoding="utf-8")
    token_ids = torch.tensor(loaded.tokenizer(text, add_special_tokens=False)["input_ids"], dtype=torch.long)
    windows = methods.sample_windows(token_ids, calibration.num_samples, calibration.length, calibration.seed)
    return methods.apply_mask_policy(
        windows, calibration.mask, mask_token_id=loaded.mask_token_id, seed=calibration.seed
    )


def audit_windows(loaded: LoadedModel, variant: Variant) -> torch.Tensor:
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
