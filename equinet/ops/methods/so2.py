"""The edge convolution in the frame of the edge: rotate, act on each order m by itself, rotate back (eSCN)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal

import torch
from e3nn import o3
from jaxtyping import Float, Int
from torch import Tensor

from equinet.ops.constants import ConstantModule
from equinet.ops.coupling.clebsch_gordan import clebsch_gordan
from equinet.ops.devices import made_on_cpu
from equinet.ops.edges import Edges, as_edges, sum_on_nodes
from equinet.ops.kernels.choice import WithKernels
from equinet.ops.kernels.edge.reference import ReferenceConvolution
from equinet.ops.protocols import Convolution, ManyBody, Pair
from equinet.ops.spec import ManyBodySpec, TensorProductSpec

from .arguments import require_role


def supports(spec: TensorProductSpec) -> str | None:
    """None if :class:`SO2Convolution` can compute ``spec``, else the reason why not, in words."""
    filters = [ir for _, ir in spec.irreps_in2]
    if any(ir.p != (-1) ** ir.l for ir in filters) or len(set(filters)) != len(filters):
        return (
            f"`irreps_in2` must be spherical harmonics of one direction, each degree at most once and with parity (-1)^l "
            f"(0e, 1o, 2e, ...), got {spec.irreps_in2}"
        )
    if any(ir.l > 0 for ir in filters) and o3.Irrep("1o") not in filters:
        return f"`irreps_in2` must contain 1o, from which the direction of the edge is read, got {spec.irreps_in2}"
    return None


def rotation_to_pole(direction: Float[Tensor, "3 edges"]) -> Float[Tensor, "3 3 edges"]:
    r"""A rotation that takes each unit vector to e3nn's polar axis, :math:`R \hat r = \hat y`.

    With :math:`s = \pm 1` the sign of :math:`y` and :math:`d = 1 + |y|`

    .. math:: R = \begin{pmatrix} 1 - x^2 / d & -s x & -x z / d \\ x & y & z \\
                  -s x z / d & -z & s (1 - z^2 / d) \end{pmatrix}.

    On the upper half (:math:`s = 1`) it is the shortest rotation to :math:`+\hat y`; on the lower half it is the shortest
    one to :math:`-\hat y`, followed by the half turn about x. No angle is taken and no denominator is below one, so every
    derivative is finite, at the poles as well. The roll about :math:`\hat y` jumps where y changes sign.

    Args:
        direction: Unit vectors, one per column; the length is not checked.

    Returns:
        Rotation matrices, the edges innermost.
    """
    x, y, z = direction.unbind(0)
    sign = torch.where(y >= 0, torch.ones_like(y), -torch.ones_like(y))
    x_d, z_d = x / (1 + sign * y), z / (1 + sign * y)
    entries = [1 - x * x_d, -sign * x, -x * z_d, x, y, z, -sign * x * z_d, -z, sign * (1 - z * z_d)]
    return torch.stack(entries).unflatten(0, (3, 3))


class PolarFrame(ConstantModule):
    r"""The rows :math:`|m| \le` ``max_order`` of the Wigner matrices of :func:`rotation_to_pole`, degree by degree.

    Wigner matrices obey :math:`\sum_{i'j'} D^{l-1}_{ii'} D^1_{jj'} C_{i'j'k'} = \sum_k C_{ijk} D^l_{kk'}`. The row
    :math:`j = 0` of :math:`D^1` is :math:`\hat r` itself and couples :math:`i = m` to :math:`k = m` alone, so each row
    follows from the row of the same order one degree below,

    .. math:: D^l_{m k'} = \frac{1}{C_{m0m}} \sum_{i'j'} D^{l-1}_{m i'} \, \hat r_{j'} \, C_{i'j'k'}, \qquad |m| < l,

    and only where an order begins, :math:`k = \pm l`, the rest of :math:`D^1` is needed:

    .. math:: D^l_{k k'} = (2 l + 1) \sum_{ij} C_{ijk} \sum_{i'j'} D^{l-1}_{i i'} D^1_{j j'} C_{i'j'k'}.

    Args:
        max_degree: Highest degree, 1 or more.
        max_order: Highest order :math:`|m|` that is needed.
    """

    def __init__(self, max_degree: int, max_order: int) -> None:
        super().__init__()
        self.max_degree, self.max_order = max_degree, max_order
        for degree in range(2, max_degree + 1):
            coupling = clebsch_gordan(degree - 1, 1, degree)
            inner = min(degree - 1, max_order)
            up = torch.stack([1 / coupling[degree - 1 + m, 1, degree + m] for m in range(-inner, inner + 1)])
            self.register_constant(f"coupling_{degree}", coupling.flatten(0, 1).T)
            self.register_constant(f"up_{degree}", up[:, None, None])
            if degree <= max_order:  # from the first and last of degree - 1 and of 1 (x and z) to the first and last
                ends = (2 * degree + 1) * coupling[:: 2 * degree - 2, ::2, :: 2 * degree]
                self.register_constant(f"ends_{degree}", ends.flatten(0, 1).T)

    def forward(self, direction: Float[Tensor, "edges 3"]) -> list[Float[Tensor, "edges _orders _dim"]]:
        """``(edges, 2 min(l, max_order) + 1, 2 l + 1)`` for degree 0 to ``max_degree``, m and k' ascending."""
        r = direction.T.contiguous()  # edges innermost: long rows, whatever the degree
        turn = rotation_to_pole(r) if self.max_order > 0 else r.unsqueeze(0)
        degrees = [torch.ones_like(r[:1, None]), turn]
        for degree in range(2, self.max_degree + 1):
            below = degrees[-1]
            pairs = (below * getattr(self, f"up_{degree}")).unsqueeze(2) * r  # (m, i', j', edges)
            if degree <= self.max_order:
                corners = below[:: 2 * degree - 2, None, :, None] * turn[None, ::2, None, :]  # (i, j, i', j', edges)
                ends = (getattr(self, f"ends_{degree}") @ corners.flatten(2).flatten(0, 1)).unflatten(
                    1, pairs.shape[1:]
                )
                pairs = torch.cat([ends[:1], pairs, ends[1:]])
            degrees.append(getattr(self, f"coupling_{degree}") @ pairs.flatten(1, 2))
        # One tensor with the edges first, so that also the second derivatives reach `bmm` with their matrices contiguous.
        flat = torch.cat([rows.flatten(0, 1).T for rows in degrees], dim=1)
        parts = flat.split([rows.shape[0] * rows.shape[1] for rows in degrees], dim=1)
        return [part.unflatten(1, rows.shape[:2]) for part, rows in zip(parts, degrees)]

    def extra_repr(self) -> str:
        return f"l <= {self.max_degree}, |m| <= {self.max_order}"


def polar_basis(
    l1: int, degrees2: list[int], l3: int
) -> tuple[Float[Tensor, "components paths"], Float[Tensor, "paths paths"]]:
    r"""All that the paths of one pair of irreps can do at the pole, in coefficients that act on as few orders as possible.

    Path p of harmonic degree :math:`l_2` makes :math:`z_m = P_{m p} \, x_{\pm m}` with :math:`P_{m p} =
    \sqrt{(2 l_2 + 1)(2 l_3 + 1)} \, C_{\pm m, 0, m}` and :math:`|m| \le \min(l_1, l_3)`. The sign is plus if l1 + l2 + l3
    is even, and then P is even in m (the p of eSCN); it is minus if l1 + l2 + l3 is odd, and then P is odd (its q). The
    columns of P are orthogonal and of one length, :math:`\sqrt{2 l_3 + 1}`. The basis is :math:`B = P T` with the orthogonal
    T for which coefficient n leaves the first n values of :math:`|m|` alone. If all degrees are there that the pair can
    couple with, each coefficient belongs to one :math:`|m|`, as in eSCN; if not, the basis reaches no more than the paths.

    Args:
        l1: Degree of the input.
        degrees2: Degrees of the harmonics of the paths, all even or all odd.
        l3: Degree of the output.

    Returns:
        B, its rows m ascending, and T, which takes the coefficients to weights of the paths; float64.
    """
    sign, inner = (-1) ** (l1 + degrees2[0] + l3), min(l1, l3)
    orders = range(0 if sign > 0 else 1, inner + 1)
    at_pole = [math.sqrt((2 * l2 + 1) * (2 * l3 + 1)) * clebsch_gordan(l1, l2, l3)[:, l2] for l2 in degrees2]
    half = torch.tensor([[c[l1 + sign * m, l3 + m] for c in at_pole] for m in orders], dtype=torch.float64)
    turn, upper = torch.linalg.qr(half.T)
    turn = torch.where(upper.diagonal() < 0, -turn, turn)  # so that the result is the same on every machine
    half = half @ turn
    half[half.abs() < 1e-12] = 0
    middle = half.new_zeros(0 if sign > 0 else 1, len(degrees2))
    return torch.cat([sign * half[len(half) - inner :].flip(0), middle, half]), turn


class SO2Convolution(WithKernels, ConstantModule):
    r"""The edge convolution with all paths into an output summed, computed with each edge laid on the polar axis.

    There every harmonic has the component m = 0 alone, and a coupling is a list of numbers, one per order m. With
    :math:`\tilde x = D(R_e) \, x` the sender's features in that frame, the message of output s is

    .. math:: \tilde z^s_{m c} = \frac{1}{\sqrt{n_s}} \sum_{i_1 n} B^{i_1 s}_{m n} \, w_{n c} \, \tilde x^{i_1}_{\pm m, c},
              \qquad z^s = D(R_e)^{\mathsf T} \tilde z^s, \qquad |m| \le \min(l_1, l_3),

    with B of :func:`polar_basis` and :math:`n_s` the number of paths into s. There are as many weights as paths, and they
    make the very functions that Clebsch-Gordan makes of :meth:`path_weights`. Unit inputs and weights give unit outputs,
    averaged over directions. The result does not depend on the roll of the frame.

    One copy of each output leaves: ``rows`` is the sum of 2 l + 1 over the output irreps, in ascending order.

    Args:
        spec: The product; all its paths are computed, but not kept apart.

    Raises:
        ValueError: If ``irreps_in2`` are not the harmonics of one direction, see :func:`supports`.

    Source:
        Passaro and Zitnick 2023 (eSCN), arXiv 2302.03655, section 3; there each :math:`p_m` and :math:`q_m` is free, here
        only as far as the degrees of ``irreps_in2`` reach.
    """

    pole: Tensor

    def __init__(self, spec: TensorProductSpec) -> None:
        super().__init__()
        if reason := supports(spec):
            raise ValueError(reason)
        self.spec = spec
        self.copies: Mapping[o3.Irrep, int] = dict.fromkeys(spec.paths_per_output, 1)
        self.weight_numel = len(spec.paths)
        filters = [ir for _, ir in spec.irreps_in2]
        has_direction = o3.Irrep("1o") in filters
        self.direction = spec.irreps_in2.slices()[filters.index(o3.Irrep("1o"))] if has_direction else None
        degrees1 = {i1: spec.irreps_in1[i1].ir.l for i1 in sorted({path.i1 for path in spec.paths})}
        max_order = min(max(degrees1.values()), max(out.l for out in self.copies))
        self.register_constant("pole", torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64))
        self.frame = PolarFrame(max(1, *degrees1.values(), *(out.l for out in self.copies)), max_order)
        middles, end = {}, 0  # of each input, where its m = 0 lies among all rows in the frame of the edge
        for i1, l1 in degrees1.items():
            middles[i1] = end + min(l1, max_order)
            end = middles[i1] + min(l1, max_order) + 1
        self.inputs, self.outputs = list(degrees1.items()), list(spec.paths_per_output.items())
        turns = []
        for s, (out, number) in enumerate(self.outputs):
            terms: list[tuple[int, int, int, float]] = []  # weight, row of the input, order of the output, coefficient
            first = 0
            for i1, group in groupby((path for path in spec.paths if path.out == out), key=lambda path: path.i1):
                degrees2 = [filters[path.i2].l for path in group]
                basis, turn = polar_basis(degrees1[i1], degrees2, out.l)
                sign, inner = (-1) ** (degrees1[i1] + degrees2[0] + out.l), min(degrees1[i1], out.l)
                for component, n in basis.nonzero().tolist():
                    m, value = component - inner, basis[component, n].item() / math.sqrt(number)
                    terms.append((first + n, middles[i1] + sign * m, min(out.l, max_order) + m, value))
                turns.append(turn / math.sqrt(number))
                first += len(degrees2)
            weights, rows, orders, values = zip(*terms)
            for name, indices in (("weights", weights), ("rows", rows), ("orders", orders)):
                self.register_constant(f"{name}_{s}", torch.tensor(indices))
            self.register_constant(f"values_{s}", torch.tensor(values, dtype=torch.float64)[:, None])
        ends = [[float(path.out == out) for path in spec.paths] for out in self.copies]
        self._to_paths = torch.tensor(ends, dtype=torch.float64)[:, :, None] * torch.block_diag(*turns)

    def path_weights(
        self, weight: Float[Tensor, "edges paths channels"]
    ) -> Float[Tensor, "edges outputs paths channels"]:
        r"""The weights of :class:`TensorProductSpec` that make each output: it is the sum over paths of their :math:`z^p`.

        For each pair of an input and an output an orthogonal matrix, divided by :math:`\sqrt{n_s}`; zero for the paths that
        end elsewhere.
        """
        return self._to_paths.to(weight) @ weight.unsqueeze(1)

    def forward(
        self,
        node_feats: Float[Tensor, "nodes dim channels"],
        edge_attrs: Float[Tensor, "rows harmonics"],
        weight: Float[Tensor, "rows paths channels"],
        edges: Edges | Int[Tensor, "2 rows"],
    ) -> Float[Tensor, "nodes out channels"]:
        """Sum of the messages on every receiver.

        Of ``edge_attrs`` the components of degree 1 alone are read, as square root of 3 times the direction. On harmonics
        of one direction values and derivatives are those of Clebsch-Gordan; a change of degree 2 by itself changes nothing.
        """
        edges = as_edges(edges, node_feats.shape[0])
        sender, receiver, edge_attrs, weight = edges.unfold(edge_attrs, weight, self.spec.irreps_in2)
        if self.direction is None:  # isotropic filters: any frame will do
            frame = self.frame(self.pole.expand(edge_attrs.shape[0], 3))
        else:
            frame = self.frame(edge_attrs[:, self.direction] / math.sqrt(3))
        x = node_feats.index_select(0, sender).split([ir.dim for _, ir in self.spec.irreps_in1], dim=1)
        polar = torch.cat([torch.bmm(frame[l1], x[i1]) if l1 > 0 else x[i1] for i1, l1 in self.inputs], dim=1)
        weights = weight.split([paths for _, paths in self.outputs], dim=1)
        outputs = []
        for s, (out, _) in enumerate(self.outputs):
            rows = polar.index_select(1, getattr(self, f"rows_{s}"))
            z = weights[s].index_select(1, getattr(self, f"weights_{s}")) * rows
            back = frame[out.l].index_select(1, getattr(self, f"orders_{s}")) * getattr(self, f"values_{s}")
            if out.l == 0:  # one row or one column: `bmm` takes more than twice as long
                z = (back * z).sum(1, keepdim=True)
            elif back.shape[1] == 1:
                z = back.transpose(1, 2) * z
            else:
                z = torch.bmm(back.transpose(1, 2), z)
            outputs.append(sum_on_nodes(z, receiver, node_feats.shape[0]))
        return torch.cat(outputs, dim=1)

    def extra_repr(self) -> str:
        return f"{self.spec}; {self.kernel}"


@dataclass(frozen=True, kw_only=True)
class SO2:
    """The edge convolution in the frame of the edge (eSCN): all paths, each with a weight of its own, summed per output.

    Along the edge only components of equal order m couple, so that a product costs as many operations as a rotation. It needs
    one input to be harmonics of a direction and is no many-body product.

    Args:
        backend: ``"torch"``, ``"reference"`` (the paths one by one, the oracle of tests), or ``"auto"``, at present ``"torch"``.
            Not saved with a model.

    Source:
        Passaro and Zitnick 2023 (eSCN), arXiv 2302.03655.
    """

    backend: Literal["auto", "torch", "reference"] = field(default="auto", metadata={"saved": False})

    def __post_init__(self) -> None:
        if self.backend not in ("auto", "torch", "reference"):
            raise ValueError(f"`backend` must be auto, torch or reference, got {self.backend!r}")

    def supports(self, spec: TensorProductSpec | ManyBodySpec) -> str | None:
        if isinstance(spec, ManyBodySpec):
            return "a frame needs a direction, and features multiplied with themselves have none"
        if spec.pair:
            return "a frame needs a direction, and a second input with channels has as many directions as channels"
        return supports(spec)

    def reached(self, spec: ManyBodySpec) -> set[o3.Irrep]:
        return set()

    @made_on_cpu
    def convolution(self, spec: TensorProductSpec) -> Convolution:
        require_role(spec, pair=False)
        executor = SO2Convolution(spec)
        return ReferenceConvolution(spec, like=executor) if self.backend == "reference" else executor

    def pair(self, spec: TensorProductSpec) -> Pair:
        """Refuse a pair product, whose second input has no one direction.

        Raises:
            ValueError: Always; says why.
        """
        raise ValueError(str(self.supports(spec)))

    def many_body(self, spec: ManyBodySpec) -> ManyBody:
        raise ValueError(str(self.supports(spec)))
