"""MACE: higher-order equivariant message passing (Batatia et al. 2022, arXiv 2206.07697), in blocks."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from e3nn import o3
from jaxtyping import Float, Int
from torch import Tensor, nn

from equinet.nn import BesselBasis, EdgeFeatures, Interaction, ManyBodyBlock, PolynomialEnvelope, Readout
from equinet.ops import ManyBodySpec, SpeciesGroups, SphericalHarmonics, TensorProductSpec, natural_irreps
from equinet.ops.algebra import Algebra
from equinet.ops.edges import Edges, as_edges
from equinet.ops.layout import irreps_up_to, is_true, with_channels
from equinet.ops.sphere import BracketChain

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


class MACE(nn.Module):
    """Energies of atoms from the vectors to their neighbours.

    Args:
        config: Architecture.
        num_species: Number of chemical elements.
        avg_num_neighbors: Mean number of neighbours within the cutoff in the training set.

    Raises:
        ValueError: If a tensor product cannot do what the architecture asks of it; says why.
    """

    embedding: nn.Parameter
    bias: nn.Parameter

    def __init__(self, config: MACEConfig, num_species: int, avg_num_neighbors: float) -> None:
        super().__init__()
        if avg_num_neighbors <= 0:
            raise ValueError(f"`avg_num_neighbors` must be positive, got {avg_num_neighbors}; are there edges at all?")
        self.config = config
        self.num_species = num_species
        self.avg_num_neighbors = float(avg_num_neighbors)
        self.harmonics = SphericalHarmonics(config.sh_degree)
        self.basis = BesselBasis(config.cutoff, config.bessel_functions)
        self.envelope = PolynomialEnvelope(config.cutoff, config.envelope_power)
        self.embedding = nn.Parameter(torch.randn(num_species, config.channels))
        self.bias = nn.Parameter(torch.zeros(num_species))
        self.interactions = nn.ModuleList()
        self.products = nn.ModuleList()
        self.readouts = nn.ModuleList()
        for layer, irreps in enumerate(irreps_of_layers(config)):
            last = layer == config.layers - 1
            self.interactions.append(
                Interaction(
                    irreps_in=irreps.features,
                    irreps_out=irreps.result,
                    irreps_density=irreps.density,
                    sh_degree=config.sh_degree,
                    channels=config.channels,
                    species=num_species,
                    radial_sizes=[config.bessel_functions, *config.radial_hidden],
                    normalization=1.0 if config.density_normalization else avg_num_neighbors,
                    residual=layer > 0 or config.residual_first,
                    density_normalization=config.density_normalization,
                    method=config.convolution,
                )
            )
            self.products.append(
                ManyBodyBlock(
                    irreps_in=irreps.density,
                    irreps_out=irreps.result,
                    channels=config.channels,
                    species=num_species,
                    correlation=config.correlation,
                    method=config.many_body,
                )
            )
            self.readouts.append(Readout(config.channels, config.readout_hidden if last else 0))

    def forward(
        self, vectors: Float[Tensor, "rows 3"], species: Int[Tensor, " nodes"], edges: Edges | Int[Tensor, "2 rows"]
    ) -> NodeOutput:
        """Energies of all nodes.

        Args:
            vectors: From sender to receiver, in Å, none of length zero.
            species: Index of each node's element.
            edges: Who sends to whom, each pair once or an ``edge_index`` of single directions; in the order of ``vectors``.
        """
        groups, edges, of_edge = SpeciesGroups(species), as_edges(edges, len(species)), self._edge_features(vectors)
        node_feats = self._embed(species)
        # Forces do not feel a constant, so the energy error alone moves the bias. Without it the mean energy drifts by
        # hundreds of meV/atom in the first epochs and comes back slowly.
        energy = self.bias[species]
        for interaction, product, readout in self.layers:
            density, residual = interaction(node_feats, of_edge, edges, groups)
            node_feats = product(density, residual, groups)
            energy = energy + readout(node_feats)
        coordination = edges.sum_on_receivers(of_edge.envelope).squeeze(1)
        return NodeOutput(energy, coordination, node_feats)

    @torch.no_grad()
    def calibrate(
        self, vectors: Float[Tensor, "rows 3"], species: Int[Tensor, " nodes"], edges: Edges | Int[Tensor, "2 rows"]
    ) -> None:
        """Choose the constants of a fresh model, layer after layer, so that densities have a size of order one.

        Call it once, before training, with structures like those to train on. It changes no weight but the bias, which it
        sets so that the mean energy is zero, and it is what makes products of densities, the point of the architecture,
        count from the first step on.

        Raises:
            ValueError: If no atom has a neighbour.
        """
        groups, edges, of_edge = SpeciesGroups(species), as_edges(edges, len(species)), self._edge_features(vectors)
        node_feats, energy = self._embed(species), self.bias[species]
        for interaction, product, readout in self.layers:
            density, residual = interaction(node_feats, of_edge, edges, groups)
            node_feats = product(interaction.calibrate(density), residual, groups)
            energy = energy + readout(node_feats)
        self.bias.sub_(energy.mean())

    def tabulate(self, error: float) -> None:
        """Replace the radial networks by tables, for good: see :meth:`equinet.potential.Potential.tabulate`."""
        basis, envelope = copy.deepcopy(self.basis).double(), self.envelope
        for interaction, _, _ in self.layers:
            interaction.tabulate(lambda r: basis(r) * envelope(r), self.config.cutoff, error)

    @property
    def hidden_irreps(self) -> o3.Irreps:
        """Irreps of the features after the first layer, which are those passed between atoms."""
        return with_channels(self.layers[0][1].linear.outputs, self.config.channels)

    @property
    def layers(self) -> list[tuple[Interaction, ManyBodyBlock, Readout]]:
        """Rounds of message passing: what sums over neighbours, what multiplies, what reads off."""
        return list(zip(self.interactions, self.products, self.readouts))  # type: ignore[arg-type]  # lists of modules

    def _embed(self, species: Int[Tensor, " nodes"]) -> Float[Tensor, "nodes 1 channels"]:
        return (self.embedding / self.num_species**0.5)[species].unsqueeze(1)

    def _edge_features(self, vectors: Float[Tensor, "rows 3"]) -> EdgeFeatures:
        lengths = vectors.norm(dim=1, keepdim=True)
        envelope = self.envelope(lengths)
        return EdgeFeatures(lengths, self.harmonics(vectors / lengths), self.basis(lengths) * envelope, envelope)

    def __repr__(self) -> str:
        c = self.config
        hidden = self.hidden_irreps
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
    spec, executor = interaction.convolution.spec, _executor(interaction.convolution)
    many, many_executor = product.product.spec, _executor(product.product)
    final = "MLP" if len(readout.network.sizes) > 2 else "W"
    table = interaction.table
    radial = f"MLP[{interaction.radial.extra_repr()}](b)" if table is None else f"table of {table.knots} knots"
    return [
        f"R(r_ij) = {radial}",
        f"A_i = {norm} · {mixed}W Σ_j R(r_ij) (W h_j) ⊗ Y(r̂_ij)    {spec}  [{executor}]",
        f"B_i = Σ_ν≤{many.correlation} w[z_i, ν] A_i^ν    {product.product.weight_numel} products per channel to "
        f"{many.irreps_out}  [{many_executor}]",
        f"h_i = W B_i{residual}",
        f"ε_i += {final} h_i    [{readout.network.extra_repr()}]",
    ]


def _executor(module: Any) -> str:
    """Class of an executor and, where it multiplies in some space, which."""
    spaces = [repr(part) for part in module.modules() if isinstance(part, (Algebra, BracketChain))]
    return type(module).__name__ + (": " + " and ".join(spaces) if spaces else "")


def count_weights(module: nn.Module) -> int:
    """Number of learnable numbers in a module."""
    return sum(parameter.numel() for parameter in module.parameters())


class LayerIrreps(NamedTuple):
    """Irreps of a layer: its features, its density, its result."""

    features: list[o3.Irrep]
    density: list[o3.Irrep]
    result: list[o3.Irrep]


def irreps_of_layers(config: MACEConfig) -> list[LayerIrreps]:
    """What every layer carries: true tensors up to the degrees of ``config``, pseudotensors as far as products reach them."""
    layers, features = [], [o3.Irrep("0e")]
    for layer in range(config.layers):
        wanted = irreps_up_to(config.sh_degree, pseudotensors=config.pseudotensors)
        couplings = TensorProductSpec(
            with_channels(features, 1), natural_irreps(config.sh_degree), with_channels(wanted, 1)
        )
        density = list(couplings.paths_per_output)
        result = irreps_up_to(config.max_l, pseudotensors=config.pseudotensors)
        if layer == config.layers - 1:
            result = result[:1]  # only scalars are read from the last layer
        elif config.pseudotensors:
            powers = ManyBodySpec(with_channels(density, 1), with_channels(result, 1), config.correlation, 1)
            reached = config.many_body.reached(powers)
            result = [ir for ir in result if is_true(ir) or ir in reached]
        layers.append(LayerIrreps(features, density, result))
        features = result
    return layers
