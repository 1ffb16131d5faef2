"""The edge convolution in machine code, as an executor."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from ..convolution import EdgeMatrixConvolution
from ..edges import Edges, as_edges
from ..spec import TensorProductSpec
from .edge_loops import Couplings
from .edge_ops import couplings_of, forward, name_of
from .llvm import runs_on, unavailable

# With more non-zero couplings the code of all derivatives takes longer than a minute to make.
MOST_TERMS = 3000


def worthwhile(spec: TensorProductSpec) -> bool:
    """Whether machine code for ``spec`` can be made here in reasonable time."""
    return unavailable() is None and len(couplings_of(name_of(spec)).terms) <= MOST_TERMS


class CompiledConvolution(EdgeMatrixConvolution):
    """Gather, product and sum in one loop, in machine code made for this processor (:mod:`.edge_loops`).

    On other devices and in other precisions than float32 and float64 it is the :class:`EdgeMatrixConvolution` it descends from.
    """

    def __init__(self, spec: TensorProductSpec) -> None:
        super().__init__(spec)
        self._product = name_of(spec)

    @property
    def couplings(self) -> Couplings:
        """The couplings that the code runs through."""
        return couplings_of(self._product)

    def forward(
        self,
        node_feats: Float[Tensor, "nodes dim channels"],
        edge_attrs: Float[Tensor, "rows harmonics"],
        weight: Float[Tensor, "rows paths channels"],
        edges: Edges | Int[Tensor, "2 rows"],
    ) -> Float[Tensor, "nodes rows channels"]:
        if not runs_on(node_feats):
            return super().forward(node_feats, edge_attrs, weight, edges)
        edges = as_edges(edges, node_feats.shape[0])
        return forward(node_feats, edge_attrs, weight, edges.index, *edges.incoming, edges.mirrored, self._product)
