"""Numbers of equivariant polynomials and of their terms, counted before any is made."""

from __future__ import annotations

from functools import cache

import numpy as np
from e3nn import o3
from numpy.typing import NDArray

from equinet.ops.layout import one_of_each


def count_covariants(irreps_in: o3.Irreps, degree: int, ir: o3.Irrep) -> int:
    """Number of independent equivariant polynomials of :func:`.polynomials.covariants` in an irrep.

    Products of order l less those of order l + 1, as every irrep of degree l and above has one component of order l.

    Args:
        irreps_in: Irreps of the variables; multiplicities are ignored.
        degree: Number of factors.
        ir: Irrep of the values.
    """
    return _monomials(irreps_in, degree, ir.l, ir.p) - _monomials(irreps_in, degree, ir.l + 1, ir.p)


def count_terms(irreps_in: o3.Irreps, degree: int, ir: o3.Irrep) -> int:
    """Number of products of ``degree`` variables that add to the components of an irrep, with components of definite order.

    With real components there are up to twice as many.
    """
    return sum(_monomials(irreps_in, degree, order, ir.p) for order in range(-ir.l, ir.l + 1))


def _monomials(irreps_in: o3.Irreps, degree: int, order: int, parity: int) -> int:
    table = _tables(one_of_each(irreps_in), degree)[degree]
    middle = table.shape[1] // 2
    return int(table[0 if parity > 0 else 1, middle + order]) if abs(order) <= middle else 0


@cache
def _tables(irreps: o3.Irreps, degree: int) -> NDArray[np.int64]:
    """``(degree + 1, 2, orders)``: monomials of each number of factors by parity (even, odd) and sum of orders."""
    middle = degree * irreps.lmax
    table = np.zeros((degree + 1, 2, 2 * middle + 1), dtype=np.int64)
    table[0, 0, middle] = 1
    for _, ir in irreps:
        for order in range(-ir.l, ir.l + 1):  # one variable more, to any power
            for nu in range(1, degree + 1):
                table[nu] += np.roll(table[nu - 1] if ir.p > 0 else table[nu - 1, ::-1], order, axis=1)
    return table
