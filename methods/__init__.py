"""The quantization algorithms: torch in, torch out.

Here live the methods (one file each), the pieces that they share (quantizer, quantized linear and attention, the walk
over blocks, calibration windows) and the audit that a quantized model must pass. Never here: Ray, lm-eval, files,
command lines.
"""

from methods.audit import Audit, AuditError, LinearAudit, audit, original_weights
from methods.blocks import BlockWalk, ComputeSettings, block_linears, decoder_blocks
from methods.calibration import CalibrationError, apply_mask_policy, sample_windows
from methods.contract import (
    LinearReport,
    Method,
    MethodParameters,
    QuantizationJob,
    QuantizationReport,
)
from methods.linear import QuantLinear
from methods.operands import OperandParameters
from methods.quantized_weight import QuantizedWeight, quantize_weight
from methods.quantizer import NonFiniteError, Quantizer
from methods.registry import MethodPluginError, available_methods
from methods.state import quantized_state, restore_quantized

__all__ = [
    "Audit",
    "AuditError",
    "BlockWalk",
    "CalibrationError",
    "ComputeSettings",
    "LinearAudit",
    "LinearReport",
    "Method",
    "MethodParameters",
    "MethodPluginError",
    "NonFiniteError",
    "OperandParameters",
    "QuantLinear",
    "QuantizationJob",
    "QuantizationReport",
    "QuantizedWeight",
    "Quantizer",
    "apply_mask_policy",
    "audit",
    "available_methods",
    "block_linears",
    "decoder_blocks",
    "original_weights",
    "quantize_weight",
    "quantized_state",
    "restore_quantized",
    "sample_windows",
]
