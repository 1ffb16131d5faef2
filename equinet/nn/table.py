"""Functions of the distance from a table, for models whose weights stay as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from equinet.ops.constants import FRESH_DTYPE, ConstantModule
from equinet.ops.tracing import is_traced

# Closer atoms than this (in Å) are refused as being on one spot. The radial basis is smooth down to zero, but 0 / 0 there.
START = 1e-3

# Where sizes are measured, in Å: no bond is shorter, and what a network says of shorter ones may be of any size.
SHORTEST_BOND = 0.5

# Intervals to begin with and to give up at.
FEWEST, MOST = 16, 8192

# Where within an interval the polynomial is compared: in the middle, where its error is largest, where its gradient's is
# (5 t² - 5 t + 1 = 0), and elsewhere.
PLACES = (0.1, 0.27639320225, 0.5, 0.72360679775, 0.9)

# Functions of t that are 1 in f, h f' or h² f'' at t = 0 or t = 1 and 0 in the five others: powers of t in columns.
HERMITE = (
    (1.0, 0.0, 0.0, -10.0, 15.0, -6.0),
    (0.0, 1.0, 0.0, -6.0, 8.0, -3.0),
    (0.0, 0.0, 0.5, -1.5, 1.5, -0.5),
    (0.0, 0.0, 0.0, 10.0, -15.0, 6.0),
    (0.0, 0.0, 0.0, -4.0, 7.0, -3.0),
    (0.0, 0.0, 0.0, 0.5, -1.0, 0.5),
)

Function = Callable[[Tensor], Tensor]


class RadialTable(ConstantModule):
    r"""A smooth function of the distance, vanishing at the cutoff, as a piecewise polynomial of degree five.

    At equidistant knots :math:`r_n = r_0 + n h` it has value and first two derivatives of the function, so that it and
    its first two derivatives are continuous. With :math:`t = (r - r_n) / h`

    .. math::
        p(r) &= \sum_{a=0}^{2} h^a \left[ H_a(t) f^{(a)}(r_n) + (-1)^a H_a(1 - t) f^{(a)}(r_{n+1}) \right], \\
        H_0 &= (1 - t)^3 (1 + 3 t + 6 t^2), \quad H_1 = t (1 - t)^3 (1 + 3 t), \quad H_2 = \tfrac12 t^2 (1 - t)^3, \\
        |f - p| &\le \frac{h^6}{46080} \max |f^{(6)}|.

    From the cutoff on it is exactly zero. Derivatives of any order are those of :math:`p`; the table itself is not learned.
    Below :math:`r_0` the first polynomial goes on, which is as good there, because :math:`r_0` is a small part of an
    interval; atoms that close are refused as being on one spot anyway.

    Args:
        values: ``(knots + 1, 3, width)`` float64: :math:`f, h f', h^2 f''` at the knots, zero at the last knot, which is at
            the cutoff, and in one row more.
        start: :math:`r_0` in Å.
        cutoff: Cutoff in Å.
        value_error, gradient_error: Bounds of the largest errors, relative to the largest value and to the largest gradient
            from 0.5 Å on.

    Attributes:
        coefficients: ``(knots, 6, width)``, what the powers of t are multiplied with, in the module's precision; zero in the last
            place, which is from the cutoff on. They are made in float64: differences of rounded values would spoil gradients.
        knots: Number of knots, both ends included.
        spacing: h in Å.

    Source:
        Hermite interpolation with two points of third order; error from the remainder
        :math:`f^{(6)} / 6! \cdot (r - r_n)^3 (r - r_{n+1})^3`.

    >>> table = RadialTable.of(lambda r: (5 - r) ** 3 * torch.cat([r, r**2], dim=1), cutoff=5.0)
    >>> table(torch.tensor([[2.0], [7.0]])).round(decimals=3).tolist()
    [[54.0, 108.0], [0.0, 0.0]]
    """

    coefficients: Tensor
    window: Tensor

    def __init__(
        self,
        values: Float[Tensor, "points 3 width"],
        start: float,
        cutoff: float,
        value_error: float,
        gradient_error: float,
    ) -> None:
        super().__init__()
        self.start, self.cutoff = start, cutoff
        self.value_error, self.gradient_error = value_error, gradient_error
        self.knots = len(values) - 1
        self.spacing = (cutoff - start) / (self.knots - 1)
        ends = torch.cat([values[:-1], values[1:]], dim=1)  # (knots, 6, width)
        self.register_constant("coefficients", torch.tensor(HERMITE, dtype=torch.float64).T @ ends)
        self.register_constant("window", torch.arange(6))

    @classmethod
    def of(cls, function: Function, cutoff: float, error: float = 1e-6, start: float = START) -> RadialTable:
        """The table of a function with as few knots as the error allows, doubling their number; in float32.

        Args:
            function: ``(rows, 1)`` -> ``(rows, width)``, each row from its own distance in Å; called with float64 and to be
                computed in float64.
            cutoff: Distance in Å at which it becomes zero, with its first two derivatives.
            error: Largest error of values relative to the largest value, and of gradients relative to the largest gradient.
            start: First knot, in Å.

        Raises:
            ValueError: If the function does not vanish at the cutoff, is not finite or not in float64, or so many knots would
                be needed that it cannot be smooth; or an argument cannot be.
        """
        if not 0 < start < cutoff:
            raise ValueError(f"`start` and `cutoff` must be positive and ascending, got {start} and {cutoff} Å")
        if not error > 0:
            raise ValueError(f"`error` must be positive, got {error}")
        intervals = FEWEST
        while intervals <= MOST:
            table = cls(_tabulate(function, start, cutoff, intervals, error), start, cutoff, 0.0, 0.0).double()
            table.value_error, table.gradient_error = table.errors(function)
            if max(table.value_error, table.gradient_error) <= error:
                return table.to(FRESH_DTYPE)
            intervals *= 2
        raise ValueError(
            f"{MOST} intervals leave an error of {table.value_error:.1e} in value and {table.gradient_error:.1e} in gradient, and "
            f"{error:.1e} is asked for; is the function smooth up to the cutoff of {cutoff:g} Å, and computed in float64?"
        )

    def errors(self, function: Function) -> tuple[float, float]:
        """Largest error of value and gradient between the knots, each relative to the largest one; see the class."""
        interval = torch.arange(self.knots - 1, dtype=torch.float64)[:, None]
        r = self.start + self.spacing * (interval + torch.tensor(PLACES, dtype=torch.float64)).reshape(-1, 1)
        bonded = r[:, 0] >= min(SHORTEST_BOND, self.cutoff / 2)
        exact, ours = _derivatives(function, r, 1), _derivatives(self, r, 1)
        worst = []
        for theirs, mine in zip(exact, ours):
            size = theirs[bonded].abs().max().item()
            difference = (mine - theirs).abs().max().item()
            worst.append(difference / size if size > 0 else difference)
        return worst[0], worst[1]

    def forward(self, lengths: Float[Tensor, "rows 1"]) -> Float[Tensor, "rows width"]:
        place = (lengths - self.start) / self.spacing
        # A distance that is not a number must make results that are none, and no index that is out of bounds.
        interval = torch.nan_to_num(place.detach()).clamp(0, self.knots - 1).to(torch.int64)
        t = place - interval
        square = t * t
        powers = [torch.ones_like(t), t, square, square * t, square * square, square * square * t]
        weights, table, rows = torch.cat(powers, dim=1), self.coefficients.flatten(0, 1), 6 * interval + self.window
        if is_traced(lengths):  # a compiler sums the rows as it reads them
            return (table[rows] * weights.unsqueeze(2)).sum(1)
        return _Combine.apply(weights, table, rows)

    def extra_repr(self) -> str:
        return (
            f"{self.coefficients.shape[2]} functions, {self.knots} knots up to {self.cutoff:g} Å, error {self.value_error:.1e} in value "
            f"and {self.gradient_error:.1e} in gradient"
        )


class _Combine(torch.autograd.Function):
    """Rows of a table, weighted and summed, without an intermediate that is six times as large as the result.

    It is linear in the weights, and :class:`_Project` is its transpose: each is the derivative of the other.
    """

    @staticmethod
    def forward(ctx: Any, weights: Tensor, table: Tensor, rows: Int[Tensor, "batch terms"]) -> Tensor:
        ctx.save_for_backward(table, rows)
        return embedding_bag(rows, table, per_sample_weights=weights, mode="sum")

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _Project.apply(gradients[0], *ctx.saved_tensors), None, None


class _Project(torch.autograd.Function):
    """Products of vectors with rows of a table."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, table: Tensor, rows: Int[Tensor, "batch terms"]) -> Tensor:
        ctx.save_for_backward(table, rows)
        count, terms = rows.shape
        return torch.ops.aten._embedding_bag_per_sample_weights_backward(
            vectors,
            table,
            rows.flatten(),
            torch.arange(0, count * terms, terms, device=rows.device),
            torch.arange(count, device=rows.device).repeat_interleave(terms),
            0,
        ).view(count, terms)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _Combine.apply(gradients[0], *ctx.saved_tensors), None, None


def _tabulate(function: Function, start: float, cutoff: float, intervals: int, error: float) -> Tensor:
    """``values`` of :class:`RadialTable`."""
    r = torch.linspace(start, cutoff, intervals + 1, dtype=torch.float64)[:, None]
    spacing = (cutoff - start) / intervals
    values = torch.stack([spacing**a * f for a, f in enumerate(_derivatives(function, r, 2))], dim=1)
    if values.dtype != torch.float64 or not values.isfinite().all():
        raise ValueError(f"`function` must be finite from {start:g} to {cutoff:g} Å and computed in float64")
    sizes = values.abs().amax(dim=(0, 2))
    end = values[-1].abs().amax(dim=1)
    if (end > error * sizes).any():
        raise ValueError(
            f"`function` must vanish at the cutoff with two derivatives, but there they are {end.tolist()} of {sizes.tolist()} "
            "(times powers of the spacing)"
        )
    values[-1] = 0
    return torch.cat([values, torch.zeros_like(values[:1])])


def _derivatives(function: Function, r: Float[Tensor, "rows 1"], order: int) -> list[Float[Tensor, "rows width"]]:
    """A function of each row and its derivatives up to an order."""
    found = []
    for _ in range(order + 1):
        found.append(function(r).detach())
        function = _gradient_of(function)
    return found


def _gradient_of(function: Function) -> Function:
    """The derivative of a function of each row, for all of its components at once.

    What reverse mode gives, the product with a vector, is linear in that vector, and its derivative in it is forward mode. Torch
    has forward mode itself, but not of the second derivative of SiLU.
    """

    def gradient(r: Float[Tensor, "rows 1"]) -> Float[Tensor, "rows width"]:
        with torch.enable_grad():
            r = r if r.requires_grad else r.detach().requires_grad_()
            value = function(r)
            if not value.requires_grad:  # a constant
                return torch.zeros_like(value)
            vector = torch.zeros_like(value, requires_grad=True)
            (product,) = torch.autograd.grad(value, r, vector, create_graph=True, materialize_grads=True)
            (result,) = torch.autograd.grad(product.sum(), vector, create_graph=True, materialize_grads=True)
        return result

    return gradient
