"""MACE's U tensors: every way to couple nu ordered copies of one feature vector into an irrep, from our own couplings."""

from __future__ import annotations

from functools import cache
from typing import Literal

import numpy as np
import torch
from e3nn import o3
from jaxtyping import Float
from torch import Tensor

from equinet.ops.coupling.clebsch_gordan import clebsch_gordan
from equinet.ops.coupling.polynomials import monomials

WignerSigns = Literal["0.4.4", "0.6"]
"""Versions of e3nn that differ in the signs of their Wigner 3j tensors; mace-torch pins the older."""

# No coefficient that is not zero is smaller than 1e-4, up to degree 11.
ZERO = 1e-9
MAX_CORRELATION = 4


def u_matrix(
    irreps_in: o3.Irreps, ir_out: o3.Irrep, correlation: int, *, signs: WignerSigns = "0.4.4"
) -> Float[Tensor, "..."]:
    r"""MACE's U tensor of one output irrep and one number of factors, from full (not reduced) couplings.

    Factor after factor is coupled to what those before it gave, :math:`(\ldots((l_1 \otimes l_2) \to L_2) \otimes l_3 \ldots) \to l`,
    and every such chain is a column. The chains are more than the functions: U holds all orders of the factors.

    Args:
        irreps_in: Irreps of the features, each once, in order; multiplicities are ignored.
        ir_out: Irrep of the product.
        correlation: Number of factors nu, 1 to 4. Four are coupled through true tensors only (0e, 1o, 2e, ...), as in MACE.
        signs: Version of e3nn whose Wigner 3j tensors to follow.

    Returns:
        ``(2l + 1, variables, ..., variables, columns)`` with nu axes of variables, without the first axis for scalars,
        float64; one column of zeros where nothing couples to ``ir_out``.

    Raises:
        ValueError: If there are less than two variables, or ``correlation`` is out of range.

    Source:
        mace-torch 0.3.16, ``U_matrix_real(..., use_cueq_cg=False)``: order of columns and normalisation.
    """
    irreps = o3.Irreps([(1, ir) for _, ir in irreps_in])
    if irreps.dim < 2:
        raise ValueError(
            f"`irreps_in` is {irreps}, but MACE has no U tensor of a single variable; take harmonics up to 1"
        )
    if not 1 <= correlation <= MAX_CORRELATION:
        raise ValueError(f"`correlation` must be 1 to {MAX_CORRELATION}, got {correlation}")
    columns = [tensor for ir, tensor in _chains(irreps, correlation, ir_out, signs) if ir == ir_out]
    if not columns:
        columns = [torch.zeros(ir_out.dim, *[irreps.dim] * correlation, dtype=torch.float64)]
    u = torch.stack(columns, dim=-1)
    return u[0] if ir_out.dim == 1 else u


def symmetrized(
    u: Float[Tensor, "components ordered columns"], variables: int, correlation: int
) -> Float[Tensor, "components monomials columns"]:
    """U's columns as polynomials: what U computes is the sum over all orders of the factors.

    Args:
        u: A U tensor with its axes of variables flattened, ``ordered = variables ** correlation``.
        variables: Number of variables.
        correlation: Number of factors.

    Returns:
        Coefficients of the monomials in the order of :func:`equinet.ops.coupling.polynomials.monomials`.
    """
    index_of = {row: n for n, row in enumerate(map(tuple, monomials(variables, correlation).tolist()))}
    ordered = np.sort(np.indices((variables,) * correlation).reshape(correlation, -1).T, axis=1)
    target = torch.tensor([index_of[row] for row in map(tuple, ordered.tolist())])
    return u.new_zeros(u.shape[0], len(index_of), u.shape[2]).index_add(1, target, u)


def wigner_3j(l1: int, l2: int, l3: int, *, signs: WignerSigns) -> Float[Tensor, "2*{l1}+1 2*{l2}+1 2*{l3}+1"]:
    """:func:`equinet.ops.coupling.clebsch_gordan.clebsch_gordan` in the signs of a version of e3nn."""
    coupling = clebsch_gordan(l1, l2, l3)
    return coupling * _sign_in_old_e3nn(l1, l2, l3) if signs == "0.4.4" else coupling


@cache
def _sign_in_old_e3nn(l1: int, l2: int, l3: int) -> int:
    """The sign by which e3nn 0.4.4 differs from 0.6 and from cuequivariance.

    Only odd sums of degrees differ. There the older tables make the first coefficient that is not zero positive when the
    degrees ascend, and the other orders follow by the symmetry of Wigner 3j symbols, which both versions have. Found by
    comparing all couplings up to degree 11, 870 in number, of which 188 have the other sign: (1, 2, 2), (1, 3, 3), (1, 4, 4),
    (3, 4, 6), (4, 4, 5) are the first.
    """
    if (l1 + l2 + l3) % 2 == 0:
        return 1
    first = next(value for value in clebsch_gordan(*sorted((l1, l2, l3))).flatten().tolist() if abs(value) > ZERO)
    return 1 if first > 0 else -1


def _chains(
    irreps: o3.Irreps, factors: int, ir_out: o3.Irrep, signs: WignerSigns
) -> list[tuple[o3.Irrep, Float[Tensor, "_dim ..."]]]:
    """Couplings of ``factors`` copies of ``irreps`` to irreps that can still reach ``ir_out``, in MACE's order.

    Irreps ascend; within one, chains are in the order of those of one factor less, and then of ``irreps``.
    """
    return _grown(irreps, factors, ir_out.l, only_true=factors == MAX_CORRELATION, signs=signs)


def _grown(
    irreps: o3.Irreps, factors: int, reach: int, *, only_true: bool, signs: WignerSigns
) -> list[tuple[o3.Irrep, Tensor]]:
    if factors == 1:
        eye = torch.eye(irreps.dim, dtype=torch.float64)
        return [(ir, eye[part]) for part, (_, ir) in zip(irreps.slices(), irreps)]
    found = []
    for ir_left, left in _grown(irreps, factors - 1, reach + irreps.lmax, only_true=only_true, signs=signs):
        for part, (_, ir) in zip(irreps.slices(), irreps):
            for result in ir_left * ir:
                if result.l > reach or (only_true and result.p != (-1) ** result.l):
                    continue
                coupling = wigner_3j(result.l, ir_left.l, ir.l, signs=signs) * result.dim**0.5
                tensor = left.new_zeros(result.dim, *left.shape[1:], irreps.dim)
                tensor[..., part] = torch.einsum("ijk,j...->i...k", coupling, left)
                found.append((result, tensor))
    return sorted(found, key=lambda item: item[0])
