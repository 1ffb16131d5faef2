"""A product of two inputs without a graph, by any method."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from equinet.ops.edges import Edges
from equinet.ops.protocols import Convolution, Method, Pair
from equinet.ops.spec import TensorProductSpec

from .clebsch_gordan import ClebschGordan
from .roles import executor_of, refusal


class TensorProduct(nn.Module):
    """A product of two inputs, pair by pair, without a graph; made by :func:`tensor_product`."""

    def __init__(self, spec: TensorProductSpec, executor: Convolution) -> None:
        super().__init__()
        self.spec, self.executor = spec, executor
        self.copies = executor.copies
        self.weight_numel = executor.weight_numel

    def forward(self, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        """``(batch, dim, channels)``, ``(batch, dim2)``, ``(batch, weight_numel, channels)`` -> ``(batch, rows, channels)``."""
        return self.executor(x, y, weight, Edges.to_itself(x.shape[0], x.device))


def tensor_product(spec: TensorProductSpec, method: Method | None = None) -> TensorProduct | Pair:
    """The channel-wise product of ``spec`` by any method, by default exact couplings; of a pair product its executor itself.

    Raises:
        ValueError: If ``method`` cannot do ``spec``; says why.

    >>> import torch
    >>> from equinet.ops import GauntGrid
    >>> spec = TensorProductSpec("8x0e+8x1o", "0e+1o", "0e+1o")
    >>> product = tensor_product(spec, GauntGrid())
    >>> product(torch.randn(5, 4, 8), torch.randn(5, 4), torch.randn(5, product.weight_numel, 8)).shape
    torch.Size([5, 4, 8])
    >>> pair = tensor_product(TensorProductSpec("8x0e+8x1o", "8x0e+8x1o", "0e+1o+2e"))
    >>> pair(torch.randn(5, 4, 8), torch.randn(5, 4, 8), torch.randn(pair.weight_numel, 8)).shape
    torch.Size([5, 9, 8])
    """
    method = method or ClebschGordan()
    if reason := refusal(method, spec):
        raise ValueError(f"{method} cannot do {spec}: {reason}")
    executor: Any = executor_of(method, spec)
    return executor if spec.pair else TensorProduct(spec, executor)
