"""QuaRot: Hadamard rotations spread outliers over all channels, so that four bits hold weights, activations and caches.

Ashkboos et al., arXiv 2404.00456. The model is rotated without a change of its function (`methods.rotation`), which is
checked; RTN or GPTQ then rounds what came of it.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

from pydantic import Field

from grids.schemes import FULL_PRECISION_BITS, Scheme
from methods.attention import OperandQuantizers
from methods.contract import Method, MethodParameters, QuantizationJob, refuse_full_precision
from methods.preservation import logits_preserved
from methods.rotation import check_rotatable, rotate_model
from methods.rounding import RoundingParameters


class QuarotParameters(RoundingParameters):
    """Parameters of QuaRot; the defaults are the paper's.

    The study's public code is `quantize_k: false` on LLaDA, `activation_clip_ratio: 1.0`, `kv_clip_ratio: 1.0`, and
    `skip: [down_proj]` with `weights: rtn`.
    """

    weights: Literal["rtn", "gptq"] = Field("gptq", description="what rounds the rotated weights")
    symmetric: bool = Field(True, description="weight grids are symmetric around zero")
    clip_search: bool = Field(True, description="shrink each weight group's range to the least |error|^2.4")
    activation_symmetric: bool = True
    activation_clip_ratio: float = Field(
        0.9,
        gt=0,
        le=1,
        description="share of each token's range; at 1.0 (the study's public code) nothing is clipped and the steps of "
        "a 4-bit grid are a ninth wider",
    )
    kv_clip_ratio: float = Field(0.95, gt=0, le=1, description="share of the range of each token's key and value heads")
    quantize_k: bool = Field(
        True,
        description="round keys as the scheme says, after a Hadamard transform of queries and keys; false (the study's "
        "public code on LLaDA) leaves keys at 16 bits, which the audit lists",
    )

    def operand_quantizers(self, scheme: Scheme) -> OperandQuantizers:
        """Keys and values asymmetric per token and head; queries go through the keys' transform."""
        quantizers = super().operand_quantizers(scheme)
        if not self.quantize_k:
            return dataclasses.replace(quantizers, key=None)
        return dataclasses.replace(quantizers, rotate_keys=quantizers.key is not None)


class Quarot(Method[QuarotParameters]):
    """Rotates residual stream, values, queries and keys, and the MLP's inner features, then rounds."""

    name: ClassVar[str] = "quarot"
    version: ClassVar[int] = 1
    Parameters: ClassVar[type[MethodParameters]] = QuarotParameters
    needs_calibration: ClassVar[bool] = True

    def refusal(self, scheme: Scheme) -> str | None:
        return refuse_full_precision(scheme) or self.parameters.rounding_refusal(scheme)

    def quantize_blocks(self, job: QuantizationJob) -> None:
        assert job.calibration is not None
        check_rotatable(job.model)
        with logits_preserved(job.model, job.calibration, job.scheme, "the rotation"):
            job.changed_parameters += rotate_model(job.model, seed=job.seed, device=job.compute.device)
        if job.scheme.kv_bits < FULL_PRECISION_BITS and not self.parameters.quantize_k:
            job.left_out.append("key")
        self.parameters.round_blocks(job)
