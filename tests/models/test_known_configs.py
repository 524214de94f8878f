"""Shapes of published checkpoints are known where the checkpoints are not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.models import original_layouts as layouts
from workers.models.checkpoint import ModelError
from workers.models.info import inspect_model

# Billions of weights in the blocks, and in embedding and head.
SIZES = {
    "GSAI-ML/LLaDA-8B-Base": ("llada", 6.979, 1.036),
    "GSAI-ML/LLaDA-8B-Instruct": ("llada", 6.979, 1.036),
    "GSAI-ML/LLaDA-1.5": ("llada", 6.979, 1.036),
    "Dream-org/Dream-v0-Base-7B": ("dream", 6.525, 1.090),
    "Dream-org/Dream-v0-Instruct-7B": ("dream", 6.525, 1.090),
    "meta-llama/Llama-3.1-8B": ("causal", 6.979, 1.051),
    "Qwen/Qwen2.5-7B": ("causal", 6.525, 1.090),
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


@pytest.mark.parametrize("name", SIZES)
def test_a_published_model_has_its_published_size(name: str) -> None:
    info = inspect_model(name, revision="main")
    family, blocks, embeddings = SIZES[name]
    assert info.family == family
    assert info.num_block_parameters / 1e9 == pytest.approx(blocks, abs=5e-4)
    assert info.num_embedding_parameters / 1e9 == pytest.approx(embeddings, abs=5e-4)


def test_a_cached_config_comes_before_the_table(cache: Path) -> None:
    folder = cache / "models--GSAI-ML--LLaDA-8B-Base" / "snapshots" / ("a" * 40)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(layouts.llada_config()))
    assert inspect_model("GSAI-ML/LLaDA-8B-Base", revision="a" * 40).hidden_size == layouts.HIDDEN
    # Another revision is not in the cache.
    assert inspect_model("GSAI-ML/LLaDA-8B-Base", revision="b" * 40).hidden_size == 4096


def test_a_model_that_is_neither_known_nor_here_is_refused() -> None:
    with pytest.raises(ModelError, match="cannot get model 'nobody/tiny'"):
        inspect_model("nobody/tiny", revision="main")
