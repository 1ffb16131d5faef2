"""Signals at the right moment: between two steps, when the state is whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

# Ctrl-C, and what schedulers of clusters and closing terminals send.
SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGBREAK") if hasattr(signal, name)
)


class StopRequested(KeyboardInterrupt):
    """A signal asked to stop, and this is a point at which the run can be saved and continued exactly.

    Attributes:
        signal: Number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = number


class GentleInterrupt:
    """While this context is open, SIGINT (Ctrl-C), SIGTERM, SIGHUP and SIGUSR1 wait for :meth:`check`.

    A second Ctrl-C stops at once, as usual; the other signals may come several times, as schedulers send them to every process. A
    signal that is ignored, as SIGHUP is under ``nohup``, stays ignored. Outside the main thread, where Python delivers no signals,
    the context does nothing.

    Args:
        announce: Called at the first signal, to tell the user that it was heard.
        waits: False to begin as after :meth:`stop_at_once`.
    """

    def __init__(self, announce: Callable[[], None], *, waits: bool = True) -> None:
        self.requested: int | None = None
        self._announce = announce
        self._waits = waits
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> GentleInterrupt:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):  # None: set by something that is not Python
                    self._previous[number] = signal.signal(number, self._heard)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if not self._waits:
            self.requested = self.requested or number
            raise StopRequested(number)
        if self.requested is not None:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.requested = number
        self._announce()

    def wait_for_checks(self) -> None:
        """From here on signals wait for :meth:`check`, as something is under way that must be saved as a whole."""
        self._waits = True

    def stop_at_once(self) -> None:
        """From here on signals raise wherever they come, as all that must be whole is on the disk.

        Raises:
            StopRequested: If a signal asked to stop before, and by any that comes later.
        """
        self._waits = False
        self.check()

    def check(self) -> None:
        """Stop here if a signal asked to.

        Raises:
            StopRequested: If one did.
        """
        if self.requested is not None:
            raise StopRequested(self.requested)


def signal_of(interrupt: KeyboardInterrupt) -> int:
    """Number of the signal behind an interrupt; that of Ctrl-C if it does not say."""
    return interrupt.signal if isinstance(interrupt, StopRequested) else int(signal.SIGINT)
