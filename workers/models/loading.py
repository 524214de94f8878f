"""Load a checkpoint: weights from safetensors, the tokenizer, the special tokens; never code that comes with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Tokenizer,
)
from transformers.utils import logging as transformers_logging

from grids.protocol import Family
from workers.models.architectures import LLADA_KEYS, DreamConfig, DreamForDiffusion, LladaConfig, LladaForDiffusion
from workers.models.checkpoint import CONFIG, TOKENIZER_CONFIG, ModelError, check_files, find_folder, read_json
from workers.models.dialects import family_of, translate_config
from workers.models.packed import PackedBatch, hidden_states_at
from workers.models.padding import MIN_ROWS, at_least
from workers.models.work import ModelCost, WorkCounter

# Tokens that end an answer of a chat model, where the tokenizer has them, whatever the configuration calls the end.
_END_OF_TURN = ("<|eot_id|>", "<|im_end|>", "<|endoftext|>", "<|end_of_text|>")
# Buffers that old checkpoints carry and no model reads.
_IGNORED_SUFFIX = "rotary_emb.inv_freq"
_MAX_NAMES = 8


@dataclass(frozen=True)
class LoadedModel:
    """A model in eval mode with its tokenizer. Logits have one meaning for every family: row i predicts token i.

    Dream's and the causal models' own row i - 1 becomes row i; the row of the first token is its own, which for a
    causal model has no meaning. `end_token_ids` are the tokens that end an answer: the configured ends of text, and the
    ends of a chat turn.
    """

    model: nn.Module
    tokenizer: Any
    family: Family
    mask_token_id: int | None
    pad_token_id: int
    eos_token_id: int
    bos_token_id: int | None
    max_length: int
    end_token_ids: frozenset[int] = frozenset()
    counter: WorkCounter = field(default_factory=WorkCounter, compare=False, repr=False)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @cached_property
    def cost(self) -> ModelCost:
        return ModelCost.of(self.model)

    @torch.no_grad()
    def logits(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits [B, T, V] in float32.

        `input_ids` is [B, T]; `attention_mask` [B, T] is 0 at padding, on the left or on the right of a row. Rows of
        padding hold finite numbers without a meaning.
        """
        num_rows, length = input_ids.shape
        num_flops = self.cost.blocks(num_rows, length, length) + self.cost.head(num_rows * length)
        self.counter.add_forward(num_rows, num_rows * length, num_flops)
        inputs: dict[str, Any] = {"input_ids": input_ids.to(self.device), "use_cache": False}
        if attention_mask is not None:
            inputs["attention_mask"] = attention_mask.to(self.device)
            # A token's position is its number among the row's tokens.
            inputs["position_ids"] = (inputs["attention_mask"].long().cumsum(-1) - 1).clamp(min=0)
        output = self.model(**inputs)
        logits: Tensor = output.logits.float()
        if self.family == "llada":
            return logits
        shifted = torch.cat([logits[:, :1], logits[:, :-1]], dim=1)
        if attention_mask is None:
            return shifted
        # A row that is padded on the left begins after the padding, not at column 0.
        mask = inputs["attention_mask"]
        first = (mask.long().cumsum(-1) == 1) & mask.bool()
        return torch.where(first[..., None], logits, shifted)

    def logits_at(self, input_ids: Tensor, positions: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Those rows of `logits` where bool [B, T] `positions` is true, in reading order: [positions.sum(), V].

        For a diffusion model: it works for its real tokens alone, and its last block and head for these rows alone. In
        float32 the result is that of `logits` up to rounding (about 1e-6, relative).
        """
        return self.head(self.hidden_at(input_ids, positions, attention_mask))

    @torch.no_grad()
    def hidden_at(self, input_ids: Tensor, positions: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """What `head` turns into the rows of `logits_at`: hidden states [positions.sum(), D] after the final norm."""
        # A packed batch is seen in both directions.
        assert self.family != "causal"
        rows, columns = self._predicting(positions.cpu(), attention_mask)
        batch = PackedBatch(input_ids.cpu(), None if attention_mask is None else attention_mask.cpu(), self.device)
        selected, queries = batch.select(rows, columns)
        self.counter.add_forward(len(input_ids), len(batch), self.cost.packed_blocks(len(batch), batch.keys, queries))
        return hidden_states_at(self.model, batch, selected, queries)[: len(rows)]

    @torch.no_grad()
    def head(self, hidden: Tensor) -> Tensor:
        """Logits [n, V] in float32 of hidden states [n, D] of `hidden_at`."""
        rows = at_least(hidden, MIN_ROWS)
        self.counter.num_flops += self.cost.head(len(rows))
        logits: Tensor = self.model.get_submodule("lm_head")(rows)
        return logits[: len(hidden)].float()

    def _predicting(self, positions: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Row and column of the tokens whose own rows of the model's output predict those at `positions`."""
        rows, columns = positions.nonzero(as_tuple=True)
        if self.family == "llada":
            return rows, columns
        first = columns.new_zeros(len(positions))
        if attention_mask is not None:
            first = attention_mask.cpu().long().argmax(-1)
        return rows, torch.where(columns > first[rows], columns - 1, columns)


def load_model(
    path: str, *, revision: str | None = None, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> LoadedModel:
    """Load a local folder or a hub id. Raises ModelError that names what is missing, unexpected or unsupported."""
    folder = find_folder(path, revision)
    check_files(folder)
    raw = read_json(folder / CONFIG)
    family = family_of(raw, str(folder / CONFIG))
    names = translate_config(raw, str(folder / CONFIG))
    tokenizer = _load_tokenizer(folder)
    model = _load_weights(folder, raw, names, dtype).to(device)
    eos_ids = _token_ids(names.get("eos_token_id")) or _token_ids(tokenizer.eos_token_id)
    if not eos_ids:
        raise ModelError(f"{folder}: neither {CONFIG} nor the tokenizer names an eos token")
    pad = next(iter(_token_ids(names.get("pad_token_id")) or _token_ids(tokenizer.pad_token_id)), eos_ids[0])
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        family=family,
        mask_token_id=names["mask_token_id"] if family != "causal" else None,
        pad_token_id=pad,
        eos_token_id=eos_ids[0],
        bos_token_id=tokenizer.bos_token_id,
        max_length=names["max_position_embeddings"],
        end_token_ids=frozenset(eos_ids) | _end_token_ids(folder, tokenizer),
    )


def _load_weights(folder: Path, raw: dict[str, Any], names: dict[str, Any], dtype: torch.dtype) -> nn.Module:
    model_class, config, key_mapping = _architecture(raw, names)
    try:
        with _without_progress_bar():
            model, info = model_class.from_pretrained(
                folder,
                config=config,
                key_mapping=key_mapping,
                dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                # Mismatches are reported below, by name, with the other problems.
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except SafetensorError as error:
        raise ModelError(f"{folder}: cannot read the safetensors weights: {error}") from error
    problems = _weight_problems(info)
    if problems:
        raise ModelError(f"{folder}: the weights do not fit {CONFIG}: {'; '.join(problems)}")
    loaded: nn.Module = model.eval()
    return loaded


@contextmanager
def _without_progress_bar() -> Iterator[None]:
    """transformers' own bar would be drawn over the display of the program that runs this worker."""
    was_enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            transformers_logging.enable_progress_bar()


def _architecture(raw: dict[str, Any], names: dict[str, Any]) -> tuple[Any, Any, dict[str, str] | None]:
    """Class, configuration and renaming of the parameters."""
    if raw["model_type"] == "llada":
        return LladaForDiffusion, LladaConfig(**_without_token_ids(names)), LLADA_KEYS
    if raw["model_type"] == "Dream":
        return DreamForDiffusion, DreamConfig(**_without_token_ids(names)), None
    if raw["model_type"] == "llama":
        return LlamaForCausalLM, LlamaConfig.from_dict(raw), None
    assert raw["model_type"] == "qwen2"
    return Qwen2ForCausalLM, Qwen2Config.from_dict(raw), None


def _without_token_ids(names: dict[str, Any]) -> dict[str, Any]:
    """A LoadedModel says which tokens are special; what transformers would do with them is not wanted."""
    kept = {key: value for key, value in names.items() if not key.endswith("_token_id")}
    return kept | {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}


def _weight_problems(info: dict[str, Any]) -> list[str]:
    unexpected = sorted(name for name in info["unexpected_keys"] if not name.endswith(_IGNORED_SUFFIX))
    mismatched = [
        f"{name} is {list(found)} and should be {list(wanted)}"
        for name, found, wanted in sorted(info["mismatched_keys"])
    ]
    parts = (
        ("missing", sorted(info["missing_keys"])),
        ("unexpected", unexpected),
        ("of another size", mismatched),
        ("errors", [str(message) for message in info.get("error_msgs", ())]),
    )
    return [f"{title}: {_listed(found)}" for title, found in parts if found]


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(names[:_MAX_NAMES]) + more


def _load_tokenizer(folder: Path) -> Any:
    """The tokenizer from its data files; a tokenizer class that lives in the checkpoint is never imported."""
    declared = read_json(folder / TOKENIZER_CONFIG) if (folder / TOKENIZER_CONFIG).is_file() else {}
    try:
        if (folder / "tokenizer.json").is_file():
            return PreTrainedTokenizerFast.from_pretrained(folder)
        if declared.get("tokenizer_class") == "DreamTokenizer":
            # Dream's own class is Qwen2's tokenizer under another name.
            return Qwen2Tokenizer.from_pretrained(folder)
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{folder}: cannot load the tokenizer {declared.get('tokenizer_class')!r} without running code of the "
            f"checkpoint (a tokenizer.json always can): {error}"
        ) from error


def _end_token_ids(folder: Path, tokenizer: Any) -> frozenset[int]:
    """Ends that the tokenizer and generation_config.json name."""
    ids: set[int] = set(_token_ids(tokenizer.eos_token_id))
    if (folder / "generation_config.json").is_file():
        ids.update(_token_ids(read_json(folder / "generation_config.json").get("eos_token_id")))
    added = tokenizer.get_added_vocab()
    return frozenset(ids | {added[name] for name in _END_OF_TURN if name in added})


def _token_ids(value: int | Iterable[int] | None) -> list[int]:
    if value is None:
        return []
    return [value] if isinstance(value, int) else list(value)
