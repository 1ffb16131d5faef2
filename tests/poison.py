"""Uninitialised memory that shows: every new array that is not filled holds NaN, or the largest integer, or True.

The sizes of the arrays of a test are small, so that fresh memory is mostly zero, and code that forgets to write part of a result passes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

NEW = ((torch, "empty"), (torch, "empty_like"), (torch, "empty_strided"), (Tensor, "new_empty"))


def poison(patch: pytest.MonkeyPatch) -> None:
    """Fill what the functions of :data:`NEW` return, until ``patch`` is undone."""
    for owner, name in NEW:
        function = _poisoned(getattr(owner, name))
        patch.setattr(owner, name, function)
        if owner is torch:  # TorchScript, which e3nn uses, knows functions of torch by their addresses
            torch.jit._builtins._register_builtin(function, f"aten::{name}")


def _poisoned(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def new(*args: Any, **kwargs: Any) -> Tensor:
        made = make(*args, **kwargs)
        with torch.no_grad():
            return made.fill_(_value(made.dtype))

    return new


def _value(dtype: torch.dtype) -> float | int:
    if dtype.is_floating_point or dtype.is_complex:
        return float("nan")
    return True if dtype == torch.bool else torch.iinfo(dtype).max
