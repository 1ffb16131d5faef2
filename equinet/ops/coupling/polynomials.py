"""Bases of equivariant polynomials: every way to multiply nu copies of one feature vector into an irrep."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from e3nn import o3
from numpy.typing import NDArray
from torch import Tensor

from equinet.ops.cache import cached
from equinet.ops.layout import one_of_each

from .clebsch_gordan import clebsch_gordan

Array = NDArray[np.float64]
Indices = NDArray[np.int64]
Factors = tuple[int, ...]  # indices of irreps, ascending

# Relative size below which a candidate is counted as a combination of those before it. Candidates are sums of a few
# products of coupling coefficients, so true combinations leave about 1e-15 and new ones more than 1e-2.
INDEPENDENT = 1e-7
# Size of a coefficient below which it is rounding.
ZERO = 1e-12


@dataclass(frozen=True, eq=False)
class Covariants:
    r"""Polynomials of one degree nu with values in one irrep.

    .. math:: P^\eta_k(x) = \sum_M \mathrm{coefficients}[\eta, k, M] \prod_{i \in \mathrm{monomials}[M]} x_i

    Attributes:
        irreps: Irreps of the variables, one of each.
        parts: Polynomials, each on the monomials that it may have.
    """

    irreps: o3.Irreps
    parts: tuple[Part, ...]

    @property
    def contents(self) -> tuple[tuple[int, ...], ...]:
        """For each polynomial the degrees of its factors, ascending, e.g. ``(1, 1, 2)``."""
        return tuple(_content(self.irreps, part.factors) for part in self.parts)

    @property
    def coefficients(self) -> Array:
        """``(polynomials, 2l + 1, monomials)``, float64, made anew: mostly zeros, and large from degree 5 or so on."""
        components, degree = len(self.parts[0].coefficients), len(self.parts[0].factors)
        found = np.zeros((len(self.parts), components, math.comb(self.irreps.dim + degree - 1, degree)))
        for rows, part in zip(found, self.parts):
            rows[:, _products_of(self.irreps, part.factors).places] = part.coefficients
        return found

    def terms(self) -> Iterator[tuple[int, int, tuple[int, ...], float]]:
        """Polynomial, component, variables and coefficient of every monomial that is there."""
        for n, part in enumerate(self.parts):
            variables = _products_of(self.irreps, part.factors).variables
            for component, place in np.argwhere(np.abs(part.coefficients) > ZERO).tolist():
                yield n, component, tuple(variables[place].tolist()), float(part.coefficients[component, place])


class Part(NamedTuple):
    """One covariant on the products of its own factors; other monomials it does not have.

    Attributes:
        factors: Irreps that are multiplied.
        coefficients: ``(2l + 1, products)``.
    """

    factors: Factors
    coefficients: Array


def monomials(variables: int, degree: int) -> Indices:
    """All products of ``degree`` variables: ascending index tuples, ``(monomials, degree)``, in lexicographic order."""
    tuples = list(itertools.combinations_with_replacement(range(variables), degree))
    return np.array(tuples, dtype=np.int64).reshape(len(tuples), degree)


def multiplicities(variables: int, degree: int) -> Array:
    """For each monomial the number of ordered tuples it stands for, e.g. 2 for x0 x1 and 1 for x0 x0."""
    return np.array(
        [
            math.factorial(degree) / math.prod(math.factorial(row.count(i)) for i in set(row))
            for row in map(tuple, monomials(variables, degree).tolist())
        ]
    )


def covariants(irreps_in: o3.Irreps, degree: int, max_l: int) -> dict[o3.Irrep, Covariants]:
    r"""Orthonormal bases of the equivariant homogeneous polynomials of ``degree``, by output irrep up to ``max_l``.

    Degree nu is made by coupling each covariant of degree nu - 1 with one more factor, of a degree not below those
    already there, and dropping what is a combination of earlier ones (Gram-Schmidt in a fixed order, so that the basis
    is the same on every machine and may be named by saved weights). Polynomials commute, so symmetry under exchange of
    the factors comes by itself.

    The norm is chosen so that independent unit-variance inputs give :math:`\sum_k \mathrm{Var}\,P_k = 2 l + 1` when no
    factor is contracted with another: the symmetric tensor of a polynomial has Frobenius norm
    :math:`\sqrt{(2 l + 1) / \nu!}`.

    Args:
        irreps_in: Irreps of the variables, each once, in order; multiplicities are ignored.
        degree: nu, 1 or more.
        max_l: Highest output degree l wanted.

    Source:
        ACE, Drautz 2019 and Dusson et al. 2022 (arXiv 1911.03550), sec. 3.3; here reduced to a basis.
    """
    highest = min(max_l, degree * o3.Irreps(irreps_in).lmax)
    irreps = sorted(o3.Irrep(l, p) for l in range(highest + 1) for p in (1, -1))
    found = {ir: covariants_in(irreps_in, degree, ir) for ir in irreps}
    return {ir: basis for ir, basis in found.items() if basis is not None}


def covariants_in(irreps_in: o3.Irreps, degree: int, ir: o3.Irrep) -> Covariants | None:
    """One basis of :func:`covariants`; None if there is no such polynomial."""
    irreps = one_of_each(irreps_in)
    parts = _parts(irreps, degree, ir)
    return Covariants(irreps, parts) if parts else None


class Products(NamedTuple):
    """All products of one component of each of some irreps, in the order of :func:`monomials`.

    Attributes:
        variables: ``(products, degree)``.
        places: ``(products,)``, where they are among all monomials of the degree.
        norms: ``(products,)``, square roots of their :func:`multiplicities`.
    """

    variables: Indices
    places: Indices
    norms: Array


@cache
def _parts(irreps: o3.Irreps, degree: int, ir: o3.Irrep) -> tuple[Part, ...]:
    """Basis of the covariants in one irrep, in the order of :func:`covariants`; from the disk, if it took long to make before."""
    found = cached(
        "covariants",
        {"irreps": str(irreps), "degree": degree, "ir": str(ir)},
        lambda: _packed(_made(irreps, degree, ir), degree),
    )
    factors = [tuple(row) for row in found["factors"].tolist()]
    sizes = [ir.dim * len(_products_of(irreps, each).places) for each in factors]
    blocks = np.split(found["coefficients"].numpy(), np.cumsum(sizes)[:-1]) if sizes else []
    return tuple(Part(each, block.reshape(ir.dim, -1)) for each, block in zip(factors, blocks))


def _packed(parts: tuple[Part, ...], degree: int) -> dict[str, Tensor]:
    """Parts as two tensors: ``(parts, degree)`` factors, and all coefficients one after the other."""
    factors = torch.tensor([part.factors for part in parts], dtype=torch.int64).view(-1, degree)
    blocks = [torch.from_numpy(part.coefficients).flatten() for part in parts]
    return {"factors": factors, "coefficients": torch.cat(blocks) if blocks else torch.zeros(0, dtype=torch.float64)}


def _made(irreps: o3.Irreps, degree: int, ir: o3.Irrep) -> tuple[Part, ...]:
    if degree == 1:
        return tuple(Part((n,), np.eye(ir.dim)) for n, (_, other) in enumerate(irreps) if other == ir)
    bases: dict[Factors, Basis] = {}
    candidate = itertools.count()
    for ir1 in sorted({ir1 for _, ir2 in irreps for ir1 in ir * ir2}):
        for part in _parts(irreps, degree - 1, ir1):
            highest = _content(irreps, part.factors)[-1]
            for n, (_, ir2) in enumerate(irreps):
                if ir2.l < highest or ir not in ir1 * ir2:
                    continue
                factors = tuple(sorted((*part.factors, n)))
                basis = bases.setdefault(factors, Basis(copies_of(irreps, factors, ir)))
                if not basis.is_complete:
                    values = _times(irreps, part, n, ir1, ir) / _products_of(irreps, factors).norms
                    basis.add(values.ravel(), next(candidate))
    assert all(basis.is_complete for basis in bases.values())
    # By degrees; what is of the same degrees in the order in which it was found.
    rows = [
        (_content(irreps, factors), number, factors, row)
        for factors, basis in bases.items()
        for number, row in zip(basis.numbers, basis.rows)
    ]
    scale = math.sqrt(ir.dim / math.factorial(degree))
    return tuple(
        Part(factors, row.reshape(ir.dim, -1) * _products_of(irreps, factors).norms * scale)
        for _, _, factors, row in sorted(rows, key=lambda row: row[:2])
    )


class Basis:
    """Orthonormal vectors, made of candidates one after the other until there are as many as there can be.

    Covariants of different factors share no monomial and are orthogonal already, so that each set of factors has a basis of its own.
    """

    def __init__(self, dimension: int) -> None:
        self.dimension, self.rows, self.numbers = dimension, list[Array](), list[int]()

    @property
    def is_complete(self) -> bool:
        return len(self.rows) == self.dimension

    def add(self, vector: Array, number: int) -> None:
        """Take a candidate in, unless it is a combination of those before it."""
        size = np.linalg.norm(vector)
        if size < INDEPENDENT:
            return
        vector = vector / size
        if self.rows:
            others = np.stack(self.rows)
            for _ in range(2):  # twice is enough for orthogonality to rounding (Kahan, Parlett)
                vector = vector - (others @ vector) @ others
        size = np.linalg.norm(vector)
        if size > INDEPENDENT:
            self.rows.append(vector / size)
            self.numbers.append(number)


@cache
def copies_of(irreps: o3.Irreps, factors: Factors, ir: o3.Irrep) -> int:
    """Number of independent covariants in ``ir`` of given factors: products of order l, less those of order l + 1."""
    if math.prod(irreps[n].ir.p for n in factors) != ir.p:
        return 0
    order = np.concatenate([np.arange(-each.l, each.l + 1) for _, each in irreps])
    orders = order[_products_of(irreps, factors).variables].sum(axis=1)
    return int((orders == ir.l).sum() - (orders == ir.l + 1).sum())


def _content(irreps: o3.Irreps, factors: Factors) -> tuple[int, ...]:
    """Degrees of factors, ascending."""
    return tuple(sorted(irreps[n].ir.l for n in factors))


@cache
def _products_of(irreps: o3.Irreps, factors: Factors) -> Products:
    slices, times = irreps.slices(), Counter(factors)
    rows, numbers = np.zeros((1, 0), dtype=np.int64), np.ones(1)
    for n in sorted(times):
        own = monomials(irreps[n].dim, times[n])
        rows = np.hstack([np.repeat(rows, len(own), 0), np.tile(own + slices[n].start, (len(rows), 1))])
        numbers = np.outer(numbers, multiplicities(irreps[n].dim, times[n])).ravel()
    # The factors of one irrep take any places among those of the others.
    numbers *= math.factorial(len(factors)) / math.prod(map(math.factorial, times.values()))
    return Products(rows, _places(rows, irreps.dim), np.sqrt(numbers))


def _places(rows: Indices, variables: int) -> Indices:
    """Positions of monomials of one degree in the table of :func:`monomials`."""
    degree = rows.shape[1]
    places, before = np.zeros(len(rows), dtype=np.int64), np.zeros(len(rows), dtype=np.int64)
    for n in range(degree):
        # A monomial stands behind all that agree with it so far and go on with a smaller variable, each in so many ways.
        ways = [math.comb(variables - v + degree - n - 2, degree - n - 1) for v in range(variables)]
        sums = np.concatenate([[0], np.cumsum(ways, dtype=np.int64)])
        places += sums[rows[:, n]] - sums[before]
        before = rows[:, n]
    return places


@cache
def _targets(irreps: o3.Irreps, factors: Factors, n: int) -> Indices:
    """``(2l + 1, products)``: what each product of ``factors`` becomes when multiplied by each component of irrep ``n``."""
    lower = _products_of(irreps, factors).variables
    places = _products_of(irreps, tuple(sorted((*factors, n)))).places
    part = irreps.slices()[n]
    rows = (np.sort(np.insert(lower, 0, variable, axis=1), axis=1) for variable in range(part.start, part.stop))
    return np.stack([np.searchsorted(places, _places(each, irreps.dim)) for each in rows])


def _times(irreps: o3.Irreps, part: Part, n: int, ir1: o3.Irrep, ir: o3.Irrep) -> Array:
    """A covariant in ``ir1`` times irrep ``n``, coupled to ``ir``: ``(2l + 1, products)``."""
    coupling = clebsch_gordan(ir1.l, irreps[n].ir.l, ir.l).numpy()
    places = _products_of(irreps, tuple(sorted((*part.factors, n)))).places
    values = np.zeros((ir.dim, len(places)))
    for b, targets in enumerate(_targets(irreps, part.factors, n)):  # one variable takes products to distinct ones
        values[:, targets] += coupling[:, b].T @ part.coefficients
    return values
