"""Random draws for bootstrap and permutation, keyed by what they are for: the same whenever and wherever they are made.

Both are matrix products of a matrix of draws, shared by all variants of a task, with the units' scores: what makes
them fast makes them paired.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from reports.statistics.intervals import FloatArray, Interval

NUM_RESAMPLES = 2000
NUM_SIGN_FLIPS = 4999
# Draws held at once: eight million, some hundred megabytes with their counts.
_MAX_DRAWS = 1 << 23


def keyed_generator(*key: object) -> np.random.Generator:
    """A random generator that depends on the key alone."""
    digest = hashlib.blake2b("\x1f".join(map(str, key)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big")))


def bootstrap_means(sums: FloatArray, sizes: FloatArray, *, key: str) -> FloatArray:
    """Means of resampled units, (num_columns, NUM_RESAMPLES).

    `sums`: (num_units, num_columns), the sum of each unit's scores; `sizes`: (num_units,), how many each has. Units are
    drawn with replacement, the same ones for every column. The deviations from the mean are widened by
    sqrt(G / (G - 1)), so that their variance is that of the standard error and not smaller.
    """
    num_units = len(sums)
    total, is_even = sizes.sum(), bool(np.all(sizes == sizes[0]))
    means = sums.sum(axis=0) / total
    generator = keyed_generator("bootstrap", key, num_units)
    # Whole numbers below 2^24 are exact in float32, and twice as fast.
    dtype = _exact_dtype(sums)
    scores: npt.NDArray[Any] = sums.astype(dtype)
    columns = []

    def counts(num: int) -> npt.NDArray[np.int64]:
        drawn = generator.integers(0, num_units, size=(num, num_units), dtype=np.int32)
        drawn += (np.arange(num, dtype=np.int32) * num_units)[:, None]
        return np.bincount(drawn.ravel(), minlength=num * num_units).reshape(num, num_units)

    for weights in _in_chunks(counts, NUM_RESAMPLES, num_units):
        # Units of one size need no product: any resample of them is as large as they are together.
        drawn_sizes: Any = total if is_even else (weights @ sizes)[:, None]
        columns.append((weights.astype(dtype) @ scores) / drawn_sizes)
    deviations = np.concatenate(columns).astype(np.float64) - means
    widened = means + deviations * np.sqrt(num_units / max(num_units - 1, 1))
    return np.ascontiguousarray(widened.T)


def sign_flipped_means(sums: FloatArray, num_items: int, *, key: str) -> FloatArray:
    """Sums of scores under random signs over the number of items, (num_columns, NUM_SIGN_FLIPS).

    The signs are the same for every column, so that the difference of two columns is their mean paired difference with
    its units' signs flipped: the null distribution of the paired permutation test.
    """
    generator = keyed_generator("signs", key, len(sums))
    dtype = _exact_dtype(sums)
    scores: npt.NDArray[Any] = sums.astype(dtype)

    def signs(num: int) -> npt.NDArray[np.int8]:
        return generator.integers(0, 2, size=(num, len(sums)), dtype=np.int8) * np.int8(2) - np.int8(1)

    columns = [drawn.astype(dtype) @ scores for drawn in _in_chunks(signs, NUM_SIGN_FLIPS, len(sums))]
    flipped = np.concatenate(columns).astype(np.float64) / num_items
    return np.ascontiguousarray(flipped.T)


def percentile_interval(replicates: FloatArray) -> Interval | None:
    """The middle 95 % of bootstrap replicates; None where they are all the same."""
    low, high = (float(value) for value in np.quantile(replicates, (0.025, 0.975)))
    return (low, high) if low < high else None


def _in_chunks(draw: Callable[[int], npt.NDArray[Any]], total: int, num_units: int) -> Iterator[npt.NDArray[Any]]:
    size = max(1, _MAX_DRAWS // max(num_units, 1))
    for start in range(0, total, size):
        yield draw(min(size, total - start))


def _exact_dtype(sums: FloatArray) -> type[np.float32] | type[np.float64]:
    is_whole = bool(np.all(sums == np.floor(sums))) and float(np.abs(sums).sum(axis=0).max(initial=0.0)) < 2**22
    return np.float32 if is_whole else np.float64
