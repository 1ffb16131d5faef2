"""Real coupling coefficients of O(3) of any degree, in float64."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from equinet.ops.devices import made_on_cpu

from .wigner import complex_coupling


def clebsch_gordan(l1: int, l2: int, l3: int) -> Float[Tensor, "2*{l1}+1 2*{l2}+1 2*{l3}+1"]:
    r"""Real coupling tensor of :math:`l_1 \otimes l_2 \to l_3` with unit Frobenius norm.

    The components of each degree are in e3nn's order (degree 1 is x, y, z). Multiplied by :math:`\sqrt{2 l_3 + 1}`
    it takes unit-variance inputs to unit-variance outputs. Coefficients are right to rounding at any degree, and what a
    selection rule forbids is exactly zero.

    Args:
        l1: Degree of the first input.
        l2: Degree of the second input.
        l3: Degree of the output, ``|l1 - l2| <= l3 <= l1 + l2``.

    Returns:
        A fresh float64 tensor; the caller may change it.

    Raises:
        ValueError: If the three degrees do not form a triangle.

    Source:
        Signs and order of e3nn >= 0.5, ``o3.wigner_3j`` (cuequivariance's ``O3`` divided by sqrt(2 l3 + 1)).
    """
    if not abs(l1 - l2) <= l3 <= l1 + l2:
        raise ValueError(f"degrees {l1} and {l2} couple to {abs(l1 - l2)}..{l1 + l2}, not to {l3}")
    return _real_coupling(l1, l2, l3).clone()


@cache
@made_on_cpu
def _real_coupling(l1: int, l2: int, l3: int) -> Tensor:
    found = np.zeros((2 * l1 + 1, 2 * l2 + 1, 2 * l3 + 1), dtype=complex)
    flip = (-1) ** (l1 + l2 - l3)
    for m1 in range(l1 + 1):
        for m2 in range(-l2 if m1 else 0, l2 + 1):
            m3 = m1 + m2
            if abs(m3) <= l3:
                value = complex_coupling(l1, l2, l3, m1, m2)
                # The mirror image has the same digits, so that what cancels below leaves no rounding behind.
                found[l1 - m1, l2 - m2, l3 - m3] = flip * value
                found[l1 + m1, l2 + m2, l3 + m3] = value
    for axis, conjugate in enumerate((False, False, True)):
        found = np.moveaxis(_in_real_basis(np.moveaxis(found, axis, 0), conjugate), 0, axis)
    return torch.from_numpy(np.ascontiguousarray(found.real) / math.sqrt(2 * l3 + 1))


def _in_real_basis(values: Complex[np.ndarray, "_order _m _n"], conjugate: bool) -> Complex[np.ndarray, "_order _m _n"]:
    r"""Sum over complex components of the first axis into real ones.

    In e3nn's basis :math:`y_{\mp m} = (-i)^l (Y_m \pm i\,Y_{-m}) / \sqrt2`, the upper line with :math:`(-1)^m` for the one of
    positive order, where Y with negative order are the sines. The factor :math:`(-i)^l` makes every coupling real.
    """
    degree = len(values) // 2
    unit = -1j if conjugate else 1j
    orders = np.arange(degree, 0, -1)
    sign = ((-1.0) ** orders).reshape(-1, *[1] * (values.ndim - 1))
    below, above = values[:degree], sign * values[:degree:-1]  # of order -degree, ..., -1 and of degree, ..., 1
    sines, cosines = unit * (above - below) * math.sqrt(0.5), (below + above) * math.sqrt(0.5)
    return (-unit) ** degree * np.concatenate([sines, values[degree : degree + 1], cosines[::-1]])
