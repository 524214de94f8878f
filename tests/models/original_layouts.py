"""Tiny random checkpoints, written as the models' authors write theirs: configuration, tokenizer, safetensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

Tensors = dict[str, np.ndarray]

NUM_LAYERS, HIDDEN, FFN, HEADS, VOCAB = 2, 32, 48, 4, 264
MASK, EOS, BOS, END_OF_TURN = 256, 257, 258, 259
SPECIAL = ["<|mask|>", "<|endoftext|>", "<|bos|>", "<|eot_id|>"]

# LLaDA's block names -> Llama's.
LLADA_BLOCK = {
    "attn_norm": "input_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_norm": "post_attention_layernorm",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
}
LLADA_TOP = {
    "model.transformer.wte.weight": "model.embed_tokens.weight",
    "model.transformer.ln_f.weight": "model.norm.weight",
    "model.transformer.ff_out.weight": "lm_head.weight",
}


def llada_config(**changes: Any) -> dict[str, Any]:
    """A config.json in the hub's dialect of LLaDA. The embedding is longer than the vocabulary."""
    return {
        "model_type": "llada",
        "architectures": ["LLaDAModelLM"],
        "activation_type": "silu",
        "alibi": False,
        "attention_layer_norm": False,
        "bias_for_layer_norm": False,
        "block_group_size": 1,
        "block_type": "llama",
        "d_model": HIDDEN,
        "embedding_size": VOCAB,
        "eos_token_id": EOS,
        "include_bias": False,
        "include_qkv_bias": False,
        "input_emb_norm": False,
        "layer_norm_type": "rms",
        "layer_norm_with_affine": True,
        "mask_token_id": MASK,
        "max_sequence_length": 64,
        "mlp_hidden_size": FFN,
        "mlp_ratio": 4,
        "multi_query_attention": None,
        "n_heads": HEADS,
        "n_kv_heads": HEADS,
        "n_layers": NUM_LAYERS,
        "pad_token_id": EOS,
        "rms_norm_eps": 1e-05,
        "rope": True,
        "rope_full_precision": True,
        "rope_theta": 500000.0,
        "scale_logits": False,
        "use_cache": False,
        "vocab_size": VOCAB - 4,
        "weight_tying": False,
    } | changes


def llama_dialect_config(**changes: Any) -> dict[str, Any]:
    """The same LLaDA in Llama's names."""
    return {
        "model_type": "llada",
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "intermediate_size": FFN,
        "num_hidden_layers": NUM_LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-05,
        "rope_theta": 500000.0,
        "vocab_size": VOCAB,
        "tie_word_embeddings": False,
        "mask_token_id": MASK,
        "eos_token_id": EOS,
        "pad_token_id": EOS,
    } | changes


def dream_config(**changes: Any) -> dict[str, Any]:
    """A config.json of Dream: two query heads share a key-value head."""
    return {
        "model_type": "Dream",
        "architectures": ["DreamModel"],
        "attention_dropout": 0.0,
        "bos_token_id": EOS,
        "eos_token_id": EOS,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "intermediate_size": FFN,
        "mask_token_id": MASK,
        "max_position_embeddings": 64,
        "max_window_layers": NUM_LAYERS,
        "num_attention_heads": HEADS,
        "num_hidden_layers": NUM_LAYERS,
        "num_key_value_heads": HEADS // 2,
        "pad_token_id": EOS,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": VOCAB,
    } | changes


def llada_tensors(*, num_kv_heads: int = HEADS, tied: bool = False, seed: int = 0) -> Tensors:
    """Parameters under LLaDA's own names; the head and the blocks' down projections are both `ff_out`."""
    rng = np.random.default_rng(seed)
    kv = HIDDEN // HEADS * num_kv_heads
    tensors = {
        "model.transformer.wte.weight": _normal(rng, VOCAB, HIDDEN),
        "model.transformer.ln_f.weight": _norm(rng),
    }
    if not tied:
        tensors["model.transformer.ff_out.weight"] = _normal(rng, VOCAB, HIDDEN)
    shapes = {"q_proj": (HIDDEN, HIDDEN), "k_proj": (kv, HIDDEN), "v_proj": (kv, HIDDEN), "attn_out": (HIDDEN, HIDDEN)}
    shapes |= {"ff_proj": (FFN, HIDDEN), "up_proj": (FFN, HIDDEN), "ff_out": (HIDDEN, FFN)}
    for i in range(NUM_LAYERS):
        block = f"model.transformer.blocks.{i}"
        tensors |= {f"{block}.{name}.weight": _normal(rng, *shape) for name, shape in shapes.items()}
        tensors |= {f"{block}.{name}.weight": _norm(rng) for name in ("attn_norm", "ff_norm")}
    return tensors


def with_llama_names(tensors: Tensors) -> Tensors:
    """LLaDA's parameters under Llama's names."""
    renamed = {LLADA_TOP[name]: value for name, value in tensors.items() if name in LLADA_TOP}
    for name, value in tensors.items():
        if name not in LLADA_TOP:
            _, _, _, block, part, kind = name.split(".")
            renamed[f"model.layers.{block}.{LLADA_BLOCK[part]}.{kind}"] = value
    return renamed


def qwen_tensors(*, bias: bool = True, num_kv_heads: int = HEADS // 2, seed: int = 1) -> Tensors:
    """Parameters under Qwen2's names, which Dream has too (and Llama, without biases)."""
    rng = np.random.default_rng(seed)
    kv = HIDDEN // HEADS * num_kv_heads
    tensors = {
        "model.embed_tokens.weight": _normal(rng, VOCAB, HIDDEN),
        "model.norm.weight": _norm(rng),
        "lm_head.weight": _normal(rng, VOCAB, HIDDEN),
    }
    shapes = {"self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (kv, HIDDEN), "self_attn.v_proj": (kv, HIDDEN)}
    shapes |= {"self_attn.o_proj": (HIDDEN, HIDDEN), "mlp.gate_proj": (FFN, HIDDEN), "mlp.up_proj": (FFN, HIDDEN)}
    shapes["mlp.down_proj"] = (HIDDEN, FFN)
    for i in range(NUM_LAYERS):
        block = f"model.layers.{i}"
        tensors |= {f"{block}.{name}.weight": _normal(rng, *shape) for name, shape in shapes.items()}
        tensors |= {f"{block}.{name}.weight": _norm(rng) for name in ("input_layernorm", "post_attention_layernorm")}
        if bias:
            for name in "qkv":
                size = shapes[f"self_attn.{name}_proj"][0]
                tensors[f"{block}.self_attn.{name}_proj.bias"] = _normal(rng, size)
    return tensors


def write_checkpoint(folder: Path, config: dict[str, Any], tensors: Tensors, *, num_shards: int = 1) -> Path:
    """Write config.json, tokenizer and weights; more than one shard comes with an index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    byte_tokenizer().save_pretrained(folder)
    if num_shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    weight_map = {}
    for shard in range(num_shards):
        file = f"model-{shard + 1:05}-of-{num_shards:05}.safetensors"
        part = {name: tensors[name] for name in sorted(tensors)[shard::num_shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": sum(value.nbytes for value in tensors.values())}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes as tokens, and the special tokens after them."""
    tokenizer = Tokenizer(models.BPE(vocab=byte_vocabulary(), merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, mask_token=SPECIAL[0], eos_token=SPECIAL[1], bos_token=SPECIAL[2]
    )


def byte_vocabulary() -> dict[str, int]:
    return {symbol: index for index, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}


def _normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return (rng.standard_normal(shape) * 0.3).astype(np.float32)


def _norm(rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(0.5, 1.5, HIDDEN).astype(np.float32)
