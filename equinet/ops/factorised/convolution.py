"""The edge convolution of every factorised product, over any :mod:`algebra`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from e3nn import o3
from jaxtyping import Float, Int
from torch import Tensor, nn

from equinet.ops.constants import ConstantModule
from equinet.ops.coupling.clebsch_gordan import clebsch_gordan
from equinet.ops.edges import Edges, as_edges, sum_on_nodes
from equinet.ops.kernels.choice import TORCH, KernelChoice, WithKernels
from equinet.ops.kernels.edge.reference import slot_rows
from equinet.ops.spec import TensorProductSpec

from .algebra import Algebra
from .generated import look_again
from .generated_convolution import CouplingCode

RadialWeights = Literal["shared", "filter", "degrees"]


class FactorisedConvolution(WithKernels, ConstantModule):
    r"""Neighbours' features times an edge's filter, multiplied in an algebra, summed there, and taken back once per node.

    .. math:: z^{r}_i = \mathrm{back} \Big( \sum_j c^{r} \; \mathrm{left}(a^{r} x_j) * \mathrm{right}(b^{r} y_{ij}) \Big),
              \qquad r = 1 \ldots \mathrm{copies}

    Weights of a copy, per edge and channel: ``"shared"``: one number for all paths; ``"filter"``: one per degree of the
    harmonics, :math:`b_{l_2}`; ``"degrees"``: one per irrep of all three, :math:`a_{l_1} b_{l_2} c_{l_3}`.

    On a sphere or torus the values of harmonics of one direction are zonal functions, one row of numbers per degree shared
    by all channels, so the filter needs no transform (Luo et al. 2024, arXiv 2401.10216, section 3.3).

    That is its form in torch. With generated code it computes the same by the entries of the algebra's tensor
    (:class:`~.generated_convolution.CouplingCode`), where ``kernels`` says so.

    Args:
        spec: Couplings asked for.
        algebra: Product from ``irreps_in1`` and ``irreps_in2`` to ``outputs``.
        outputs: The distinct outputs of ``spec`` that the algebra reaches, in order.
        weights: See above.
        copies: R, the rank of the family of path weights.
        kernels: Choice between torch and generated code.
        generate: True if there is to be generated code.

    Raises:
        ValueError: If code is to be generated and the constants of ``algebra`` are trained, which code does not see. In a call,
            if ``kernels`` demands generated code and there is none for the device or precision.
    """

    one: Tensor

    def __init__(
        self,
        spec: TensorProductSpec,
        algebra: Algebra,
        outputs: o3.Irreps,
        *,
        weights: RadialWeights,
        copies: int,
        kernels: KernelChoice = TORCH,
        generate: bool = False,
    ) -> None:
        super().__init__()
        self.spec, self.algebra, self.weights, self.rank = spec, algebra, weights, copies
        self.copies = {out: copies for _, out in outputs}
        self._parts = {
            "shared": (0, 1, 0),
            "filter": (0, len(spec.irreps_in2), 0),
            "degrees": (len(spec.irreps_in1), len(spec.irreps_in2), len(self.copies)),
        }[weights]
        self.weight_numel = copies * sum(self._parts)
        self._rows1 = [ir.dim for _, ir in spec.irreps_in1]
        self._rows_out = [out.dim for out in self.copies]
        # one[j, part] is 1 where component j of the harmonics is multiplied by that part of the weights
        one = torch.zeros(spec.irreps_in2.dim, len(spec.irreps_in2), dtype=torch.float64)
        for n, part in enumerate(spec.irreps_in2.slices()):
            one[part, n] = 1
        self.register_constant("one", one.sum(1, keepdim=True) if weights == "shared" else one)
        self.kernels = kernels
        self.code = CouplingCode(algebra, spec, self.copies, copies, weights) if generate else None
        if self.code is not None:
            # What a model's file may change: the factors of a CP decomposition.
            self.register_load_state_dict_post_hook(look_again)

    def forward(
        self,
        node_feats: Float[Tensor, "nodes dim channels"],
        edge_attrs: Float[Tensor, "rows harmonics"],
        weight: Float[Tensor, "rows weights channels"],
        edges: Edges | Int[Tensor, "2 rows"],
    ) -> Float[Tensor, "nodes out channels"]:
        nodes = node_feats.shape[0]
        edges = as_edges(edges, nodes)
        if self.code is not None and self.code.is_ready(self.algebra) and self.kernels.takes(node_feats):
            return self.code(node_feats, edge_attrs, self._by_part(weight).flatten(1, 2), edges)
        sender, receiver, edge_attrs, weight = edges.unfold(edge_attrs, weight, self.spec.irreps_in2)
        a, b, c = weight.unflatten(1, (self.rank, -1)).split(self._parts, dim=2)  # (edges, copies, parts, channels)
        by_degree = (self.algebra.right_values.T.to(self.one.dtype).unsqueeze(2) * self.one.unsqueeze(1)).flatten(1)
        filters = (edge_attrs @ by_degree).unflatten(1, (-1, b.shape[2]))  # (edges, values, degrees)
        v = torch.bmm(filters, b.transpose(1, 2).flatten(2)).unflatten(2, b.shape[1::2])
        if self.weights != "degrees":
            u = self.algebra.left(node_feats).index_select(0, sender).unsqueeze(2)
            summed = sum_on_nodes(self.algebra.multiply(u, v), receiver, nodes)  # (nodes, values, copies, channels)
            return self._back(summed).flatten(1, 2)
        u = self._left_by_irrep(node_feats).index_select(0, sender).unsqueeze(3)  # (edges, irreps, values, 1, channels)
        u = (u * a.transpose(1, 2).unsqueeze(2)).sum(1)
        product = self.algebra.multiply(u, v)
        outputs = []
        for k, factor in enumerate(c.unbind(2)):
            summed = sum_on_nodes(product * factor.unsqueeze(1), receiver, nodes)
            outputs.append(self._back(summed).split(self._rows_out, dim=1)[k].flatten(1, 2))
        return torch.cat(outputs, dim=1)

    def _by_part(self, weight: Tensor) -> Float[Tensor, "rows copies parts channels"]:
        """Weight of each part of the tensor."""
        a, b, c = weight.unflatten(1, (self.rank, -1)).split(self._parts, dim=2)
        if self.weights == "filter":
            return b
        if self.weights == "shared":
            return b.expand(-1, -1, len(self.spec.irreps_in2), -1)
        product = a[:, :, :, None, None] * b[:, :, None, :, None] * c[:, :, None, None, :]
        return product.flatten(2, 4)

    def _back(self, summed: Tensor) -> Float[Tensor, "nodes dim copies channels"]:
        return self.algebra.back(summed.flatten(2)).unflatten(2, summed.shape[2:])

    def _left_by_irrep(self, x: Tensor) -> Float[Tensor, "nodes irreps values channels"]:
        parts, before = [], 0
        for rows in self._rows1:
            alone = torch.zeros_like(x)
            alone[:, before : before + rows] = x[:, before : before + rows]
            parts.append(self.algebra.left(alone))
            before += rows
        return torch.stack(parts, dim=1)

    def strengths(self) -> Float[Tensor, " paths"]:
        """Strength of every path in the algebra's tensor; the squares of those into one output add to one."""
        return strengths_of(self.spec, self.algebra, list(self.copies))

    def path_weights(self, weight: Tensor) -> Float[Tensor, "edges slots paths channels"]:
        strengths = self.strengths().to(weight)
        a, b, c = weight.unflatten(1, (self.rank, -1)).split(self._parts, dim=2)
        slots = [(out, copy) for out in self.copies for copy in range(self.rank)]
        result = weight.new_zeros(weight.shape[0], len(slots), len(self.spec.paths), weight.shape[2])
        for s, (out, r) in enumerate(slots):
            for p, path in enumerate(self.spec.paths):
                if path.out != out:
                    continue
                value = b[:, r, 0 if self.weights == "shared" else path.i2] * strengths[p]
                if self.weights == "degrees":
                    value = value * a[:, r, path.i1] * c[:, r, list(self.copies).index(out)]
                result[:, s, p] = value
        return result

    def extra_repr(self) -> str:
        copies = f", {self.rank} copies" if self.rank > 1 else ""
        return f"{self.spec}; {self.weights} weights{copies}; {self.kernel}"


def strengths_of(spec: TensorProductSpec, algebra: Algebra, outputs: list[o3.Irrep]) -> Float[Tensor, " paths"]:
    """Strength of every path of ``spec`` in the tensor of an algebra to one copy of each of the ``outputs``."""
    tensor = algebra.dense()
    starts = [
        [part.start for part in o3.Irreps([(1, ir) for ir in irreps]).slices()]
        for irreps in ([ir for _, ir in spec.irreps_in1], [ir for _, ir in spec.irreps_in2], outputs)
    ]
    found = []
    for path in spec.paths:
        if path.out not in outputs:
            found.append(tensor.new_zeros(()))
            continue
        l1, l2 = spec.irreps_in1[path.i1].ir.l, spec.irreps_in2[path.i2].ir.l
        coupling = clebsch_gordan(l1, l2, path.out.l).to(tensor)
        block = tensor
        for axis, start in enumerate((starts[0][path.i1], starts[1][path.i2], starts[2][outputs.index(path.out)])):
            block = block.narrow(axis, start, coupling.shape[axis])
        found.append((block * coupling).sum() / math.sqrt(path.out.dim))
    return torch.stack(found)


class JoinedConvolution(nn.Module):
    """Several executors side by side: their copies of each output irrep together, their weights one after the other."""

    _row_order: Tensor

    def __init__(self, spec: TensorProductSpec, parts: Sequence[FactorisedConvolution]) -> None:
        super().__init__()
        self.spec = spec
        self.parts = nn.ModuleList(parts)
        self._numels = [part.weight_numel for part in parts]
        self.weight_numel = sum(self._numels)
        self.copies = {
            out: sum(part.copies.get(out, 0) for part in parts)
            for out in spec.paths_per_output
            if any(out in part.copies for part in parts)
        }
        # Rows and slots of the parts, one after the other, in the order of the whole.
        slots = [
            (list(self.copies).index(ir), n)
            for n, ir in enumerate(ir for part in parts for ir, _ in slot_rows(part.copies))
        ]
        self._slot_order = [n for _, n in sorted(slots)]
        before, rows = 0, []
        for part in parts:
            here = slot_rows(part.copies)
            rows += [[before + row for row in slot] for _, slot in here]
            before += sum(len(slot) for _, slot in here)
        order = [0] * before
        for (_, target), n in zip(slot_rows(self.copies), self._slot_order):
            for to, source in zip(target, rows[n]):
                order[to] = source
        self.register_buffer("_row_order", torch.tensor(order), persistent=False)

    @property
    def kernel(self) -> str:
        """Kernel of each part, in one line; see :class:`~equinet.ops.kernels.choice.WithKernels`."""
        parts: list[FactorisedConvolution] = list(self.parts)  # type: ignore[arg-type]  # a list of modules
        return " and ".join(dict.fromkeys(part.kernel for part in parts))

    def forward(self, node_feats: Tensor, edge_attrs: Tensor, weight: Tensor, edges: Edges | Tensor) -> Tensor:
        weights = weight.split(self._numels, dim=1)
        results = [part(node_feats, edge_attrs, w, edges) for part, w in zip(self.parts, weights)]
        return torch.cat(results, dim=1).index_select(1, self._row_order)

    def path_weights(self, weight: Tensor) -> Tensor:
        weights = weight.split(self._numels, dim=1)
        parts: list[FactorisedConvolution] = list(self.parts)  # type: ignore[arg-type]  # a list of modules
        found = torch.cat([part.path_weights(w) for part, w in zip(parts, weights)], dim=1)
        return found[:, self._slot_order]
