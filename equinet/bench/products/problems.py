"""Problems of the microbenchmark: a product, sizes, and random inputs."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

import torch
from e3nn import o3
from torch import Tensor

from equinet.ops.layout import natural_irreps
from equinet.ops.spec import MOST_DEGREE, ManyBodySpec, TensorProductSpec

Mode = Literal["siso", "simo", "mimo", "uuu"]
HIGHEST = MOST_DEGREE // 2  # of inputs, as outputs go to twice their degree
SH_DEGREE = 3  # of the harmonics of MACE's edges
CORRELATION = 3  # of MACE's product basis
NAMED = ("mace-64x0", "mace-64x1", "mace-128x1", "mace-128x2", "mace-256x2")


@dataclass(frozen=True)
class Problem:
    """A product with sizes.

    Attributes:
        name: A short name, unique within a run.
        kind: ``"tp"``: pair by pair. ``"conv"``: gather from senders, product, weights, sum on receivers. ``"product"``: of a
            node's features with themselves.
        spec: Product to compute.
        nodes: Nodes; of a ``"tp"`` pairs.
        neighbours: Edges per node; 1 in a ``"tp"``, 0 in a ``"product"``.
        seed: Seed of the graph and the inputs.
        graph: Senders and receivers ``(2, edges)`` of a real graph; by default every node has ``neighbours`` random senders.

    Raises:
        ValueError: If a size is less than 1, or the graph names nodes that are not there.
    """

    name: str
    kind: Literal["tp", "conv", "product"]
    spec: TensorProductSpec | ManyBodySpec
    nodes: int
    neighbours: int
    seed: int = 0
    graph: Tensor | None = None

    def __post_init__(self) -> None:
        for name in ("nodes", "neighbours"):
            least = 0 if name == "neighbours" and self.kind == "product" else 1
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` must be {least} or more, got {getattr(self, name)}")
        if self.graph is not None and self.graph.numel() and int(self.graph.max()) >= self.nodes:
            raise ValueError(f"`graph` names node {int(self.graph.max())}, but there are {self.nodes}")

    @property
    def edges(self) -> int:
        """Pairs, edges, or 0 in a ``"product"``."""
        return self.nodes * self.neighbours if self.graph is None else self.graph.shape[1]

    @property
    def harmonics(self) -> bool:
        """True if the second input is harmonics of directions, as on edges, and not any numbers."""
        if self.kind != "conv" or not isinstance(self.spec, TensorProductSpec):
            return False
        return bool(self.spec.irreps_in2 == natural_irreps(self.spec.irreps_in2.lmax))

    def smaller(self, nodes: int) -> Problem:
        """Return the problem with at most so many nodes, and edges among them in proportion."""
        if nodes >= self.nodes:
            return self
        neighbours = self.neighbours if self.graph is None else max(1, self.edges // self.nodes)
        return replace(self, nodes=nodes, neighbours=neighbours, graph=None)

    def edge_index(self) -> Tensor:
        """Senders and receivers ``(2, edges)``, sorted by receiver."""
        if self.graph is not None:
            return self.graph
        receiver = torch.arange(self.nodes).repeat_interleave(self.neighbours)
        if self.kind == "tp":
            return torch.stack([receiver, receiver])
        draw = torch.Generator().manual_seed(self.seed)
        offset = torch.randint(1, max(self.nodes, 2), receiver.shape, generator=draw)
        return torch.stack([(receiver + offset) % self.nodes, receiver])  # nobody's own neighbour, unless alone

    def species(self) -> Tensor:
        """Species of each node, random."""
        assert isinstance(self.spec, ManyBodySpec)
        draw = torch.Generator().manual_seed(self.seed)
        return torch.randint(self.spec.species, (self.nodes,), generator=draw)

    def sizes(self) -> str:
        """Return the numbers of nodes and edges as text."""
        if self.kind == "tp":
            return f"{self.nodes} pairs"
        if self.kind == "conv":
            return f"{self.nodes} nodes, {self.edges} edges"
        return f"{self.nodes} nodes"


def pair_problem(mode: str, degree: int, channels: int, pairs: int) -> Problem:
    """One of the microbenchmarks of Xie et al. at degree L, for ``channels`` channels.

    ``siso``: L x L -> L. ``simo``: L x L -> 0, 2, ..., 2 L (true tensors). ``mimo``: 0..L x 0..L -> 0..L. ``uuu``: the same, both inputs
    with channels, the weights shared by all pairs.

    Raises:
        ValueError: If there is no such mode, or the degree is not 1 to 16.

    Source:
        Xie et al. 2025, arXiv 2506.13523; there ``mimo`` goes to outputs of degree 2 L, and inputs have one channel.
    """
    if not 1 <= degree <= HIGHEST:
        raise ValueError(f"`degrees` must lie in 1 to {HIGHEST}, got {degree}")
    one = o3.Irreps([(1, (degree, (-1) ** degree))])
    many = o3.Irreps([(channels, (degree, (-1) ** degree))])
    if mode == "siso":
        spec = TensorProductSpec(many, one, o3.Irreps([(1, (degree, 1))]))
    elif mode == "simo":
        outputs = [(1, (l, 1)) for l in range(0, 2 * degree + 1, 2)]
        spec = TensorProductSpec(many, one, o3.Irreps(outputs))
    elif mode == "mimo":
        spec = TensorProductSpec(natural_irreps(degree, channels), natural_irreps(degree), natural_irreps(degree))
    elif mode == "uuu":
        both = natural_irreps(degree, channels)
        spec = TensorProductSpec(both, both, natural_irreps(degree), pair=True)
    else:
        raise ValueError(f"`mode` must be siso, simo, mimo or uuu, got {mode!r}")
    return Problem(f"{mode} L={degree}", "tp", spec, pairs, 1)


def named_problem(kind: Literal["conv", "product"], name: str, nodes: int, neighbours: int, species: int) -> Problem:
    """A product of MACE by name: ``mace-CHANNELSxL``, features of degree 0..L, harmonics of degree 0..3, correlation 3.

    Raises:
        ValueError: If it is no such name.
    """
    match = re.fullmatch(r"mace-(\d+)x(\d)", name)
    if match is None or int(match[1]) < 1:
        raise ValueError(
            f"there is no problem called {name!r}; a name is mace-CHANNELSxL, the highest degree of the features last: "
            + ", ".join(NAMED)
        )
    channels, degree = int(match[1]), int(match[2])
    if kind == "conv":
        spec = TensorProductSpec(natural_irreps(degree, channels), natural_irreps(SH_DEGREE), natural_irreps(SH_DEGREE))
        return Problem(name, "conv", spec, nodes, neighbours)
    irreps = natural_irreps(SH_DEGREE, channels), natural_irreps(degree, channels)
    return Problem(name, "product", ManyBodySpec(*irreps, CORRELATION, species), nodes, 0)


def degrees_from_text(text: str) -> list[int]:
    """Degrees from ``3``, ``1-8`` or ``1,2,4``.

    Raises:
        ValueError: If it is none of these.

    >>> degrees_from_text("1-3,6")
    [1, 2, 3, 6]
    """
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise ValueError(f"`degrees` must read like 3, 1-8 or 1,2,4, got {text!r}")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return list(dict.fromkeys(found))
