"""What a number is worth: standard errors, intervals, paired tests, corrections, and how severe a change is.

Arrays in, numbers out; nothing here knows of tables or files.
"""

from reports.statistics.contrasts import (
    Change,
    Estimate,
    Weights,
    add_weight,
    change_of,
    estimate_changes,
    estimate_differences,
)
from reports.statistics.intervals import (
    LEVEL,
    POWER,
    SIGNIFICANCE,
    FloatArray,
    IntArray,
    Interval,
    difference_interval,
    is_binary,
    mean,
    mean_interval,
    minimum_detectable,
    normal_interval,
    standard_error,
    standard_error_of_average,
    wilson_interval,
)
from reports.statistics.resampling import NUM_RESAMPLES, NUM_SIGN_FLIPS, keyed_generator, percentile_interval
from reports.statistics.score_matrix import (
    AverageScores,
    Comparison,
    Key,
    ScoreMatrix,
    change_interval,
    scaled,
    scaled_interval,
)
from reports.statistics.severity import SEVERITY_RULE, Severity, relative_change, severity
from reports.statistics.significance import MAX_ENUMERATED, holm, mcnemar, sign_flip_p_value

__all__ = [
    "LEVEL",
    "MAX_ENUMERATED",
    "NUM_RESAMPLES",
    "NUM_SIGN_FLIPS",
    "POWER",
    "SEVERITY_RULE",
    "SIGNIFICANCE",
    "AverageScores",
    "Change",
    "Comparison",
    "Estimate",
    "FloatArray",
    "IntArray",
    "Interval",
    "Key",
    "ScoreMatrix",
    "Severity",
    "Weights",
    "add_weight",
    "change_interval",
    "change_of",
    "difference_interval",
    "estimate_changes",
    "estimate_differences",
    "holm",
    "is_binary",
    "keyed_generator",
    "mcnemar",
    "mean",
    "mean_interval",
    "minimum_detectable",
    "normal_interval",
    "percentile_interval",
    "relative_change",
    "scaled",
    "scaled_interval",
    "severity",
    "sign_flip_p_value",
    "standard_error",
    "standard_error_of_average",
    "wilson_interval",
]
