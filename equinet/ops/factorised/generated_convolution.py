"""Convolutions of factorised products by their coupling tensor, in the code of exact couplings."""

from __future__ import annotations

from collections.abc import Mapping

from e3nn import o3
from jaxtyping import Float
from torch import Tensor

from equinet.ops.edges import Edges
from equinet.ops.kernels.choice import unavailable
from equinet.ops.kernels.edge.couplings import Couplings, remember
from equinet.ops.kernels.edge.cpu import ENTRIES_OF_A_LOOP, SECONDS
from equinet.ops.kernels.edge.executor import slow_to_generate, too_slow
from equinet.ops.kernels.edge.operator import forward
from equinet.ops.kernels.edge.reference import slot_rows
from equinet.ops.spec import TensorProductSpec

from .algebra import Algebra
from .generated import TensorCode

MANY_ENTRIES = 20_000


class CouplingCode(TensorCode):
    r"""Generated code for a factorised product by the non-zero entries of its tensor, without the way to the algebra and back.

    .. math:: z^{r}_k = \sum_{l_2} b^{r}_{l_2} \sum_i T^{l_2}_{ik} \, x_i, \qquad T^{l_2}_{ik} = \sum_{j \in l_2} t_{ijk} \, y_j

    Gather, product and sum over neighbours are one loop (:mod:`equinet.ops.kernels.edge`). T is shared by all channels, and an edge
    has one weight per degree and copy where exact couplings have one per path, which is what a GPU waits for. Up to degree 4 or so
    that costs less than the values on a grid.

    Args:
        algebra: The product, from ``irreps_in1`` and ``irreps_in2`` of ``spec`` to ``outputs``.
        spec: Irreps of features and harmonics.
        outputs: Copies of each output irrep.
        copies: Copies of the product, each with weights of its own.
        weights: Sharing of weights, see :class:`.convolution.FactorisedConvolution`.

    Raises:
        ValueError: If the constants of ``algebra`` are trained, which code does not see.
    """

    couplings: Couplings

    def __init__(
        self, algebra: Algebra, spec: TensorProductSpec, outputs: Mapping[o3.Irrep, int], copies: int, weights: str
    ) -> None:
        self._spec, self._outputs, self._copies, self._weights = spec, outputs, copies, weights
        super().__init__(algebra)

    def __call__(
        self,
        node_feats: Float[Tensor, "nodes dim channels"],
        edge_attrs: Float[Tensor, "rows harmonics"],
        weight: Float[Tensor, "rows parts channels"],
        edges: Edges,
    ) -> Float[Tensor, "nodes out channels"]:
        """Sum of the products on every receiver; ``weight`` has one row for each copy and part of the tensor."""
        return forward(node_feats, edge_attrs, weight, edges.index, *edges.incoming, edges.mirrored, self.product)

    def _remember(self) -> str:
        return remember(self.couplings)

    def _couplings_of(self, tensor: Float[Tensor, "dim1 dim2 dim_out"]) -> Couplings:
        spec, everything = self._spec, slice(None)
        ends = {}
        for name, irreps in (("in1", spec.irreps_in1), ("in2", spec.irreps_in2), ("out", self._outputs)):
            dims = [ir.dim for ir in irreps] if name == "out" else [ir.dim for _, ir in irreps]
            ends[name] = [slice(sum(dims[:n]), sum(dims[: n + 1])) for n in range(len(dims))]
        if self._weights == "degrees":
            parts = [(a, b, c) for a in ends["in1"] for b in ends["in2"] for c in ends["out"]]
        else:
            parts = [(everything, part, everything) for part in ends["in2"]]
        slots = slot_rows(self._outputs)
        outputs = [
            [row for n, (_, rows) in enumerate(slots) if n % self._copies == copy for row in rows]
            for copy in range(self._copies)
        ]
        return Couplings.of_tensor(spec, tensor, parts, outputs)


def why_not_generated(
    algebra: Algebra, spec: TensorProductSpec, outputs: o3.Irreps, copies: int, weights: str
) -> str | None:
    """Reason why ``backend="auto"`` makes no code here for a product by its tensor; None if it does.

    Args:
        algebra, spec, weights: As of :class:`CouplingCode`.
        outputs: Irreps that it reaches.
        copies: Copies of each.
    """
    if any(True for _ in algebra.parameters()):
        return "factors that are trained have no generated code"
    if (reason := unavailable()) is not None:
        return reason
    # Not `> 1e-9`: factors that a file is still to bring are no numbers yet, and count.
    entries = copies * int((~(algebra.dense().abs() <= 1e-9)).sum())
    if entries > MANY_ENTRIES:  # to list them alone takes a while
        return too_slow(SECONDS * ENTRIES_OF_A_LOOP**0.5 * entries)
    copies_of = dict.fromkeys((out for _, out in outputs), copies)
    return slow_to_generate(CouplingCode(algebra, spec, copies_of, copies, weights).couplings)
