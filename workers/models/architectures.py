"""LLaDA and Dream as what they are: Llama and Qwen2 without the causal mask.

transformers builds the bidirectional mask by itself where the configuration says `is_causal=False`. LLaDA's parameters
are renamed while they are read, so that every model has the names `self_attn.q_proj` ... `mlp.down_proj`.
"""

from __future__ import annotations

from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

# LLaDA's parameter names -> Llama's, applied in order; each leaves Llama's own names alone. The head and the blocks'
# down projections are both called `ff_out`: the head must be gone before the blocks' turn.
LLADA_KEYS = {
    r"^model\.transformer\.wte\.": "model.embed_tokens.",
    r"^model\.transformer\.ln_f\.": "model.norm.",
    r"^model\.transformer\.ff_out\.": "lm_head.",
    r"^model\.transformer\.blocks\.": "model.layers.",
    r"\.attn_norm\.": ".input_layernorm.",
    r"(?<!self_attn)\.q_proj\.": ".self_attn.q_proj.",
    r"(?<!self_attn)\.k_proj\.": ".self_attn.k_proj.",
    r"(?<!self_attn)\.v_proj\.": ".self_attn.v_proj.",
    r"\.attn_out\.": ".self_attn.o_proj.",
    r"\.ff_norm\.": ".post_attention_layernorm.",
    r"\.ff_proj\.": ".mlp.gate_proj.",
    r"(?<!mlp)\.up_proj\.": ".mlp.up_proj.",
    r"\.ff_out\.": ".mlp.down_proj.",
}


class LladaConfig(LlamaConfig):
    """Llama's configuration, bidirectional."""

    model_type = "llada"
    is_causal: bool = False
    use_cache: bool = False


class LladaForDiffusion(LlamaForCausalLM):
    """LLaDA: row i of the logits predicts token i."""

    config_class = LladaConfig


class DreamConfig(Qwen2Config):
    """Qwen2's configuration, bidirectional."""

    model_type = "Dream"
    is_causal: bool = False
    use_cache: bool = False


class DreamForDiffusion(Qwen2ForCausalLM):
    """Dream: row i - 1 of the logits predicts token i, as in the Qwen2 model that it was trained from."""

    config_class = DreamConfig
