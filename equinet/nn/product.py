"""From the density on a node to its new features: the many-body product."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equinet.ops import ManyBodySpec, Method, SpeciesGroups, natural_irreps

from .linear import EquivariantLinear


class ManyBodyBlock(nn.Module):
    r"""Products of the density with itself, mixed by a linear map, plus the residual of the interaction.

    .. math:: h'_i = W \, B(A_i; w^{z_i}) + \mathrm{residual}_i

    Args:
        sh_degree: Highest degree of the density.
        degree_out: Highest degree of the new features.
        channels: Channels of both.
        species: Number of species.
        correlation: Highest number of factors, nu.
        method: Tensor product of the many-body product.

    Source:
        MACE, arXiv 2206.07697, eqs. 10 and 11.
    """

    def __init__(
        self, *, sh_degree: int, degree_out: int, channels: int, species: int, correlation: int, method: Method
    ) -> None:
        super().__init__()
        spec = ManyBodySpec(
            natural_irreps(sh_degree, channels), natural_irreps(degree_out, channels), correlation, species
        )
        if reason := method.supports(spec):
            raise ValueError(f"{method} cannot do the many-body product {spec}: {reason}")
        self.product = method.many_body(spec)
        paths = self.product.weight_numel
        self.weight = nn.Parameter(torch.randn(species, paths, channels) / math.sqrt(paths))
        self.linear = EquivariantLinear(dict.fromkeys(range(degree_out + 1), 1), channels, channels)

    def forward(
        self,
        density: Float[Tensor, "nodes harmonics channels"],
        residual: Float[Tensor, "nodes out channels"] | None,
        groups: SpeciesGroups,
    ) -> Float[Tensor, "nodes out channels"]:
        result = self.linear(self.product(density, self.weight, groups))
        return result if residual is None else result + residual
