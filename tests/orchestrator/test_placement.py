"""Which models go to which machines, without any."""

from __future__ import annotations

from pathlib import Path

import pytest

from grids import Cell, GridError, Needs, Retries, Study
from orchestrator.failures import Failure
from orchestrator.lanes import Lanes, find_lanes
from orchestrator.machines import KIND_LABEL, Machine
from orchestrator.model_devices import ModelDevices
from orchestrator.placement import (
    Load,
    Placement,
    choose_machines,
    find_loads,
    node_selector,
    place_models,
)
from orchestrator.planning import make_plan
from orchestrator.pools import Slot
from orchestrator.priced_plan import price_plan
from orchestrator.retrying import Retrier
from orchestrator.scheduling import Scheduler
from reports import ResultStore
from tests.orchestrator.conftest import SHAPE_8B, cell_row, make_cell
from workers.units import EvaluateUnit, QuantizeUnit, Unit

GB = 10**9


def machine(kind: str = "", node: str = "n", **labels: str) -> Machine:
    return Machine(labels=({KIND_LABEL: kind} if kind else {}) | labels, node=node)


def needs(**values: object) -> Needs:
    return Needs.model_validate(values)


H200, A100 = machine("H200"), machine("A100")


def kind_of(placement: Placement, model: str, machines: list[Machine]) -> set[str]:
    return {machine.kind for machine in machines if placement.serves(model, machine)}


def test_a_model_is_never_split_between_kinds_and_the_work_is_balanced() -> None:
    machines = [H200] * 4 + [A100] * 4
    loads = [Load("big", seconds=1000), Load("middle", seconds=200), Load("small", seconds=100)]
    placement = place_models(loads, machines)
    kinds = {load.model: kind_of(placement, load.model, machines) for load in loads}
    # An H200 is some three times as fast; what is left goes where it ends first.
    assert kinds == {"big": {"H200"}, "middle": {"A100"}, "small": {"A100"}}
    assert placement.summary() == "big on H200, middle on A100, small on A100"


def test_the_kind_with_most_workers_takes_the_only_model() -> None:
    machines = [machine("one")] * 2 + [machine("other")] * 3
    assert kind_of(place_models([Load("m", seconds=1)], machines), "m", machines) == {"other"}


def test_where_mixing_is_allowed_every_machine_serves() -> None:
    machines = [H200, A100]
    placement = place_models([Load("m", seconds=1)], machines, allow_mixed=True)
    assert kind_of(placement, "m", machines) == {"H200", "A100"}
    assert placement.summary() == ""


def test_a_model_goes_back_to_the_kind_that_it_ran_on() -> None:
    machines = [H200] * 8 + [A100]
    load = Load("m", seconds=1, ran_on="NVIDIA A100-SXM4-80GB")
    assert kind_of(place_models([load], machines), "m", machines) == {"A100"}


def test_another_kind_than_before_is_refused_by_both_names_unless_it_is_allowed() -> None:
    load = Load("m", ran_on="NVIDIA H200", key="models[0]")
    with pytest.raises(GridError) as caught:
        place_models([load], [A100])
    assert caught.value.message.startswith("m ran on NVIDIA H200 so far, and there is only A100 for the rest.")
    assert "--allow-mixed-devices" in caught.value.message
    assert place_models([load], [A100], allow_mixed=True).serves("m", A100)


@pytest.mark.parametrize(
    ("wanted", "given", "suits"),
    [
        (needs(label_selector={KIND_LABEL: "H200"}), H200, True),
        (needs(label_selector={KIND_LABEL: "H200"}), A100, False),
        (needs(label_selector={"pool": "in(a, b)"}), machine("H200", pool="b"), True),
        (needs(gpu_memory="100GB"), H200, True),
        (needs(gpu_memory="100GB"), A100, False),
        (needs(gpu_memory="60GB"), A100, True),
        # A worker knows its own device better than the table.
        (needs(gpu_memory="60GB"), Machine(labels={KIND_LABEL: "A100"}, gpu_memory=40 * GB), False),
        # Not known before a worker is there.
        (needs(gpu_memory="60GB"), Machine(), True),
        (needs(gpu_memory="1GB"), Machine(device="cpu", has_gpu=False), False),
        (needs(host_memory="64GB"), Machine(host_memory=32 * GB), False),
        (needs(host_memory="64GB"), Machine(host_memory=64 * GB), True),
    ],
)
def test_needs_decide_which_machines_suit(wanted: Needs, given: Machine, suits: bool) -> None:
    assert given.lacks(wanted) is not suits


def test_a_need_that_no_machine_meets_is_told_with_what_there_is() -> None:
    load = Load("m", needs(label_selector={"pool": "a"}, gpu_memory="200GB"), key="models[0].needs")
    with pytest.raises(GridError) as caught:
        place_models([load], [machine("H200", pool="a"), machine("H200", pool="a"), Machine(host_memory=32 * GB)])
    assert caught.value.key == "models[0].needs"
    assert caught.value.message == (
        "m needs pool=a and 200 GB of GPU memory, and no machine has that; there are "
        "2 x H200, pool=a, 141 GB of GPU memory; 1 x GPU of unknown kind, 32 GB of host memory"
    )


def test_a_kind_that_only_workers_can_tell_is_settled_by_the_first() -> None:
    unlabelled = Machine()
    placement = place_models([Load("m"), Load("other")], [unlabelled, H200, H200])
    told, second = Machine(device="NVIDIA L4"), Machine(device="NVIDIA L40S")
    single = place_models([Load("m"), Load("other")], [unlabelled])
    assert single.serves("m", told)
    assert single.serves("m", second)
    single.settle("m", "NVIDIA L4")
    for model in ("m", "other"):
        assert single.serves(model, told)
        assert not single.serves(model, second)
        assert single.describe(model) == "NVIDIA L4"
    assert not any(placement.serves(model, told) and placement.serves(model, H200) for model in ("m", "other"))


@pytest.mark.parametrize(
    ("kind", "device", "is_same"),
    [
        ("H200", "NVIDIA H200", True),
        ("H20", "NVIDIA H200", False),
        ("H100", "NVIDIA H100 80GB HBM3", True),
        ("RTX-PRO-6000", "NVIDIA RTX PRO 6000 Blackwell", True),
        ("A100", "NVIDIA A100-SXM4-80GB", True),
        ("A10", "NVIDIA A100-SXM4-80GB", False),
    ],
)
def test_rays_name_of_a_device_is_found_in_its_own(kind: str, device: str, is_same: bool) -> None:
    assert machine(kind).is_of(device) is is_same
    assert (machine(kind).recorded_device(device) == device) is is_same


def test_workers_go_where_they_are_of_use_and_every_model_gets_one() -> None:
    machines = [machine("H200", "a")] * 4 + [machine("A100", "b")] * 4 + [machine("L4", "c")] * 4
    loads = [Load("m", needs(gpu_memory="100GB"), 10), Load("other", needs(label_selector={KIND_LABEL: "A100"}), 10)]
    placement = place_models(loads, machines)
    assert {one.kind for one in choose_machines(machines, placement, 2)} == {"H200", "A100"}
    assert len(choose_machines(machines, placement, 12)) == 8
    with pytest.raises(GridError, match=r"1 workers are too few: 2 kinds of machine are needed"):
        choose_machines(machines, placement, 1)


def test_a_node_gets_no_more_workers_than_its_memory_holds() -> None:
    machines = [Machine(node="a", host_memory=100 * GB)] * 4 + [Machine(node="b", host_memory=50 * GB)] * 4
    placement = place_models([Load("m", needs(host_memory="40GB"))], machines)
    assert [one.node for one in choose_machines(machines, placement, 8)] == ["a", "a", "b"]


def test_a_selector_names_only_what_tells_machines_apart() -> None:
    one, other, bare = machine("H200", pool="a"), machine("A100", pool="a"), machine(pool="a")
    assert node_selector(one, [one, one], [KIND_LABEL, "pool"]) == {}
    assert node_selector(one, [one, other, bare], [KIND_LABEL, "pool"]) == {KIND_LABEL: "H200"}
    assert node_selector(bare, [one, other, bare], [KIND_LABEL]) == {KIND_LABEL: "!in(A100,H200)"}


def test_the_first_cell_that_is_done_says_where_a_model_ran(tmp_path: Path) -> None:
    cells = [make_cell(scheme=scheme) for scheme in ("fp16", "w4a4", "w8a8")]
    other = make_cell("other", scheme="fp16")
    store = ResultStore(tmp_path)
    for number, (cell, device) in enumerate(zip(cells[:2], ("NVIDIA H200", "NVIDIA A100"), strict=True)):
        row = cell_row(cell, device=device)
        store.record_cell([row | {"finished_at": row["finished_at"].replace(year=2026 - number)}])
    plan = make_plan(Study("s", (*cells, other), needs={"tiny": needs(gpu_memory="20GB")}), store)
    devices = ModelDevices(tmp_path, store).of(plan)
    assert devices == {"tiny": "NVIDIA A100"}
    loads = find_loads(price_plan(plan, store, shape_of=lambda model: SHAPE_8B), devices)
    assert [(load.model, load.ran_on, load.key) for load in loads] == [
        ("tiny", "NVIDIA A100", "models[0].needs"),
        ("other", None, "needs"),
    ]
    assert all(load.seconds > 0 for load in loads)


def test_answers_without_a_number_yet_keep_a_model_where_it_began(tmp_path: Path) -> None:
    cell = make_cell(scheme="fp16")
    store = ResultStore(tmp_path)
    plan = make_plan(Study("s", (cell,)), store)
    ModelDevices(tmp_path, store).began("tiny", "NVIDIA H200")
    # Nothing was answered there, so that nothing keeps the model.
    assert ModelDevices(tmp_path, store).of(plan) == {}
    answer = {"request_key": "k", "request_index": 0, "request_type": "loglikelihood", "arguments": "[]"}
    store.append_samples(cell.cell_id, [answer | {"logprob": -1.0}])
    assert ModelDevices(tmp_path, store).of(plan) == {"tiny": "NVIDIA H200"}
    (tmp_path / "devices.json").write_text("[")
    assert ModelDevices(tmp_path, store).of(plan) == {}


# ---- lanes


def slots_on(*machines: Machine) -> list[Slot]:
    slots = [Slot(f"worker-{number}") for number in range(len(machines))]
    for slot, own in zip(slots, machines, strict=True):
        slot.machine, slot.node = own, own.node
    return slots


def lanes_of(cells: list[Cell], slots: list[Slot], placement: Placement) -> Lanes:
    return Lanes(
        cells,
        slots,
        lambda lane: Scheduler(lane.cells, has_artifact=lambda variant_id: False, num_workers=lane.num_workers),
        placement,
    )


def model_of(unit: Unit) -> str:
    return (unit.variant if isinstance(unit, QuantizeUnit) else unit.cell.variant).model.label


def run_all(lanes: Lanes, slots: list[Slot]) -> list[tuple[str, str]]:
    """Model and kind of every unit, all slots in turn."""
    ran = []
    while not lanes.is_done:
        for slot in slots:
            if (unit := lanes.next_unit(slot)) is not None:
                slot.resident = unit.variant_id
                ran.append((model_of(unit), slot.machine.kind))
                lanes.finished(unit)
    return ran


CELLS = [make_cell(model, scheme=scheme) for model in ("big", "small") for scheme in ("fp16", "w4a4", "w8a8")]
LOADS = [Load("big", seconds=100), Load("small", seconds=10)]


def test_models_keep_to_their_kind_to_the_end_of_a_run() -> None:
    slots = slots_on(H200, H200, A100)
    placement = place_models(LOADS, [slot.machine for slot in slots])
    assert [lane.num_workers for lane in find_lanes(CELLS, slots, placement)] == [1, 2]
    ran = run_all(lanes_of(CELLS, slots, placement), slots)
    assert set(ran) == {("big", "H200"), ("small", "A100")}
    assert len(ran) == len(CELLS) + 4


def test_alike_machines_are_one_lane() -> None:
    slots = slots_on(H200, H200)
    placement = place_models(LOADS, [slot.machine for slot in slots])
    assert [lane.num_workers for lane in find_lanes(CELLS, slots, placement)] == [2]
    # The full-precision rows of both models before all else.
    lanes = lanes_of(CELLS, slots, placement)
    assert [model_of(unit) for slot in slots if (unit := lanes.next_unit(slot))] in (["big", "small"], ["small", "big"])


def test_a_worker_that_serves_several_lanes_helps_first_where_fewest_can() -> None:
    special = machine("H200", pool="a")
    slots = slots_on(special, H200)
    loads = [Load("big", seconds=100), Load("small", needs(label_selector={"pool": "a"}), 10)]
    placement = place_models(loads, [slot.machine for slot in slots])
    lanes = lanes_of(CELLS, slots, placement)
    first, second = lanes.next_unit(slots[0]), lanes.next_unit(slots[1])
    assert first is not None
    assert second is not None
    assert (model_of(first), model_of(second)) == ("small", "big")
    lanes.finished(first)
    lanes.finished(second)
    ran = run_all(lanes, slots)
    assert {model for model, _ in ran} == {"big", "small"}


def test_a_nodes_memory_admits_models_while_there_is_room() -> None:
    slots = slots_on(*[Machine(node="a", host_memory=100 * GB)] * 3)
    loads = [Load("big", needs(host_memory="60GB"), 100), Load("small", needs(host_memory="40GB"), 10)]
    placement = place_models(loads, [slot.machine for slot in slots])
    lanes = lanes_of(CELLS, slots, placement)
    held = []
    for slot in slots:
        unit = lanes.next_unit(slot)
        if unit is not None:
            slot.resident, slot.unit = unit.variant_id, unit
            held.append(model_of(unit))
    assert sorted(held) == ["big", "small"]
    # The first to end makes room for what may follow.
    done = slots[0]
    assert done.unit is not None
    lanes.finished(done.unit)
    done.unit = None
    assert lanes.next_unit(done) is not None
    assert lanes.next_unit(slots[2]) is None


def test_work_that_no_worker_may_run_is_told_and_other_lanes_go_on() -> None:
    slots = slots_on(H200, A100)
    placement = place_models(LOADS, [slot.machine for slot in slots])
    lanes = lanes_of(CELLS, slots, placement)
    slots[0].is_ready = False
    assert lanes.stranded() == []
    run_all_of(lanes, slots[1])
    assert lanes.stranded() == ["big (H200)"]
    slots[0].is_ready = True
    assert lanes.stranded() == []
    run_all_of(lanes, slots[0])
    assert lanes.is_done


def run_all_of(lanes: Lanes, slot: Slot) -> None:
    while (unit := lanes.next_unit(slot)) is not None:
        assert isinstance(unit, EvaluateUnit | QuantizeUnit)
        lanes.finished(unit)


def test_a_unit_that_failed_runs_again_on_its_models_kind_only() -> None:
    slots = slots_on(machine("H200", "a"), machine("A100", "b"))
    placement = place_models(LOADS, [slot.machine for slot in slots])
    lanes = lanes_of([cell for cell in CELLS if cell.variant.model.label == "big"], slots, placement)
    retrier = Retrier(lanes, Retries.model_construct(backoff=0.0))
    unit = retrier.next_unit(slots[0], slots)
    assert unit is not None
    assert retrier.failed(slots[0], unit, Failure("worker_lost", "", "")) == []
    assert retrier.next_unit(slots[1], slots) is None
    ran = [again.unit_id for _ in range(5) if (again := retrier.next_unit(slots[0], slots)) is not None]
    assert unit.unit_id in ran
