"""A folder that is not a usable checkpoint gets one error that says what is missing, or what does not fit."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.numpy import load_file, save_file

from tests.models import original_layouts as layouts
from workers.models import ModelError, inspect_model, load_model, model_digest

torch.set_num_threads(1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return layouts.write_checkpoint(tmp_path / "tiny", layouts.llada_config(), layouts.llada_tensors())


def message_of(path: Path | str, revision: str | None = None) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(str(path), revision=revision)
    return str(caught.value)


def edit_weights(folder: Path, edit: Callable[[layouts.Tensors], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_an_empty_folder_is_told_everything_that_a_model_needs(tmp_path: Path) -> None:
    message = message_of(tmp_path)
    assert str(tmp_path) in message
    for needed in ("config.json", "tokenizer.json", "vocab.json with merges.txt", "model.safetensors"):
        assert needed in message


@pytest.mark.parametrize("path", ["no/such/folder/here", "./tiny", "/nowhere/tiny", "~/nowhere/tiny"])
def test_a_missing_folder_is_named(path: str) -> None:
    assert "no such model folder" in message_of(path)


def test_a_file_is_not_a_model(folder: Path) -> None:
    assert "is a file; a model is a folder" in message_of(folder / "config.json")


def test_a_local_folder_has_no_revision(folder: Path) -> None:
    assert "is a local folder, which has no revision (got 'main')" in message_of(folder, "main")


def test_pickled_weights_are_refused_by_name(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    message = message_of(folder)
    assert "missing safetensors weights" in message
    assert "pickled weights are not read: pytorch_model.bin" in message


def test_a_missing_tokenizer_is_named(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    assert "missing tokenizer files (tokenizer.json" in message_of(folder)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    layouts.write_checkpoint(tmp_path, layouts.llada_config(), layouts.llada_tensors(), num_shards=3)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    assert "model-00002-of-00003.safetensors (named in model.safetensors.index.json)" in message_of(tmp_path)


def test_broken_json_is_named(folder: Path) -> None:
    (folder / "config.json").write_text("{ not json")
    assert f"cannot read {folder / 'config.json'}" in message_of(folder)
    (folder / "config.json").write_text("[1, 2]")
    assert "it holds list, not an object" in message_of(folder)


def test_a_cut_off_weight_file_is_named(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    assert f"{folder}: cannot read the safetensors weights" in message_of(folder)


def test_missing_tensors_are_named(folder: Path) -> None:
    edit_weights(folder, lambda tensors: tensors.pop("model.transformer.blocks.1.up_proj.weight"))
    assert "missing: model.layers.1.mlp.up_proj.weight" in message_of(folder)


def test_a_missing_head_is_not_made_up(folder: Path) -> None:
    edit_weights(folder, lambda tensors: tensors.pop("model.transformer.ff_out.weight"))
    assert "missing: lm_head.weight" in message_of(folder)


def test_unexpected_tensors_are_named(folder: Path) -> None:
    extra = layouts.llada_tensors()["model.transformer.ln_f.weight"]
    edit_weights(folder, lambda tensors: tensors.update({"model.transformer.blocks.0.k_norm.weight": extra}))
    assert "unexpected: model.layers.0.k_norm.weight" in message_of(folder)


def test_tensors_of_another_size_are_named_with_both_sizes(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text()) | {"mlp_hidden_size": 40}
    (folder / "config.json").write_text(json.dumps(config))
    message = message_of(folder)
    assert "of another size: model.layers.0.mlp.down_proj.weight is [32, 48] and should be [32, 40]" in message


def test_an_unsupported_configuration_names_its_file(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text()) | {"alibi": True}
    (folder / "config.json").write_text(json.dumps(config))
    assert message_of(folder) == f"{folder / 'config.json'}: alibi is True; supported: False"


def test_a_tokenizer_that_is_only_code_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text("{}")
    (folder / "merges.txt").write_text("")
    declared = {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["own.OwnTokenizer", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(declared))
    message = message_of(folder)
    assert "cannot load the tokenizer 'OwnTokenizer' without running code of the checkpoint" in message


def test_an_unreachable_hub_id_says_what_was_looked_for_and_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError) as caught:
        inspect_model("nobody/tiny-model", revision="abc123")
    for part in ("'nobody/tiny-model'", "'abc123'", str(tmp_path), "no local folder of that name"):
        assert part in str(caught.value)
    assert "'nobody/tiny-model'" in message_of("nobody/tiny-model")


def test_the_digest_depends_on_contents_and_names_and_not_on_the_place(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "README.md").write_text("decides nothing")
    assert model_digest(copy) == model_digest(str(folder))
    os.utime(copy / "model.safetensors", (0, 0))
    assert model_digest(copy) == model_digest(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_the_digest_changes_with_every_file_that_decides(name: str, folder: Path) -> None:
    before = model_digest(folder)
    (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    assert model_digest(folder) != before


def test_the_digest_changes_with_a_files_name(folder: Path) -> None:
    (folder / "vocab.json").write_text("{}")
    before = model_digest(folder)
    (folder / "vocab.json").rename(folder / "vocab.txt")
    assert model_digest(folder) != before


def test_the_digest_of_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        model_digest(tmp_path)
