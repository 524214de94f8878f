from __future__ import annotations

from pathlib import Path

import pytest

from grids import GridError, parse_duration, read_grid, show_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("15m", 900), ("2h", 7200), ("3h55m", 14_100), ("1d 2h", 93_600), ("1.5h", 5400), ("0s", 0)],
)
def test_lengths_of_time_are_read_as_people_write_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("value", ["", "2", "h", "55m3h", "-2h", "2 hours", 30, None, "2h2h"])
def test_what_is_no_length_of_time_is_refused_with_an_example(value: object) -> None:
    with pytest.raises(ValueError, match="is not a length of time; write 90s"):
        parse_duration(value)


@pytest.mark.parametrize("text", ["0s", "59s", "1m", "3h55m", "2d1s"])
def test_a_length_of_time_is_shown_as_it_is_read(text: str) -> None:
    assert show_duration(parse_duration(text)) == text


GRID = "name: g\nmodels: [m]\ntasks: [t]\n"


def test_a_grid_says_how_often_and_how_long(tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text(GRID + "timeout: 2h\nretries: {worker_lost: 0, backoff: 1m}\n")
    grid = read_grid(tmp_path / "grid.yaml", ["retries.oom_gpu=4"])
    assert grid.timeout == 7200
    assert grid.retries.model_dump() == {
        "worker_lost": 0,
        "node_lost": 5,
        "oom_host": 1,
        "oom_gpu": 4,
        "timeout": 1,
        "backoff": 60.0,
    }


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("timeout: 2", "timeout: 2 is not a length of time"),
        ("retries: {error: 1}", "retries: unknown key 'error'"),
        ("retries: {timeout: -1}", "retries.timeout: "),
        ("retries: {backoff: soon}", "retries.backoff: 'soon' is not a length of time"),
    ],
)
def test_a_mistake_about_retries_names_its_key(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "grid.yaml").write_text(f"{GRID}{line}\n")
    with pytest.raises(GridError) as caught:
        read_grid(tmp_path / "grid.yaml")
    assert message in str(caught.value)
