"""How a task is scored on a diffusion language model: likelihood and sampler settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from grids.identity import differing_fields

# Raised when the same settings would give other numbers.
PROTOCOL_VERSION = 1

Family = Literal["llada", "dream", "causal"]

# Settings that came after studies were run, and what those studies did: at that value they are no part of the identity,
# so that its hash stays the same.
_ADDED_LATER = {"cfg_scale": 0.0, "logits_eos_inf": False, "confidence_eos_eot_inf": False}


class Settings(BaseModel):
    """A frozen group of settings that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LikelihoodSettings(Settings):
    """The Monte-Carlo estimate of log p(target | context) of a masked diffusion model."""

    mc_num: int = Field(128, ge=1, description="draws per request")
    strata: int = Field(1, ge=1, description="draws of a group get evenly spread numbers of masks")
    exact: bool = Field(False, description="sum over all 2^L - 1 patterns of masks where they are no more than mc_num")
    race: float | None = Field(
        None, gt=0, lt=1, description="stop drawing for a choice that cannot win, at this error probability"
    )

    @model_validator(mode="after")
    def _strata_divide_draws(self) -> LikelihoodSettings:
        if self.mc_num % self.strata:
            raise ValueError(f"mc_num {self.mc_num} is not a multiple of strata {self.strata}")
        return self

    def identity(self) -> dict[str, Any]:
        """What decides a likelihood. Options that are younger than stored results are named where they are on."""
        off = {"exact": False, "race": None}
        return {name: value for name, value in self.model_dump(mode="json").items() if off.get(name, ...) != value}


class LladaSampler(Settings):
    """Block-wise generation with remasking (LLaDA)."""

    block_length: int = Field(32, ge=1)
    remasking: Literal["low_confidence", "random"] = "low_confidence"
    cfg_scale: float = Field(0.0, ge=0, description="classifier-free guidance; 0 for none")
    logits_eos_inf: bool = Field(False, description="the end of text is never written")
    confidence_eos_eot_inf: bool = Field(False, description="ends of text and of a turn are committed last")


class DreamSampler(Settings):
    """Dream's own sampler: which masked positions are committed next, and how a token is drawn."""

    algorithm: Literal["entropy", "maskgit_plus", "topk_margin", "origin"] = "entropy"
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=1)
    alg_temp: float | None = Field(None, ge=0)


class GenerationSettings(Settings):
    """A fixed number of new tokens, unmasked in a fixed number of steps."""

    gen_length: int = Field(256, ge=1)
    steps: int = Field(256, ge=1)
    temperature: float = Field(0.0, ge=0)
    eos_ends_answer: bool = True
    llada: LladaSampler = LladaSampler()
    dream: DreamSampler = DreamSampler()

    def check_blocks(self) -> None:
        """Raises ValueError where blocks and steps do not divide the length as LLaDA's sampler needs."""
        if self.gen_length % self.llada.block_length:
            raise ValueError(
                f"gen_length {self.gen_length} is not a multiple of block_length {self.llada.block_length}"
            )
        num_blocks = self.gen_length // self.llada.block_length
        if self.steps % num_blocks:
            raise ValueError(f"steps {self.steps} is not a multiple of the number of blocks {num_blocks}")


class Protocol(Settings):
    """Likelihood and generation settings of one cell."""

    likelihood: LikelihoodSettings = LikelihoodSettings()
    generation: GenerationSettings = GenerationSettings()

    @classmethod
    def from_layers(cls, layers: Iterable[Mapping[str, Any]]) -> Protocol:
        """Settings from the general to the particular, key by key; other keys of a layer are left alone.

        Raises pydantic's ValidationError.
        """
        settings: dict[str, Any] = {"likelihood": {}, "generation": {}}
        for layer in layers:
            settings = {part: _merge(under, layer.get(part) or {}) for part, under in settings.items()}
        return cls.model_validate(settings)

    def identity(self, family: Family, output_type: str) -> dict[str, Any]:
        """The settings that decide a cell's number: only those that the family and the task's requests read."""
        if output_type != "generate_until":
            return {} if family == "causal" else self.likelihood.identity()
        generation: dict[str, Any] = self.generation.model_dump(mode="json")
        samplers: dict[str, dict[str, Any]] = {name: generation.pop(name) for name in ("llada", "dream")}
        if family == "causal":
            return {key: generation[key] for key in ("gen_length", "temperature", "eos_ends_answer")}
        sampler = samplers[family].items()
        return generation | {key: value for key, value in sampler if (key, value) not in _ADDED_LATER.items()}


def unlike_settings(one: Mapping[str, Any], other: Mapping[str, Any], *, same_family: bool) -> list[str]:
    """What keeps scores of a task under two identities (`CellTask.identity`) from standing in one column.

    A model family generates in its own way, with lengths and steps that presets set for each; likelihoods, examples,
    limit and data are the same for all.
    """
    if same_family:
        return differing_fields(one, other)
    if any("gen_length" in identity["protocol"] for identity in (one, other)):
        one, other = ({key: value for key, value in each.items() if key != "protocol"} for each in (one, other))
    return differing_fields(one, other, shared_only=True)


def _merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        inner = merged.get(key)
        merged[key] = _merge(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return merged
