"""DuQuant's rotations and permutation of one linear's input, found on calibration tokens (arXiv 2406.01721, section 3).

X holds vectors of one block of features as its rows, B = block_size. The greedy search multiplies X by
R_i = E_d R~ Q_i E_d again and again: d is where the largest outlier is, E_d swaps features 0 and d, R~ is orthogonal
with a uniform first row, so that it spreads feature 0 over all, and Q_i = diag(1, random orthogonal). The product
R_1 .. R_n with the smallest peak of X is the rotation; all blocks share it. The zigzag permutation then deals the
largest channels over the blocks in turn, and a second search rotates what came of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from methods.randomness import random_orthogonal
from methods.transforms import BlockRotation, rotate_blocks

Peak = Literal["absolute", "range"]
OutlierIndex = Literal["column", "row"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationSearch:
    """How a transform is searched. The methods' parameters of the same names say what each choice means.

    steps: R~ Q_i of each step, float64 [num_steps, block_size, block_size].
    """

    steps: Tensor
    peak: Peak
    outlier_index: OutlierIndex

    @classmethod
    def of_block(
        cls, block_size: int, num_steps: int, seed: int, *, peak: Peak, outlier_index: OutlierIndex
    ) -> RotationSearch:
        """The search with the random factors that seed, block size and step decide; all linears share them."""
        base = uniform_rotation(block_size)
        steps = torch.stack([base @ random_factor(block_size, seed, step) for step in range(num_steps)])
        return cls(steps=steps, peak=peak, outlier_index=outlier_index)

    @property
    def block_size(self) -> int:
        return self.steps.shape[-1]

    def to(self, device: torch.device) -> RotationSearch:
        return RotationSearch(steps=self.steps.to(device), peak=self.peak, outlier_index=self.outlier_index)

    def transform(self, inputs: Tensor) -> BlockRotation:
        """The transform for a linear with inputs [num_tokens, in_features]; nothing is read back from the device."""
        inputs = inputs.float()
        first = self.rotation(inputs).float()
        rotated = rotate_blocks(inputs, first)
        permutation = zigzag(rotated.abs().amax(0), self.block_size)
        second = self.rotation(rotated[:, permutation]).float()
        return BlockRotation(first, permutation, second)

    def rotation(self, inputs: Tensor) -> Tensor:
        """The greedy rotation for inputs [num_tokens, in_features], float64 [block_size, block_size]."""
        X = inputs.reshape(-1, self.block_size)
        features = torch.arange(self.block_size, device=X.device)
        product = torch.eye(self.block_size, dtype=torch.float64, device=X.device)
        best, least_peak = product, torch.full((), torch.inf, device=X.device)
        low, high = X.amin(0), X.amax(0)
        for step in self.steps:
            d = self._outlier(X, low, high)
            swap = torch.where(features == 0, d, torch.where(features == d, 0, features))
            R = step[swap][:, swap]
            X = X @ R.to(X.dtype)
            product = product @ R
            low, high = X.amin(0), X.amax(0)
            peak = high.max() - low.min() if self.peak == "range" else torch.maximum(-low, high).max()
            is_better = peak < least_peak
            least_peak = torch.where(is_better, peak, least_peak)
            best = torch.where(is_better, product, best)
        return best

    def _outlier(self, X: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """d, as a tensor: the column of the largest |x|; or, as the public code has it, its row modulo B."""
        if self.outlier_index == "row":
            return X.abs().amax(1).argmax() % self.block_size
        return torch.maximum(-low, high).argmax()


def uniform_rotation(size: int) -> Tensor:
    """R~: Helmert's orthogonal matrix, float64 [size, size], whose first row is 1 / sqrt(size) throughout."""
    rows = torch.arange(size, dtype=torch.float64)[:, None]
    columns = torch.arange(size, dtype=torch.float64)[None, :]
    matrix = torch.where(columns < rows, 1.0, torch.where(columns == rows, -rows, 0.0))
    matrix[0] = 1
    return matrix / matrix.square().sum(1, keepdim=True).sqrt()


def random_factor(size: int, seed: int, step: int) -> Tensor:
    """Q_i = diag(1, random orthogonal), float64 [size, size]."""
    factor = torch.eye(size, dtype=torch.float64)
    factor[1:, 1:] = random_orthogonal(size - 1, seed, f"duquant.{size}", step)
    return factor


def zigzag(largest: Tensor, block_size: int) -> Tensor:
    """The feature that comes to each place, int64 [in_features], for the largest |x| of each feature.

    Features in falling order go to blocks 0, 1, .. K-1, K-1, .. 1, 0, 0, 1, .. and lie in that order within a block.
    """
    num_features = largest.numel()
    num_blocks = num_features // block_size
    rank = torch.arange(num_features, device=largest.device)
    turn, place = rank % num_blocks, rank // num_blocks
    block = torch.where(place % 2 == 0, turn, num_blocks - 1 - turn)
    order = torch.argsort(largest, descending=True, stable=True)
    return torch.empty_like(order).index_copy_(0, block * block_size + place, order)
