"""Equivariance error of an executor, measured on random rotations and inputs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from e3nn import o3
from jaxtyping import Float
from torch import Tensor, nn

from equinet.ops.coupling.rotations import wigner_matrices
from equinet.ops.factorised.algebra import harmonics_at
from equinet.ops.methods.cp import CPTerms
from equinet.ops.methods.so2 import supports as why_no_direction
from equinet.ops.spec import ManyBodySpec, TensorProductSpec, highest_degree
from equinet.ops.species import SpeciesGroups

# Rotations and inputs over which the error is averaged.
SAMPLES = 32


def equivariance_error(executor: Any, spec: TensorProductSpec | ManyBodySpec, dtype: torch.dtype) -> float:
    r"""Mean of :math:`\|T(D x, D y) - D\,T(x, y)\| / \|D\,T(x, y)\|` over random D, x, y and weights; always the same ones.

    Every second D is a rotation, every other a rotation with an inversion. Where the second input may be the harmonics of one
    direction, it is that. Only the executor computes in ``dtype``; rotations and differences are float64.

    Args:
        executor: A convolution, a pair product or a many-body product in ``dtype``.
        spec: Specification of the product.
        dtype: Its precision.
    """
    draw = np.random.RandomState(0)

    def random(*shape: int) -> Tensor:
        return torch.from_numpy(draw.standard_normal(shape))

    turn = RandomTurns(random(SAMPLES, 3, 3), highest_degree(spec))
    each = torch.arange(SAMPLES)
    weights = random(SAMPLES, executor.weight_numel, spec.channels).to(dtype)
    if isinstance(spec, ManyBodySpec):
        irreps, out = spec.irreps_in, [(1, ir) for _, ir in spec.irreps_out]
        filters, weights = o3.Irreps([]), weights[: spec.species]
        groups = SpeciesGroups(each % len(weights))
    else:
        copies = spec.copies if spec.pair else executor.copies
        irreps, out = spec.irreps_in1, [(count, ir) for ir, count in copies.items()]
        filters = spec.irreps_in2
    pair = isinstance(spec, TensorProductSpec) and spec.pair
    x = random(SAMPLES, irreps.dim // spec.channels, spec.channels)
    y = random(SAMPLES, filters.dim // spec.channels, spec.channels) if pair else random(SAMPLES, filters.dim, 1)
    if isinstance(spec, TensorProductSpec) and not pair and why_no_direction(spec) is None:
        direction = torch.nn.functional.normalize(random(SAMPLES, 3), dim=1).numpy()
        values = harmonics_at(direction, filters.lmax)
        y = torch.cat([values[:, ir.l**2 : (ir.l + 1) ** 2] for _, ir in filters], dim=1).unsqueeze(2)

    def product(x: Tensor, y: Tensor) -> Tensor:
        if isinstance(spec, ManyBodySpec):
            return executor(x.to(dtype), weights, groups).double()
        if pair:
            return executor(x.to(dtype), y.to(dtype), weights).double()
        return executor(x.to(dtype), y.squeeze(2).to(dtype), weights, torch.stack([each, each])).double()

    with torch.no_grad():
        expected = turn(product(x, y), out)
        turned = turn(x, [(1, ir) for _, ir in irreps]), turn(y, [(1, ir) for _, ir in filters])
        error = product(*turned) - expected
    return float((error.flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)).mean())


class RandomTurns:
    """Orthogonal matrices, one per sample, every other with an inversion, and how they act on irreps."""

    def __init__(self, matrices: Float[Tensor, "samples 3 3"], max_degree: int) -> None:
        rotations = torch.linalg.qr(matrices)[0]
        rotations = rotations * rotations.det().sign()[:, None, None]
        self.wigner = wigner_matrices(rotations, max_degree)
        self.inverted = torch.arange(len(rotations)) % 2 == 1

    def __call__(
        self, x: Float[Tensor, "samples rows channels"], copies: Iterable[tuple[int, o3.Irrep]]
    ) -> Float[Tensor, "samples rows channels"]:
        """Rows are grouped by irrep, the component slow and the copy fast."""
        rows, start = [x[:, :0]], 0
        for count, ir in copies:
            block = x[:, start : start + ir.dim * count].unflatten(1, (ir.dim, count))
            turned = torch.einsum("sij,sjuc->siuc", self.wigner[ir.l], block).flatten(1, 2)
            rows.append(torch.where(self.inverted[:, None, None], ir.p * turned, turned))
            start += ir.dim * count
        return torch.cat(rows, dim=1)


def tensor_error(executor: nn.Module) -> float | None:
    r"""Largest :math:`\|\hat T - T\| / \|T\|` (Frobenius) of the CP decompositions in ``executor``; None without any."""
    found = []
    for terms in executor.modules():
        if isinstance(terms, CPTerms):
            exact = torch.from_numpy(terms.exact())
            scale: Tensor = terms.row_scale  # type: ignore[assignment]
            with torch.no_grad():
                found.append(float((terms.dense() / scale - exact).norm() / exact.norm()))
    return max(found) if found else None
