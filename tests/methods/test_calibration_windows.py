from __future__ import annotations

import pytest
import torch

from methods.calibration import apply_mask_policy, sample_windows

TEXT = torch.arange(1000)


def test_windows_are_stretches_of_the_text():
    windows = sample_windows(TEXT, 20, 16, seed=0)
    assert windows.shape == (20, 16)
    assert windows.dtype == torch.int64
    assert (windows.diff(dim=1) == 1).all()
    assert windows[:, 0].unique().numel() > 10


def test_a_window_depends_on_seed_and_index_alone():
    assert torch.equal(sample_windows(TEXT, 20, 16, seed=3)[:5], sample_windows(TEXT, 5, 16, seed=3))
    assert not torch.equal(sample_windows(TEXT, 5, 16, seed=3), sample_windows(TEXT, 5, 16, seed=4))


def test_windows_never_change_between_releases():
    assert sample_windows(TEXT, 4, 2, seed=0)[:, 0].tolist() == [258, 893, 928, 236]


def test_every_start_can_be_drawn():
    starts = sample_windows(torch.arange(6), 200, 4, seed=0)[:, 0]
    assert sorted(starts.unique().tolist()) == [0, 1, 2]


def test_a_text_of_one_window_is_enough_and_a_shorter_one_is_refused():
    assert torch.equal(sample_windows(TEXT[:8], 3, 8, seed=0), TEXT[:8].expand(3, 8))
    with pytest.raises(ValueError, match="7 tokens, fewer than one window of 8"):
        sample_windows(TEXT[:7], 3, 8, seed=0)
    with pytest.raises(ValueError, match="0 tokens"):
        sample_windows(TEXT[:0], 3, 8, seed=0)


@pytest.mark.parametrize(("num_samples", "length"), [(0, 8), (3, 0)])
def test_counts_below_one_are_refused(num_samples, length):
    with pytest.raises(ValueError, match="at least 1"):
        sample_windows(TEXT, num_samples, length, seed=0)


def test_policy_none_keeps_every_token():
    windows = sample_windows(TEXT, 3, 8, seed=0)
    assert torch.equal(apply_mask_policy(windows, "none", mask_token_id=None, seed=0), windows)


def test_policy_uniform_masks_each_window_to_its_own_degree():
    windows = sample_windows(TEXT, 300, 64, seed=0)
    masked = apply_mask_policy(windows, "uniform", mask_token_id=5000, seed=0)
    is_masked = masked == 5000
    assert torch.equal(masked[~is_masked], windows[~is_masked])
    share = is_masked.float().mean(1)
    assert share.mean().item() == pytest.approx(0.5, abs=0.05)
    # The variance of U(0, 1) is 1/12; one degree for all windows would have almost none.
    assert share.var().item() == pytest.approx(1 / 12, rel=0.2)


def test_masks_depend_on_seed_and_index_alone_and_leave_the_input_alone():
    windows = sample_windows(TEXT, 10, 64, seed=0)
    before = windows.clone()
    masked = apply_mask_policy(windows, "uniform", mask_token_id=5000, seed=1)
    assert torch.equal(windows, before)
    assert torch.equal(masked[:4], apply_mask_policy(windows[:4], "uniform", mask_token_id=5000, seed=1))
    assert not torch.equal(masked, apply_mask_policy(windows, "uniform", mask_token_id=5000, seed=2))


def test_masking_needs_a_mask_token():
    with pytest.raises(ValueError, match="needs a mask token"):
        apply_mask_policy(TEXT[None], "uniform", mask_token_id=None, seed=0)
