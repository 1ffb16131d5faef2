"""Toy tensor products as a package of other people would bring them: no base class, one argument, no backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from equinet.ops import ClebschGordan, ManyBodySpec, TensorProductSpec


class Scaled(nn.Module):
    """An executor whose weights are multiplied by a factor."""

    def __init__(self, inner: Any, factor: float) -> None:
        super().__init__()
        self.inner, self.factor = inner, factor
        self.spec, self.weight_numel = inner.spec, inner.weight_numel
        if hasattr(inner, "copies"):  # of a convolution
            self.copies = inner.copies

    def forward(self, x: Tensor, *rest: Any) -> Tensor:
        *first, weight, where = rest
        return self.inner(x, *first, self.factor * weight, where)

    def path_weights(self, weight: Tensor) -> Tensor:
        return self.inner.path_weights(self.factor * weight)

    def initial_weight(self) -> Tensor:
        return self.inner.initial_weight()


@dataclass(frozen=True)
class Rescaled:
    """Exact couplings times a factor."""

    factor: float = 1.0

    def supports(self, spec: TensorProductSpec | ManyBodySpec) -> str | None:
        return None

    def reached(self, spec: ManyBodySpec) -> set[Any]:
        return ClebschGordan().reached(spec)

    def convolution(self, spec: TensorProductSpec) -> Scaled:
        return Scaled(ClebschGordan().convolution(spec), self.factor)

    def many_body(self, spec: ManyBodySpec) -> Scaled:
        return Scaled(ClebschGordan().many_body(spec), self.factor)
