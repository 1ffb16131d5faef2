"""Log messages about what takes long to build, while it is being built."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

logger = logging.getLogger("equinet")

LONG = 2.0  # seconds after which the wait is explained

_building: ContextVar[bool] = ContextVar("building", default=False)


@contextmanager
def building(what: str) -> Iterator[None]:
    """Log what is being built if the block takes longer than :data:`LONG` seconds; of blocks within blocks the outermost does.

    Args:
        what: What is built, as in "the CP decomposition of a tensor into 28 terms".
    """
    if _building.get():
        yield
        return
    token = _building.set(True)
    timer = threading.Timer(LONG, logger.info, ["building %s; this takes more than %g s", what, LONG])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        _building.reset(token)
