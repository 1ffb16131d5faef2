"""Tests for tracing by torch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode


def is_traced(x: Tensor) -> bool:
    """True if operations on ``x`` are traced into a graph, by ``torch.compile`` or ``make_fx``.

    Then nothing may hang on an address, a value, or a number of rows.
    """
    if torch.compiler.is_compiling():
        return True
    return type(x) not in (Tensor, torch.nn.Parameter) and get_proxy_mode() is not None


def refuse_symbols(value: object) -> None:
    """Refuse placeholders of ``torch.fx.symbolic_trace``, in which no number of atoms or edges can be seen.

    Raises:
        TypeError: If ``value`` is one; says what to use.
    """
    if isinstance(value, torch.fx.Proxy):
        raise TypeError(
            "torch.fx.symbolic_trace cannot record a potential, as what is computed depends on the numbers of atoms and edges; use "
            "the potential as it is, or what docs/compile.md says about torch.compile"
        )
