"""Checkpoints in their authors' layouts load, and compute what the published architectures compute."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.models import float64_forward as reference
from tests.models import original_layouts as layouts
from workers.models import LoadedModel, load_model

torch.set_num_threads(1)

IDS = [72, 11, 256, 200, 5, 256, 256, 33, 90, 256, 7]
LLADA_LAYOUTS = {
    "hub config, LLaDA names": (layouts.llada_config(), False, 1),
    "hub config, LLaDA names, shards": (layouts.llada_config(), False, 3),
    "hub config, Llama names": (layouts.llada_config(), True, 1),
    "Llama config, LLaDA names": (layouts.llama_dialect_config(), False, 1),
    "Llama config, Llama names, shards": (layouts.llama_dialect_config(), True, 2),
    "transformers 5 config": (
        layouts.llama_dialect_config(rope_theta=None, rope_parameters={"rope_type": "default", "rope_theta": 500000.0}),
        True,
        1,
    ),
}


def logits_of(loaded: LoadedModel, ids: list[int] = IDS) -> np.ndarray:
    return loaded.logits(torch.tensor([ids]))[0].numpy().astype(np.float64)


def assert_equal_logits(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()


@pytest.fixture
def llada(tmp_path: Path) -> LoadedModel:
    return load_model(str(layouts.write_checkpoint(tmp_path, layouts.llada_config(), layouts.llada_tensors())))


@pytest.fixture
def dream(tmp_path: Path) -> LoadedModel:
    return load_model(str(layouts.write_checkpoint(tmp_path, layouts.dream_config(), layouts.qwen_tensors())))


@pytest.mark.parametrize("layout", LLADA_LAYOUTS)
def test_llada_computes_the_logits_of_the_float64_transcription_in_every_layout(layout: str, tmp_path: Path) -> None:
    config, llama_names, num_shards = LLADA_LAYOUTS[layout]
    tensors = layouts.llada_tensors()
    written = layouts.with_llama_names(tensors) if llama_names else tensors
    loaded = load_model(str(layouts.write_checkpoint(tmp_path, config, written, num_shards=num_shards)))
    assert loaded.family == "llada"
    assert_equal_logits(logits_of(loaded), reference.llada_logits(tensors, layouts.llada_config(), IDS))


def test_llada_with_grouped_query_attention_computes_the_transcription(tmp_path: Path) -> None:
    config, tensors = layouts.llada_config(n_kv_heads=2), layouts.llada_tensors(num_kv_heads=2)
    loaded = load_model(str(layouts.write_checkpoint(tmp_path, config, tensors)))
    assert_equal_logits(logits_of(loaded), reference.llada_logits(tensors, config, IDS))


def test_llada_with_tied_embeddings_reads_its_head_from_the_embedding(tmp_path: Path) -> None:
    config, tensors = layouts.llada_config(weight_tying=True), layouts.llada_tensors(tied=True)
    loaded = load_model(str(layouts.write_checkpoint(tmp_path, config, tensors)))
    assert_equal_logits(logits_of(loaded), reference.llada_logits(tensors, config, IDS))


@pytest.mark.parametrize("num_shards", [1, 2])
def test_dream_computes_the_shifted_logits_of_the_float64_transcription(num_shards: int, tmp_path: Path) -> None:
    config, tensors = layouts.dream_config(), layouts.qwen_tensors()
    loaded = load_model(str(layouts.write_checkpoint(tmp_path, config, tensors, num_shards=num_shards)))
    assert loaded.family == "dream"
    assert_equal_logits(logits_of(loaded), reference.dream_logits(tensors, config, IDS))


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_a_causal_mask_would_be_noticed(family: str, request: pytest.FixtureRequest) -> None:
    loaded: LoadedModel = request.getfixturevalue(family)
    if family == "llada":
        mutant = reference.llada_logits(layouts.llada_tensors(), layouts.llada_config(), IDS, causal=True)
    else:
        mutant = reference.dream_logits(layouts.qwen_tensors(), layouts.dream_config(), IDS, causal=True)
    with pytest.raises(AssertionError):
        assert_equal_logits(logits_of(loaded), mutant)
    # The switch that makes the model bidirectional is the one that is set: the other way round, the mutant is equal.
    loaded.model.config.is_causal = True
    assert_equal_logits(logits_of(loaded), mutant)


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_the_first_position_sees_the_last_token(family: str, request: pytest.FixtureRequest) -> None:
    loaded: LoadedModel = request.getfixturevalue(family)
    changed = [*IDS[:-1], IDS[-1] + 1]
    assert np.abs(logits_of(loaded)[0] - logits_of(loaded, changed)[0]).max() > 1e-3


@pytest.mark.parametrize("model_type", ["llama", "qwen2"])
def test_a_causal_model_gives_the_logits_of_the_token_at_each_position(model_type: str, tmp_path: Path) -> None:
    tensors = layouts.qwen_tensors(bias=model_type == "qwen2")
    config = layouts.dream_config(model_type=model_type)
    loaded = load_model(str(layouts.write_checkpoint(tmp_path, config, tensors)))
    assert loaded.family == "causal"
    assert loaded.mask_token_id is None
    assert_equal_logits(logits_of(loaded), reference.dream_logits(tensors, config, IDS, causal=True))
    changed = [*IDS[:-1], IDS[-1] + 1]
    assert np.array_equal(logits_of(loaded), logits_of(loaded, changed))


@pytest.mark.parametrize("model_type", ["llada", "Dream", "llama", "qwen2"])
def test_left_padding_with_a_mask_gives_the_logits_of_the_unpadded_run(model_type: str, tmp_path: Path) -> None:
    configs: dict[str, tuple[dict[str, Any], layouts.Tensors]] = {
        "llada": (layouts.llada_config(), layouts.llada_tensors()),
        "Dream": (layouts.dream_config(), layouts.qwen_tensors()),
        "llama": (layouts.dream_config(model_type="llama"), layouts.qwen_tensors(bias=False)),
        "qwen2": (layouts.dream_config(model_type="qwen2"), layouts.qwen_tensors()),
    }
    loaded = load_model(str(layouts.write_checkpoint(tmp_path, *configs[model_type])))
    rows = [IDS, IDS[:4], IDS[2:3], []]
    pad = loaded.pad_token_id
    batch = torch.tensor([[pad] * (len(IDS) - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (len(IDS) - len(row)) + [1] * len(row) for row in rows])
    padded = loaded.logits(batch, mask)
    # The last row is nothing but padding: no attention weight is left to sum up, and nothing may become NaN.
    assert padded.isfinite().all()
    for row, logits in zip(rows[:3], padded, strict=False):
        alone = loaded.logits(torch.tensor([row]))[0]
        torch.testing.assert_close(logits[-len(row) :], alone, atol=2e-5, rtol=1e-4)


def test_weights_can_be_loaded_as_bfloat16_and_the_logits_stay_float32(tmp_path: Path) -> None:
    layouts.write_checkpoint(tmp_path, layouts.llada_config(), layouts.llada_tensors())
    loaded = load_model(str(tmp_path), dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.bfloat16}
    assert loaded.logits(torch.tensor([IDS])).dtype == torch.float32


def test_loading_draws_nothing_on_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    layouts.write_checkpoint(tmp_path, layouts.llada_config(), layouts.llada_tensors())
    capfd.readouterr()
    load_model(str(tmp_path))
    assert capfd.readouterr() == ("", "")


def test_every_model_has_the_same_module_names_and_is_ready_to_evaluate(llada: LoadedModel) -> None:
    blocks: Any = llada.model.get_submodule("model.layers")
    assert len(blocks) == layouts.NUM_LAYERS
    for name in layouts.LLADA_BLOCK.values():
        assert blocks[0].get_submodule(name) is not None
    assert not llada.model.training
    assert llada.model.get_submodule("lm_head").out_features == layouts.VOCAB


def test_special_tokens_come_from_the_configuration_and_the_tokenizer(llada: LoadedModel) -> None:
    assert llada.mask_token_id == layouts.MASK
    assert llada.eos_token_id == llada.pad_token_id == layouts.EOS
    assert llada.bos_token_id == layouts.BOS
    assert llada.end_token_ids == {layouts.EOS, layouts.END_OF_TURN}
    assert llada.max_length == 64


def test_generation_config_adds_tokens_that_end_an_answer(tmp_path: Path) -> None:
    layouts.write_checkpoint(tmp_path, layouts.dream_config(pad_token_id=None), layouts.qwen_tensors())
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [layouts.EOS, 3]}))
    loaded = load_model(str(tmp_path))
    assert loaded.end_token_ids == {layouts.EOS, layouts.END_OF_TURN, 3}
    assert loaded.pad_token_id == layouts.EOS


def test_code_that_comes_with_a_checkpoint_is_never_run(tmp_path: Path) -> None:
    auto_map = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model", "AutoModelForCausalLM": "evil.Model"}
    layouts.write_checkpoint(tmp_path, layouts.dream_config(auto_map=auto_map), layouts.qwen_tensors())
    tokenizer_config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    tokenizer_config |= {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}, "tokenizer_class": "EvilTokenizer"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'was_run')!r}, 'w')\nraise RuntimeError('was run')\n")
    loaded = load_model(str(tmp_path))
    assert loaded.tokenizer.decode(loaded.tokenizer("abc")["input_ids"]) == "abc"
    assert not (tmp_path / "was_run").exists()


def test_dreams_own_tokenizer_class_is_read_from_its_vocabulary_files(tmp_path: Path) -> None:
    layouts.write_checkpoint(tmp_path, layouts.dream_config(), layouts.qwen_tensors())
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.json").write_text(json.dumps(layouts.byte_vocabulary()))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    added = {
        str(layouts.MASK + offset): {"content": token, "special": True, "lstrip": False, "rstrip": False}
        for offset, token in enumerate(layouts.SPECIAL)
    }
    declared = {
        "tokenizer_class": "DreamTokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
        "added_tokens_decoder": added,
        "mask_token": "<|mask|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "bos_token": "<|bos|>",
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(declared))
    loaded = load_model(str(tmp_path))
    text = "It's 42 <|mask|> l'été"
    ids = loaded.tokenizer(text)["input_ids"]
    assert layouts.MASK in ids
    assert loaded.bos_token_id == layouts.BOS
    assert loaded.tokenizer.decode(ids) == text
    assert ids == layouts.byte_tokenizer()(text)["input_ids"]
