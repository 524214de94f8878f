"""config.json in every dialect becomes one set of names; what the models cannot compute is refused by name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.models import original_layouts as layouts
from workers.models.checkpoint import ModelError
from workers.models.dialects import translate_config
from workers.models.info import inspect_model

# The deciding values of the published 8B and 7B checkpoints.
LLADA_8B = layouts.llada_config(
    d_model=4096,
    embedding_size=126464,
    eos_token_id=126081,
    mask_token_id=126336,
    max_sequence_length=4096,
    mlp_hidden_size=12288,
    n_heads=32,
    n_kv_heads=32,
    n_layers=32,
    pad_token_id=126081,
    vocab_size=126464,
)
DREAM_7B = layouts.dream_config(
    hidden_size=3584,
    intermediate_size=18944,
    mask_token_id=151666,
    max_position_embeddings=131072,
    num_attention_heads=28,
    num_hidden_layers=28,
    num_key_value_heads=4,
    vocab_size=152064,
)


def inspected(config: dict[str, Any], folder: Path) -> Any:
    (folder / "config.json").write_text(json.dumps(config))
    return inspect_model(str(folder))


def test_both_dialects_of_llada_say_the_same() -> None:
    assert translate_config(layouts.llada_config()) == translate_config(layouts.llama_dialect_config())


def test_the_hub_dialect_is_translated_to_llamas_names() -> None:
    assert translate_config(LLADA_8B) == {
        "vocab_size": 126464,
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
        "hidden_act": "silu",
        "mask_token_id": 126336,
        "pad_token_id": 126081,
        "eos_token_id": 126081,
    }


def test_keys_that_the_hub_dialect_leaves_out_get_the_defaults_of_its_own_class() -> None:
    config = layouts.llada_config()
    for key in ("mlp_hidden_size", "mlp_ratio", "n_kv_heads", "rms_norm_eps", "rope_theta", "max_sequence_length"):
        del config[key]
    translated = translate_config(config)
    assert translated["intermediate_size"] == 4 * layouts.HIDDEN
    assert translated["num_key_value_heads"] == layouts.HEADS
    assert translated["rms_norm_eps"] == 1e-5
    assert translated["rope_parameters"]["rope_theta"] == 10000.0
    assert translated["max_position_embeddings"] == 1024


def test_the_embedding_size_wins_over_the_vocabulary_size() -> None:
    assert translate_config(layouts.llada_config(embedding_size=300))["vocab_size"] == 300
    assert translate_config(layouts.llada_config(embedding_size=None))["vocab_size"] == layouts.VOCAB - 4


def test_multi_query_attention_has_one_key_value_head() -> None:
    config = layouts.llada_config(multi_query_attention=True, n_kv_heads=None)
    assert translate_config(config)["num_key_value_heads"] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alibi": True}, "here: alibi is True; supported: False"),
        ({"block_type": "sequential"}, "block_type is 'sequential'; supported: 'llama'"),
        ({"layer_norm_type": "default"}, "layer_norm_type is 'default'; supported: 'rms'"),
        ({"activation_type": "swiglu"}, "activation_type is 'swiglu'; supported: 'silu'"),
        ({"include_bias": True}, "include_bias is True; supported: False"),
        ({"include_qkv_bias": True}, "include_qkv_bias is True; supported: False"),
        ({"rope": False}, "rope is False; supported: True"),
        ({"scale_logits": True}, "scale_logits is True; supported: False"),
        ({"block_group_size": 4}, "block_group_size is 4; supported: 1"),
        ({"attention_layer_norm": True}, "attention_layer_norm is True; supported: False"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_scaling has type 'yarn'; supported: default"),
        ({"hidden_size": 77}, "d_model is 32, but hidden_size is 77; they mean the same"),
        ({"n_heads": 5, "n_kv_heads": 5}, "hidden size 32 is not a multiple of 5"),
        ({"n_kv_heads": 3}, "4 attention heads are not a multiple of 3 key-value heads"),
        ({"n_layers": "two"}, "n_layers is 'two'; it must be a positive integer"),
        ({"d_model": None}, "hidden_size is missing; it must be a positive integer"),
        ({"mlp_hidden_size": 4.5}, "intermediate_size is 4.5; it must be a positive integer"),
        ({"rope_theta": 0}, "rope_theta is 0; it must be a positive number"),
        ({"mask_token_id": None}, "mask_token_id is missing"),
        ({"mask_token_id": 5000}, "mask_token_id is 5000; it must be a token id from 0 to 263"),
        ({"model_type": "gpt2"}, "model_type is 'gpt2'; supported: llada, Dream, llama, qwen2"),
        ({"model_type": ["llada"]}, "supported: llada, Dream, llama, qwen2"),
    ],
)
def test_what_a_llada_cannot_be_is_refused_with_key_value_and_what_is_supported(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError) as caught:
        translate_config(layouts.llada_config(**changes), "here")
    assert message in str(caught.value)


@pytest.mark.parametrize("key", ["block_type", "layer_norm_type", "activation_type", "rope"])
def test_a_key_whose_default_is_another_model_must_be_there(key: str) -> None:
    config = layouts.llada_config()
    del config[key]
    with pytest.raises(ModelError, match=f"{key} is missing; supported: "):
        translate_config(config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (layouts.llama_dialect_config(attention_bias=True), "attention_bias is True"),
        (layouts.llama_dialect_config(hidden_act="gelu"), "hidden_act is 'gelu'; supported: 'silu'"),
        (layouts.llama_dialect_config(intermediate_size=None), "intermediate_size is missing"),
        (layouts.llama_dialect_config(rope_parameters={"rope_type": "linear"}), "rope_parameters has type 'linear'"),
        (layouts.dream_config(use_sliding_window=True), "use_sliding_window is True; supported: False"),
        (layouts.dream_config(mask_token_id=None), "mask_token_id is missing"),
    ],
)
def test_the_other_dialects_are_as_strict(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError) as caught:
        translate_config(config)
    assert message in str(caught.value)


def test_inspection_gives_the_published_sizes(tmp_path: Path) -> None:
    llada = inspected(LLADA_8B, tmp_path)
    assert (llada.family, llada.num_layers, llada.hidden_size, llada.num_kv_heads) == ("llada", 32, 4096, 32)
    # A model card says 6.98 B besides the embeddings, 8.02 B in all; norms are the rest.
    assert llada.num_block_parameters == 32 * (4 * 4096 * 4096 + 3 * 4096 * 12288)
    assert round(llada.num_block_parameters / 1e9, 2) == 6.98
    assert round((llada.num_block_parameters + llada.num_embedding_parameters) / 1e9, 2) == 8.02
    dream = inspected(DREAM_7B, tmp_path)
    assert (dream.family, dream.num_kv_heads, dream.head_dim) == ("dream", 4, 128)
    assert round(dream.num_block_parameters / 1e9, 3) == 6.525
    assert round(dream.num_embedding_parameters / 2e9, 3) == 0.545


def test_causal_models_are_inspected_too(tmp_path: Path) -> None:
    assert inspected(layouts.dream_config(model_type="qwen2", mask_token_id=None), tmp_path).family == "causal"
    scaled = layouts.dream_config(model_type="llama", rope_scaling={"rope_type": "llama3", "factor": 8.0})
    assert inspected(scaled, tmp_path).family == "causal"


def test_inspection_needs_neither_torch_nor_transformers(tmp_path: Path) -> None:
    layouts.write_checkpoint(tmp_path, layouts.llada_config(), layouts.llada_tensors())
    program = (
        "import sys\nfrom workers.models.info import inspect_model, model_digest\n"
        f"print(inspect_model({str(tmp_path)!r}).family, len(model_digest({str(tmp_path)!r})))\n"
        "print([name for name in ('torch', 'transformers', 'ray', 'lm_eval') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split("\n")[:2] == ["llada 64", "[]"]
