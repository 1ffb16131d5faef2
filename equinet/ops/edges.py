"""Edges as a convolution takes them: one direction at a time, or each pair once for both."""

from __future__ import annotations

from typing import NamedTuple

import torch
from e3nn import o3
from jaxtyping import Float, Int
from torch import Tensor


class Incoming(NamedTuple):
    """Edges by receiver, as compressed rows: those into node i are ``pointers[i]`` to ``pointers[i + 1]``.

    Attributes:
        pointers: ``(nodes + 1,)`` int64.
        senders: ``(edges,)`` int64.
        codes: ``(edges,)`` int64, twice the row of :attr:`Edges.index` whose harmonics and weights belong to the edge, plus
            one if the edge runs against the row.
    """

    pointers: Tensor
    senders: Tensor
    codes: Tensor


class Edges:
    """Senders and receivers of edges, one direction at a time or each pair once.

    What depends on the distance is the same in both directions of a pair, and harmonics differ by a sign at most. So where
    every edge has its reverse, as in a structure of atoms, ``mirrored`` says that each row stands for two edges, there and
    back, and everything about edges is computed once per pair.

    Args:
        index: ``(2, rows)`` int64, sender and receiver of each row.
        num_nodes: Number of nodes.
        mirrored: True if every row stands for its reverse too, with the harmonics of the opposite direction.

    Raises:
        IndexError: If ``index`` names a node that is not there (looked for on the CPU only; a GPU would have to wait).
    """

    def __init__(self, index: Int[Tensor, "2 rows"], num_nodes: int, *, mirrored: bool = False) -> None:
        if index.device.type == "cpu" and index.numel():
            lowest, highest = map(int, torch.aminmax(index))
            if lowest < 0 or highest >= num_nodes:
                wrong = lowest if lowest < 0 else highest
                raise IndexError(f"an edge names node {wrong}, but there are {num_nodes} nodes, numbered from 0")
        self.index = index
        self.num_nodes = num_nodes
        self.mirrored = mirrored
        self._incoming: Incoming | None = None

    @classmethod
    def in_pairs(
        cls, edge_index: Int[Tensor, "2 edges"], pairs: Int[Tensor, " edges"], num_nodes: int
    ) -> tuple[Edges, Int[Tensor, " rows"]]:
        """Edges of which each has its reverse, sorted by receiver, and which edge each row is.

        Args:
            edge_index: Sender and receiver of every directed edge, sorted by receiver.
            pairs: See :class:`equinet.graph.AtomicGraph`.
            num_nodes: Number of nodes.
        """
        edge_of = torch.empty_like(pairs).scatter_(0, pairs, torch.arange(len(pairs), device=pairs.device))
        rows = edge_of[::2]
        # Row by row, as a selection of columns is several times slower.
        edges = cls(torch.stack([end.index_select(0, rows) for end in edge_index]), num_nodes, mirrored=True)
        edges._incoming = Incoming(_pointers(edge_index[1].contiguous(), num_nodes), edge_index[0].contiguous(), pairs)
        return edges, rows

    @classmethod
    def by_receiver(cls, edge_index: Int[Tensor, "2 edges"], num_nodes: int) -> Edges:
        """Single directions, which are sorted by receiver already."""
        edges = cls(edge_index, num_nodes)
        codes = 2 * torch.arange(edge_index.shape[1], device=edge_index.device)
        edges._incoming = Incoming(_pointers(edge_index[1].contiguous(), num_nodes), edge_index[0].contiguous(), codes)
        return edges

    @classmethod
    def ready(cls, index: Int[Tensor, "2 rows"], incoming: Incoming, num_nodes: int, *, mirrored: bool) -> Edges:
        """Edges of which all is known, as it stands: nothing is looked at, so that this may be done while torch records."""
        edges = cls.__new__(cls)
        edges.index, edges.num_nodes, edges.mirrored, edges._incoming = index, num_nodes, mirrored, incoming
        return edges

    @classmethod
    def to_itself(cls, num_nodes: int, device: torch.device) -> Edges:
        """One edge for every node, from itself: what makes a convolution a product pair by pair."""
        each = torch.arange(num_nodes, device=device)
        edges = cls(torch.stack([each, each]), num_nodes)
        edges._incoming = Incoming(torch.arange(num_nodes + 1, device=device), each, 2 * each)
        return edges

    @property
    def incoming(self) -> Incoming:
        """The same edges by receiver."""
        if self._incoming is None:
            sender, receiver = self.directed
            codes = 2 * torch.arange(self.index.shape[1], device=self.index.device)
            codes = torch.cat([codes, codes + 1]) if self.mirrored else codes
            order = torch.argsort(receiver, stable=True)
            self._incoming = Incoming(_pointers(receiver[order], self.num_nodes), sender[order], codes[order])
        return self._incoming

    @property
    def directed(self) -> Int[Tensor, "2 edges"]:
        """Sender and receiver of every single edge: the rows, then their reverses if they are ``mirrored``."""
        return torch.cat([self.index, self.index.flip(0)], dim=1) if self.mirrored else self.index

    def unfold(
        self,
        edge_attrs: Float[Tensor, "rows harmonics"],
        weight: Float[Tensor, "rows weights channels"],
        irreps: o3.Irreps,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Sender, receiver, harmonics and weights of every single edge.

        Args:
            edge_attrs: Edge attrs of every row.
            weight: Weight of every row.
            irreps: Irreps of ``edge_attrs``; their degrees say which of them the opposite direction reverses, as harmonics of odd
                degree do, whatever parity they are labelled with.
        """
        sender, receiver = self.directed
        if self.mirrored:
            # Part by part, not times a row of signs: numbers of Python come to a GPU by a copy that cannot be recorded.
            parts = edge_attrs.split([mul * ir.dim for mul, ir in irreps], dim=1)
            opposite = torch.cat([-part if ir.l % 2 else part for (_, ir), part in zip(irreps, parts)], dim=1)
            edge_attrs, weight = torch.cat([edge_attrs, opposite]), torch.cat([weight, weight])
        return sender, receiver, edge_attrs, weight

    def sum_on_receivers(self, values: Float[Tensor, "rows ..."]) -> Float[Tensor, "nodes ..."]:
        """Sum over the edges into each node of a number that is the same in both directions; zero for a node without any."""
        total = sum_on_nodes(values, self.index[1], self.num_nodes)
        return total.index_add(0, self.index[0], values) if self.mirrored else total


def as_edges(edges: Edges | Tensor, num_nodes: int) -> Edges:
    """``edges``, or what an ``edge_index`` ``(2, edges)`` of single directions says."""
    return edges if isinstance(edges, Edges) else Edges(edges, num_nodes)


def sum_on_nodes(
    values: Float[Tensor, "edges ..."], nodes: Int[Tensor, " edges"], num_nodes: int
) -> Float[Tensor, "nodes ..."]:
    """Sum of the rows of ``values`` that belong to each node; zero for a node without any."""
    return values.new_zeros((num_nodes, *values.shape[1:])).index_add(0, nodes, values)


def _pointers(receiver: Int[Tensor, " edges"], num_nodes: int) -> Int[Tensor, " pointers"]:
    """CSR pointers to the edges into each node, for receivers in ascending order.

    By search and not by counting, as a GPU that counts must wait to know how long the result is.
    """
    return torch.searchsorted(receiver, torch.arange(num_nodes + 1, device=receiver.device))
