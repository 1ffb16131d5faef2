"""MACE: higher-order equivariant message passing (Batatia et al. 2022, arXiv 2206.07697), in blocks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from equinet.nn import BesselBasis, Interaction, ManyBodyBlock, PolynomialEnvelope, Readout
from equinet.ops import METHODS, Method, SpeciesGroups, SphericalHarmonics, method_from_name, natural_irreps
from equinet.ops.convolution import sum_on_nodes

from .config import MACEConfig


class NodeOutput(NamedTuple):
    """What a model says of every node.

    Attributes:
        energy: ``(nodes,)``, dimensionless; :class:`equinet.nn.EnergyScale` makes it eV.
        coordination: ``(nodes,)``, smooth count of neighbours.
        features: ``(nodes, dim, channels)``, the features after the last layer.
    """

    energy: Tensor
    coordination: Tensor
    features: Tensor


class EdgeFeatures(NamedTuple):
    """Fixed functions of every edge vector.

    Attributes:
        attrs: ``(edges, harmonics)``, spherical harmonics.
        feats: ``(edges, basis)``, radial basis times envelope.
        envelope: ``(edges, 1)``.
    """

    attrs: Tensor
    feats: Tensor
    envelope: Tensor


class MACE(nn.Module):
    """Energies of atoms from the vectors to their neighbours.

    Args:
        config: Architecture.
        num_species: Number of chemical elements.
        avg_num_neighbors: Mean number of neighbours within the cutoff in the training set.
        convolution: Tensor product of the edge convolution, of the kind that ``config`` names, when its arguments or its
            backend are not to be the default ones.
        many_body: Tensor product of the many-body product; likewise.

    Raises:
        ValueError: If a tensor product cannot do what the architecture asks of it, or is not the one ``config`` names.
    """

    embedding: nn.Parameter
    bias: nn.Parameter

    def __init__(
        self,
        config: MACEConfig,
        num_species: int,
        avg_num_neighbors: float,
        *,
        convolution: Method | None = None,
        many_body: Method | None = None,
    ) -> None:
        super().__init__()
        if avg_num_neighbors <= 0:
            raise ValueError(f"`avg_num_neighbors` must be positive, got {avg_num_neighbors}; are there edges at all?")
        self.config = config
        self.num_species = num_species
        self.avg_num_neighbors = float(avg_num_neighbors)
        convolution = _checked_method("convolution", convolution, config.convolution)
        many_body = _checked_method("many_body", many_body, config.many_body)
        self.harmonics = SphericalHarmonics(config.sh_degree)
        self.basis = BesselBasis(config.cutoff, config.bessel_functions)
        self.envelope = PolynomialEnvelope(config.cutoff, config.envelope_power)
        self.embedding = nn.Parameter(torch.randn(num_species, config.channels))
        self.bias = nn.Parameter(torch.zeros(num_species))
        self.interactions = nn.ModuleList()
        self.products = nn.ModuleList()
        self.readouts = nn.ModuleList()
        degree = 0
        for layer in range(config.layers):
            last = layer == config.layers - 1
            degree_out = 0 if last else config.max_l  # only scalars are read from the last layer
            self.interactions.append(
                Interaction(
                    degree_in=degree,
                    degree_out=degree_out,
                    sh_degree=config.sh_degree,
                    channels=config.channels,
                    species=num_species,
                    radial_sizes=[config.bessel_functions, *config.radial_hidden],
                    normalization=1.0 if config.density_normalization else avg_num_neighbors,
                    residual=layer > 0 or config.residual_first,
                    density_normalization=config.density_normalization,
                    method=convolution,
                )
            )
            self.products.append(
                ManyBodyBlock(
                    sh_degree=config.sh_degree,
                    degree_out=degree_out,
                    channels=config.channels,
                    species=num_species,
                    correlation=config.correlation,
                    method=many_body,
                )
            )
            self.readouts.append(Readout(config.channels, config.readout_hidden if last else 0))
            degree = degree_out

    def forward(
        self, vectors: Float[Tensor, "edges 3"], species: Int[Tensor, " nodes"], edge_index: Int[Tensor, "2 edges"]
    ) -> NodeOutput:
        """Energies of all nodes.

        Args:
            vectors: From sender to receiver, in Å, none of length zero.
            species: Index of each node's element.
            edge_index: Sender and receiver of each edge.
        """
        groups, edges = SpeciesGroups(species), self._edges(vectors)
        node_feats = self._embed(species)
        # Forces do not feel a constant, so the energy error alone moves the bias. Without it the mean energy drifts by
        # hundreds of meV/atom in the first epochs and comes back slowly.
        energy = self.bias[species]
        for interaction, product, readout in self.layers:
            density, residual = interaction(node_feats, edges.attrs, edges.feats, edge_index, groups)
            node_feats = product(density, residual, groups)
            energy = energy + readout(node_feats)
        coordination = sum_on_nodes(edges.envelope, edge_index[1], len(species)).squeeze(1)
        return NodeOutput(energy, coordination, node_feats)

    @torch.no_grad()
    def calibrate(
        self, vectors: Float[Tensor, "edges 3"], species: Int[Tensor, " nodes"], edge_index: Int[Tensor, "2 edges"]
    ) -> None:
        """Choose the constants of a fresh model, layer after layer, so that densities have a size of order one.

        Call it once, before training, with structures like those to train on. It changes no weight but the bias, which it
        sets so that the mean energy is zero, and it is what makes products of densities, the point of the architecture,
        count from the first step on.

        Raises:
            ValueError: If no atom has a neighbour.
        """
        groups, edges = SpeciesGroups(species), self._edges(vectors)
        node_feats, energy = self._embed(species), self.bias[species]
        for interaction, product, readout in self.layers:
            density, residual = interaction(node_feats, edges.attrs, edges.feats, edge_index, groups)
            node_feats = product(interaction.calibrate(density), residual, groups)
            energy = energy + readout(node_feats)
        self.bias.sub_(energy.mean())

    @property
    def layers(self) -> list[tuple[Interaction, ManyBodyBlock, Readout]]:
        """Rounds of message passing: what sums over neighbours, what multiplies, what reads off."""
        return list(zip(self.interactions, self.products, self.readouts))  # type: ignore[arg-type]  # lists of modules

    def _embed(self, species: Int[Tensor, " nodes"]) -> Float[Tensor, "nodes 1 channels"]:
        return (self.embedding / self.num_species**0.5)[species].unsqueeze(1)

    def _edges(self, vectors: Float[Tensor, "edges 3"]) -> EdgeFeatures:
        lengths = vectors.norm(dim=1, keepdim=True)
        envelope = self.envelope(lengths)
        return EdgeFeatures(self.harmonics(vectors / lengths), self.basis(lengths) * envelope, envelope)

    def __repr__(self) -> str:
        c = self.config
        hidden = natural_irreps(c.max_l, c.channels)
        lines = [
            f"MACE({hidden}, {c.layers} layers, {self.num_species} species, {count_weights(self):,} weights)",
            f"  Y_lm(r̂_ij), l ≤ {c.sh_degree}",
            f"  f(r_ij) envelope p = {c.envelope_power}, zero from {c.cutoff:g} Å",
            f"  b_n(r_ij) = f · {c.bessel_functions} Bessel functions",
            "  h_i = W[z_i],  ε_i = b[z_i]",
        ]
        for n, layer in enumerate(self.layers, start=1):
            lines += [f"  layer {n}", *(f"    {line}" for line in _equations(*layer))]
        return "\n".join(lines)


def _equations(interaction: Interaction, product: ManyBodyBlock, readout: Readout) -> list[str]:
    norm = f"1/{interaction.normalization.item():.3g}" + (
        " / (1 + Σ_j tanh((w·b(r_ij))²))" if interaction.density else ""
    )
    mixed = "" if interaction.residual else "W[z_i] "
    residual = " + W[z_i] h_i" if interaction.residual else ""
    spec, executor = interaction.convolution.spec, type(interaction.convolution).__name__
    many, many_executor = product.product.spec, type(product.product).__name__
    final = "MLP" if len(readout.network.sizes) > 2 else "W"
    return [
        f"R(r_ij) = MLP[{interaction.radial.extra_repr()}](b)",
        f"A_i = {norm} · {mixed}W Σ_j R(r_ij) (W h_j) ⊗ Y(r̂_ij)    {spec}  [{executor}]",
        f"B_i = Σ_ν≤{many.correlation} w[z_i, ν] A_i^ν    {product.product.weight_numel} products per channel to "
        f"{many.irreps_out}  [{many_executor}]",
        f"h_i = W B_i{residual}",
        f"ε_i += {final} h_i    [{readout.network.extra_repr()}]",
    ]


def count_weights(module: nn.Module) -> int:
    """Number of learnable numbers in a module."""
    return sum(parameter.numel() for parameter in module.parameters())


def _checked_method(role: str, method: Method | None, name: str) -> Method:
    if method is None:
        return method_from_name(name)
    if not isinstance(method, METHODS[name]):
        raise ValueError(
            f"`{role}` is {method}, but the config names {name!r}; a saved model would come back different"
        )
    return method
