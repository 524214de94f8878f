"""Write and read the tiny models in the hub's original layouts: LLaDA's own names, Dream's Qwen2 names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

Model: TypeAlias = LlamaForCausalLM | Qwen2ForCausalLM

_LLADA_TOP = {
    "model.embed_tokens.weight": "model.transformer.wte.weight",
    "model.norm.weight": "model.transformer.ln_f.weight",
    "lm_head.weight": "model.transformer.ff_out.weight",
}
_LLADA_BLOCK = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "q_proj",
    "self_attn.k_proj": "k_proj",
    "self_attn.v_proj": "v_proj",
    "self_attn.o_proj": "attn_out",
    "post_attention_layernorm": "ff_norm",
    "mlp.gate_proj": "ff_proj",
    "mlp.up_proj": "up_proj",
    "mlp.down_proj": "ff_out",
}


def llada_names(num_layers: int) -> dict[str, str]:
    """Llama's parameter names to LLaDA's."""
    names = dict(_LLADA_TOP)
    for i in range(num_layers):
        for ours, theirs in _LLADA_BLOCK.items():
            names[f"model.layers.{i}.{ours}.weight"] = f"model.transformer.blocks.{i}.{theirs}.weight"
    return names


def _llada_config(model: Model, mask_token_id: int) -> dict[str, Any]:
    config = model.config
    return {
        "architectures": ["LLaDAModelLM"],
        "model_type": "llada",
        "activation_type": "silu",
        "alibi": False,
        "attention_dropout": 0.0,
        "attention_layer_norm": False,
        "bias_for_layer_norm": False,
        "block_group_size": 1,
        "block_type": "llama",
        "d_model": config.hidden_size,
        "embedding_dropout": 0.0,
        "embedding_size": config.vocab_size,
        "eos_token_id": config.eos_token_id,
        "flash_attention": False,
        "include_bias": False,
        "include_qkv_bias": False,
        "init_device": "cpu",
        "input_emb_norm": False,
        "layer_norm_type": "rms",
        "layer_norm_with_affine": True,
        "mask_token_id": mask_token_id,
        "max_sequence_length": config.max_position_embeddings,
        "mlp_hidden_size": config.intermediate_size,
        "n_heads": config.num_attention_heads,
        "n_kv_heads": config.num_key_value_heads,
        "n_layers": config.num_hidden_layers,
        "pad_token_id": config.pad_token_id,
        "residual_dropout": 0.0,
        "rms_norm_eps": config.rms_norm_eps,
        "rope": True,
        "rope_full_precision": True,
        "rope_theta": _rope_theta(model),
        "scale_logits": False,
        "torch_dtype": "float32",
        "use_cache": False,
        "vocab_size": config.vocab_size,
        "weight_tying": False,
    }


def _dream_config(model: Model, mask_token_id: int) -> dict[str, Any]:
    config = model.config
    return {
        "architectures": ["DreamModel"],
        "model_type": "Dream",
        "attention_dropout": 0.0,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "initializer_range": config.initializer_range,
        "intermediate_size": config.intermediate_size,
        "mask_token_id": mask_token_id,
        "max_position_embeddings": config.max_position_embeddings,
        "max_window_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_hidden_layers": config.num_hidden_layers,
        "num_key_value_heads": config.num_key_value_heads,
        "pad_token_id": config.pad_token_id,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_scaling": None,
        "rope_theta": _rope_theta(model),
        "sliding_window": None,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "use_cache": False,
        "use_sliding_window": False,
        "vocab_size": config.vocab_size,
    }


def _rope_theta(model: Model) -> float:
    return float(model.config.rope_parameters["rope_theta"])


def save_model(model: Model, tokenizer: PreTrainedTokenizerFast, family: str, folder: Path) -> None:
    """Write config.json, model.safetensors and the tokenizer's files into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    mask: int = tokenizer.convert_tokens_to_ids(tokenizer.mask_token)
    state = {name: value.detach().clone().contiguous() for name, value in model.state_dict().items()}
    if family == "llada":
        names = llada_names(model.config.num_hidden_layers)
        state = {names[name]: value for name, value in state.items()}
    config = _llada_config(model, mask) if family == "llada" else _dream_config(model, mask)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    tokenizer.save_pretrained(folder)


def load_model(folder: Path) -> Model:
    """Read back what `save_model` wrote, as a bidirectional Llama or Qwen2 of transformers."""
    raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    state = load_file(folder / "model.safetensors")
    model: Model
    if raw["model_type"] == "llada":
        llada = LlamaConfig(
            vocab_size=raw["embedding_size"],
            hidden_size=raw["d_model"],
            intermediate_size=raw["mlp_hidden_size"],
            num_hidden_layers=raw["n_layers"],
            num_attention_heads=raw["n_heads"],
            num_key_value_heads=raw["n_kv_heads"],
            max_position_embeddings=raw["max_sequence_length"],
            rms_norm_eps=raw["rms_norm_eps"],
            rope_theta=raw["rope_theta"],
            use_cache=False,
            tie_word_embeddings=False,
            eos_token_id=raw["eos_token_id"],
            pad_token_id=raw["pad_token_id"],
        )
        llada.is_causal = False
        model = LlamaForCausalLM(llada)
        back = {theirs: ours for ours, theirs in llada_names(raw["n_layers"]).items()}
        state = {back[name]: value for name, value in state.items()}
    else:
        dream = Qwen2Config(**{key: value for key, value in raw.items() if key not in ("architectures", "model_type")})
        dream.is_causal = False
        model = Qwen2ForCausalLM(dream)
    model.load_state_dict(state)
    return model.to(torch.float32).eval()
