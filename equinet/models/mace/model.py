"""MACE: higher-order equivariant message passing (Batatia et al. 2022, arXiv 2206.07697), in blocks."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from e3nn import o3
from jaxtyping import Float, Int
from torch import Tensor, nn

from equinet.graph.elements import COVALENT_RADII
from equinet.models.base import Model, NodeOutput, register_model
from equinet.nn import (
    TRANSFORMS,
    ZBL,
    DistanceTransform,
    EdgeFeatures,
    EdgeFunctions,
    InteractionSpec,
    ManyBodyBlock,
    Readout,
)
from equinet.ops import SpeciesGroups, natural_irreps
from equinet.ops.constants import FRESH_DTYPE
from equinet.ops.devices import made_on_cpu
from equinet.ops.edges import Edges, as_edges
from equinet.ops.layout import with_channels
from equinet.ops.methods.reference import reference_of
from equinet.ops.species import as_groups

from .config import MACEConfig
from .equations import equations
from .interactions import INTERACTIONS
from .layers import Layer, LayerIrreps, irreps_of_layers


@register_model
class MACE(Model):
    """Energies of atoms from the vectors to their neighbours.

    Args:
        config: Architecture.
        elements: Atomic numbers of the species, ascending; their order is the order of every per-species weight.
        avg_num_neighbors: Mean number of neighbours within the cutoff in the training set.

    Raises:
        ValueError: If ``elements`` are not ascending and distinct, a tensor product cannot do what the architecture asks of it,
            or the architecture contradicts itself; says why.
    """

    config_class = MACEConfig
    config: MACEConfig
    embedding: nn.Parameter
    bias: nn.Parameter

    @made_on_cpu
    def __init__(self, config: MACEConfig, elements: Sequence[int], avg_num_neighbors: float) -> None:
        super().__init__(config, elements, avg_num_neighbors)
        for form in (config.first_interaction, config.interaction):
            if config.pseudotensors and not INTERACTIONS[form].pseudotensors:
                raise ValueError(
                    f'the "{form}" interaction has no form for pseudotensors; choose another, or pseudotensors = false'
                )
        self.edge_functions = EdgeFunctions(
            max_degree=config.sh_degree,
            cutoff=config.cutoff,
            bessel=config.bessel_functions,
            power=config.envelope_power,
            enveloped=config.envelope_on == "basis",
            of_length=config.distance_transform == "none",
        )
        radii = [COVALENT_RADII[z] for z in self.elements]
        kind = config.distance_transform
        self.transform: DistanceTransform | None = None if kind == "none" else TRANSFORMS[kind](radii)
        self.zbl = ZBL(self.elements, radii, config.envelope_power) if config.zbl else None
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
        spec = InteractionSpec(
            irreps_in=tuple(irreps.features),
            irreps_density=tuple(irreps.density),
            irreps_out=tuple(irreps.result),
            sh_degree=config.sh_degree,
            channels=config.channels,
            edge_channels=(config.edge_channels or config.channels) if own_width else config.channels,
            species=self.num_species,
            radial_sizes=(config.bessel_functions, *config.radial_hidden),
            method=config.convolution,
        )
        form = INTERACTIONS[kind]
        self.interactions.append(form.build(spec, normalization=self.avg_num_neighbors if form.averaged else 1.0))
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
            vectors: Displacements from sender to receiver, in Å, none of length zero.
            species: Index of each node's element, or the groups made of it, with which nothing here waits for a device.
            edges: Senders and receivers, each pair once or an ``edge_index`` of single directions; in the order of ``vectors``. A
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
        self,
        vectors: Float[Tensor, "rows 3"],
        species: Int[Tensor, " nodes"],
        edges: Edges | Int[Tensor, "2 rows"],
        energy_unit: Float[Tensor, " nodes"],
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
        if self.zbl is not None:  # on average the scaled energies include it, as the labels do
            repulsion = self.zbl(vectors.norm(dim=1, keepdim=True), species, edges)
            self.bias.sub_(repulsion.mean() / energy_unit.mean())

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
            interaction.tabulate(features, self.config.cutoff, error)

    @property
    def not_tabulable(self) -> str | None:
        """Reason why radial networks cannot be replaced by tables; None if they can."""
        if self.transform is not None:
            return f"what its radial networks see depends on the species too (distance_transform = {self.config.distance_transform!r})"
        return next((layer[0].not_tabulable for layer in self.layers if layer[0].not_tabulable), None)

    @property
    def reaches_beyond_cutoff(self) -> str | None:
        """Reason why edges longer than the cutoff, if given, would add to energies; None if they add exactly nothing."""
        if self.directed and self.config.envelope_on == "basis":
            return 'weights of "gated" interactions do not end at the cutoff with envelope_on = "basis"'
        if self.zbl is not None and 2 * self.zbl.radii.max() > self.config.cutoff:
            return f"the ZBL repulsion of its largest atoms reaches further than the cutoff of {self.config.cutoff:g} Å"
        return None

    @property
    def directed(self) -> bool:
        """True if the two directions of a pair of atoms have different weights, so that each is computed by itself."""
        return any(interaction.directed for interaction, _, _ in self.layers)

    @property
    def not_convertible(self) -> str | None:
        """None: the tensor products of a MACE can be exchanged."""
        return None

    @property
    def descriptor_irreps(self) -> o3.Irreps:
        """Irreps of the features after the last layer, which keeps scalars only."""
        return natural_irreps(0, self.config.channels)

    @property
    def headline(self) -> str:
        """Features and layers in one line."""
        return f"MACE {self.hidden_irreps}, {self.config.layers} layers"

    def executors(self) -> dict[str, nn.Module]:
        """Convolution and many-body product of every layer by submodule path, layer by layer."""
        found: dict[str, Any] = {}
        for n, (interaction, product, _) in enumerate(self.layers):
            found |= {
                f"interactions.{n}.convolution": interaction.convolution,
                f"products.{n}.product": product.product,
            }
        return found

    def reference_executor(self, path: str) -> nn.Module | None:
        """The reference form of the executor at ``path``; None for a CP decomposition, whose reference may be another function."""
        kind = "convolution" if path.endswith("convolution") else "many_body"
        method, spec = reference_of(getattr(self.config, kind)), self.get_submodule(path).spec
        return None if method is None else getattr(method, kind)(spec)

    @property
    def numbers_per_edge(self) -> int:
        """Messages once and radial weights twice, of all layers."""
        count = 0
        for interaction, _, _ in self.layers:
            executor = interaction.convolution
            messages = sum(out.dim * n for out, n in executor.copies.items())
            count += (messages + 2 * executor.weight_numel) * self.config.channels
        return count

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
        """The envelope if radial weights are still to be multiplied by it, else None."""
        return envelope if self.config.envelope_on == "weights" else None

    def __repr__(self) -> str:
        return equations(self)
