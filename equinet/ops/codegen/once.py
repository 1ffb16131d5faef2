"""Kernels and operators that are made once in a process, whichever of its threads asks first."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

Made = TypeVar("Made")

# One for all: LLVM's context is not made for several threads, and a kernel may ask for the next one while it is made.
_lock = threading.RLock()


def _forget_owner() -> None:
    global _lock
    _lock = threading.RLock()  # a thread that held it does not exist in a process that was forked


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_owner)


def once(make: Callable[..., Made]) -> Callable[..., Made]:
    """Return a function that keeps its results, as ``functools.cache``, and never makes one in two threads at a time.

    Args:
        make: Function of hashable positional and keyword arguments; it may call others of the kind.
    """
    made: dict[Any, Made] = {}

    @wraps(make)
    def find(*args: Any, **kwargs: Any) -> Made:
        key = (args, *kwargs.items()) if kwargs else args
        try:
            return made[key]
        except KeyError:
            pass
        with _lock:
            if key not in made:
                made[key] = make(*args, **kwargs)
            return made[key]

    find.cache_clear = made.clear  # type: ignore[attr-defined]
    return find
