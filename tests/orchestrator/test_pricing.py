"""Prices by closed forms, from measured rows, and against a real artifact."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from grids import Calibration, Cell, GridError, Study
from orchestrator.devices import find_device
from orchestrator.planning import make_plan
from orchestrator.priced_plan import price_plan
from orchestrator.pricing import Price, Pricer, artifact_bytes, model_bytes, total_price
from orchestrator.rates import Rates
from reports import ResultStore
from tests.orchestrator.conftest import SHAPE_8B, cell_row, make_cell, make_pricer
from workers.models.info import ModelInfo
from workers.units import EvaluateUnit, QuantizeUnit

CALIBRATION = Calibration("wikitext2", "text", "", "", 128, 2048, 0, "none")


def measured(cell: Cell, *, seconds: float, items: int, forwards: int | None = None, **fields: Any) -> dict[str, Any]:
    """A finished cell's row."""
    costs = {"seconds": seconds, "num_items": items, "num_forwards": forwards or 10 * items, "device": "NVIDIA H100"}
    return cell_row(cell, **costs) | fields


def in_half(cell: Cell) -> Cell:
    model = replace(cell.variant.model, dtype="bfloat16")
    return replace(cell, variant=replace(cell.variant, model=model))


def test_modelled_time_is_flops_over_half_of_the_peak_of_the_precision() -> None:
    cell = make_cell(task="piqa")
    single, half = make_pricer([cell]).cell(cell), make_pricer([cell]).cell(in_half(cell))
    assert single.seconds == pytest.approx(single.flops / (0.5 * 67e12))
    assert half.seconds == pytest.approx(half.flops / (0.5 * 989e12))
    assert (single.basis, single.measured_seconds) == ("modelled", 0)


def test_a_finished_cell_of_another_limit_and_variant_measures_a_cell() -> None:
    done, asked = make_cell(task="piqa", scheme="fp16", limit=100), make_cell(task="piqa", limit=1000)
    price = make_pricer([asked], [measured(done, seconds=50, items=100)]).cell(asked)
    assert price.seconds == pytest.approx(500)
    assert (price.basis, price.measured_seconds) == ("measured", price.seconds)


def test_the_own_scheme_measures_before_others_do() -> None:
    full, rounded = make_cell(task="piqa", scheme="fp16", limit=100), make_cell(task="piqa", limit=100)
    rows = [measured(full, seconds=10, items=100), measured(rounded, seconds=30, items=100)]
    assert make_pricer([rounded], rows).cell(rounded).seconds == pytest.approx(30)
    # A third one takes the median of all.
    other = make_cell(task="piqa", scheme="w8a8", limit=100)
    assert make_pricer([other], rows).cell(other).seconds == pytest.approx(20)


def test_other_settings_and_other_tasks_measure_nothing() -> None:
    rows = [measured(make_cell(task="piqa", num_fewshot=5), seconds=50, items=100)]
    for cell in (make_cell(task="piqa"), make_cell(task="arc_easy", num_fewshot=5)):
        assert Rates(rows, []).seconds_per_item(cell) is None


def test_a_cell_that_was_interrupted_counts_as_if_it_had_run_at_once() -> None:
    whole, part = make_cell(task="piqa", limit=100), make_cell(task="piqa", scheme="w8a8", limit=100)
    rows = [
        measured(whole, seconds=50, items=100, forwards=1000),
        measured(part, seconds=10, items=100, forwards=200),
    ]
    assert Rates(rows, []).seconds_per_item(part) == pytest.approx(0.5)


def test_a_few_items_measure_nothing_where_many_were_measured() -> None:
    trial, real = make_cell(task="piqa", limit=4), make_cell(task="piqa", scheme="w8a8", limit=400)
    rows = [measured(trial, seconds=40, items=4), measured(real, seconds=40, items=400)]
    assert Rates(rows, []).seconds_per_item(make_cell(task="piqa", scheme="fp16")) == pytest.approx(0.1)


def test_failed_cells_and_other_devices_measure_nothing() -> None:
    done, other = make_cell(task="piqa"), make_cell(task="arc_easy")
    rows = [
        measured(done, seconds=50, items=100),
        measured(make_cell(task="mbpp"), seconds=1, items=100),
        measured(other, seconds=1, items=100, device="NVIDIA A100-SXM4-80GB"),
        measured(make_cell(task="mmlu"), seconds=1, items=100, status="failed"),
    ]
    rates = Rates(rows, [])
    assert rates.device == "NVIDIA H100"
    assert rates.seconds_per_item(other) is None
    assert rates.seconds_per_item(make_cell(task="mmlu")) is None
    assert Rates(rows, [], "a100").seconds_per_item(other) == pytest.approx(0.01)


def test_unmeasured_tasks_go_at_the_speed_of_measured_ones_of_a_model_of_that_size() -> None:
    done, asked = make_cell(task="piqa", limit=100), make_cell(task="arc_easy")
    alike, small = make_cell("alike", task="arc_easy"), make_cell("small", task="arc_easy")
    shapes = {"small": replace(SHAPE_8B, hidden_size=128, intermediate_size=384, num_heads=4, num_kv_heads=4)}
    rates = Rates([measured(done, seconds=70, items=100)], [])
    pricer = Pricer(
        [done, asked, alike, small], rates, find_device("H100"), lambda model: shapes.get(model.label, SHAPE_8B)
    )
    speed = pricer.cell(done).flops / 70
    assert pricer.cell(asked).seconds == pytest.approx(pricer.cell(asked).flops / speed)
    assert pricer.cell(asked).basis == "modelled"
    assert pricer.speed(alike.variant.model) == pytest.approx(speed)
    assert pricer.speed(small.variant.model) == pytest.approx(0.5 * 67e12)
    assert not pricer.has_measured_speed(small.variant.model)


def test_a_quantization_is_measured_by_its_method_and_modelled_without() -> None:
    cell = make_cell(method="gptq", scheme="w4a16g128", calibration=CALIBRATION)
    row = {
        "model": "tiny",
        "method": "gptq",
        "scheme": "w3a16g128",
        "status": "done",
        "quantize_seconds": 77.0,
        "device": "NVIDIA H100",
    }
    assert make_pricer([cell], [], [row]).quantization(cell.variant).seconds == 77
    assert make_pricer([cell], [], [row | {"method": "awq"}]).quantization(cell.variant).basis == "modelled"
    own = row | {"scheme": "w4a16g128", "quantize_seconds": 55.0}
    assert make_pricer([cell], [], [row, own]).quantization(cell.variant).seconds == 55


def test_methods_cost_more_the_more_they_search() -> None:
    pricer = make_pricer([])
    seconds = {
        method: pricer.quantization(in_half(make_cell(method=method, calibration=calibration)).variant).seconds
        for method, calibration in [("rtn", None), ("smoothquant", CALIBRATION), ("gptq", CALIBRATION)]
    }
    assert seconds["rtn"] < seconds["smoothquant"] < seconds["gptq"]
    assert seconds["gptq"] < 600


def test_a_shard_is_its_part_of_a_cell() -> None:
    cell = make_cell(task="piqa")
    pricer = make_pricer([cell])
    assert pricer.unit_seconds(EvaluateUnit(cell, shard=(1, 4))) == pytest.approx(pricer.cell(cell).seconds / 4)
    assert pricer.unit_seconds(QuantizeUnit(cell.variant)) == pricer.quantization(cell.variant).seconds


def test_an_8b_model_at_four_bits_needs_the_disk_and_the_memory_that_it_is_known_to() -> None:
    cell = in_half(make_cell(method="gptq", scheme="w4a16g128", task="piqa", calibration=CALIBRATION))
    # 6.98 G codes of 4 bits, and per group of 128 a scale of 16 and a zero of 4 bits.
    assert artifact_bytes(SHAPE_8B, cell.variant) == pytest.approx(6.979e9 * (4 + 20 / 128) / 8, rel=1e-3)
    assert model_bytes(SHAPE_8B, "bfloat16") == pytest.approx(16.03e9, rel=1e-3)
    full = make_pricer([]).cell(in_half(make_cell(scheme="fp16", task="piqa"))).memory_bytes
    assert 16.03e9 < full < 30e9
    assert make_pricer([]).cell(cell).memory_bytes == pytest.approx(full + 6.979e9, rel=1e-3)
    # GPTQ keeps hidden states and a Hessian beside the old and the new weights.
    assert make_pricer([]).quantization(cell.variant).memory_bytes > 16.03e9 + 2 * 6.979e9 + 6.979e9
    assert make_pricer([]).quantization(cell.variant).memory_bytes < 80e9


@pytest.mark.parametrize("scheme", ["w4a16g128", "w3a16g128", "w8a8", "w4a4"])
def test_an_artifact_has_the_size_that_was_predicted(scheme: str) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    import methods

    shape = ModelInfo("llada", 2, 256, 768, 4, 4, 64, 64, 64, False)
    config = LlamaConfig(
        num_hidden_layers=2,
        hidden_size=256,
        intermediate_size=768,
        num_attention_heads=4,
        vocab_size=64,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    cell = make_cell(scheme=scheme)
    kind = methods.available_methods()["rtn"]
    kind(kind.Parameters()).quantize(model, cell.variant.scheme, None, seed=0)
    tensors, _ = methods.quantized_state(model)
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    assert artifact_bytes(shape, cell.variant) == pytest.approx(size, rel=0.03)


def test_sums_add_up_and_memory_is_the_most() -> None:
    total = total_price([Price(1, 2, 3, 3, 5, 6), Price(10, 20, 30, 0, 4, 60)])
    assert total == Price(11, 22, 33, 3, 5, 66)
    assert total.basis == "modelled"
    assert Price(seconds=10, measured_seconds=6).basis == "measured"


def test_a_priced_plan_counts_what_runs_and_nothing_that_is_done(grid_cells: list[Cell], tmp_path: Any) -> None:
    store = ResultStore(tmp_path)
    for cell in grid_cells[:3]:
        store.record_cell([measured(cell, seconds=20, items=1000)])
    study = Study("s", (*grid_cells, make_cell(scheme="w4a4kv4", not_applicable="no keys here")))
    made = grid_cells[-1].variant.variant_id
    priced = price_plan(
        make_plan(study, store), store, has_artifact=made.__eq__, shape_of=lambda model: SHAPE_8B, device="H100"
    )
    full, first, second = priced.variants
    assert (full.num_to_run, full.price.seconds, full.quantization) == (0, 0, None)
    assert (first.num_to_run, first.num_cells) == (1, 2)
    assert first.quantization is not None
    # Quantized already.
    assert (second.num_to_run, second.quantization) == (2, None)
    assert priced.total.seconds == pytest.approx(first.price.seconds + second.price.seconds)
    # By the same tasks of the other variants.
    assert second.evaluation.measured_seconds == second.evaluation.seconds == pytest.approx(40)
    name, seconds = priced.longest
    assert name == str(max(grid_cells[3:], key=lambda cell: priced.pricer.cell(cell).seconds))
    assert seconds == pytest.approx(20)


def test_an_unknown_device_is_refused_with_the_known_ones() -> None:
    plan = make_plan(Study("s", (make_cell(),)), None)
    with pytest.raises(GridError, match="unknown device 'H300'; did you mean 'H800'"):
        price_plan(plan, device="H300", shape_of=lambda model: SHAPE_8B)


def test_a_full_device_name_is_found_by_its_part() -> None:
    assert find_device("NVIDIA H100 80GB HBM3").memory_bytes == 80e9
    assert find_device("NVIDIA GH200 480GB").memory_bytes == 96e9
    assert not find_device("cpu").is_gpu
    assert find_device("NVIDIA A100-SXM4-80GB").half_flops == 156e12
