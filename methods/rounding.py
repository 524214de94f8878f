"""The rounding after a transform: what `weights: rtn` and `weights: gptq` mean in methods that transform first."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from grids.schemes import Scheme
from methods.contract import QuantizationJob, refuse_full_precision_weights
from methods.gptq import Gptq, GptqParameters, GptqSettings
from methods.operands import OperandParameters, SkipParameters
from methods.rtn import Rtn, RtnParameters

_SHARED = (SkipParameters, OperandParameters)


class RoundingParameters(SkipParameters, OperandParameters):
    """How the transformed model is rounded."""

    weights: Literal["rtn", "gptq"] = Field("rtn", description="what rounds the transformed weights")
    gptq: GptqSettings = Field(GptqSettings(), description="how GPTQ solves, where it rounds the weights")

    @model_validator(mode="after")
    def _settings_of_what_rounds(self) -> Self:
        if self.weights != "gptq" and self.gptq != GptqSettings():
            raise ValueError(f"gptq settings have no effect with weights: {self.weights}; leave them out or use gptq")
        return self

    def rounding_refusal(self, scheme: Scheme) -> str | None:
        """Why the rounding does not serve a scheme; None if it does."""
        return refuse_full_precision_weights(scheme) if self.weights == "gptq" else None

    def rounder(self) -> Rtn | Gptq:
        """The method that rounds, with these parameters."""
        shared = {name: getattr(self, name) for kind in _SHARED for name in kind.model_fields}
        if self.weights == "gptq":
            return Gptq(GptqParameters(**shared, **self.gptq.model_dump()))
        return Rtn(RtnParameters(**shared))

    def round_blocks(self, job: QuantizationJob) -> None:
        """Rounds every linear of the transformed model, and its attention operands where the scheme says so."""
        self.quantize_attention(job.model, job.scheme)
        self.rounder().round_linears(job)
