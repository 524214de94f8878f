"""Bit packing: eight codes of b bits in b bytes, so that 4-bit codes lie two in a byte."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_CODES_PER_WORD = 8


def pack_codes(codes: Tensor, num_bits: int) -> Tensor:
    """Codes of `num_bits` bits, uint8 of any shape, as a uint8 vector of ceil(n / 8) * num_bits bytes.

    The first code of each eight is in the lowest bits, bytes lowest first.
    """
    flat = codes.flatten()
    lanes = F.pad(flat, (0, -flat.numel() % _CODES_PER_WORD)).view(-1, _CODES_PER_WORD)
    words = torch.zeros(lanes.shape[0], dtype=torch.int64, device=codes.device)
    for lane in range(_CODES_PER_WORD):
        words |= lanes[:, lane].long() << (num_bits * lane)
    packed = [((words >> (8 * byte)) & 255).to(torch.uint8) for byte in range(num_bits)]
    return torch.stack(packed, dim=1).flatten()


def unpack_codes(packed: Tensor, num_bits: int, shape: tuple[int, ...]) -> Tensor:
    """The codes that `pack_codes` packed, uint8 of `shape`. Raises ValueError where the bytes are too few or many."""
    num_codes = torch.Size(shape).numel()
    expected = -(-num_codes // _CODES_PER_WORD) * num_bits
    if packed.numel() != expected:
        raise ValueError(f"{packed.numel()} bytes for {num_codes} codes of {num_bits} bits; expected {expected}")
    columns = packed.view(-1, num_bits)
    words = torch.zeros(columns.shape[0], dtype=torch.int64, device=packed.device)
    for byte in range(num_bits):
        words |= columns[:, byte].long() << (8 * byte)
    mask = 2**num_bits - 1
    lanes = [((words >> (num_bits * lane)) & mask).to(torch.uint8) for lane in range(_CODES_PER_WORD)]
    return torch.stack(lanes, dim=1).flatten()[:num_codes].view(shape)
