"""Tiny random models of each family, in memory, with a tokenizer of bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from grids.protocol import Family
from workers.models import LoadedModel
from workers.models.architectures import DreamConfig, DreamForDiffusion, LladaConfig, LladaForDiffusion

MASK, EOS, BOS, END_OF_TURN = 256, 257, 258, 259
SPECIAL = ["<|mask|>", "<|endoftext|>", "<|bos|>", "<|eot_id|>"]
VOCAB = 260
CHAT = (
    "{% for message in messages %}<|bos|>{{ message['role'] }}: {{ message['content'] }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)

torch.set_num_threads(1)


@pytest.fixture
def make_loaded() -> Callable[..., LoadedModel]:
    """A LoadedModel of a family with random weights: `make_loaded("llada", seed=0, max_length=128)`."""

    def make(family: Family, *, seed: int = 0, max_length: int = 128, scale: float = 0.4) -> LoadedModel:
        sizes: dict[str, Any] = {
            "vocab_size": VOCAB,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": max_length,
        }
        torch.manual_seed(seed)
        model: Any = {
            "llada": lambda: LladaForDiffusion(LladaConfig(**sizes)),
            "dream": lambda: DreamForDiffusion(DreamConfig(**sizes)),
            "causal": lambda: LlamaForCausalLM(LlamaConfig(**sizes)),
        }[family]()
        for parameter in model.parameters():
            # Large enough that attention and the next token depend on what is there.
            torch.nn.init.normal_(parameter, mean=1.0 if parameter.dim() == 1 else 0.0, std=scale)
        return LoadedModel(
            model=model.eval(),
            tokenizer=byte_tokenizer(),
            family=family,
            mask_token_id=None if family == "causal" else MASK,
            pad_token_id=EOS,
            eos_token_id=EOS,
            bos_token_id=BOS,
            max_length=max_length,
            end_token_ids=frozenset({EOS, END_OF_TURN}),
        )

    return make


def byte_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {symbol: index for index, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        mask_token=SPECIAL[0],
        eos_token=SPECIAL[1],
        bos_token=SPECIAL[2],
        chat_template=CHAT,
    )
