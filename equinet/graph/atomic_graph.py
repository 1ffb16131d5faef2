"""Structures as graphs: atoms are nodes, pairs within the cutoff are directed edges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch_geometric.data import Data

from .elements import no_element
from .neighbors import neighbor_list

if TYPE_CHECKING:
    from ase import Atoms


class AtomicGraph(Data):
    """One structure, or several side by side after :func:`collate`.

    Geometry is kept in float64 whatever the model's precision, so that a displacement of a small distance between large
    coordinates loses nothing. Every edge is there in both directions; edges are sorted by receiver. It is a ``Data`` of torch-geometric, so
    that its data loaders and transforms take it.

    Attributes:
        positions: ``(nodes, 3)`` float64, Å.
        atomic_numbers: ``(nodes,)`` int64.
        edge_index: ``(2, edges)`` int64, rows sender and receiver.
        unit_shifts: ``(edges, 3)`` float64, integer cell offsets of the receiver.
        pairs: ``(edges,)`` int64, which pair of atoms an edge belongs to: 2 p in one direction and 2 p + 1 in the other, for
            pairs p = 0, 1, ...
        cell: ``(graphs, 3, 3)`` float64, lattice vectors in rows, Å; zero for an open structure.
        pbc: ``(graphs, 3)`` bool.
        batch: ``(nodes,)`` int64, the graph of each node; None for a single structure.
        cutoff: Length in Å up to which every edge is there, a number; of several structures the shortest. Absent where a caller
            made the edges by hand, who then answers for them.
        energy, forces, stress: Labels, ``(graphs,)`` eV, ``(nodes, 3)`` eV/Å, ``(graphs, 3, 3)`` eV/Å³ (tension
            positive), float64; NaN where a frame has none. Absent in graphs made for inference.
        weight: ``(graphs,)`` float64, weight of each frame in the loss. Absent likewise.
        energy_weight, forces_weight, stress_weight: ``(graphs,)`` float64, factors of that weight in single terms of the loss; 1 where absent.
    """

    positions: Tensor
    atomic_numbers: Tensor
    edge_index: Tensor
    unit_shifts: Tensor
    pairs: Tensor
    cell: Tensor
    pbc: Tensor
    cutoff: float

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        if "positions" in self:
            self.num_nodes = len(self.positions)

    def __cat_dim__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        return 1 if key == "edge_index" else 0

    def __inc__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        return {"edge_index": self.num_nodes, "pairs": self.num_edges}.get(key, 0)

    @property
    def graph_count(self) -> int:
        """Number of structures."""
        return len(self.cell)

    @property
    def graph_of_node(self) -> Int[Tensor, " nodes"]:
        """The structure each node belongs to."""
        batch = self.batch
        return torch.zeros_like(self.atomic_numbers) if batch is None else batch

    @property
    def atoms_per_graph(self) -> Int[Tensor, " graphs"]:
        """Number of atoms of each structure. A sum, as a GPU that counts must wait to know how long the result is."""
        of_node = self.graph_of_node
        return of_node.new_zeros(self.graph_count).index_add(0, of_node, torch.ones_like(of_node))

    @property
    def receiver_pointers(self) -> Int[Tensor, " pointers"]:
        """CSR pointers: the edges into node i are ``receiver_pointers[i]`` to ``receiver_pointers[i + 1]``."""
        counts = torch.bincount(self.edge_index[1], minlength=self.num_nodes)
        return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def from_atoms(atoms: Atoms, cutoff: float) -> AtomicGraph:
    """The graph of an ASE structure, without labels.

    Args:
        atoms: Positions and cell in Å.
        cutoff: Longest edge, in Å.

    Raises:
        ValueError: If two atoms are on one spot, a number is not finite, a periodic cell has no volume, or no element has an atomic number.
        MemoryError: If so long a cutoff would not fit into memory.
    """
    if isinstance(atoms, torch.fx.Proxy):
        raise TypeError(
            "torch.fx.symbolic_trace cannot record a graph of atoms; make the graph outside of what is traced"
        )
    if reason := no_element(atoms.numbers.tolist()):
        raise ValueError(f"{reason}; correct `atoms.numbers`")
    positions = np.ascontiguousarray(atoms.positions, dtype=np.float64)
    cell = np.ascontiguousarray(atoms.cell[:], dtype=np.float64)
    pbc = np.asarray(atoms.pbc, dtype=bool)
    edge_index, unit_shifts, pairs = neighbor_list(positions, cell, pbc, cutoff)
    return AtomicGraph(
        positions=torch.from_numpy(positions.copy()),
        atomic_numbers=torch.from_numpy(np.asarray(atoms.numbers, dtype=np.int64).copy()),
        edge_index=torch.from_numpy(edge_index),
        unit_shifts=torch.from_numpy(unit_shifts),
        pairs=torch.from_numpy(pairs),
        cell=torch.from_numpy(cell.copy())[None],
        pbc=torch.from_numpy(pbc.copy())[None],
        cutoff=float(cutoff),
    )


def collate(graphs: Sequence[AtomicGraph]) -> AtomicGraph:
    """Several structures as one graph without edges between them.

    The same numbers as ``torch_geometric.data.Batch.from_data_list``, in a sixth of the time.

    Args:
        graphs: Graphs with the same fields.

    Raises:
        ValueError: If ``graphs`` is empty.
    """
    if not graphs:
        raise ValueError("there is nothing to collate: `graphs` is empty")
    fields = [
        graph.to_dict() for graph in graphs
    ]  # every look into a graph takes a microsecond, one into a dictionary none
    first = fields[0]
    device = first["positions"].device
    nodes, edges, structures = (
        torch.tensor(sizes, device=device)
        for sizes in zip(*((len(f["positions"]), f["edge_index"].shape[1], len(f["cell"])) for f in fields))
    )
    names = [name for name in first if name not in ("cutoff", "batch", "num_nodes")]
    joined = {name: torch.cat([each[name] for each in fields], 1 if name == "edge_index" else 0) for name in names}
    joined["edge_index"] += _starts(nodes).repeat_interleave(edges)
    if "pairs" in joined:
        joined["pairs"] += _starts(edges).repeat_interleave(edges)
    batch = _starts(structures).repeat_interleave(nodes)
    if any("batch" in each for each in fields):  # graphs that hold several structures already
        batch += torch.cat([graph.graph_of_node for graph in graphs])
    # A number and no tensor, which would have to be copied from a GPU to be compared.
    cutoffs = [each["cutoff"] for each in fields if "cutoff" in each]
    return AtomicGraph(**joined, batch=batch, **({"cutoff": min(cutoffs)} if cutoffs else {}))


def _starts(sizes: Int[Tensor, " graphs"]) -> Int[Tensor, " graphs"]:
    """Number of the first node, edge or structure of each graph."""
    return sizes.cumsum(0) - sizes


def edge_vectors(
    positions: Float[Tensor, "nodes 3"], edge_index: Int[Tensor, "2 edges"], shifts: Float[Tensor, "edges 3"]
) -> Float[Tensor, "edges 3"]:
    r"""Displacement of each edge, from sender to receiver.

    .. math:: \mathbf r_{e} = \mathbf x_{\mathrm{receiver}(e)} + \mathbf s_e - \mathbf x_{\mathrm{sender}(e)}

    Args:
        positions: Cartesian positions of the atoms, in Å.
        edge_index: Sender (row 0) and receiver (row 1) of each directed edge.
        shifts: Cartesian offset of the periodic image the receiver lies in, in Å.

    Returns:
        Displacements in Å.

    Source:
        ASE ``neighbor_list``: D = positions[j] - positions[i] + S @ cell, with i the sender and j the receiver.

    >>> edge_vectors(torch.eye(3)[:2], torch.tensor([[0], [1]]), torch.zeros(1, 3))
    tensor([[-1.,  1.,  0.]])
    """
    sender, receiver = edge_index
    return positions.index_select(0, receiver) - positions.index_select(0, sender) + shifts


def displacements(graph: AtomicGraph, chosen: Int[Tensor, " chosen"] | None = None) -> Float[Tensor, "chosen 3"]:
    """Vectors of all or of some edges in Å, float64: the input from which a potential computes everything."""
    edge_index, unit_shifts = graph.edge_index, graph.unit_shifts
    if chosen is not None:  # row by row, as a selection of columns is several times slower
        edge_index = torch.stack([row.index_select(0, chosen) for row in edge_index])
        unit_shifts = unit_shifts.index_select(0, chosen)
    cell = graph.cell if graph.graph_count == 1 else graph.cell[graph.graph_of_node[edge_index[0]]]
    shifts = unit_shifts[:, :1] * cell[:, 0]
    for axis in (1, 2):  # not a matrix product, whose rounding may depend on how many edges there are
        shifts = torch.addcmul(shifts, unit_shifts[:, axis : axis + 1], cell[:, axis])
    return edge_vectors(graph.positions, edge_index, shifts)
