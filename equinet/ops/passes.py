"""What a backward pass is for, so that slopes nobody asked for are not computed.

Training on forces goes through the graph twice: once for the slopes in positions, once for those in weights. Torch leaves out what
does not lead to what is asked for, except within a custom operator, which cannot know. So whoever starts a pass may say so.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

_current = threading.local()


@contextmanager
def only(what: Literal["positions", "weights"]) -> Iterator[None]:
    """Promise that the backward passes started in this block are asked for slopes in positions alone, or in weights alone.

    Operators may then leave out the others. A wrong promise gives missing slopes.
    """
    before = getattr(_current, "only", None)
    _current.only = what
    try:
        yield
    finally:
        _current.only = before


def wanted(what: Literal["positions", "weights"]) -> bool:
    """Whether the pass at hand may be asked for slopes in ``what``."""
    return getattr(_current, "only", None) in (None, what)
