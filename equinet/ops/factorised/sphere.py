"""Functions on the sphere by their values at the points of an exact quadrature rule."""

from __future__ import annotations

import math

import torch
from e3nn import o3
from jaxtyping import Float
from torch import Tensor

from equinet.ops.codegen import tiles
from equinet.ops.constants import ConstantModule
from equinet.ops.coupling.quadrature import SphereRule, gauss_legendre

from .algebra import Pointwise, harmonics_at, parity_letters, sheets_for, spread, surface_gradients
from .chains import Chain, StreamedPowers


def gaunt_algebra(irreps1: o3.Irreps, irreps2: o3.Irreps, irreps_out: o3.Irreps, rule: SphereRule) -> Pointwise:
    r"""Product of functions at the points of ``rule``, exact if that integrates degree l1 + l2 + l3.

    A quadrature rule is an exact CP decomposition of the Gaunt tensor: its terms are the points.

    Source:
        Xie et al. 2025, arXiv 2506.13523 (grid form of the Gaunt product).
    """
    sheets = sheets_for(irreps1, irreps2)
    left, right, out = (
        spread(harmonics_at(rule.points, irreps.lmax), irreps, sheets) for irreps in (irreps1, irreps2, irreps_out)
    )
    return Pointwise(left, right, (out * _measure(rule, sheets)).T)


def bracket_algebra(irreps1: o3.Irreps, irreps2: o3.Irreps, irreps_out: o3.Irreps, rule: SphereRule) -> Pointwise:
    r"""Surface bracket :math:`D_1 F \, D_2 G - D_2 F \, D_1 G` at the points of ``rule``: two terms per point.

    Gradients of each degree are scaled by :math:`1/\sqrt{l(l+1)}`. A bracket of two true fields is a pseudoscalar field, so
    on the second sheet the types of the result change places.

    Source:
        Xie et al. 2025, arXiv 2506.13523 (vector-signal product), for gradients of scalar signals.
    """
    sheets = sheets_for(irreps1, irreps2)
    d1, d2 = surface_gradients(rule.points, max(irreps1.lmax, irreps2.lmax))
    left = torch.cat([spread(d1, irreps1, sheets), spread(d2, irreps1, sheets)])
    right = torch.cat([spread(d2, irreps2, sheets), -spread(d1, irreps2, sheets)])
    return Pointwise(left, right, bracket_projection(irreps_out, rule, sheets).repeat(1, 2))


def bracket_projection(irreps_out: o3.Irreps, rule: SphereRule, sheets: int) -> Float[Tensor, "dim points"]:
    """From a bracket's values to irreps: true tensors come from pseudoscalar fields and the other way round."""
    flipped = o3.Irreps([(1, (ir.l, -ir.p)) for _, ir in irreps_out])
    out = spread(harmonics_at(rule.points, irreps_out.lmax), flipped, sheets)
    return (out * _measure(rule, sheets)).T


def _measure(rule: SphereRule, sheets: int) -> Float[Tensor, "rows 1"]:
    return torch.tensor(rule.weights / (4 * math.pi)).repeat(sheets).unsqueeze(1) / sheets


class BracketChain(ConstantModule, Chain):
    r"""Brackets of two fields, and their pointwise products with further ones: :math:`\{u, v\} v v \ldots`.

    Args:
        irreps_in: Irreps of the fields, one of each.
        irreps_out: Irreps of the result, one of each.
        rule: Points of the form in torch.
        streamed: Points of kernels for GPUs, on which each chain is one kernel; by default torch computes there too.
    """

    is_space = True  # named by `spaces_of`
    to_gradients: Tensor
    to_values: Tensor
    to_out: Tensor

    def __init__(
        self, irreps_in: o3.Irreps, irreps_out: o3.Irreps, rule: SphereRule, streamed: SphereRule | None = None
    ) -> None:
        super().__init__()
        sheets = sheets_for(irreps_in)
        gradients = [spread(part, irreps_in, sheets) for part in surface_gradients(rule.points, irreps_in.lmax)]
        self.register_constant("to_gradients", torch.cat(gradients))
        self.register_constant("to_values", spread(harmonics_at(rule.points, irreps_in.lmax), irreps_in, sheets))
        self.register_constant("to_out", bracket_projection(irreps_out, rule, sheets))
        self.on_gpu = None if streamed is None else bracket_kernels(irreps_in, irreps_out, streamed)
        self.in_kernel = streamed is not None

    def products(self, u: Tensor, v: Tensor, highest: int) -> list[Tensor]:
        if self.on_gpu is not None and tiles.runs_on(u, v):
            result: list[Tensor] = self.on_gpu([u, v], highest)
            return result
        return self.products_in_torch(u, v, highest)

    def products_in_torch(self, u: Tensor, v: Tensor, highest: int) -> list[Tensor]:
        """The products of 2, 3, ... ``highest`` factors by torch, on any device."""
        (u1, u2), (v1, v2) = ((self.to_gradients @ x).chunk(2, dim=1) for x in (u, v))
        product = u1 * v2 - u2 * v1
        results = [self.to_out @ product]
        values = self.to_values @ v
        for _ in range(3, highest + 1):
            product = product * values
            results.append(self.to_out @ product)
        return results

    def __repr__(self) -> str:
        # On one line, as descriptions of models hold it.
        kernels = "" if self.on_gpu is None else f", or {self.on_gpu.extra_repr()}"
        return f"{type(self).__name__}({len(self.to_values)} values{kernels})"


def bracket_kernels(irreps_in: o3.Irreps, irreps_out: o3.Irreps, rule: SphereRule) -> StreamedPowers:
    """Kernels for GPUs that compute the chains of a :class:`BracketChain` on the points of ``rule``."""
    tables = BracketChain(irreps_in, irreps_out, rule).originals
    d1, d2 = tables["to_gradients"].chunk(2)
    values, back = tables["to_values"], tables["to_out"].T
    even, odd = parity_letters(irreps_in), parity_letters(irreps_in, flipped=True)
    # From a point to its opposite the first tangent changes its sign, and so does every derivative.
    letters = [even, odd, odd, even, even, parity_letters(irreps_out)]
    return StreamedPowers("bracket", [d1, d2, d2, -d1, values, back], letters)


class SeparableSphere(Pointwise):
    r"""The same product on a grid of latitudes and longitudes, transformed one angle after the other.

    .. math:: F(\beta_b, \alpha_a) = \sum_m \Big( \sum_l P_{lm}(\beta_b) \, x_{lm} \Big) e_m(\alpha_a)

    Costs grow with the cube of the degree, not with its fourth power as on scattered points; it pays from degree 5 or so.

    Args:
        irreps1: First input, one copy of each irrep.
        irreps2: Second input.
        irreps_out: Result.
        degree: Highest degree that the rule must integrate exactly.
    """

    waves: Tensor
    legendre: Tensor
    weighted: Tensor
    where: Tensor
    _right_values: Tensor

    def __init__(self, irreps1: o3.Irreps, irreps2: o3.Irreps, irreps_out: o3.Irreps, degree: int) -> None:
        rule = gauss_legendre(degree)
        self.latitudes, self.longitudes = degree // 2 + 1, degree + 1
        self.sheets = sheets_for(irreps1, irreps2)
        self._lmax = tuple(irreps.lmax for irreps in (irreps1, irreps2, irreps_out))
        highest = max(self._lmax)
        eyes = [
            spread(torch.eye((lmax + 1) ** 2, dtype=torch.float64), irreps, self.sheets)
            for lmax, irreps in zip(self._lmax, (irreps1, irreps2, irreps_out))
        ]
        super().__init__(eyes[0], eyes[1], eyes[2].T / self.sheets)
        # Of Y_lm(b, a) = P_lm(b) e_m(a) each factor is read off the harmonics themselves; every e_m is 1 or sqrt 2 at its peak.
        grid = harmonics_at(rule.points, highest).unflatten(0, (self.latitudes, self.longitudes))
        alpha = torch.atan2(*(torch.tensor(rule.points[: self.longitudes, axis]) for axis in (0, 2)))
        orders = range(-highest, highest + 1)
        waves = torch.stack(
            [torch.sin(-m * alpha) if m < 0 else torch.cos(m * alpha) for m in orders]
        )  # (2 * highest + 1, longitudes)
        self.register_constant("waves", waves)
        legendre = torch.zeros(2 * highest + 1, self.latitudes, highest + 1, dtype=torch.float64)
        for l in range(highest + 1):
            for m in range(-l, l + 1):
                wave = waves[highest + m]
                legendre[highest + m, :, l] = grid[:, :, l * l + l + m] @ wave / (wave @ wave)
        self.register_constant("legendre", legendre)
        weights = torch.tensor(rule.weights).unflatten(0, (self.latitudes, self.longitudes))[:, 0] / (4 * math.pi)
        self.register_constant("weighted", legendre * weights.unsqueeze(1))
        # where[l * l + l + m]: position in the table of (order m, degree l)
        where = [(highest + m) * (highest + 1) + l for l in range(highest + 1) for m in range(-l, l + 1)]
        self.register_constant("where", torch.tensor(where))
        right = spread(harmonics_at(rule.points, self._lmax[1]), irreps2, self.sheets)
        self.register_constant("_right_values", right)

    def left(self, x: Tensor) -> Tensor:
        return self._values(self.to_left @ x)

    def right(self, y: Tensor) -> Tensor:
        return self._values(self.to_right @ y)

    def _values(self, x: Float[Tensor, "batch coefficients channels"]) -> Float[Tensor, "batch values channels"]:
        x = x.unflatten(1, (self.sheets, -1))
        orders, _, degrees = self.legendre.shape
        table = x.new_zeros(*x.shape[:2], orders * degrees, x.shape[3]).index_copy(2, self.where[: x.shape[2]], x)
        rings = self.legendre @ table.unflatten(2, (orders, degrees))  # (batch, sheets, orders, latitudes, channels)
        return torch.einsum("bsmtc,ma->bstac", rings, self.waves).flatten(1, 3)

    def back(self, product: Tensor) -> Tensor:
        grid = product.unflatten(1, (self.sheets, self.latitudes, self.longitudes))
        rings = torch.einsum("bstac,ma->bsmtc", grid, self.waves)
        table = self.weighted.transpose(1, 2) @ rings  # (batch, sheets, orders, degrees, channels)
        coefficients = table.flatten(2, 3).index_select(2, self.where[: (self._lmax[2] + 1) ** 2])
        return self.to_out @ coefficients.flatten(1, 2)

    @property
    def right_values(self) -> Tensor:
        return self._right_values

    def extra_repr(self) -> str:
        return f"{self.latitudes} latitudes x {self.longitudes} longitudes" + (", 2 sheets" if self.sheets == 2 else "")
