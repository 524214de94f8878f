"""What was warned of in a unit, by Python or by libraries, as events: the driver keeps them in the unit's log."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from workers.units import Event, Warned

# transformers keeps its messages from the root logger.
_LOGGERS = ("", "transformers")


class _Collector(logging.Handler):
    """Each text once: a library may say the same with every batch."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._seen: set[str] = set()
        self._new: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = f"{record.name}: {record.getMessage().strip()}"
        if text not in self._seen:
            self._seen.add(text)
            self._new.append(text)

    def taken(self) -> Iterator[Event]:
        new, self._new = self._new, []
        for text in new:
            yield Warned(text)


def with_warnings(events: Iterator[Event]) -> Iterator[Event]:
    """`events`, and before each one what was warned of since the last; before an error too."""
    collector = _Collector()
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    logging.captureWarnings(True)
    for logger in loggers:
        logger.addHandler(collector)
    try:
        for event in events:
            yield from collector.taken()
            yield event
        yield from collector.taken()
    except Exception:
        yield from collector.taken()
        raise
    finally:
        for logger in loggers:
            logger.removeHandler(collector)
        logging.captureWarnings(False)
