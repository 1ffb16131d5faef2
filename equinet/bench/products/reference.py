"""Reference results for the check before timing: the formulas, term by term, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from equinet.ops.coupling.clebsch_gordan import clebsch_gordan
from equinet.ops.kernels.node.reference import ReferenceManyBody
from equinet.ops.kernels.pair.reference import ReferencePair
from equinet.ops.layout import one_of_each
from equinet.ops.spec import ManyBodySpec, TensorProductSpec
from equinet.ops.species import SpeciesGroups


def convolution(spec: TensorProductSpec, x: Tensor, y: Tensor, weight: Tensor, edge_index: Tensor) -> Tensor:
    """:class:`TensorProductSpec` path by path, on a graph, every path with its weight.

    The same as :class:`equinet.ops.kernels.edge.reference.ReferenceConvolution`, which also does what mixes paths and therefore visits every
    pair of paths: too slow for hundreds of them.

    Args:
        spec: The product.
        x: Features ``(nodes, dim, channels)``.
        y: Second input ``(edges, dim2)``.
        weight: ``(edges, paths, channels)``.
        edge_index: ``(2, edges)``.

    Returns:
        ``(nodes, rows, channels)``.
    """
    sender, receiver = edge_index
    parts1 = x.index_select(0, sender).split([ir.dim for _, ir in spec.irreps_in1], dim=1)
    parts2 = y.split([ir.dim for _, ir in spec.irreps_in2], dim=1)
    messages, rows = [], []
    for n, path in enumerate(spec.paths):
        l1, l2 = spec.irreps_in1[path.i1].ir.l, spec.irreps_in2[path.i2].ir.l
        coupling = (math.sqrt(path.out.dim) * clebsch_gordan(l1, l2, path.out.l)).to(x)
        matrix = torch.einsum("ijk,ej->eki", coupling, parts2[path.i2])
        messages.append(torch.bmm(matrix, parts1[path.i1]) * weight[:, n : n + 1])
        rows += spec.row_of(n)
    order = torch.tensor(rows, device=x.device).argsort()
    result = x.new_zeros(x.shape[0], len(rows), x.shape[2])
    return result.index_add(0, receiver, torch.cat(messages, dim=1).index_select(1, order))


def pair(spec: TensorProductSpec, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """The pair product path by path, in the dtype of ``x``, ``(rows, dim, channels)``; ``weight`` is ``(weights, channels)``."""
    result: Tensor = ReferencePair(spec).to(x)(x, y, weight)
    return result


def same_polynomials(spec: ManyBodySpec, evaluate: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the matrix that expresses another library's polynomials by ours, if they span the same space.

    Args:
        spec: The product.
        evaluate: Features of one channel ``(samples, dim)`` to all polynomials ``(polynomials, samples, out)``, float64.

    Returns:
        ``(ours, theirs)``: our weights are this matrix times theirs.

    Raises:
        ValueError: If theirs are no combinations of ours, or reach less.
    """
    one = _one_channel(spec)
    ours = _reference(one)
    count = ours.weight_numel
    draw = torch.Generator().manual_seed(0)
    variables = one.irreps_in.dim
    x = torch.randn(2 * count + 8, variables, dtype=torch.float64, generator=draw)
    each = torch.arange(count).repeat_interleave(len(x))
    values = ours(
        x.repeat(count, 1).unsqueeze(2), torch.eye(count, dtype=torch.float64).unsqueeze(2), SpeciesGroups(each)
    )
    table = values.view(count, -1).T
    theirs = evaluate(x).flatten(1).T
    change: Tensor = torch.linalg.lstsq(table, theirs).solution
    left = float((table @ change - theirs).norm() / theirs.norm())
    if not left < 1e-9:
        raise ValueError(f"its polynomials are no combinations of ours: {left:.1e} of them is left over")
    if (rank := int(torch.linalg.matrix_rank(change))) < count:
        raise ValueError(f"its polynomials reach {rank} dimensions of {count}")
    return change


def _one_channel(spec: ManyBodySpec) -> ManyBodySpec:
    return ManyBodySpec(one_of_each(spec.irreps_in), one_of_each(spec.irreps_out), spec.correlation, 1)


@lru_cache(maxsize=4)
def _reference(spec: ManyBodySpec) -> ReferenceManyBody:
    return ReferenceManyBody(spec).double()
