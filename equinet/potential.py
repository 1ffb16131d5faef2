"""A potential: model plus energy scale; energies, forces and stress from edge vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import torch
from e3nn import o3
from jaxtyping import Float, Int
from torch import Tensor, nn

from equinet.graph.elements import SYMBOLS
from equinet.models import MACE
from equinet.nn import EnergyScale
from equinet.ops import SpeciesGroups, natural_irreps, to_mul_ir
from equinet.ops.edges import Edges, sum_on_nodes
from equinet.ops.precision import full_float32
from equinet.ops.species import as_groups

if TYPE_CHECKING:
    from equinet.graph.atomic_graph import AtomicGraph


class Frame(Protocol):
    """Of structures what energies and stresses of edges are summed up with, as :class:`equinet.graph.AtomicGraph` has it.

    Attributes:
        cell: ``(graphs, 3, 3)``, lattice vectors in rows, Å.
        pbc: ``(graphs, 3)`` bool.
        graph_of_node: ``(nodes,)`` int64.
        graph_count: Number of structures.
    """

    @property
    def cell(self) -> Tensor: ...

    @property
    def pbc(self) -> Tensor: ...

    @property
    def graph_of_node(self) -> Tensor: ...

    @property
    def graph_count(self) -> int: ...


class Potential(nn.Module):
    r"""Energy of structures and its derivatives.

    The energy is a function of the edge vectors alone. With the pair forces :math:`\mathbf f_e = \partial E / \partial
    \mathbf r_e`, everything else follows by summation:

    .. math:: \mathbf F_i = \sum_{e:\,\mathrm{sender}=i} \mathbf f_e - \sum_{e:\,\mathrm{receiver}=i} \mathbf f_e,
              \qquad \sigma = \frac{1}{2V} \sum_e (\mathbf f_e \mathbf r_e^T + \mathbf r_e \mathbf f_e^T)

    Args:
        model: Dimensionless energies of nodes.
        scale: Makes them eV.

    Attributes:
        origin: Where a potential comes from that was not trained from random weights here: file, SHA-256, licence, head. It is
            kept by whatever is made of the potential, and in its file.

    Raises:
        ValueError: If model and scale differ in their number of species.
    """

    species_of: Tensor
    origin: dict[str, Any]

    def __init__(self, model: MACE, scale: EnergyScale) -> None:
        super().__init__()
        if model.num_species != len(scale.reference):
            raise ValueError(
                f"the model has {model.num_species} species and the energy scale {len(scale.reference)}; they must agree"
            )
        self.model = model
        self.scale = scale
        self.origin = {}
        lookup = torch.full((len(SYMBOLS),), -1, dtype=torch.int64)
        lookup[list(self.elements)] = torch.arange(len(self.elements))
        self.register_buffer("species_of", lookup, persistent=False)

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers of the species, in order."""
        return self.model.elements

    @property
    def cutoff(self) -> float:
        """Longest edge the model sees, in Å."""
        return self.model.config.cutoff

    @property
    def dtype(self) -> torch.dtype:
        """Precision of weights and arithmetic; energies are summed and returned in float64 in any case."""
        return self.model.embedding.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.embedding.device

    @property
    def symbols(self) -> tuple[str, ...]:
        """Chemical symbols of the species, in order."""
        return tuple(SYMBOLS[z] for z in self.elements)

    def species(self, atomic_numbers: Int[Tensor, " nodes"]) -> Int[Tensor, " nodes"]:
        """Index of each atom's element.

        Raises:
            ValueError: If the model does not know an element.
        """
        indices = self.species_of[atomic_numbers]
        if bool((indices < 0).any()):
            unknown = ", ".join(SYMBOLS[z] for z in atomic_numbers[indices < 0].unique().tolist())
            raise ValueError(
                f"this model does not know {unknown}; it was made for {', '.join(self.symbols)}. "
                "Train a model on data that contain the missing elements"
            )
        return indices

    def groups(self, atomic_numbers: Int[Tensor, " nodes"]) -> SpeciesGroups:
        """Atoms grouped by element, as every layer needs them: what is to be known of atoms that stay the same while they move.

        Raises:
            ValueError: If the model does not know an element.
        """
        return SpeciesGroups(self.species(atomic_numbers))

    def forward(
        self, graph: AtomicGraph, *, stress: bool = False, groups: SpeciesGroups | None = None
    ) -> dict[str, Tensor]:
        """Energies, forces and on request stress.

        In training mode the derivatives can be differentiated again.

        Args:
            graph: One or several structures; moved to the model's device by the caller.
            stress: Whether to compute the stress too.
            groups: What :meth:`groups` makes of the atoms, on the model's device; by default it is made here, for which a GPU
                must be waited for.

        Returns:
            ``energy (graphs,)`` eV float64, ``node_energy (nodes,)`` eV float64, ``forces (nodes, 3)`` eV/Å and, if asked
            for, ``stress (graphs, 3, 3)`` eV/Å³, tension positive, NaN for a structure without a periodic direction.

        Raises:
            ValueError: If the model does not know an element.
        """
        groups = self.groups(graph.atomic_numbers) if groups is None else groups
        edges, vectors = self.geometry(graph)
        return self.derive(
            lambda vectors: self.node_energies(vectors, groups, edges), vectors, edges, graph, stress=stress
        )

    def derive(
        self,
        node_energies: Callable[[Tensor], Tensor],
        vectors: Float[Tensor, "rows 3"],
        edges: Edges,
        graph: Frame,
        *,
        stress: bool = False,
    ) -> dict[str, Tensor]:
        """What :meth:`forward` returns, of energies as a function of the edge vectors.

        Args:
            node_energies: From edge vectors to the energy of each node, as :meth:`node_energies` computes it.
            vectors: Where to evaluate it, in Å.
            edges: In the order of ``vectors``.
            graph: The structures.
            stress: Whether to compute the stress too.
        """
        with torch.enable_grad(), full_float32(self.device):
            vectors.requires_grad_()
            node_energy = node_energies(vectors)
            (pair_forces,) = torch.autograd.grad(node_energy.sum(), vectors, create_graph=self.training)
        if not self.training:
            node_energy = node_energy.detach()
            vectors = vectors.detach()
        result = {
            "energy": sum_on_nodes(node_energy, graph.graph_of_node, graph.graph_count),
            "node_energy": node_energy,
            "forces": forces_from_pairs(pair_forces, edges),
        }
        if stress:
            result["stress"] = stress_from_pairs(pair_forces, vectors, edges, graph)
        return result

    def node_energies(
        self,
        vectors: Float[Tensor, "rows 3"],
        species: SpeciesGroups | Int[Tensor, " nodes"],
        edges: Edges | Int[Tensor, "2 rows"],
    ) -> Float[Tensor, " nodes"]:
        """Energy of every node in eV, float64, differentiable in the edge vectors (Å).

        Args:
            vectors: From sender to receiver, in Å, none of length zero.
            species: Index of each node's element, or what :meth:`groups` makes of it.
            edges: Each pair once, or an ``edge_index`` of single directions; in the order of ``vectors``.

        Raises:
            ValueError: If ``edges`` are pairs and the model asks for single directions (``model.directed``).
        """
        groups = as_groups(species)
        output = self.model(vectors, groups, edges)
        energy = self.scale(output.energy, output.coordination, groups.species)
        return energy if output.repulsion is None else energy + output.repulsion.double()

    @torch.no_grad()
    def calibrate(self, graph: AtomicGraph) -> None:
        """Choose the normalisation of a fresh model from a sample of what it will be trained on; see ``MACE.calibrate``."""
        graph = graph.to(self.device)
        edges, vectors = self.geometry(graph)
        species = self.species(graph.atomic_numbers)
        with full_float32(self.device):
            self.model.calibrate(vectors, species, edges)
        if self.model.zbl is not None:  # on average the scaled energies include it, as the labels do
            repulsion = self.model.zbl(vectors.norm(dim=1, keepdim=True), species, edges)
            self.model.bias.sub_(repulsion.mean() / self.scale.scale[species].mean())

    def tabulate(self, error: float = 1e-6) -> Potential:
        """Replace the radial networks, a large part of the cost, by tables. For inference: the weights are frozen.

        Args:
            error: What the functions of the distance and their gradients may err, relative to their size. Forces err less, as
                many pairs contribute.

        Returns:
            The same potential.

        Raises:
            ValueError: If ``error`` is so small that rounding would exceed it, or the networks are no functions of the distance
                alone; says why.
        """
        self.eval().requires_grad_(False)
        self.model.tabulate(error)
        return self

    @torch.no_grad()
    def descriptors(self, graph: AtomicGraph) -> Float[Tensor, "nodes features"]:
        """Features of every node after the last layer, in e3nn's ``mul_ir`` order; see :meth:`descriptor_irreps`."""
        edges, vectors = self.geometry(graph)
        with full_float32(self.device):
            output = self.model(vectors, self.species(graph.atomic_numbers), edges)
        return to_mul_ir(output.features, self.descriptor_irreps)

    @property
    def descriptor_irreps(self) -> o3.Irreps:
        """Irreps of :meth:`descriptors`; the last layer keeps scalars only."""
        return natural_irreps(0, self.model.config.channels)

    def geometry(self, graph: AtomicGraph) -> tuple[Edges, Float[Tensor, "rows 3"]]:
        """Each pair of neighbours once, or both directions if the model asks for them, and vectors in its precision."""
        from equinet.graph.atomic_graph import displacements

        if self.model.directed:
            edges = Edges.by_receiver(graph.edge_index, graph.num_nodes)
            return edges, displacements(graph).to(self.dtype)
        edges, rows = Edges.in_pairs(graph.edge_index, graph.pairs, graph.num_nodes)
        return edges, displacements(graph, rows).to(self.dtype)

    def __repr__(self) -> str:
        where = f"{str(self.dtype).removeprefix('torch.')} on {self.device}"
        indented = "\n".join("  " + line for line in repr(self.model).splitlines())
        return f"Potential({' '.join(self.symbols)}, cutoff {self.cutoff:g} Å, {where})\n{indented}\n  {self.scale.extra_repr()}"


def forces_from_pairs(pair_forces: Float[Tensor, "rows 3"], edges: Edges) -> Float[Tensor, "nodes 3"]:
    """Forces on atoms from the derivatives of the energy with respect to edge vectors."""
    sender, receiver = edges.index
    forces = sum_on_nodes(pair_forces, sender, edges.num_nodes)
    return forces.index_add(0, receiver, pair_forces, alpha=-1)


def stress_from_pairs(
    pair_forces: Float[Tensor, "rows 3"], vectors: Float[Tensor, "rows 3"], edges: Edges, graph: Frame
) -> Float[Tensor, "graphs 3 3"]:
    """Stress from the derivatives of the energy with respect to edge vectors; tension positive."""
    if graph.graph_count == 1:
        virial = (pair_forces.T @ vectors).unsqueeze(0)
    else:
        outer = pair_forces.unsqueeze(2) * vectors.unsqueeze(1)
        virial = sum_on_nodes(outer, graph.graph_of_node[edges.index[0]], graph.graph_count)
    virial = (virial + virial.transpose(1, 2)) / 2
    a, b, c = graph.cell.unbind(1)
    volume = (a * torch.linalg.cross(b, c)).sum(1).abs()  # a determinant by a solver cannot be recorded on a GPU
    defined = graph.pbc.any(dim=1) & (volume > 0)
    # Divide by one where there is no volume and put NaN there afterwards: a division by NaN would spoil every gradient.
    volume = torch.where(defined, volume, 1.0).to(virial.dtype)
    return torch.where(defined[:, None, None], virial / volume[:, None, None], torch.nan)


def choose_device(name: str) -> torch.device:
    """The device a name stands for; "auto" is CUDA if there is one, else the CPU.

    Raises:
        ValueError: If there is no such device here, or equinet does not run on it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f'`device` must be "auto", "cpu", "cuda" or "cuda:N", got {name!r}')
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ValueError(f'`device` is {name!r}, but torch sees {count} GPUs; "auto" takes what is there')
    return device
