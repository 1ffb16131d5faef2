r"""Spaces in which multiplication is cheap, and the way there and back: the second primitive of the package.

.. math:: z = C^T \big( (A x) * (B y) \big)

A and B take irreps to values (on points of a sphere or of a torus, to matrices, to the terms of a CP decomposition), ``*``
multiplies value by value, C takes the result back. The derivative of such a product is such a product with the constants
exchanged. Two inputs and their product may be of both types, true tensors (parity :math:`(-1)^l`) and pseudotensors: a
field on the sphere is the sum of a scalar and a pseudoscalar field :math:`F_\pm`, and products of sums and of differences
:math:`F_+ \pm F_-` ("sheets") give both types with two multiplications instead of four.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import numpy as np
import torch
from e3nn import o3
from jaxtyping import Float
from torch import Tensor

from equinet.ops.constants import ConstantModule
from equinet.ops.coupling.clebsch_gordan import clebsch_gordan
from equinet.ops.harmonics import SphericalHarmonics
from equinet.ops.layout import is_true


class Algebra(ConstantModule):
    """A product of two inputs, as constants.

    ``left`` and ``right`` take ``(batch, dim, channels)`` to ``(batch, values, channels)``, ``multiply`` takes two of these
    (broadcasting over any further axes after the second) to one, and ``back`` takes it to ``(batch, dim_out, channels)``.
    """

    is_space = True  # named by `spaces_of`
    to_left: Tensor
    to_right: Tensor
    to_out: Tensor

    def __init__(
        self,
        to_left: Float[Tensor, "left dim1"],
        to_right: Float[Tensor, "right dim2"],
        to_out: Float[Tensor, "dim_out back"],
    ) -> None:
        super().__init__()
        self.register_constant("to_left", to_left)
        self.register_constant("to_right", to_right)
        self.register_constant("to_out", to_out)

    def left(self, x: Tensor) -> Tensor:
        return self.to_left @ x

    def right(self, y: Tensor) -> Tensor:
        return self.to_right @ y

    @abstractmethod
    def multiply(self, u: Tensor, v: Tensor) -> Tensor:
        """The product of values."""

    def back(self, product: Tensor) -> Tensor:
        return self.to_out @ product

    @property
    def right_values(self) -> Float[Tensor, "values dim2"]:
        """``right`` as a matrix."""
        return self.to_right

    def scale_out(self, factors: Float[Tensor, " dim_out"]) -> None:
        """Multiply every component of the result by a constant, once and for all."""
        self.register_constant("to_out", self.originals["to_out"] * factors.unsqueeze(1))

    def dense(self) -> Float[Tensor, "dim1 dim2 dim_out"]:
        """The tensor that this algebra realises, from its own constants: for tests, strengths and error figures."""
        left = torch.eye(self.to_left.shape[1], dtype=self.to_left.dtype, device=self.to_left.device)
        u, v = self.left(left.unsqueeze(0)), self.right_values.unsqueeze(0)  # (1, values, dim)
        product = self.multiply(u.unsqueeze(3), v.unsqueeze(2)).flatten(2)  # (1, values, dim1 * dim2)
        return self.back(product)[0].unflatten(1, (u.shape[2], v.shape[2])).permute(1, 2, 0)

    @property
    def values(self) -> int:
        """Numbers per channel in the space of the product."""
        return self.right_values.shape[0]


class Pointwise(Algebra):
    """Values multiply one by one: points of a sphere, terms of a CP decomposition."""

    def multiply(self, u: Tensor, v: Tensor) -> Tensor:
        return u * v

    def extra_repr(self) -> str:
        return f"{self.values} values"


def parity_signs(irreps: o3.Irreps, sheets: int) -> Float[Tensor, "sheets irreps"]:
    """Sign of each irrep on a sheet: one sheet has true tensors only; on the second of two, pseudotensors count negative."""
    true = torch.tensor([float(is_true(ir)) for _, ir in irreps], dtype=torch.float64)
    return true.unsqueeze(0) if sheets == 1 else torch.stack([torch.ones_like(true), 2 * true - 1])


def sheets_for(*inputs: o3.Irreps) -> int:
    """One, or two where any input holds pseudotensors."""
    return 1 if all(is_true(ir) for irreps in inputs for _, ir in irreps) else 2


def parity_letters(irreps: o3.Irreps, *, flipped: bool = False) -> str:
    """For every component ``e`` where the harmonic of its degree is even under inversion, ``o`` where odd; or the reverse."""
    return "".join("eo"[(ir.l + flipped) % 2] * ir.dim for _, ir in irreps)


def spread(values: Float[Tensor, "points harmonics"], irreps: o3.Irreps, sheets: int) -> Float[Tensor, "rows dim"]:
    """Columns of ``values`` (all degrees side by side) for one copy of each irrep, one block of rows per sheet."""
    signs = parity_signs(irreps, sheets)
    columns = [values[:, ir.l**2 : (ir.l + 1) ** 2] for _, ir in irreps]
    return torch.cat([torch.cat([s * c for s, c in zip(row.tolist(), columns)], dim=1) for row in signs])


def harmonics_at(points: np.ndarray, max_degree: int) -> Float[Tensor, "points harmonics"]:
    """Harmonics of unit vectors, component normalised, in float64."""
    return SphericalHarmonics(max_degree).double()(torch.tensor(points, dtype=torch.float64))


def surface_gradients(points: np.ndarray, max_degree: int) -> Float[Tensor, "2 points harmonics"]:
    r"""Two tangential components of the gradient of each harmonic, scaled by :math:`1/\sqrt{l(l+1)}`, in float64.

    The frame at each point is any pair of unit vectors that is right-handed with the outward normal.
    """
    normal = torch.tensor(points, dtype=torch.float64)
    helper = torch.eye(3, dtype=torch.float64)[normal.abs().argmin(dim=1)]
    first = torch.linalg.cross(helper, normal)
    first = first / first.norm(dim=1, keepdim=True)
    second = torch.linalg.cross(normal, first)
    harmonics = SphericalHarmonics(max_degree).double()
    parts = []
    for tangent in (first, second):
        # The polynomials are harmonic functions of the unit vector extended off the sphere; along a tangent that does not matter.
        parts.append(torch.func.jvp(harmonics, (normal,), (tangent,))[1])
    degrees = torch.tensor([l for l in range(max_degree + 1) for _ in range(2 * l + 1)], dtype=torch.float64)
    return torch.stack(parts) / torch.where(degrees > 0, degrees * (degrees + 1), 1.0).sqrt()


class Matrices(Algebra):
    r"""Irreps as square matrices and their product.

    .. math:: X_{ab} = \sqrt{(2\tilde l+1)(2l+1)} \sum_m C^{\tilde l \tilde l l}_{abm} \, x_m

    Even and odd parity are two matrices :math:`X_\pm`; with :math:`S = X_+ + X_-` and :math:`D = X_+ - X_-` the product of
    given parity is :math:`(S S' \pm D D') / 2`.

    Args:
        irreps1: First input, one copy of each irrep.
        irreps2: Second input.
        irreps_out: Result.

    Source:
        Unke and Maennel 2024 (e3x), arXiv 2401.07595, fused tensor layers; the couplings are 6j symbols.
    """

    def __init__(self, irreps1: o3.Irreps, irreps2: o3.Irreps, irreps_out: o3.Irreps) -> None:
        highest = max(irreps.lmax for irreps in (irreps1, irreps2, irreps_out))
        self.degree = math.ceil(highest / 2)
        self.size = 2 * self.degree + 1
        # The number 1 becomes the unit matrix, so that 1 times x is x.
        one = math.sqrt(self.size)
        super().__init__(
            one * self._matrices(irreps1), one * self._matrices(irreps2), self._matrices(irreps_out).T / (2 * one)
        )

    def _matrices(self, irreps: o3.Irreps) -> Tensor:
        """Rows: sheet, row and column of the matrix. Columns: components of the irreps."""
        blocks = []
        for _, ir in irreps:
            block = math.sqrt(ir.dim) * clebsch_gordan(self.degree, self.degree, ir.l).flatten(0, 1)
            blocks.append(torch.cat([block, ir.p * block]))
        return torch.cat(blocks, dim=1)

    def multiply(self, u: Tensor, v: Tensor) -> Tensor:
        u, v = (m.unflatten(1, (2, self.size, self.size)) for m in (u, v))
        terms = (u[:, :, :, k].unsqueeze(3) * v[:, :, k].unsqueeze(2) for k in range(self.size))
        product = next(terms)
        for term in terms:
            product = product + term
        return product.flatten(1, 3)

    def extra_repr(self) -> str:
        return f"2 matrices {self.size} x {self.size}"
