"""Forces and stress from the derivatives of the energy with respect to edge vectors."""

from __future__ import annotations

from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from equinet.ops.edges import Edges, sum_on_nodes


class Frame(Protocol):
    """Fields needed to reduce edge quantities to energies and stress, as :class:`equinet.graph.AtomicGraph` has them.

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
