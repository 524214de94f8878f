"""Calibration windows: which tokens of a text a method sees, and which of them are masked."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from grids.schema import TokenMaskPolicy


class CalibrationError(ValueError):
    """Calibration data that cannot be used."""


def sample_windows(token_ids: Tensor, num_samples: int, length: int, seed: int) -> Tensor:
    """Random windows [num_samples, length] of a text's token ids [num_tokens], int64.

    Window i depends on (seed, i) and the text alone, so a larger sample begins with the smaller one.
    Raises CalibrationError where the text is shorter than one window.
    """
    if token_ids.ndim != 1:
        raise CalibrationError(f"token_ids must have one dimension, not the shape {tuple(token_ids.shape)}")
    if num_samples < 1 or length < 1:
        raise CalibrationError(f"num_samples {num_samples} and length {length} must both be at least 1")
    num_tokens = token_ids.numel()
    if num_tokens < length:
        raise CalibrationError(
            f"the calibration text has {num_tokens} tokens, fewer than one window of {length}; "
            "use a longer text or a smaller length"
        )
    starts = torch.tensor([_draw(seed, index, "start") % (num_tokens - length + 1) for index in range(num_samples)])
    return token_ids.long()[starts[:, None] + torch.arange(length)]


def apply_mask_policy(windows: Tensor, policy: TokenMaskPolicy, *, mask_token_id: int | None, seed: int) -> Tensor:
    """Windows [num_samples, length] as a diffusion model meets them; the input is left as it is.

    `none` keeps every token, as all public calibration code does. `uniform` draws t ~ U(0, 1) for each window and masks
    each token with probability t, the forward process of LLaDA (arXiv 2502.09992, section 2). `timestep` does the same
    with t stratified: window i of n draws it from [i / n, (i + 1) / n), so that every noise level has its share.
    Raises CalibrationError for a policy that masks where the model has no mask token.
    """
    if policy == "none":
        return windows.clone()
    if mask_token_id is None:
        raise CalibrationError(f"the calibration mask policy {policy!r} needs a mask token, and this model has none")
    masked = windows.clone()
    for index, window in enumerate(masked):
        generator = torch.Generator().manual_seed(_draw(seed, index, "mask"))
        t = torch.rand((), generator=generator)
        if policy == "timestep":
            t = (index + t) / len(masked)
        is_masked = torch.rand(window.shape, generator=generator) < t
        window[is_masked.to(window.device)] = mask_token_id
    return masked


def check_calibration(calibration: Tensor, *, vocab_size: int) -> None:
    """Raises CalibrationError unless calibration is token ids [num_samples, length] of this vocabulary."""
    if calibration.ndim != 2 or calibration.numel() == 0:
        shape = tuple(calibration.shape)
        raise CalibrationError(f"calibration must be token ids [num_samples, length], not the shape {shape}")
    if calibration.is_floating_point():
        raise CalibrationError(f"calibration must be token ids, not {calibration.dtype} values")
    low, high = int(calibration.min()), int(calibration.max())
    if low < 0 or high >= vocab_size:
        outside = low if low < 0 else high
        raise CalibrationError(f"calibration holds token {outside}, outside the model's vocabulary of {vocab_size}")


def _draw(seed: int, index: int, purpose: str) -> int:
    """A whole number in [0, 2^63) that (seed, index, purpose) decides."""
    digest = hashlib.sha256(f"{purpose}:{seed}:{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
