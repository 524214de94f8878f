"""LLaDA's and Dream's forward in float64 numpy, one sequence at a time, from the description of their architectures.

Pre-norm blocks: RMS norm, grouped-query attention with half-split rotary embedding, SwiGLU feed-forward. Nothing of
torch or transformers is used. `causal=True` makes the mutant that hides later tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Array = np.ndarray


def llada_logits(
    tensors: Mapping[str, Array], config: Mapping[str, Any], ids: list[int], *, causal: bool = False
) -> Array:
    """Logits [T, V] from LLaDA's parameter names and its hub configuration; row i predicts token i."""
    w = {name: value.astype(np.float64) for name, value in tensors.items()}
    eps, theta = config["rms_norm_eps"], config["rope_theta"]
    x = w["model.transformer.wte.weight"][ids]
    for i in range(config["n_layers"]):
        block: Callable[[str], Array] = lambda name, i=i: w[f"model.transformer.blocks.{i}.{name}.weight"]  # noqa: E731
        h = rms_norm(x, block("attn_norm"), eps)
        q, k, v = (h @ block(f"{name}_proj").T for name in "qkv")
        x = x + attention(q, k, v, config["n_heads"], config["n_kv_heads"], theta, causal) @ block("attn_out").T
        h = rms_norm(x, block("ff_norm"), eps)
        x = x + (silu(h @ block("ff_proj").T) * (h @ block("up_proj").T)) @ block("ff_out").T
    head = w["model.transformer.wte.weight" if config["weight_tying"] else "model.transformer.ff_out.weight"]
    return rms_norm(x, w["model.transformer.ln_f.weight"], eps) @ head.T


def dream_logits(
    tensors: Mapping[str, Array], config: Mapping[str, Any], ids: list[int], *, causal: bool = False
) -> Array:
    """Logits [T, V] from Dream's parameter names; row i predicts token i: shifted, the first row repeated."""
    w = {name: value.astype(np.float64) for name, value in tensors.items()}
    eps, theta = config["rms_norm_eps"], config["rope_theta"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    x = w["model.embed_tokens.weight"][ids]
    for i in range(config["num_hidden_layers"]):
        block = f"model.layers.{i}."
        h = rms_norm(x, w[block + "input_layernorm.weight"], eps)
        q, k, v = (
            h @ w[f"{block}self_attn.{name}_proj.weight"].T + w.get(f"{block}self_attn.{name}_proj.bias", 0.0)
            for name in "qkv"
        )
        x = x + attention(q, k, v, heads, kv_heads, theta, causal) @ w[block + "self_attn.o_proj.weight"].T
        h = rms_norm(x, w[block + "post_attention_layernorm.weight"], eps)
        gate, up = (h @ w[f"{block}mlp.{name}_proj.weight"].T for name in ("gate", "up"))
        x = x + (silu(gate) * up) @ w[block + "mlp.down_proj.weight"].T
    logits = rms_norm(x, w["model.norm.weight"], eps) @ w["lm_head.weight"].T
    return np.concatenate([logits[:1], logits[:-1]])


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def attention(q: Array, k: Array, v: Array, heads: int, kv_heads: int, theta: float, causal: bool) -> Array:
    """Softmax attention of every token to every token; [T, heads * d], [T, kv_heads * d] -> [T, heads * d]."""
    length, dim = len(q), q.shape[-1] // heads
    out = np.empty_like(q)
    for head in range(heads):
        shared = head // (heads // kv_heads)
        qh = rotate(q[:, head * dim : (head + 1) * dim], theta)
        kh = rotate(k[:, shared * dim : (shared + 1) * dim], theta)
        scores = qh @ kh.T / np.sqrt(dim)
        if causal:
            scores = np.where(np.tri(length, dtype=bool), scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        out[:, head * dim : (head + 1) * dim] = weights @ v[:, shared * dim : (shared + 1) * dim]
    return out


def rotate(x: Array, theta: float) -> Array:
    """Rotary embedding of [T, d]: channel c of the first half turns with channel c of the second."""
    length, dim = x.shape
    angles = np.arange(length)[:, None] * theta ** (-np.arange(0, dim, 2) / dim)
    first, second = x[:, : dim // 2], x[:, dim // 2 :]
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
