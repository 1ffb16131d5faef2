"""Real coupling coefficients of O(3), in float64."""

from __future__ import annotations

from functools import cache

import torch
from e3nn import o3
from jaxtyping import Float
from torch import Tensor

from equinet.ops.devices import made_on_cpu

# Degrees beyond this are not tabulated by e3nn.
MAX_TABULATED_DEGREE = 11


@cache
@made_on_cpu
def _wigner_3j(l1: int, l2: int, l3: int) -> Tensor:
    return o3.wigner_3j(l1, l2, l3, dtype=torch.float64)


def clebsch_gordan(l1: int, l2: int, l3: int) -> Float[Tensor, "2*{l1}+1 2*{l2}+1 2*{l3}+1"]:
    r"""Real coupling tensor of :math:`l_1 \otimes l_2 \to l_3` with unit Frobenius norm.

    The components of each degree are in e3nn's order (degree 1 is x, y, z). Multiplied by :math:`\sqrt{2 l_3 + 1}`
    it takes unit-variance inputs to unit-variance outputs.

    Args:
        l1: Degree of the first input.
        l2: Degree of the second input.
        l3: Degree of the output, ``|l1 - l2| <= l3 <= l1 + l2``.

    Returns:
        A fresh float64 tensor; the caller may change it.

    Raises:
        ValueError: If the three degrees do not form a triangle, or one is above 11.

    Source:
        e3nn ``o3.wigner_3j`` in the sign convention of e3nn >= 0.5 (cuequivariance's ``O3`` divided by sqrt(2 l3 + 1)).
    """
    if not abs(l1 - l2) <= l3 <= l1 + l2:
        raise ValueError(f"degrees {l1} and {l2} couple to {abs(l1 - l2)}..{l1 + l2}, not to {l3}")
    if max(l1, l2, l3) > MAX_TABULATED_DEGREE:
        raise ValueError(f"degrees above {MAX_TABULATED_DEGREE} are not tabulated; got {l1}, {l2}, {l3}")
    return _wigner_3j(l1, l2, l3).clone()
