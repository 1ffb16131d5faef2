"""Numbers of a module that survive a change of precision without losing digits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

# Precision of the parameters and constants of a module that has just been built, whatever torch's default is; ``.to(...)`` changes it.
FRESH_DTYPE = torch.float32


class ConstantModule(nn.Module):
    """A module whose constant tables are made in float64 once and rounded anew for every dtype.

    An ordinary buffer that went to float32 and back to float64 keeps the rounding of float32. Here the float64
    original stays on the CPU and each ``.to(...)`` starts from it. Constants are not part of the ``state_dict``: they
    follow from the architecture.
    """

    def __init__(self) -> None:
        super().__init__()
        self._originals: dict[str, Tensor] = {}

    def register_constant(self, name: str, value: Tensor) -> None:
        """Store ``value`` (float64 or integer) under ``name``; read it as ``self.name``.

        It starts out in float32, like the parameters of a freshly built module; in place of a constant of that name, in the precision
        and on the device of that.
        """
        self._originals[name] = value.detach().cpu()
        before = self._buffers.get(name)
        dtype, device = (FRESH_DTYPE, value.device) if before is None else (before.dtype, before.device)
        self.register_buffer(
            name, value.to(device, dtype if value.is_floating_point() else value.dtype), persistent=False
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        for name, original in self._originals.items():
            now = getattr(self, name)
            setattr(self, name, original.to(device=now.device, dtype=now.dtype))
        return self


class Float64Buffers(nn.Module):
    """A module whose own float64 buffers stay in float64 when it is moved to another precision.

    For few numbers that are measured, saved and exact: reference energies, normalisations. Use them through
    ``.to(dtype)`` where they meet the arithmetic of the model.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        exact = {name: value for name, value in self.named_buffers(recurse=False) if value.dtype == torch.float64}
        super()._apply(fn, recurse)
        for name, value in exact.items():
            setattr(self, name, value.to(getattr(self, name).device))
        return self
