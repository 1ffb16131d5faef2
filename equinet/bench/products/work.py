r"""Least operations and bytes of a problem: the rule behind the fractions of a roofline.

**Operations** count 1 for a multiplication and 1 for an addition. They are the *useful* ones: those a fused kernel cannot leave
out, so that a contender that multiplies zeros does not look busy.

- Exact couplings, per pair: the couplings are contracted with the second input once for all channels, 2 for every coefficient that
  is not zero; then for every channel 2 for every element of the path's matrix (2 l1 + 1) x (2 l3 + 1) that is not zero
  everywhere, and min(2 l1 + 1, 2 l3 + 1) for the path's weight. With few channels it is 3 for every coefficient and channel, if
  that is less.
- Pair products with exact couplings, per row and channel: one multiplication for every product of two components that occurs, 2 for
  every coefficient that is not zero, and 2 for every component of a path, for its weight and its sum.
- Many-body products with exact couplings, per node and channel: one multiplication for every monomial of degree 2 or more that
  occurs, and 2 for every component and monomial whose coefficient is not zero. Weights multiplied into coefficients, once per
  species, are not counted.
- Methods that compute another function, by the rule of :mod:`equinet.ops.analysis.cost`: their matrices as they are.

Forward and backward together count 3 times the forward pass, with double backward 9 times: a reverse pass takes twice the
operations of what it differentiates.

**Bytes**: every input of a pass is read once and every output written once, in the dtype that is measured, indices included.
Forward: leaves in, result out. Backward adds: leaves and cotangent in, gradients out. Double backward adds: leaves, cotangent and
second cotangents in, second gradients out. Features that several edges gather count once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from equinet.ops.coupling.clebsch_gordan import clebsch_gordan
from equinet.ops.coupling.polynomials import covariants
from equinet.ops.spec import ManyBodySpec, TensorProductSpec

from .passes import OPERATIONS

NONZERO = 1e-10


def useful_flops(spec: TensorProductSpec | ManyBodySpec) -> float:
    """Operations of the forward pass with exact couplings: per pair, or per node, all channels.

    >>> useful_flops(TensorProductSpec("64x0e+64x1o", "0e+1o+2e+3o", "0e+1o+2e+3o")) // 64  # 172 and, shared, 172 / 64
    174.0
    """
    if isinstance(spec, ManyBodySpec):
        return _of_polynomials(spec)
    return _of_pairs(spec) if spec.pair else _of_paths(spec)


def _of_pairs(spec: TensorProductSpec) -> float:
    products = {(path.i1, path.i2): 0 for path in spec.paths}
    coefficients = components = 0
    for path in spec.paths:
        l1, l2 = spec.irreps_in1[path.i1].ir.l, spec.irreps_in2[path.i2].ir.l
        there = clebsch_gordan(l1, l2, path.out.l).abs() > NONZERO
        coefficients += int(there.sum())
        components += path.out.dim
        products[path.i1, path.i2] = (2 * l1 + 1) * (2 * l2 + 1)
    return float(spec.channels * (sum(products.values()) + 2 * coefficients + 2 * components))


def _of_paths(spec: TensorProductSpec) -> float:
    coefficients = matrices = weights = 0
    for path in spec.paths:
        l1, l2 = spec.irreps_in1[path.i1].ir.l, spec.irreps_in2[path.i2].ir.l
        there = clebsch_gordan(l1, l2, path.out.l).abs() > NONZERO
        coefficients += int(there.sum())
        matrices += int(there.any(dim=1).sum())
        weights += min(2 * l1 + 1, path.out.dim)
    shared = 2.0 * coefficients + spec.channels * (2 * matrices + weights)
    return min(shared, float(spec.channels * (3 * coefficients + weights)))


def _of_polynomials(spec: ManyBodySpec) -> float:
    terms = products = 0
    for nu in range(1, spec.correlation + 1):
        found = covariants(spec.irreps_in, nu, spec.irreps_out.lmax)
        tables = [np.abs(found[ir].coefficients).max(axis=0) > NONZERO for _, ir in spec.irreps_out if ir in found]
        if tables:
            there = np.concatenate(tables)  # (components of all outputs, monomials)
            terms += int(there.sum())
            products += int(there.any(axis=0).sum()) if nu > 1 else 0
    return float(spec.channels * (2 * terms + products))


def least_bytes(leaves: Sequence[Tensor], result: Tensor, indices: int) -> dict[str, int]:
    """Return the bytes of each pass.

    Args:
        leaves: Differentiated inputs.
        result: Result of the forward pass.
        indices: Bytes of indices, read in every pass.
    """
    inputs, output = sum(t.numel() * t.element_size() for t in leaves), result.numel() * result.element_size()
    forward = inputs + output + indices
    backward = forward + 2 * inputs + output + indices
    double = backward + 3 * inputs + output + indices
    return {"forward": forward, "backward": backward, "double": double}


def of_passes(flops: float | None) -> dict[str, float | None]:
    """Operations of each pass from those of the forward pass."""
    return {name: None if flops is None else times * flops for name, times in OPERATIONS.items()}


def index_bytes(index: Tensor | None) -> int:
    """Return the bytes of 64-bit indices."""
    return 0 if index is None else index.numel() * torch.int64.itemsize
