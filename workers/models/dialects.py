"""The dialects of config.json: what LLaDA, Dream, Llama and Qwen2 checkpoints write, in transformers' names.

LLaDA has two: the hub's (`d_model`, `n_heads`, `mlp_hidden_size`, ...) and Llama's (`hidden_size`, ...). A dictionary
goes in, a dictionary comes out. A feature that the Llama or Qwen2 classes do not compute is refused by name: a model
that loads is the model that was trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grids.protocol import Family
from workers.models.checkpoint import ModelError

FAMILIES: Mapping[str, Family] = {"llada": "llada", "Dream": "dream", "llama": "causal", "qwen2": "causal"}

# Hub key of LLaDA -> transformers' key.
_LLADA_NAMES = {
    "d_model": "hidden_size",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "n_layers": "num_hidden_layers",
    "mlp_hidden_size": "intermediate_size",
    "max_sequence_length": "max_position_embeddings",
    "weight_tying": "tie_word_embeddings",
}
# What LLaDA's own configuration class assumes for a key that is absent.
_LLADA_DEFAULTS: dict[str, Any] = {
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
}
_LLADA_MLP_RATIO = 4
# Key -> the values that a Llama block computes. The second table's keys must be there: absent, they mean others.
_LLADA_OPTIONAL: dict[str, tuple[Any, ...]] = {
    "alibi": (False, None),
    "attention_layer_norm": (False, None),
    "bias_for_layer_norm": (False, None),
    "block_group_size": (1, None),
    "include_bias": (False, None),
    "include_qkv_bias": (False, None),
    "input_emb_norm": (False, None),
    "layer_norm_with_affine": (True, None),
    "scale_logits": (False, None),
}
_LLADA_REQUIRED: dict[str, tuple[Any, ...]] = {
    "activation_type": ("silu",),
    "block_type": ("llama",),
    "layer_norm_type": ("rms",),
    "rope": (True,),
}
# The same for transformers' names, per class.
_LLAMA_OPTIONAL: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", None),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
}
_DREAM_OPTIONAL: dict[str, tuple[Any, ...]] = {"hidden_act": ("silu", None), "use_sliding_window": (False, None)}
_SHAPES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_TOKEN_IDS = ("mask_token_id", "pad_token_id", "eos_token_id", "bos_token_id")


def family_of(config: Mapping[str, Any], where: str = "config.json") -> Family:
    """The family that `model_type` names. Raises ModelError with the types that are supported."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise ModelError(f"{where}: model_type is {model_type!r}; supported: {', '.join(FAMILIES)}")
    return FAMILIES[model_type]


def translate_config(config: Mapping[str, Any], where: str = "config.json") -> dict[str, Any]:
    """The checkpoint's configuration in the names of transformers' LlamaConfig or Qwen2Config.

    Holds the shapes, `num_key_value_heads`, `max_position_embeddings`, `tie_word_embeddings`, the token ids that the
    checkpoint names, and for diffusion models `rms_norm_eps` and `rope_parameters`. Raises ModelError, which names
    `where`, the key, its value and what is supported.
    """
    family = family_of(config, where)
    if family == "llada":
        names = _llada_names(config, where) if config.get("d_model") is not None else _llama_names(config, where)
    elif family == "dream":
        _check_values(config, _DREAM_OPTIONAL, where)
        names = dict(config)
    else:
        names = dict(config)
    translated = _shapes(names, where)
    translated |= {key: names[key] for key in _TOKEN_IDS if names.get(key) is not None}
    if family != "causal":
        translated["rms_norm_eps"] = _positive(names, "rms_norm_eps", where)
        translated["rope_parameters"] = {"rope_type": "default", "rope_theta": _rope_theta(names, where)}
        translated["hidden_act"] = "silu"
        _check_mask_token(translated, where)
    return translated


def _llada_names(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The hub's dialect: renamed, with the defaults of LLaDA's own configuration class."""
    _check_values(config, _LLADA_REQUIRED, where, required=True)
    _check_values(config, _LLADA_OPTIONAL, where)
    for key in ("d_model", "n_heads", "n_layers"):
        _positive_int(config, key, where)
    names = dict(config)
    for theirs, ours in _LLADA_NAMES.items():
        value = config.get(theirs)
        if value is not None and config.get(ours) not in (None, value):
            raise ModelError(f"{where}: {theirs} is {value!r}, but {ours} is {config[ours]!r}; they mean the same")
        if value is not None:
            names[ours] = value
    # The embedding may be longer than the vocabulary, for speed.
    names["vocab_size"] = config.get("embedding_size") or config.get("vocab_size")
    if names.get("intermediate_size") is None:
        names["intermediate_size"] = _LLADA_MLP_RATIO * names["hidden_size"]
        if config.get("mlp_ratio") is not None:
            names["intermediate_size"] = config["mlp_ratio"] * names["hidden_size"]
    if config.get("multi_query_attention"):
        _check_values(config, {"n_kv_heads": (1, None)}, where)
        names["num_key_value_heads"] = 1
    return _LLADA_DEFAULTS | {key: value for key, value in names.items() if value is not None}


def _llama_names(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """LLaDA in Llama's names."""
    _check_values(config, _LLAMA_OPTIONAL, where)
    names = dict(config)
    names["vocab_size"] = config.get("embedding_size") or config.get("vocab_size")
    return names


def _shapes(names: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The sizes, checked against each other."""
    shapes: dict[str, Any] = {key: _positive_int(names, key, where) for key in _SHAPES}
    hidden, heads = shapes["hidden_size"], shapes["num_attention_heads"]
    if names.get("num_key_value_heads") is None:
        shapes["num_key_value_heads"] = heads
    else:
        shapes["num_key_value_heads"] = _positive_int(names, "num_key_value_heads", where)
    if heads % shapes["num_key_value_heads"]:
        raise ModelError(
            f"{where}: {heads} attention heads are not a multiple of {shapes['num_key_value_heads']} key-value heads"
        )
    if names.get("head_dim") is not None:
        shapes["head_dim"] = _positive_int(names, "head_dim", where)
    elif hidden % heads:
        raise ModelError(f"{where}: hidden size {hidden} is not a multiple of {heads} attention heads")
    shapes["max_position_embeddings"] = _positive_int(names, "max_position_embeddings", where)
    shapes["tie_word_embeddings"] = bool(names.get("tie_word_embeddings", False))
    return shapes


def _rope_theta(names: Mapping[str, Any], where: str) -> float:
    """The base of the rotary embedding: `rope_theta`, or in transformers 5 a field of `rope_parameters`."""
    for key in ("rope_scaling", "rope_parameters"):
        scaling = names.get(key) or {}
        kind = scaling.get("rope_type", scaling.get("type", "default"))
        if kind != "default":
            raise ModelError(f"{where}: {key} has type {kind!r}; supported: default (no scaling)")
    parameters = names.get("rope_parameters") or {}
    return _positive({"rope_theta": names.get("rope_theta"), **parameters}, "rope_theta", where)


def _check_mask_token(translated: Mapping[str, Any], where: str) -> None:
    if "mask_token_id" not in translated:
        raise ModelError(f"{where}: mask_token_id is missing; a diffusion model needs it (LLaDA-8B: 126336)")
    mask, vocab_size = translated["mask_token_id"], translated["vocab_size"]
    if type(mask) is not int or not 0 <= mask < vocab_size:
        raise ModelError(f"{where}: mask_token_id is {mask!r}; it must be a token id from 0 to {vocab_size - 1}")


def _check_values(
    config: Mapping[str, Any], allowed: Mapping[str, tuple[Any, ...]], where: str, *, required: bool = False
) -> None:
    for key, values in allowed.items():
        # `True == 1`: a flag and a number must not pass for each other.
        fits = any(type(config.get(key)) is type(value) and config.get(key) == value for value in values)
        if not fits:
            state = f"is {config[key]!r}" if key in config else "is missing"
            supported = " or ".join(repr(value) for value in values if value is not None or required)
            raise ModelError(f"{where}: {key} {state}; supported: {supported}")


def _positive_int(config: Mapping[str, Any], key: str, where: str) -> int:
    value = config.get(key)
    if type(value) is not int or value <= 0:
        state = f"{key} is {value!r}" if value is not None else f"{key} is missing"
        raise ModelError(f"{where}: {state}; it must be a positive integer")
    return value


def _positive(config: Mapping[str, Any], key: str, where: str) -> float:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        state = f"{key} is {value!r}" if value is not None else f"{key} is missing"
        raise ModelError(f"{where}: {state}; it must be a positive number")
    return float(value)
