"""Ctrl-C at the right moment: between two steps, when the state is whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType


class StopRequested(KeyboardInterrupt):
    """The user asked to stop, and this is a point at which the run can be saved and continued exactly."""


class GentleInterrupt:
    """While this context is open, the first Ctrl-C waits for :meth:`check`; the second one stops at once, as usual.

    Outside the main thread, where Python delivers no signals, it does nothing.

    Args:
        announce: Called at the first Ctrl-C, to tell the user that it was heard.
    """

    def __init__(self, announce: Callable[[], None]) -> None:
        self.requested = False
        self._announce = announce
        self._previous: Callable[[int, FrameType | None], object] | int | None = None

    def __enter__(self) -> GentleInterrupt:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._heard)
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        self._announce()

    def check(self) -> None:
        """Stop here if the user asked to.

        Raises:
            StopRequested: If Ctrl-C was pressed.
        """
        if self.requested:
            raise StopRequested
