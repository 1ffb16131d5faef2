"""From the density on a node to its new features: the many-body product."""

from __future__ import annotations

from collections.abc import Sequence

from e3nn import o3
from jaxtyping import Float
from torch import Tensor, nn

from equinet.ops import ManyBodySpec, Method, SpeciesGroups
from equinet.ops.layout import with_channels

from .linear import EquivariantLinear


class ManyBodyBlock(nn.Module):
    r"""Products of the density with itself, mixed by a linear map, plus the residual of the interaction.

    .. math:: h'_i = W \, B(A_i; w^{z_i}) + \mathrm{residual}_i

    Args:
        irreps_in: Irreps of the density, in order.
        irreps_out: Irreps of the new features.
        channels: Channels of both.
        species: Number of species.
        correlation: Highest number of factors, nu.
        method: Tensor product of the many-body product.

    Raises:
        ValueError: If ``method`` cannot do it; says why.

    Source:
        MACE, arXiv 2206.07697, eqs. 10 and 11.
    """

    def __init__(
        self,
        *,
        irreps_in: Sequence[o3.Irrep],
        irreps_out: Sequence[o3.Irrep],
        channels: int,
        species: int,
        correlation: int,
        method: Method,
    ) -> None:
        super().__init__()
        spec = ManyBodySpec(
            with_channels(irreps_in, channels), with_channels(irreps_out, channels), correlation, species
        )
        if reason := method.supports(spec):
            raise ValueError(f"{method} cannot do the many-body product {spec}: {reason}")
        self.product = method.many_body(spec)
        self.weight = nn.Parameter(self.product.initial_weight())
        self.linear = EquivariantLinear(dict.fromkeys(irreps_out, 1), channels, channels)

    def forward(
        self,
        density: Float[Tensor, "nodes harmonics channels"],
        residual: Float[Tensor, "nodes out channels"] | None,
        groups: SpeciesGroups,
    ) -> Float[Tensor, "nodes out channels"]:
        result = self.linear(self.product(density, self.weight, groups))
        return result if residual is None else result + residual
