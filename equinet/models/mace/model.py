"""MACE: higher-order equivariant message passing (Batatia et al. 2022, arXiv 2206.07697), in blocks."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from e3nn import o3
from jaxtyping import Float, Int
from torch import Tensor, nn

from equinet.graph.elements import COVALENT_RADII, SYMBOLS
from equinet.nn import (
    TRANSFORMS,
    ZBL,
    DistanceTransform,
    EdgeFeatures,
    EdgeFunctions,
    GatedInteraction,
    Interaction,
    ManyBodyBlock,
    Readout,
)
from equinet.ops import ManyBodySpec, SpeciesGroups, TensorProductSpec, natural_irreps
from equinet.ops.constants import FRESH_DTYPE
from equinet.ops.edges import Edges, as_edges
from equinet.ops.factorised.algebra import Algebra
from equinet.ops.factorised.sphere import BracketChain
from equinet.ops.layout import irreps_up_to, is_true, with_channels
from equinet.ops.species import as_groups

from .config import MACEConfig


class NodeOutput(NamedTuple):
    """What a model says of every node.

    Attributes:
        energy: ``(nodes,)``, dimensionless; :class:`equinet.nn.EnergyScale` makes it eV.
        coordination: ``(nodes,)``, smooth count of neighbours.
        features: ``(nodes, dim, channels)``, the features after the last layer.
        repulsion: ``(nodes,)`` in eV, to be added to the scaled energy; None without :class:`equinet.nn.ZBL`.
    """

    energy: Tensor
    coordination: Tensor
    features: Tensor
    repulsion: Tensor | None


class MACE(nn.Module):
    """Energies of atoms from the vectors to their neighbours.

    Args:
        config: Architecture.
        elements: Atomic numbers of the species, ascending; their order is the order of every per-species weight.
        avg_num_neighbors: Mean number of neighbours within the cutoff in the training set.

    Raises:
        ValueError: If ``elements`` are not ascending and distinct, a tensor product cannot do what the architecture asks of it,
            or the architecture contradicts itself; says why.
    """

    embedding: nn.Parameter
    bias: nn.Parameter

    def __init__(self, config: MACEConfig, elements: Sequence[int], avg_num_neighbors: float) -> None:
        super().__init__()
        if avg_num_neighbors <= 0:
            raise ValueError(f"`avg_num_neighbors` must be positive, got {avg_num_neighbors}; are there edges at all?")
        elements = tuple(int(z) for z in elements)
        if not elements or not all(a < b for a, b in pairwise((0, *elements, len(SYMBOLS)))):
            raise ValueError(f"`elements` must be distinct atomic numbers in ascending order, got {elements}")
        if config.pseudotensors and "gated" in (config.first_interaction, config.interaction):
            raise ValueError(
                'the "gated" interaction has no form for pseudotensors; choose another, or pseudotensors = false'
            )
        self.config = config
        self.elements = elements
        self.num_species = len(elements)
        self.avg_num_neighbors = float(avg_num_neighbors)
        self.edge_functions = EdgeFunctions(
            max_degree=config.sh_degree,
            cutoff=config.cutoff,
            bessel=config.bessel_functions,
            power=config.envelope_power,
            enveloped=config.envelope_on == "basis",
            of_length=config.distance_transform == "none",
        )
        radii = [COVALENT_RADII[z] for z in elements]
        kind = config.distance_transform
        self.transform: DistanceTransform | None = None if kind == "none" else TRANSFORMS[kind](radii)
        self.zbl = ZBL(elements, radii, config.envelope_power) if config.zbl else None
        self.embedding = nn.Parameter(torch.randn(self.num_species, config.channels, dtype=FRESH_DTYPE))
        self.bias = nn.Parameter(torch.zeros(self.num_species, dtype=FRESH_DTYPE))
        self.interactions = nn.ModuleList()
        self.products = nn.ModuleList()
        self.readouts = nn.ModuleList()
        for layer, irreps in enumerate(irreps_of_layers(config)):
            self._add_layer(irreps, first=layer == 0, last=layer == config.layers - 1)

    def _add_layer(self, irreps: LayerIrreps, *, first: bool, last: bool) -> None:
        config, kind = self.config, self.config.first_interaction if first else self.config.interaction
        own_width = config.edge_channels is not None and (config.edge_channels_first or not first)
        arguments: dict[str, Any] = {
            "irreps_in": irreps.features,
            "irreps_out": irreps.result,
            "irreps_density": irreps.density,
            "sh_degree": config.sh_degree,
            "channels": config.channels,
            "edge_channels": config.edge_channels if own_width else config.channels,
            "species": self.num_species,
            "radial_sizes": [config.bessel_functions, *config.radial_hidden],
            "method": config.convolution,
        }
        if kind == "gated":
            self.interactions.append(GatedInteraction(normalization=1.0, **arguments))
        else:
            residual, density = "residual" in kind, "density" in kind
            self.interactions.append(
                Interaction(
                    residual=residual,
                    density_normalization=density,
                    normalization=1.0 if density else self.avg_num_neighbors,
                    **arguments,
                )
            )
        self.products.append(
            ManyBodyBlock(
                irreps_in=irreps.density,
                irreps_out=irreps.result,
                channels=config.channels,
                species=self.num_species,
                correlation=config.correlation,
                method=config.many_body,
            )
        )
        if last:
            self.readouts.append(Readout(config.channels, config.readout_hidden, biases=config.readout_biases))
        elif config.readout_layers == "all":
            self.readouts.append(Readout(config.channels))

    def forward(
        self,
        vectors: Float[Tensor, "rows 3"],
        species: SpeciesGroups | Int[Tensor, " nodes"],
        edges: Edges | Int[Tensor, "2 rows"],
    ) -> NodeOutput:
        """Energies of all nodes.

        Args:
            vectors: From sender to receiver, in Å, none of length zero.
            species: Index of each node's element, or the groups made of it, with which nothing here waits for a device.
            edges: Who sends to whom, each pair once or an ``edge_index`` of single directions; in the order of ``vectors``. A
                model that is :attr:`directed` takes single directions only.

        Raises:
            ValueError: If the model is directed and ``edges`` are pairs.
        """
        groups = as_groups(species)
        species, edges = groups.species, as_edges(edges, groups.species.shape[0])
        of_edge = self._edge_features(vectors, species, edges)
        node_feats = self._embed(species)
        # Forces do not feel a constant, so the energy error alone moves the bias. Without it the mean energy drifts by
        # hundreds of meV/atom in the first epochs and comes back slowly.
        energy = self.bias[species]
        for interaction, product, readout in self.layers:
            density, residual = interaction(node_feats, of_edge, edges, groups)
            node_feats = product(density, residual, groups)
            if readout is not None:
                energy = energy + readout(node_feats)
        coordination = edges.sum_on_receivers(of_edge.envelope).squeeze(1)
        repulsion = None if self.zbl is None else self.zbl(of_edge.lengths, species, edges)
        return NodeOutput(energy, coordination, node_feats, repulsion)

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
        groups, edges = SpeciesGroups(species), as_edges(edges, len(species))
        of_edge = self._edge_features(vectors, species, edges)
        node_feats, energy = self._embed(species), self.bias[species]
        for interaction, product, readout in self.layers:
            density, residual = interaction(node_feats, of_edge, edges, groups)
            node_feats = product(interaction.calibrate(density), residual, groups)
            if readout is not None:
                energy = energy + readout(node_feats)
        self.bias.sub_(energy.mean())

    def tabulate(self, error: float) -> None:
        """Replace the radial networks by tables, for good: see :meth:`equinet.potential.Potential.tabulate`."""
        if reason := self.not_tabulable:
            raise ValueError(f"this model cannot be tabulated: {reason}")
        functions = copy.deepcopy(self.edge_functions).double()

        def features(lengths: Tensor) -> EdgeFeatures:
            envelope = functions.envelope(lengths)
            feats = functions.radial(lengths, envelope)
            return EdgeFeatures(lengths, lengths.new_empty(0), feats, envelope, self._factor(envelope))

        for interaction, _, _ in self.layers:
            assert isinstance(interaction, Interaction)
            interaction.tabulate(features, self.config.cutoff, error)

    @property
    def not_tabulable(self) -> str | None:
        """Why :meth:`tabulate` cannot be; None if it can."""
        if self.transform is not None:
            return f"what its radial networks see depends on the species too (distance_transform = {self.config.distance_transform!r})"
        if self.directed:
            return 'its radial networks are functions of the species too ("gated" interactions)'
        return None

    @property
    def reaches_beyond_cutoff(self) -> str | None:
        """Why an edge longer than the cutoff, if it is given one, would add to energies; None if it adds exactly nothing."""
        if self.directed and self.config.envelope_on == "basis":
            return 'weights of "gated" interactions do not end at the cutoff with envelope_on = "basis"'
        if self.zbl is not None and 2 * self.zbl.radii.max() > self.config.cutoff:
            return f"the ZBL repulsion of its largest atoms reaches further than the cutoff of {self.config.cutoff:g} Å"
        return None

    @property
    def directed(self) -> bool:
        """Whether the two directions of a pair of atoms have different weights, so that each is computed by itself."""
        return any(interaction.directed for interaction, _, _ in self.layers)

    @property
    def hidden_irreps(self) -> o3.Irreps:
        """Irreps of the features after the first layer, which are those passed between atoms."""
        return with_channels(self.layers[0][1].linear.outputs, self.config.channels)

    @property
    def layers(self) -> list[Layer]:
        """Rounds of message passing: what sums over neighbours, what multiplies, what reads off, if anything does."""
        silent = [None] * (len(self.interactions) - len(self.readouts))
        return list(zip(self.interactions, self.products, [*silent, *self.readouts]))  # type: ignore[arg-type]  # lists of modules

    def _embed(self, species: Int[Tensor, " nodes"]) -> Float[Tensor, "nodes 1 channels"]:
        return (self.embedding / self.num_species**0.5)[species].unsqueeze(1)

    def _edge_features(
        self, vectors: Float[Tensor, "rows 3"], species: Int[Tensor, " nodes"], edges: Edges
    ) -> EdgeFeatures:
        if self.directed and edges.mirrored:
            raise ValueError(
                "this model has other weights for each direction of a pair; give it an `edge_index` of both directions"
            )
        lengths, attrs, feats, envelope = self.edge_functions(vectors)
        if self.transform is not None:
            seen = self.transform(lengths, species[edges.index])
            feats = self.edge_functions.radial(seen, envelope)
        return EdgeFeatures(lengths, attrs, feats, envelope, self._factor(envelope))

    def _factor(self, envelope: Tensor) -> Tensor | None:
        """What remains to be multiplied by the envelope."""
        return envelope if self.config.envelope_on == "weights" else None

    def __repr__(self) -> str:
        c = self.config
        of = {"none": "r_ij", "agnesi": "agnesi(r_ij)", "soft": "soft(r_ij)"}[c.distance_transform]
        factor = "f · " if c.envelope_on == "basis" else ""
        lines = [
            f"MACE({self.hidden_irreps}, {c.layers} layers, {self.num_species} species, {count_weights(self):,} weights)",
            f"  Y_lm(r̂_ij), l ≤ {c.sh_degree}",
            f"  f(r_ij) envelope p = {c.envelope_power}, zero from {c.cutoff:g} Å",
            f"  b_n(r_ij) = {factor}{c.bessel_functions} Bessel functions of {of}",
            "  h_i = W[z_i],  ε_i = b[z_i]",
        ]
        for n, layer in enumerate(self.layers, start=1):
            lines += [f"  layer {n}", *(f"    {line}" for line in _equations(c, *layer))]
        if self.zbl is not None:
            lines.append("  E_i += ½ Σ_j ZBL(r_ij) up to the sum of covalent radii")
        return "\n".join(lines)


Layer = tuple[Interaction | GatedInteraction, ManyBodyBlock, Readout | None]


def _equations(
    config: MACEConfig, interaction: Interaction | GatedInteraction, product: ManyBodyBlock, readout: Readout | None
) -> list[str]:
    spec, executor = interaction.convolution.spec, _executor(interaction.convolution)
    many, many_executor = product.product.spec, _executor(product.product)
    factor = "f · " if config.envelope_on == "weights" else ""
    norm, total = f"1/{interaction.normalization.item():.3g}", "Σ_j R(r_ij) (W h_j) ⊗ Y(r̂_ij)"
    if isinstance(interaction, GatedInteraction):
        radial = f"MLP[{interaction.radial.basis} → {' → '.join(str(linear.out_features) for linear in interaction.radial.linears)}](b, z_i, z_j)"
        density = f"m_i = W {total} / (α + β Σ_j {factor}tanh((w·b(r_ij))²)) + W h_i,  A_i = {norm} · W gate(m_i)"
        residual = " + W h_i"
    else:
        network, table = interaction.radial.extra_repr(), interaction.table
        radial = f"MLP[{network}](b)" if table is None else f"table of {table.knots} knots"
        norm += f" / (1 + Σ_j {factor}tanh((w·b(r_ij))²))" if interaction.density else ""
        density = f"A_i = {norm} · {'' if interaction.residual else 'W[z_i] '}W {total}"
        residual = " + W[z_i] h_i" if interaction.residual else ""
    lines = [
        f"R(r_ij) = {factor}{radial}",
        f"{density}    {spec}  [{executor}]",
        f"B_i = Σ_ν≤{many.correlation} w[z_i, ν] A_i^ν    {product.product.weight_numel} products per channel to "
        f"{many.irreps_out}  [{many_executor}]",
        f"h_i = W B_i{residual}",
    ]
    if readout is not None:
        final = "MLP" if len(readout.network.sizes) > 2 else "W"
        lines.append(f"ε_i += {final} h_i    [{readout.network.extra_repr()}]")
    return lines


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
