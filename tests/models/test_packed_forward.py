"""Predictions at some positions, from a forward without padding, against the model's own forward on everything."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import methods
from grids import parse_scheme
from workers.models import LoadedModel
from workers.models.architectures import DreamConfig, DreamForDiffusion, LladaConfig, LladaForDiffusion
from workers.models.padding import pad_right

MASK, PAD, VOCAB = 60, 61, 64
LENGTHS = (21, 9, 40, 33)
KINDS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "llada": lambda sizes: LladaForDiffusion(LladaConfig(**sizes)),
    "dream": lambda sizes: DreamForDiffusion(DreamConfig(**sizes)),
}

torch.set_num_threads(1)


def make_model(family: Any, scheme: str | None = None, method: str = "quarot") -> LoadedModel:
    """Random weights; with a scheme, quantized: QuaRot has online transforms, and rounds keys and values."""
    torch.manual_seed(3)
    model = KINDS[family](
        {
            "vocab_size": VOCAB,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 128,
        }
    ).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=1.0 if parameter.dim() == 1 else 0.0, std=0.3)
    if scheme is not None:
        kind = methods.available_methods()[method]
        windows = torch.randint(VOCAB, (4, 32), generator=torch.Generator().manual_seed(0))
        kind(kind.Parameters()).quantize(model, parse_scheme(scheme), windows, seed=0)
    return LoadedModel(
        model=model,
        tokenizer=None,
        family=family,
        mask_token_id=MASK,
        pad_token_id=PAD,
        eos_token_id=PAD,
        bos_token_id=None,
        max_length=128,
    )


def make_rows() -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(MASK, (length,), generator=generator).tolist() for length in LENGTHS]


def pad_left(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    width = max(LENGTHS)
    tokens = torch.tensor([[PAD] * (width - len(row)) + row for row in rows])
    return tokens, torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])


def positions_of(mask: Tensor, *, share: float) -> Tensor:
    """Some of the real positions, the first of the first row among them, and none of the second row's."""
    chosen = (torch.rand(mask.shape, generator=torch.Generator().manual_seed(2)) < share) & mask.bool()
    chosen[0, int(mask[0].argmax())] = True
    chosen[1] = False
    return chosen


@pytest.mark.parametrize("family", ["llada", "dream"])
# Rounded operands make large differences of the small ones that another order of summation makes: left padding does.
@pytest.mark.parametrize(("scheme", "side"), [(None, "left"), (None, "right"), ("w4a8kv4", "right")])
@pytest.mark.parametrize("share", [0.05, 0.6, 1.0])
def test_logits_at_some_positions_are_those_of_the_whole_forward(
    family: str, scheme: str | None, side: str, share: float
) -> None:
    loaded = make_model(family, scheme)
    tokens, mask = pad_left(make_rows()) if side == "left" else pad_right(make_rows(), PAD)
    assert mask is not None
    positions = positions_of(mask, share=share)
    expected = loaded.logits(tokens, mask)[positions]
    found = loaded.logits_at(tokens, positions, mask)
    assert found.dtype == torch.float32
    assert found.shape == (int(positions.sum()), VOCAB)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    assert torch.equal(found.argmax(-1), expected.argmax(-1))


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_a_batch_without_padding_needs_no_mask(family: str) -> None:
    loaded = make_model(family)
    tokens = torch.randint(MASK, (3, 32), generator=torch.Generator().manual_seed(4))
    positions = torch.zeros(3, 32, dtype=torch.bool)
    positions[:, 20:27] = True
    expected = loaded.logits(tokens)[positions]
    for mask in (None, torch.ones_like(tokens)):
        torch.testing.assert_close(loaded.logits_at(tokens, positions, mask), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_in_float64_nothing_is_left_of_the_difference(family: str) -> None:
    loaded = make_model(family)
    loaded.model.double()
    tokens, mask = pad_left(make_rows())
    positions = positions_of(mask, share=0.4)
    hidden = loaded.hidden_at(tokens, positions, mask)
    whole = replace(loaded, family="llada").hidden_at(tokens, mask.bool(), mask)
    body: Any = loaded.model.get_submodule("model")
    expected = body(input_ids=tokens, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0))
    torch.testing.assert_close(whole, expected.last_hidden_state[mask.bool()], rtol=1e-10, atol=1e-10)
    logits = loaded.model.get_submodule("lm_head")(hidden).float()
    torch.testing.assert_close(logits, loaded.logits(tokens, mask)[positions], rtol=1e-6, atol=1e-6)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="measured on x86 CPUs")
@pytest.mark.parametrize("family", ["llada", "dream"])
@pytest.mark.parametrize("scheme", [None, "w4a4kv4"])
def test_a_rows_bits_do_not_depend_on_the_rows_beside_it_nor_on_what_else_is_asked(
    family: str, scheme: str | None
) -> None:
    loaded, rows = make_model(family, scheme), make_rows()

    def last(batch: list[int], number: int) -> list[Tensor]:
        """Logits at the last token of each row, where `number` tokens of each are asked for."""
        tokens, mask = pad_right([rows[index] for index in batch], PAD)
        positions = torch.zeros_like(tokens, dtype=torch.bool)
        for place, index in enumerate(batch):
            positions[place, len(rows[index]) - number : len(rows[index])] = True
        return list(loaded.logits_at(tokens, positions, mask)[number - 1 :: number])

    together = last([0, 1, 2, 3], 1)
    assert len(together) == 4
    for number in (1, 3, 9):
        for index in range(4):
            assert torch.equal(last([index], number)[0], together[index])
        assert torch.equal(last([3, 1], number)[0], together[3])
    for index, row in enumerate(rows):
        tokens, mask = pad_right([row], PAD)
        assert torch.equal(loaded.logits(tokens, mask)[0, len(row) - 1], together[index])


@pytest.mark.parametrize("family", ["llada", "dream"])
@pytest.mark.parametrize("scheme", [None, "w4a16g32"])
def test_operations_are_counted_as_torch_counts_them(family: str, scheme: str | None) -> None:
    loaded = make_model(family, scheme, "rtn")
    tokens, mask = pad_right(make_rows(), PAD)
    assert mask is not None
    positions = positions_of(mask, share=0.3)
    # In this form attention is two products that the counter of torch sees.
    for run in (lambda: loaded.logits(tokens, mask), lambda: loaded.logits_at(tokens, positions, mask)):
        before = loaded.counter.num_flops
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as reference:
            run()
        assert loaded.counter.num_flops - before == pytest.approx(reference.get_total_flops(), rel=0.002)
    assert loaded.counter.num_forwards == 2
    assert loaded.counter.num_sequences == 8
    assert loaded.counter.num_token_forwards == tokens.numel() + sum(LENGTHS)
