"""Calibration data through the worker's door: files, mask policies, what the model itself writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from grids import Calibration
from grids.schema import MaskPolicy
from methods import CalibrationError
from tests.evaluation.conftest import MASK, make_loaded  # noqa: F401 - a fixture
from workers import LoadedModel
from workers.calibration import calibration_windows, denoised_windows, read_text

DOCUMENTS = ["the first document", "another one, longer than the first", "and the last"]


def calibration(source: Path, mask: MaskPolicy = "none", *, length: int = 16, num_samples: int = 12) -> Calibration:
    return Calibration(str(source), "story", "", "digest", num_samples, length, 0, mask)


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    file.write_text("\n\n".join(DOCUMENTS))
    return file


def test_a_text_and_a_column_with_the_same_documents_are_the_same_text(tmp_path: Path, text_file: Path) -> None:
    rows = [{"story": document, "number": index} for index, document in enumerate(DOCUMENTS)]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "text.parquet")
    texts = {read_text(calibration(tmp_path / name)) for name in ("text.txt", "text.jsonl", "text.parquet")}
    assert texts == {"\n\n".join(DOCUMENTS)}


@pytest.mark.parametrize("name", ["text.jsonl", "text.parquet"])
def test_a_missing_column_is_named_with_those_that_are_there(tmp_path: Path, name: str) -> None:
    rows = [{"tale": "x", "number": 1}]
    (tmp_path / "text.jsonl").write_text(json.dumps(rows[0]))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "text.parquet")
    with pytest.raises(ValueError, match=r"no (column|key) 'story'; it has tale, number"):
        read_text(calibration(tmp_path / name))


@pytest.mark.parametrize(
    ("line", "complaint"), [("{'story': 1}", "line 2, is not JSON"), ("3", "line 2, is not a JSON object")]
)
def test_a_row_that_cannot_be_read_is_named(tmp_path: Path, line: str, complaint: str) -> None:
    (tmp_path / "text.jsonl").write_text(json.dumps({"story": "x"}) + "\n" + line + "\n")
    with pytest.raises(CalibrationError, match=complaint):
        read_text(calibration(tmp_path / "text.jsonl"))


def test_a_text_that_is_too_short_is_refused(make_loaded: Callable[..., LoadedModel], text_file: Path) -> None:  # noqa: F811
    with pytest.raises(CalibrationError, match=r"text\.txt: .* fewer than one window of 500"):
        calibration_windows(make_loaded("llada"), calibration(text_file, length=500))


def test_four_mask_policies_give_four_different_calibrations(
    make_loaded: Callable[..., LoadedModel],  # noqa: F811
    text_file: Path,
) -> None:
    loaded = make_loaded("llada")
    policies = ("none", "uniform", "timestep", "on-policy")
    windows = {policy: calibration_windows(loaded, calibration(text_file, policy)) for policy in policies}
    assert len({tuple(rows.flatten().tolist()) for rows in windows.values()}) == 4
    for policy in policies:
        again = calibration_windows(make_loaded("llada"), calibration(text_file, policy))
        assert torch.equal(windows[policy], again)
    assert not (windows["none"] == MASK).any()
    for policy in ("uniform", "timestep"):
        visible = windows[policy] != MASK
        assert torch.equal(windows[policy][visible], windows["none"][visible])


def test_timesteps_cover_every_noise_level(make_loaded: Callable[..., LoadedModel], tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "long.txt").write_text("words and words " * 500)
    windows = calibration_windows(
        make_loaded("llada"), calibration(tmp_path / "long.txt", "timestep", length=1000, num_samples=10)
    )
    share = (windows == MASK).float().mean(1)
    # Window i is masked at a level of [i / 10, (i + 1) / 10).
    assert ((share * 10 - torch.arange(10) > -0.6) & (share * 10 - torch.arange(10) < 1.6)).all()


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_on_policy_windows_are_what_the_model_writes_when_it_is_stopped(
    make_loaded: Callable[..., LoadedModel],  # noqa: F811
    family: str,
) -> None:
    loaded = make_loaded(family)
    text = torch.arange(8 * 12).reshape(8, 12) % 250
    windows = denoised_windows(loaded, text)
    assert torch.equal(windows[:, :6], text[:, :6])
    assert (windows[:, 6:] == MASK).sum(1).tolist() == [6, 6, 5, 4, 3, 3, 2, 1]
    # Each committed token is the model's own surest choice: replayed one window at a time.
    for row, num_committed in zip(windows, [0, 0, 1, 2, 3, 3, 4, 5], strict=True):
        tokens = torch.cat([row[:6], torch.full((6,), MASK)])
        for _ in range(num_committed):
            logits = loaded.logits(tokens[None])[0].double()
            logits[:, MASK] = -torch.inf
            probabilities = logits.softmax(-1)
            candidates = [index for index in range(6, 12) if tokens[index] == MASK]
            place = max(candidates, key=lambda index: float(probabilities[index].max()))
            tokens[place] = int(probabilities[place].argmax())
        assert torch.equal(row, tokens)


def test_masking_needs_a_mask_token(make_loaded: Callable[..., LoadedModel], text_file: Path) -> None:  # noqa: F811
    for policy in ("uniform", "timestep", "on-policy"):
        with pytest.raises(ValueError, match=policy):
            calibration_windows(make_loaded("causal"), calibration(text_file, policy))
