"""Leaving training when a signal asks for it."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from cxr.errors import CxrError


class Stopped(CxrError):
    """Training was asked to stop, by a signal of that number or by 0, and did, with everything saved."""

    def __init__(self, message: str, signal_number: int = 0):
        super().__init__(message)
        self.signal = signal_number


class StopRequest:
    """Whether somebody wants training to stop, and the number of the signal that said so, or 0."""

    def __init__(self) -> None:
        self._requested = False
        self.signal = 0

    def __bool__(self) -> bool:
        return self._requested

    def request(self, signal_number: int = 0) -> None:
        """Asks for it."""
        self._requested, self.signal = True, signal_number


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Inside, SIGINT and SIGTERM request a stop after the step at hand; a second one ends the process at once."""
    stop = StopRequest()

    def note(number: int, _: FrameType | None) -> None:
        stop.request(number)
        signal.signal(number, before[number])

    before = {int(number): signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
