"""One round of message passing: from the features of neighbours to a density on every node."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

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
# What can divide densities, in float32 too; in trained models it is between 1e-5 and 1e3.
NORMALIZATIONS = 1e-12, 1e9

MESSAGES = "Σ_j R(r_ij) (W h_j) ⊗ Y(r̂_ij)"


class EdgeFeatures(NamedTuple):
    """Fixed functions of every edge vector.

    Attributes:
        lengths: ``(rows, 1)``, Å.
        attrs: ``(rows, harmonics)``, spherical harmonics.
        feats: ``(rows, basis)``, radial basis, times the envelope unless that is the ``factor``.
        envelope: ``(rows, 1)``.
        factor: Factor of the weights that a network makes of ``feats``: the envelope, or None.
    """

    lengths: Tensor
    attrs: Tensor
    feats: Tensor
    envelope: Tensor
    factor: Tensor | None

    def times_factor(self, values: Float[Tensor, "rows width"]) -> Float[Tensor, "rows width"]:
        """``values`` times ``factor``, if there is one."""
        return values if self.factor is None else values * self.factor


@dataclass(frozen=True, kw_only=True)
class InteractionSpec:
    """Sizes and irreps of one interaction, whatever its form.

    Attributes:
        irreps_in: Irreps of the incoming features, in order.
        irreps_density: Irreps wanted in the density; those that no coupling reaches are left out.
        irreps_out: Irreps of the features that the layer produces, which are those of the residual.
        sh_degree: Highest degree of the spherical harmonics.
        channels: Channels of features and density.
        edge_channels: Channels of the messages.
        species: Number of species.
        radial_sizes: Widths of the radial basis and of the hidden layers of the radial network.
        method: Tensor product of the convolution.
    """

    irreps_in: tuple[o3.Irrep, ...]
    irreps_density: tuple[o3.Irrep, ...]
    irreps_out: tuple[o3.Irrep, ...]
    sh_degree: int
    channels: int
    edge_channels: int
    species: int
    radial_sizes: tuple[int, ...]
    method: Method


class InteractionFormula(NamedTuple):
    """An interaction in symbols, for ``repr(model)``: radial weights R, density A_i, and the residual term or nothing."""

    radial: str
    density: str
    residual: str


class Convolving(Float64Buffers):
    """Base of all interactions: features mixed for sending, the tensor product with the edge, and a constant.

    Args:
        spec: Sizes and irreps.
        normalization: Initial divisor of the densities.

    Attributes:
        directed: True if the weights of the two directions of a pair differ.
        not_tabulable: Reason why the radial network cannot be replaced by a table of the distance; None if it can.
        not_convertible: Reason why the convolution cannot be exchanged for another exactly; None if it can.

    Raises:
        ValueError: If the tensor product cannot compute the convolution; says why.
    """

    normalization: Tensor
    directed = False
    not_tabulable: str | None = None
    not_convertible: str | None = None

    def __init__(self, spec: InteractionSpec, *, normalization: float) -> None:
        super().__init__()
        product = TensorProductSpec(
            with_channels(spec.irreps_in, spec.edge_channels),
            natural_irreps(spec.sh_degree),
            with_channels(spec.irreps_density, 1),
        )
        if reason := spec.method.supports(product):
            raise ValueError(f"{spec.method} cannot do the convolution {product}: {reason}")
        self.channels = spec.edge_channels
        self.linear_up = EquivariantLinear(dict.fromkeys(spec.irreps_in, 1), spec.channels, spec.edge_channels)
        self.convolution = spec.method.convolution(product)
        self.irreps_density = list(self.convolution.copies)
        self.register_buffer("normalization", torch.tensor(float(normalization), dtype=torch.float64))

    def out_of_bounds(self) -> str | None:
        """Reason why the constant cannot divide densities; None if it can."""
        least, most = NORMALIZATIONS
        if not least <= self.normalization.item() <= most:
            return f"`normalization` must be from {least:g} to {most:g}, and is {self.normalization.item():g}"
        return None

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
        spec: Sizes and irreps.
        normalization: Initial lambda.
        residual: See above.
        density_normalization: See above.

    Raises:
        ValueError: If the tensor product cannot compute the convolution; says why.

    Source:
        MACE, arXiv 2206.07697, eqs. 8 and 9; density normalisation as in the MACE-MP-0b models.
    """

    def __init__(
        self, spec: InteractionSpec, *, normalization: float, residual: bool, density_normalization: bool
    ) -> None:
        super().__init__(spec, normalization=normalization)
        self.residual = residual
        self.radial = RadialMLP([*spec.radial_sizes, self.convolution.weight_numel * self.channels])
        self.table: RadialTable | None = None
        self.linear = EquivariantLinear(self.convolution.copies, self.channels, spec.channels)
        self.density = RadialMLP([spec.radial_sizes[0], 1]) if density_normalization else None
        mixed, into = (self.irreps_density, self.irreps_density)
        if residual:
            mixed, into = list(self.linear_up.copies), list(spec.irreps_out)
        self.species_linear = SpeciesLinear(mixed, into, spec.channels, spec.species)

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
            features: Function from ``(rows, 1)`` lengths in Å to edge features, in float64.
            cutoff: Cutoff in Å.
            error: Largest error of value and derivative, relative to their size.
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

    def formula(self, factor: str) -> InteractionFormula:
        """The interaction in symbols; ``factor`` is what multiplies radial weights, ``"f · "`` or nothing."""
        table = self.table
        radial = f"MLP[{self.radial.extra_repr()}](b)" if table is None else f"table of {table.knots} knots"
        norm = f"1/{self.normalization.item():.3g}"
        norm += f" / (1 + Σ_j {factor}tanh((w·b(r_ij))²))" if self.density else ""
        density = f"A_i = {norm} · {'' if self.residual else 'W[z_i] '}W {MESSAGES}"
        return InteractionFormula(radial, density, " + W[z_i] h_i" if self.residual else "")

    def _normalizer(self, of_edge: EdgeFeatures, edges: Edges) -> Tensor:
        constant = self.normalization.to(of_edge.feats.dtype)
        if self.density is None:
            return constant
        of_pair = of_edge.times_factor(torch.tanh(self.density(of_edge.feats) ** 2))
        return constant * (1 + edges.sum_on_receivers(of_pair).unsqueeze(2))
