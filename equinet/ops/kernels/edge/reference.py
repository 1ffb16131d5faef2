"""The edge convolution: gather the sender's features, multiply by the edge, sum on the receiver."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from e3nn import o3
from jaxtyping import Float, Int
from torch import Tensor

from equinet.ops.constants import ConstantModule
from equinet.ops.coupling.clebsch_gordan import clebsch_gordan
from equinet.ops.edges import Edges, as_edges, sum_on_nodes
from equinet.ops.kernels.choice import REFERENCE, TORCH, KernelChoice, WithKernels
from equinet.ops.protocols import Convolution
from equinet.ops.spec import TensorProductSpec


def paths_apart(weight: Float[Tensor, "edges paths channels"]) -> Float[Tensor, "edges slots paths channels"]:
    """Path weights of a convolution that keeps every path apart: slot p holds path p alone."""
    return torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device).unsqueeze(2) * weight.unsqueeze(1)


class ReferenceConvolution(WithKernels, ConstantModule):
    r"""The formula of :class:`TensorProductSpec` path by path, summed on receivers. The oracle of tests.

    Args:
        spec: Specification of the product.
        like: An executor whose result is to be computed; by default every path is kept apart. Slot s of the result is

            .. math:: z^{s} = \sum_p \mathrm{path\_weights}(w)_{s p} \; z^{p}

            with :math:`z^p` the path's own product, for whatever ``like.path_weights`` says.
    """

    kernels = REFERENCE

    def __init__(self, spec: TensorProductSpec, like: Convolution | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.copies = spec.paths_per_output if like is None else like.copies
        self.weight_numel = len(spec.paths) if like is None else like.weight_numel
        self.like = like  # a module within this one, so that its constants have the same precision
        self._slots = slot_rows(self.copies)
        for n, path in enumerate(spec.paths):
            l1, l2 = spec.irreps_in1[path.i1].ir.l, spec.irreps_in2[path.i2].ir.l
            coupling = math.sqrt(path.out.dim) * clebsch_gordan(l1, l2, path.out.l)
            self.register_constant(f"coupling_{n}", coupling)

    def forward(
        self,
        node_feats: Float[Tensor, "nodes dim channels"],
        edge_attrs: Float[Tensor, "rows harmonics"],
        weight: Float[Tensor, "rows weights channels"],
        edges: Edges | Int[Tensor, "2 rows"],
    ) -> Float[Tensor, "nodes out channels"]:
        edges = as_edges(edges, node_feats.shape[0])
        sender, receiver, edge_attrs, weight = edges.unfold(edge_attrs, weight, self.spec.irreps_in2)
        x = node_feats[sender].split([ir.dim for _, ir in self.spec.irreps_in1], dim=1)
        y = edge_attrs.split([ir.dim for _, ir in self.spec.irreps_in2], dim=1)
        if self.like is None:  # slots are the paths in order
            weights = [{n: column} for n, column in enumerate(weight.unbind(1))]
        else:
            weights = [dict(enumerate(slot.unbind(1))) for slot in self.path_weights(weight).unbind(1)]
        slots: list[list[Tensor]] = [[] for _ in self._slots]
        for n, path in enumerate(self.spec.paths):
            z = torch.einsum("ijk,eic,ej->ekc", getattr(self, f"coupling_{n}"), x[path.i1], y[path.i2])
            for slot, (ir, _) in enumerate(self._slots):
                if ir == path.out and n in weights[slot]:
                    slots[slot].append(z * weights[slot][n].unsqueeze(1))
        messages = torch.cat([torch.stack(terms).sum(0) if len(terms) > 1 else terms[0] for terms in slots], dim=1)
        rows = torch.tensor([row for _, rows in self._slots for row in rows], device=messages.device)
        return sum_on_nodes(messages.index_select(1, rows.argsort()), receiver, node_feats.shape[0])

    def path_weights(self, weight: Tensor) -> Tensor:
        return paths_apart(weight) if self.like is None else self.like.path_weights(weight)

    def extra_repr(self) -> str:
        return f"{self.spec}; {self.kernel}"


def slot_rows(copies: Mapping[o3.Irrep, int]) -> list[tuple[o3.Irrep, list[int]]]:
    """Every copy of every output irrep ("slot") in order, with the rows of a result that hold its components.

    Rows are grouped by irrep; within one the component is slow and the copy fast (:class:`TensorProductSpec`).
    """
    slots, before = [], 0
    for ir, count in copies.items():
        slots += [(ir, [before + k * count + copy for k in range(ir.dim)]) for copy in range(count)]
        before += ir.dim * count
    return slots


class EdgeMatrixConvolution(WithKernels, ConstantModule):
    r"""The same convolution with the couplings contracted with the harmonics first.

    For each edge and output degree the small matrix

    .. math:: M^{e}_{k p, i} = \sqrt{2 l_3 + 1} \sum_j C^p_{ijk} \, y^{e}_j

    is shared by all channels; one batched matrix product with the sender's features gives every path into that degree,
    and the radial weights multiply it by broadcasting. Two to three times fewer operations than path by path.

    Args:
        spec: Specification of the product.
        kernels: Request that torch answers, with the reason if that was ``"auto"``; shown by ``repr``.
    """

    def __init__(self, spec: TensorProductSpec, kernels: KernelChoice = TORCH) -> None:
        super().__init__()
        self.spec, self.kernels = spec, kernels
        self.copies = spec.paths_per_output
        self.weight_numel = len(spec.paths)
        dim1 = spec.irreps_in1.dim // spec.channels
        starts1 = [part.start // spec.channels for part in spec.irreps_in1.slices()]
        starts2 = [part.start for part in spec.irreps_in2.slices()]
        self.columns: list[tuple[int, int]] = []  # of each output: its components and its paths
        for k, (out, paths) in enumerate(spec.paths_per_output.items()):
            table = torch.zeros(spec.irreps_in2.dim, out.dim, paths, dim1, dtype=torch.float64)
            for p, path in enumerate(path for path in spec.paths if path.out == out):
                ir1, ir2 = spec.irreps_in1[path.i1].ir, spec.irreps_in2[path.i2].ir
                block = math.sqrt(out.dim) * clebsch_gordan(ir1.l, ir2.l, out.l).permute(1, 2, 0)
                s1, s2 = starts1[path.i1], starts2[path.i2]
                table[s2 : s2 + ir2.dim, :, p, s1 : s1 + ir1.dim] = block
            self.register_constant(f"table_{k}", table.flatten(1))
            self.columns.append((out.dim, paths))

    def forward(
        self,
        node_feats: Float[Tensor, "nodes dim channels"],
        edge_attrs: Float[Tensor, "rows harmonics"],
        weight: Float[Tensor, "rows paths channels"],
        edges: Edges | Int[Tensor, "2 rows"],
    ) -> Float[Tensor, "nodes out channels"]:
        num_nodes, dim1, _ = node_feats.shape
        edges = as_edges(edges, num_nodes)
        sender, receiver, edge_attrs, weight = edges.unfold(edge_attrs, weight, self.spec.irreps_in2)
        x = node_feats.index_select(0, sender)
        weights = weight.split([paths for _, paths in self.columns], dim=1)
        outputs = []
        for k, (components, paths) in enumerate(self.columns):
            matrix = (edge_attrs @ getattr(self, f"table_{k}")).unflatten(1, (components * paths, dim1))
            message = torch.bmm(matrix, x).unflatten(1, (components, paths)) * weights[k].unsqueeze(1)
            outputs.append(sum_on_nodes(message, receiver, num_nodes).flatten(1, 2))
        return torch.cat(outputs, dim=1)

    def path_weights(self, weight: Tensor) -> Tensor:
        return paths_apart(weight)

    def extra_repr(self) -> str:
        return f"{self.spec}; {self.kernel}"
