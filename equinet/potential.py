"""A potential: model plus energy scale; energies, forces and stress from edge vectors."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from e3nn import o3
from jaxtyping import Float, Int
from torch import Tensor, nn

from equinet.datasets.properties import property_named
from equinet.graph.elements import SYMBOLS, no_element
from equinet.models import Model
from equinet.nn import EnergyScale
from equinet.nn.derivatives import Frame, forces_from_pairs, stress_from_pairs
from equinet.nn.prediction import NodeValues, Prediction
from equinet.ops import SpeciesGroups, to_mul_ir
from equinet.ops.devices import made_on_cpu
from equinet.ops.edges import Edges, sum_on_nodes
from equinet.ops.precision import full_float32
from equinet.ops.species import as_groups
from equinet.ops.tracing import refuse_symbols

if TYPE_CHECKING:
    from ase import Atoms

    from equinet.graph.atomic_graph import AtomicGraph


class Potential(nn.Module):
    r"""Energy of structures and its derivatives.

    The energy is a function of the edge vectors alone. With the pair forces :math:`\mathbf f_e = \partial E / \partial
    \mathbf r_e`, everything else follows by summation:

    .. math:: \mathbf F_i = \sum_{e:\,\mathrm{sender}=i} \mathbf f_e - \sum_{e:\,\mathrm{receiver}=i} \mathbf f_e,
              \qquad \sigma = \frac{1}{2V} \sum_e (\mathbf f_e \mathbf r_e^T + \mathbf r_e \mathbf f_e^T)

    Args:
        model: Per-node outputs from edge vectors; energies without a unit.
        scale: Conversion of these energies to eV.

    Attributes:
        origin: Origin of weights that were not trained here from random ones: file, SHA-256, licence, head. Model files,
            conversions and fine-tuned potentials keep it.
        references: Origin of the reference energies in words, and ``compositions``, which is not empty if these determine sums of the
            reference energies only, see :func:`equinet.datasets.composition.spanning_compositions`. Model files and conversions keep it.

    Raises:
        ValueError: If model and scale differ in their number of species.
    """

    species_of: Tensor
    origin: dict[str, Any]
    references: dict[str, Any]

    @made_on_cpu
    def __init__(self, model: Model, scale: EnergyScale) -> None:
        super().__init__()
        if model.num_species != len(scale.reference):
            raise ValueError(
                f"the model has {model.num_species} species and the energy scale {len(scale.reference)}; they must agree"
            )
        self.model = model
        self.scale = scale
        self.origin = {}
        self.references = {}
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
        return self.model.cutoff

    @property
    def dtype(self) -> torch.dtype:
        """Precision of weights and arithmetic; energies are summed and returned in float64 in any case."""
        return self.model.dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.model.device

    @property
    def symbols(self) -> tuple[str, ...]:
        """Chemical symbols of the species, in order."""
        return tuple(SYMBOLS[z] for z in self.elements)

    def species(self, atomic_numbers: Int[Tensor, " nodes"]) -> Int[Tensor, " nodes"]:
        """Index of each atom's element.

        Raises:
            ValueError: If the model does not know an element, or no element has an atomic number.
        """
        # A negative number would count from the end, and a large one be reported by a GPU only later, and stop it.
        existing = atomic_numbers.clamp(0, len(self.species_of) - 1)
        indices = self.species_of[existing]
        strange = (indices < 0) | (existing != atomic_numbers)
        if bool(strange.any()):
            if reason := no_element(atomic_numbers.tolist()):
                raise ValueError(f"{reason}; correct the atomic numbers")
            unknown = ", ".join(SYMBOLS[z] for z in atomic_numbers[strange].unique().tolist())
            raise ValueError(
                f"this model does not know {unknown}; it was made for {', '.join(self.symbols)}. "
                "Train a model on data that contain the missing elements"
            )
        return indices

    def groups(self, atomic_numbers: Int[Tensor, " nodes"]) -> SpeciesGroups:
        """Atoms grouped by element, as every layer needs them; the groups stay valid while the atoms move.

        Raises:
            ValueError: If the model does not know an element.
        """
        return SpeciesGroups(self.species(atomic_numbers))

    def forward(
        self, graph: AtomicGraph | Atoms, *, stress: bool = False, groups: SpeciesGroups | None = None
    ) -> Prediction:
        """Energies, forces and on request stress.

        All results can be differentiated again in training mode, and in any mode if positions or cell require gradients.

        Args:
            graph: One or several structures; moved to the model's device by the caller. An ASE structure becomes one by
                :meth:`graph`.
            stress: True to compute the stress too.
            groups: Result of :meth:`groups` on the model's device; by default it is made here, which waits for a GPU.

        Raises:
            ValueError: If the model does not know an element, or the graph ends at a shorter cutoff than the model's.
        """
        graph = self._as_graph(graph)
        if torch.is_inference_mode_enabled():  # in which nothing has derivatives
            with torch.inference_mode(False):
                return self.forward(graph.clone(), stress=stress)
        groups = self.groups(graph.atomic_numbers) if groups is None else groups
        edges, vectors = self.geometry(graph)
        return self.derive(
            lambda vectors: self.node_values(vectors, groups, edges), vectors, edges, graph, stress=stress
        )

    def graph(self, atoms: Atoms) -> AtomicGraph:
        """The graph of an ASE structure with this model's cutoff, on its device.

        Raises:
            ValueError, MemoryError: As :func:`equinet.graph.from_atoms`.
        """
        from equinet.graph.atomic_graph import from_atoms

        return from_atoms(atoms, self.cutoff).to(self.device)

    def _as_graph(self, structure: AtomicGraph | Atoms) -> AtomicGraph:
        from equinet.graph.atomic_graph import AtomicGraph

        refuse_symbols(structure)
        return structure if isinstance(structure, AtomicGraph) else self.graph(structure)

    def hessian(self, graph: AtomicGraph | Atoms) -> Float[Tensor, "nodes 3 nodes 3"]:
        r"""Second derivatives of the energy by the positions, :math:`\partial^2 E / \partial x_{ia} \partial x_{jb}`.

        One pass backwards for each of the 3 N coordinates, so that memory grows with N alone. Symmetric to rounding; use a model
        in float64 for phonons.

        Args:
            graph: One structure, as a graph or an ASE structure.

        Returns:
            eV/Å², float64.

        Raises:
            ValueError: If ``graph`` holds several structures, or as :meth:`forward`.
        """
        with torch.inference_mode(False), torch.enable_grad():
            moved = self._as_graph(graph).clone()
            if moved.graph_count != 1:
                raise ValueError(
                    f"a Hessian is of one structure, and `graph` holds {moved.graph_count}; take one after the other"
                )
            positions = moved.positions = moved.positions.detach().requires_grad_()
            forces = self.forward(moved).forces.double().flatten()
            rows = [
                torch.autograd.grad(force, positions, retain_graph=True, materialize_grads=True)[0] for force in forces
            ]
        return -torch.stack(rows).view(*positions.shape, *positions.shape)

    def derive(
        self,
        node_values: Callable[[Tensor], NodeValues],
        vectors: Float[Tensor, "rows 3"],
        edges: Edges,
        graph: Frame,
        *,
        stress: bool = False,
    ) -> Prediction:
        """Energies and their derivatives from per-node values as a function of the edge vectors.

        Args:
            node_values: Function from edge vectors to per-node values, as :meth:`node_values` is one.
            vectors: Edge vectors to evaluate it at, in Å. If they require gradients, so do the results.
            edges: Edges in the order of ``vectors``.
            graph: The structures.
            stress: True to compute the stress too.
        """
        differentiable = self.training or vectors.requires_grad
        with torch.enable_grad(), full_float32(self.device):
            vectors.requires_grad_()
            node_energy, properties = node_values(vectors)
            (pair_forces,) = torch.autograd.grad(node_energy.sum(), vectors, create_graph=differentiable)
        if not differentiable:
            node_energy = node_energy.detach()
            vectors = vectors.detach()
            properties = {name: value.detach() for name, value in properties.items()}
        return Prediction(
            energy=sum_on_nodes(node_energy, graph.graph_of_node, graph.graph_count),
            node_energy=node_energy,
            forces=forces_from_pairs(pair_forces, edges),
            stress=stress_from_pairs(pair_forces, vectors, edges, graph) if stress else None,
            properties={
                name: sum_on_nodes(value, graph.graph_of_node, graph.graph_count)
                if property_named(name).per == "structure"
                else value
                for name, value in properties.items()
            },
        )

    def node_values(
        self,
        vectors: Float[Tensor, "rows 3"],
        species: SpeciesGroups | Int[Tensor, " nodes"],
        edges: Edges | Int[Tensor, "2 rows"],
    ) -> NodeValues:
        """Energy of every node in eV, float64, and further properties, differentiable in the edge vectors (Å).

        Args:
            vectors: Displacements from sender to receiver, in Å, none of length zero.
            species: Index of each node's element, or the result of :meth:`groups`.
            edges: Each pair once, or an ``edge_index`` of single directions; in the order of ``vectors``.

        Raises:
            ValueError: If ``edges`` are pairs and the model asks for single directions (``model.directed``).
        """
        groups = as_groups(species)
        output = self.model(vectors, groups, edges)
        energy = self.scale(output.energy, output.coordination, groups.species)
        if output.repulsion is not None:
            energy = energy + output.repulsion.double()
        return NodeValues(energy, output.properties)

    def node_energies(
        self,
        vectors: Float[Tensor, "rows 3"],
        species: SpeciesGroups | Int[Tensor, " nodes"],
        edges: Edges | Int[Tensor, "2 rows"],
    ) -> Float[Tensor, " nodes"]:
        """Energy of every node in eV, float64: the energies of :meth:`node_values`."""
        return self.node_values(vectors, species, edges).energy

    @torch.no_grad()
    def calibrate(self, graph: AtomicGraph) -> None:
        """Choose the constants of a fresh model from a sample of its training structures: see :meth:`equinet.models.Model.calibrate`."""
        graph = graph.to(self.device)
        edges, vectors = self.geometry(graph)
        species = self.species(graph.atomic_numbers)
        with full_float32(self.device):
            self.model.calibrate(vectors, species, edges, self.scale.scale[species])

    @made_on_cpu
    def tabulate(self, error: float = 1e-6) -> Potential:
        """Copy the potential with tables in place of its radial networks, a large part of the cost. For inference only.

        Args:
            error: Largest relative error of the functions of the distance and of their derivatives. Forces err less, as many
                pairs contribute.

        Returns:
            A new potential in eval mode, whose weights are frozen.

        Raises:
            ValueError: If ``error`` is so small that rounding would exceed it, or the networks are no functions of the distance
                alone; says why.
        """
        tabulated = copy.deepcopy(self).eval().requires_grad_(False)
        tabulated.model.tabulate(error)
        return tabulated

    @torch.no_grad()
    def descriptors(self, graph: AtomicGraph) -> Float[Tensor, "nodes features"]:
        """Features of every node after the last layer, in e3nn's ``mul_ir`` order; see :meth:`descriptor_irreps`.

        Raises:
            ValueError: If the model has no features.
        """
        irreps = self.descriptor_irreps
        edges, vectors = self.geometry(graph)
        with full_float32(self.device):
            output = self.model(vectors, self.species(graph.atomic_numbers), edges)
        if output.features is None:
            raise ValueError(
                f"{type(self.model).__name__} has `descriptor_irreps`, and its `forward` returned no features"
            )
        return to_mul_ir(output.features, irreps)

    @property
    def descriptor_irreps(self) -> o3.Irreps:
        """Irreps of :meth:`descriptors`.

        Raises:
            ValueError: If the model has no features.
        """
        if (irreps := self.model.descriptor_irreps) is None:
            raise ValueError(f"{type(self.model).__name__} has no equivariant features that could serve as descriptors")
        return irreps

    def geometry(self, graph: AtomicGraph) -> tuple[Edges, Float[Tensor, "rows 3"]]:
        """Each pair of neighbours once, or both directions if the model asks for them, and vectors in its precision.

        Raises:
            ValueError: If the graph ends at a shorter cutoff than the model's.
        """
        from equinet.graph.atomic_graph import displacements

        refuse_symbols(graph)
        if "cutoff" in graph and graph.cutoff < self.cutoff:
            raise ValueError(
                f"`graph` was made with a cutoff of {graph.cutoff:g} Å and the model sees {self.cutoff:g} Å, so edges are missing; "
                "make it by `potential.graph(atoms)`"
            )
        if self.model.directed:
            edges = Edges.by_receiver(graph.edge_index, graph.num_nodes)
            return edges, displacements(graph).to(self.dtype)
        edges, rows = Edges.in_pairs(graph.edge_index, graph.pairs, graph.num_nodes)
        return edges, displacements(graph, rows).to(self.dtype)

    def __repr__(self) -> str:
        where = f"{str(self.dtype).removeprefix('torch.')} on {self.device}"
        indented = "\n".join("  " + line for line in repr(self.model).splitlines())
        return f"Potential({' '.join(self.symbols)}, cutoff {self.cutoff:g} Å, {where})\n{indented}\n  {self.scale.extra_repr()}"


def only_energies(potential: Potential) -> str | None:
    """Reason why a fast path that knows energies alone would lose something the model predicts; None if it would not."""
    if not potential.model.predicts:
        return None
    return f"it also predicts {', '.join(potential.model.predicts)}, and only energy, forces and stress have a form for that"


def require_potential(value: object) -> None:
    """Refuse what is no potential, such as a graph that torch.fx made of one.

    Raises:
        TypeError: If it is none; names its class, and what to pass.
    """
    if isinstance(getattr(value, "_orig_mod", value), Potential):  # torch.compile keeps what it was given
        return
    kind = (
        f"a torch.fx.GraphModule ({type(value).__name__})"
        if isinstance(value, torch.fx.GraphModule)
        else type(value).__name__
    )
    raise TypeError(f"`potential` must be an equinet.Potential, as equinet.load gives one, got {kind}")
