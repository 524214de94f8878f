"""What a planner must know of a model, from its config.json alone: no torch, no transformers, no weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from grids.protocol import Family
from workers.models.checkpoint import CONFIG, ModelError, find_folder, model_digest, read_json
from workers.models.dialects import family_of, translate_config

__all__ = ["ModelError", "ModelInfo", "inspect_model", "model_digest"]

_KNOWN_CONFIGS = Path(__file__).parent / "known.yaml"


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Family and sizes of a checkpoint."""

    family: Family
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_length: int
    tied_embeddings: bool

    @property
    def num_block_parameters(self) -> int:
        """Weights of the seven linears of every block: what quantization works on. Norms and biases are not counted."""
        attention = 2 * self.hidden_size * self.head_dim * (self.num_heads + self.num_kv_heads)
        return self.num_layers * (attention + 3 * self.hidden_size * self.intermediate_size)

    @property
    def num_embedding_parameters(self) -> int:
        """Weights of the token embedding and the head, which stay in full precision."""
        return (1 if self.tied_embeddings else 2) * self.vocab_size * self.hidden_size


def inspect_model(path: str, *, revision: str | None = None) -> ModelInfo:
    """Family and sizes of a local folder or a hub id. Raises ModelError.

    Of a hub id, the cached config.json is read; without one, the table of known configurations beside this file, so
    that a study can be planned where its models are not; only for others is config.json fetched.
    """
    config, where = _config(path, revision)
    names = translate_config(config, where)
    return ModelInfo(
        family=family_of(config, where),
        num_layers=names["num_hidden_layers"],
        hidden_size=names["hidden_size"],
        intermediate_size=names["intermediate_size"],
        num_heads=names["num_attention_heads"],
        num_kv_heads=names["num_key_value_heads"],
        head_dim=names.get("head_dim") or names["hidden_size"] // names["num_attention_heads"],
        vocab_size=names["vocab_size"],
        max_length=names["max_position_embeddings"],
        tied_embeddings=names["tie_word_embeddings"],
    )


def _config(path: str, revision: str | None) -> tuple[dict[str, Any], str]:
    """A checkpoint's configuration, and where it was found."""
    known: dict[str, Any] = yaml.safe_load(_KNOWN_CONFIGS.read_text(encoding="utf-8"))
    is_known = path in known and not Path(path).exists()
    try:
        file = find_folder(path, revision, config_only=True, cached_only=is_known) / CONFIG
        return read_json(file), str(file)
    except ModelError:
        if not is_known:
            raise
    return known[known[path].get("like", path)], f"{_KNOWN_CONFIGS.name}, {path}"
