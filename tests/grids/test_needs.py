"""What models ask of machines: read strictly, understood as Ray does, and no part of any id."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from grids import GridError, Needs, Study, read_grid
from grids.needs import selects
from grids.sizes import parse_size, show_size


@pytest.mark.parametrize(
    ("text", "size"), [("24GB", 24e9), ("512 MB", 512e6), ("1.5TiB", 1.5 * 2**40), (" 40GiB ", 40 * 2**30)]
)
def test_sizes_are_bytes(text: str, size: float) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["24", "24gb", "-1GB", "0GB", "GB", "24 G", 24, None, ""])
def test_what_is_no_size_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="is not an amount of memory; write 24GB"):
        parse_size(text)


def test_sizes_are_shown_to_three_digits() -> None:
    assert [show_size(size) for size in (24e9, 141e9, 512e6, 1.5e12, 85.2e9, 1000)] == [
        *("24 GB", "141 GB", "512 MB", "1.5 TB", "85.2 GB", "0.001 MB")
    ]


@pytest.mark.parametrize(
    ("condition", "label", "expected"),
    [
        ("H200", "H200", True),
        ("H200", "H100", False),
        ("H200", None, False),
        ("!H200", "H100", True),
        ("!H200", "H200", False),
        ("!H200", None, True),
        ("in(H100, H200)", "H200", True),
        ("in(H100,H200)", "A100", False),
        ("!in(H100, H200)", "A100", True),
        ("!in(H100, H200)", "H100", False),
    ],
)
def test_selectors_mean_what_they_mean_to_ray(condition: str, label: str | None, expected: bool) -> None:
    assert selects({"pool": condition}, {} if label is None else {"pool": label}) is expected


NEEDY = "models: [{path: tiny, needs: {label_selector: {ray.io/accelerator-type: H200}, gpu_memory: 24GB}}]"


def test_needs_decide_no_number(study_of: Callable[..., Study], small_grid: str) -> None:
    plain = study_of(small_grid)
    needy = study_of(small_grid.replace("models: [tiny]", NEEDY) + "\nallow_mixed_devices: true\n")
    assert [cell.cell_id for cell in needy.cells] == [cell.cell_id for cell in plain.cells]
    assert str(needy.needs["tiny"]) == "ray.io/accelerator-type=H200 and 24 GB of GPU memory"
    assert needy.needs["tiny"].to_json() == {
        "label_selector": {"ray.io/accelerator-type": "H200"},
        "gpu_memory": 24_000_000_000,
    }
    assert (needy.allow_mixed_devices, plain.allow_mixed_devices) == (True, False)
    assert not plain.needs["tiny"]
    assert Needs() == plain.needs["tiny"]


@pytest.mark.parametrize(
    ("needs", "key", "message"),
    [
        ("gpu_memory: 24", "models[0].needs.gpu_memory", "24 is not an amount of memory; write 24GB, 512MB or 1.5TiB"),
        ("gpu_ram: 24GB", "models[0].needs", "unknown key 'gpu_ram'"),
        (
            "label_selector: {pool: 'H 200'}",
            "models[0].needs.label_selector",
            "'H 200' selects no label of pool; write H200",
        ),
        ("label_selector: {-x: a}", "models[0].needs.label_selector", "'-x' is not a label's name"),
        ("label_selector: {pool: in()}", "models[0].needs.label_selector", "'in()' selects no label of pool"),
    ],
)
def test_bad_needs_are_one_line_with_their_place(tmp_path: Path, needs: str, key: str, message: str) -> None:
    file = tmp_path / "grid.yaml"
    file.write_text(f"name: x\nmodels: [{{path: tiny, needs: {{{needs}}}}}]\ntasks: [facts]\n")
    with pytest.raises(GridError) as caught:
        read_grid(file)
    assert caught.value.key == key
    assert caught.value.message.startswith(message)
    assert "\n" not in str(caught.value)
