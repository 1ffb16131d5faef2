"""The edge convolution in machine code or generated kernels, as an executor."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from equinet.ops.codegen import llvm, tiles
from equinet.ops.edges import Edges, as_edges
from equinet.ops.spec import TensorProductSpec

from .couplings import Couplings, couplings_of, name_of
from .operator import forward
from .reference import EdgeMatrixConvolution

# With more non-zero couplings the code of all derivatives takes longer than a minute to make.
MOST_TERMS = 3000


def can_run() -> bool:
    """Whether code can be made here at all: for the processor, for a GPU, or both."""
    return None in (llvm.unavailable(), tiles.unavailable())


def worthwhile(spec: TensorProductSpec) -> bool:
    """Whether code for ``spec`` can be made here in reasonable time, for the processor or for a GPU."""
    return can_run() and len(couplings_of(name_of(spec)).terms) <= MOST_TERMS


class GeneratedConvolution(EdgeMatrixConvolution):
    """Gather, product and sum in one loop: in machine code made for this processor (:mod:`.edge_loops`), in kernels on CUDA
    (:mod:`.edge_tiles`).

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
    ) -> Float[Tensor, "nodes out channels"]:
        if not (llvm.runs_on(node_feats) or tiles.runs_on(node_feats)):
            return super().forward(node_feats, edge_attrs, weight, edges)
        edges = as_edges(edges, node_feats.shape[0])
        return forward(node_feats, edge_attrs, weight, edges.index, *edges.incoming, edges.mirrored, self._product)
