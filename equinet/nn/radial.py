"""Functions of the distance alone: basis, envelope, and the network that turns them into weights of the convolution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equinet.ops.constants import FRESH_DTYPE, ConstantModule
from equinet.ops.kernels.row.operator import silu
from equinet.ops.precision import matmul

# sqrt of 1 / E[silu(z)^2] for z ~ N(0, 1), by Gauss-Hermite quadrature (180 points), so that activations keep unit size.
SILU_GAIN = 1.6765324703310907


class BesselBasis(ConstantModule):
    r"""Spherical Bessel functions of order zero that vanish at the cutoff.

    .. math:: b_n(r) = \sqrt{2 / r_c} \, \frac{\sin(n \pi r / r_c)}{r}, \qquad n = 1 \ldots N

    Args:
        cutoff: r_c in Å.
        size: N.

    Source:
        Gasteiger et al. 2020 (DimeNet), arXiv 2003.03123, eq. 7.
    """

    frequencies: Tensor

    def __init__(self, cutoff: float, size: int) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.register_constant("frequencies", torch.arange(1, size + 1, dtype=torch.float64) * (math.pi / cutoff))

    def forward(self, lengths: Float[Tensor, "edges 1"]) -> Float[Tensor, "edges basis"]:
        return math.sqrt(2 / self.cutoff) * torch.sin(lengths * self.frequencies) / lengths

    def extra_repr(self) -> str:
        return f"{len(self.frequencies)} functions, cutoff {self.cutoff:g} Å"


class PolynomialEnvelope(nn.Module):
    r"""Smooth factor from 1 at r = 0 to 0 at the cutoff, where its first two derivatives vanish too.

    .. math:: f(x) = 1 - \tfrac{(p+1)(p+2)}{2} x^p + p (p+2) x^{p+1} - \tfrac{p (p+1)}{2} x^{p+2}, \qquad x = r / r_c

    Args:
        cutoff: r_c in Å.
        power: p.

    Source:
        Gasteiger et al. 2020 (DimeNet), arXiv 2003.03123, eq. 8.
    """

    def __init__(self, cutoff: float, power: int) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.power = power

    def forward(self, lengths: Float[Tensor, "edges 1"]) -> Float[Tensor, "edges 1"]:
        return envelope(lengths / self.cutoff, self.power)

    def extra_repr(self) -> str:
        return f"p={self.power}, cutoff {self.cutoff:g} Å"


def envelope(x: Float[Tensor, "*rows"], power: int) -> Float[Tensor, "*rows"]:
    """The polynomial of :class:`PolynomialEnvelope`, a function of x = r / r_c and p = ``power``."""
    x = x.clamp(max=1)  # beyond the cutoff exactly zero, with exactly zero derivative
    # The same polynomial with its triple zero taken out: as it is usually written it cancels near the cutoff and turns negative.
    rest = torch.zeros_like(x)
    for k in reversed(range(power)):
        rest = rest * x + (k + 1) * (k + 2) / 2
    return (1 - x) ** 3 * rest


class RadialMLP(nn.Module):
    r"""Multilayer perceptron without biases, so that zero goes to zero and weights vanish at the cutoff.

    .. math:: h_{k+1} = \mathrm{act}(h_k W_k / \sqrt{n_k})

    with no activation after the last layer. The activation is SiLU times a constant that gives it a unit second moment for
    unit-variance input. Weights start as unit normals.

    Args:
        sizes: Width of input, hidden layers and output.
        biases: Give all layers but the first a bias all the same, zero at the start; for what is no function of the distance.
    """

    def __init__(self, sizes: Sequence[int], *, biases: bool = False) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        self.weights = nn.ParameterList([torch.randn(a, b, dtype=FRESH_DTYPE) for a, b in pairwise(sizes)])
        self.biases = nn.ParameterList([torch.zeros(b, dtype=FRESH_DTYPE) for b in sizes[2:]] if biases else [])

    def forward(self, x: Float[Tensor, "edges in"]) -> Float[Tensor, "edges out"]:
        first, *others = self.weights
        x = matmul(x, first / math.sqrt(self.sizes[0]))
        for n, (weight, size) in enumerate(zip(others, self.sizes[1:])):
            x = matmul(silu(x), weight * (SILU_GAIN / math.sqrt(size)))
            if self.biases:
                x = x + self.biases[n]
        return x

    def extra_repr(self) -> str:
        return " → ".join(map(str, self.sizes)) + (", biases" if self.biases else "")
