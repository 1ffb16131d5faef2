"""One round of message passing: from the features of neighbours to a density on every node."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from e3nn import o3
from jaxtyping import Float
from torch import Tensor

from equinet.ops import Method, SpeciesGroups, TensorProductSpec, natural_irreps
from equinet.ops.constants import Float64Buffers
from equinet.ops.edges import Edges
from equinet.ops.layout import with_channels

from .linear import EquivariantLinear, SpeciesLinear
from .radial import RadialMLP
from .table import RadialTable

# Root mean square of the density at the start. Of 0.3, 0.5 and 1 all train alike; larger ones make the cubic products of
# a few atoms so large that the first steps are spent on them.
DENSITY_SIZE = 0.5


class EdgeFeatures(NamedTuple):
    """Fixed functions of every edge vector.

    Attributes:
        lengths: ``(rows, 1)``, Å.
        attrs: ``(rows, harmonics)``, spherical harmonics.
        feats: ``(rows, basis)``, radial basis, times the envelope unless that is the ``factor``.
        envelope: ``(rows, 1)``.
        factor: What multiplies the weights that a network makes of ``feats``: the envelope, or None.
    """

    lengths: Tensor
    attrs: Tensor
    feats: Tensor
    envelope: Tensor
    factor: Tensor | None

    def times_factor(self, values: Float[Tensor, "rows width"]) -> Float[Tensor, "rows width"]:
        """``values`` times ``factor``, if there is one."""
        return values if self.factor is None else values * self.factor


class Convolving(Float64Buffers):
    """What all interactions have: features mixed for sending, the tensor product with the edge, a constant.

    Args:
        irreps_in: Irreps of the incoming features, in order.
        irreps_density: Irreps wanted in the density; those that no coupling reaches are left out (:attr:`irreps_density`).
        sh_degree: Highest degree of the harmonics.
        channels: Channels of features and density.
        edge_channels: Channels of what is sent.
        normalization: What densities are divided by at first.
        method: Tensor product of the convolution.

    Raises:
        ValueError: If ``method`` cannot do it; says why.
    """

    normalization: Tensor
    directed = False  # whether weights of the two directions of a pair differ

    def __init__(
        self,
        *,
        irreps_in: Sequence[o3.Irrep],
        irreps_density: Sequence[o3.Irrep],
        sh_degree: int,
        channels: int,
        edge_channels: int,
        normalization: float,
        method: Method,
    ) -> None:
        super().__init__()
        spec = TensorProductSpec(
            with_channels(irreps_in, edge_channels), natural_irreps(sh_degree), with_channels(irreps_density, 1)
        )
        if reason := method.supports(spec):
            raise ValueError(f"{method} cannot do the convolution {spec}: {reason}")
        self.channels = edge_channels
        self.linear_up = EquivariantLinear(dict.fromkeys(irreps_in, 1), channels, edge_channels)
        self.convolution = method.convolution(spec)
        self.irreps_density = list(self.convolution.copies)
        self.register_buffer("normalization", torch.tensor(float(normalization), dtype=torch.float64))

    @torch.no_grad()
    def calibrate(
        self, density: Float[Tensor, "nodes harmonics channels"]
    ) -> Float[Tensor, "nodes harmonics channels"]:
        """Choose the constant so that ``density``, a result of this layer, becomes one of size 0.5; returns that one.

        Raises:
            ValueError: If the density is zero or not finite, as without edges.
        """
        factor = density.double().square().mean().sqrt() / DENSITY_SIZE
        if not (factor.isfinite() and factor > 0):
            raise ValueError("the density is zero everywhere; calibrate on structures whose atoms have neighbours")
        self.normalization *= factor
        return density / factor.to(density.dtype)


class Interaction(Convolving):
    r"""Sum over neighbours of features times harmonics, weighted by functions of the distance.

    .. math:: A_i = \frac{1}{\lambda_i} \, W \sum_{j} R(r_{ij}) \, (W h_j) \otimes Y(\hat r_{ij})

    with :math:`\lambda_i = \lambda`, a constant, or with ``density_normalization`` the node's own learned density
    :math:`\lambda_i = \lambda \, \big( 1 + \sum_j \tanh\big( w(r_{ij})^2 \big) \big)`. MACE has the mean number of neighbours
    for the constant in the first case and 1 in the second, which makes densities of 0.01 to 0.00001 at the start and their
    products vanish; :meth:`calibrate` chooses a better one.

    With ``residual`` the layer also returns :math:`W_{z_i} h_i`, which the product adds to its result. Without, the
    density itself is mixed by :math:`W_{z_i}` and nothing is passed around it.

    Args:
        irreps_out: Irreps of the features that the layer will produce (shape of the residual).
        channels: Channels of features and density.
        species: Number of species.
        radial_sizes: Width of the radial basis and of the hidden layers of the radial network.
        residual: See above.
        density_normalization: See above.
        others: Of :class:`Convolving`.

    Raises:
        ValueError: If ``method`` cannot do it; says why.

    Source:
        MACE, arXiv 2206.07697, eqs. 8 and 9; density normalisation as in the MACE-MP-0b models.
    """

    def __init__(
        self,
        *,
        irreps_out: Sequence[o3.Irrep],
        channels: int,
        species: int,
        radial_sizes: list[int],
        residual: bool,
        density_normalization: bool,
        **others: Any,
    ) -> None:
        super().__init__(channels=channels, **others)
        self.residual = residual
        self.radial = RadialMLP([*radial_sizes, self.convolution.weight_numel * self.channels])
        self.table: RadialTable | None = None
        self.linear = EquivariantLinear(self.convolution.copies, self.channels, channels)
        self.density = RadialMLP([radial_sizes[0], 1]) if density_normalization else None
        incoming = list(self.linear_up.copies)
        mixed = (incoming, irreps_out) if residual else (self.irreps_density, self.irreps_density)
        self.species_linear = SpeciesLinear(*mixed, channels, species)

    def forward(
        self,
        node_feats: Float[Tensor, "nodes dim channels"],
        of_edge: EdgeFeatures,
        edges: Edges,
        groups: SpeciesGroups,
    ) -> tuple[Float[Tensor, "nodes harmonics channels"], Float[Tensor, "nodes out channels"] | None]:
        weight = of_edge.times_factor(self.radial(of_edge.feats)) if self.table is None else self.table(of_edge.lengths)
        weight = weight.unflatten(1, (-1, self.channels))
        density = self.convolution(self.linear_up(node_feats), of_edge.attrs, weight, edges)
        density = self.linear(density) / self._normalizer(of_edge, edges)
        if self.residual:
            return density, self.species_linear(node_feats, groups)
        return self.species_linear(density, groups), None

    def tabulate(self, features: Callable[[Tensor], EdgeFeatures], cutoff: float, error: float) -> None:
        """Replace the radial network by a table from now on; its weights no longer count. See :class:`RadialTable`.

        Args:
            features: What a model makes of ``(rows, 1)`` lengths in Å, in float64.
            cutoff: In Å.
            error: What value and gradient may err, relative to their size.
        """
        network = copy.deepcopy(self.radial).double().requires_grad_(False)

        def weights(lengths: Tensor) -> Tensor:
            of_edge = features(lengths)
            return of_edge.times_factor(network(of_edge.feats))

        self.table = RadialTable.of(weights, cutoff, error).to(self.radial.weights[0])

    def train(self, mode: bool = True) -> Interaction:
        """As for any module.

        Raises:
            RuntimeError: If the radial network has been replaced by a table, which cannot be trained.
        """
        if mode and self.table is not None:
            raise RuntimeError(
                "the radial networks of this potential have been replaced by tables (`tabulate`), which cannot be trained; "
                "train the potential they were made from"
            )
        return super().train(mode)

    def _normalizer(self, of_edge: EdgeFeatures, edges: Edges) -> Tensor:
        constant = self.normalization.to(of_edge.feats.dtype)
        if self.density is None:
            return constant
        of_pair = of_edge.times_factor(torch.tanh(self.density(of_edge.feats) ** 2))
        return constant * (1 + edges.sum_on_receivers(of_pair).unsqueeze(2))
