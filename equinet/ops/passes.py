"""What a backward pass is for, so that gradients nobody asked for are not computed.

Training on forces goes through the graph twice: once for the gradients in positions, once for those in weights. Torch leaves out what
does not lead to what is asked for, except within a custom operator, which cannot know. So whoever starts a pass may say so.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

KEY = "equinet.only"


@contextmanager
def only(what: Literal["positions", "weights"]) -> Iterator[None]:
    """Promise that the backward passes started in this block are asked for gradients in positions alone, or in weights alone.

    Operators may then leave out the others. A wrong promise gives missing gradients.
    """
    before = _current()
    torch._C._stash_obj_in_tls(KEY, what)
    try:
        yield
    finally:
        torch._C._stash_obj_in_tls(KEY, before)


def wanted(what: Literal["positions", "weights"]) -> bool:
    """Whether the pass at hand may be asked for gradients in ``what``."""
    return _current() in (None, what)


def _current() -> str | None:
    # Not a `threading.local`: passes on a GPU run in threads of torch's, to which torch hands on what is kept here.
    found: str | None = torch._C._get_obj_in_tls(KEY) if torch._C._is_key_in_tls(KEY) else None
    return found
