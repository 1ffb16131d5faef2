"""Convolutions of factorised products by their coupling tensor, in the code of exact couplings."""

from __future__ import annotations

import copy
from typing import Any

from e3nn import o3
from jaxtyping import Float, Int
from torch import Tensor

from equinet.ops.codegen import llvm, tiles
from equinet.ops.edges import Edges, as_edges
from equinet.ops.kernels.edge.couplings import Couplings, remember
from equinet.ops.kernels.edge.executor import MOST_TERMS, can_run
from equinet.ops.kernels.edge.operator import forward
from equinet.ops.kernels.edge.reference import slot_rows
from equinet.ops.spec import TensorProductSpec

from .algebra import Algebra
from .convolution import FactorisedConvolution


class GeneratedFactorised(FactorisedConvolution):
    r"""The same product by the entries of its tensor that are not zero, without the way to the algebra and back:

    .. math:: z^{r}_k = \sum_{l_2} b^{r}_{l_2} \sum_i T^{l_2}_{ik} \, x_i, \qquad T^{l_2}_{ik} = \sum_{j \in l_2} t_{ijk} \, y_j

    Gather, product and sum over neighbours are one loop (:mod:`.edge_loops`, :mod:`.edge_tiles`). T is shared by all channels, and
    an edge has one weight per degree and copy where exact couplings have one per path, which is what a GPU waits for. Up to
    degree 4 or so that costs less than the values on a grid.

    On other devices and in other precisions than float32 and float64 it is the :class:`FactorisedConvolution` it descends from.

    Attributes:
        couplings: What the code runs through.

    Raises:
        ValueError: If the algebra's constants are trained, of which code knows nothing.
    """

    couplings: Couplings
    _product: str | None

    def __init__(self, spec: TensorProductSpec, algebra: Algebra, outputs: o3.Irreps, **arguments: Any) -> None:
        if any(True for _ in algebra.parameters()):
            raise ValueError('`backend` "generated" has no form for factors that are trained; take "auto" or "torch"')
        super().__init__(spec, algebra, outputs, **arguments)
        # What a model's file may change: the factors of a CP decomposition.
        self._names = list(algebra.state_dict())
        self.register_load_state_dict_post_hook(_look_again)
        self._look()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if self._product is not None:  # which another process has not heard of
            remember(self.couplings)

    def _look(self) -> None:
        """Take the couplings from the algebra as it is now."""
        self._seen = [(each, each._version) for each in self._constants()]
        tensor = copy.deepcopy(self.algebra).double().cpu().dense()
        self.couplings = self._couplings_of(tensor)
        # Factors that a file is still to bring are no numbers yet.
        self._product = remember(self.couplings) if tensor.isfinite().all() else None

    def _constants(self) -> list[Tensor]:
        return [self.algebra.get_buffer(name) for name in self._names]

    def _changed(self) -> bool:
        """Whether constants are others than were looked at; what stands for them while torch traces does not count."""
        return any(
            type(each) is Tensor and (each is not before or each._version != version)
            for each, (before, version) in zip(self._constants(), self._seen)
        )

    def _couplings_of(self, tensor: Float[Tensor, "dim1 dim2 dim_out"]) -> Couplings:
        spec, everything = self.spec, slice(None)
        ends = {}
        for name, irreps in (("in1", spec.irreps_in1), ("in2", spec.irreps_in2), ("out", self.copies)):
            dims = [ir.dim for ir in irreps] if name == "out" else [ir.dim for _, ir in irreps]
            ends[name] = [slice(sum(dims[:n]), sum(dims[: n + 1])) for n in range(len(dims))]
        if self.weights == "degrees":
            parts = [(a, b, c) for a in ends["in1"] for b in ends["in2"] for c in ends["out"]]
        else:
            parts = [(everything, part, everything) for part in ends["in2"]]
        slots = slot_rows(self.copies)
        outputs = [
            [row for n, (_, rows) in enumerate(slots) if n % self._copies == copy for row in rows]
            for copy in range(self._copies)
        ]
        return Couplings.of_tensor(spec, tensor, parts, outputs)

    def forward(
        self,
        node_feats: Float[Tensor, "nodes dim channels"],
        edge_attrs: Float[Tensor, "rows harmonics"],
        weight: Float[Tensor, "rows weights channels"],
        edges: Edges | Int[Tensor, "2 rows"],
    ) -> Float[Tensor, "nodes out channels"]:
        if self._names and self._changed():
            self._look()
        if self._product is None or not (llvm.runs_on(node_feats) or tiles.runs_on(node_feats)):
            return super().forward(node_feats, edge_attrs, weight, edges)
        edges = as_edges(edges, node_feats.shape[0])
        weight = self._by_part(weight).flatten(1, 2)
        return forward(node_feats, edge_attrs, weight, edges.index, *edges.incoming, edges.mirrored, self._product)

    def _by_part(self, weight: Tensor) -> Float[Tensor, "rows copies parts channels"]:
        """A weight for each part of the tensor."""
        a, b, c = weight.unflatten(1, (self._copies, -1)).split(self._parts, dim=2)
        if self.weights == "filter":
            return b
        if self.weights == "shared":
            return b.expand(-1, -1, len(self.spec.irreps_in2), -1)
        product = a[:, :, :, None, None] * b[:, :, None, :, None] * c[:, :, None, None, :]
        return product.flatten(2, 4)


def _look_again(module: Any, _: Any) -> None:
    """When a module's constants came from a file."""
    module._look()


def worthwhile(spec: TensorProductSpec, algebra: Algebra) -> bool:
    """Whether code for a product by its tensor can be made here in reasonable time; not if its constants are trained."""
    if any(True for _ in algebra.parameters()) or not can_run():
        return False
    # Not `> 1e-9`: factors that a file is still to bring are no numbers yet, and count.
    return int((~(algebra.dense().abs() <= 1e-9)).sum()) <= MOST_TERMS
