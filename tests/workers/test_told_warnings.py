from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator

import pytest

from workers.told_warnings import with_warnings
from workers.units import Event, Progress, Warned


def noisy(error: Exception | None) -> Iterator[Event]:
    yield Progress("evaluate", 0, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("the cache is off", UserWarning, stacklevel=1)
    for _ in range(3):
        logging.getLogger("transformers.generation").warning("pad token %d is unset", 7)
    logging.getLogger("transformers.generation").info("no warning")
    yield Progress("evaluate", 1, 2)
    logging.getLogger("elsewhere").error("late")
    if error is not None:
        raise error


def test_warnings_come_before_the_next_event_each_once() -> None:
    told = [event.text if isinstance(event, Warned) else event for event in with_warnings(noisy(None))]
    assert told[0] == Progress("evaluate", 0, 2)
    assert isinstance(told[1], str)
    assert "the cache is off" in told[1]
    assert told[2:] == [
        "transformers.generation: pad token 7 is unset",
        Progress("evaluate", 1, 2),
        "elsewhere: late",
    ]


def test_what_was_warned_of_before_an_error_is_told_before_it() -> None:
    events = with_warnings(noisy(ValueError("no")))
    told: list[Event] = []
    with pytest.raises(ValueError, match="no"):
        told.extend(events)
    assert told[-1] == Warned("elsewhere: late")


def test_loggers_are_left_as_they_were() -> None:
    before = [list(logging.getLogger(name).handlers) for name in ("", "transformers")]
    assert list(with_warnings(noisy(None)))
    assert [list(logging.getLogger(name).handlers) for name in ("", "transformers")] == before
