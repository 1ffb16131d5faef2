"""Coefficients of a many-body product on all equivariant polynomials."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from equinet.ops.coupling.polynomials import Covariants, covariants, monomials
from equinet.ops.kernels.node.reference import PolynomialTables
from equinet.ops.layout import one_of_each
from equinet.ops.protocols import ManyBody
from equinet.ops.spec import ManyBodySpec
from equinet.ops.species import SpeciesGroups

SAMPLES = 512  # of random features for coefficients, at least; those of polynomials are exact from any
CHUNK = 256  # of draws or problems at a time


class Basis:
    """All equivariant polynomials of a spec, as the columns of the weights of exact couplings.

    Attributes:
        outputs: For each output the columns that end in it.
        columns: ``{(output, nu): columns}``.
        labels: For each column its output and the irreps of its factors, e.g. ``("0e", "1o ⊗ 1o ⊗ 2e")``.
    """

    def __init__(self, spec: ManyBodySpec) -> None:
        self.spec = spec
        self.dim = one_of_each(spec.irreps_in).dim
        self._terms: list[tuple[int, int, Covariants]] = []
        self.outputs: list[slice] = []
        self.columns: dict[tuple[int, int], slice] = {}
        self.labels: list[tuple[str, str]] = []
        names = [str(ir) for _, ir in spec.irreps_in for _ in range(ir.dim)]
        for k, (_, out) in enumerate(spec.irreps_out):
            start = len(self.labels)
            for nu in range(1, spec.correlation + 1):
                basis = covariants(spec.irreps_in, nu, spec.irreps_out.lmax).get(out)
                if basis is None:
                    continue
                self._terms.append((k, nu, basis))
                self.columns[k, nu] = slice(len(self.labels), len(self.labels) + len(basis.contents))
                for (
                    polynomial
                ) in basis.coefficients:  # each multiplies one list of irreps, as any of its monomials tells
                    factors = monomials(self.dim, nu)[np.abs(polynomial).max(axis=0).argmax()]
                    self.labels.append((str(out), " ⊗ ".join(names[i] for i in factors)))
            self.outputs.append(slice(start, len(self.labels)))

    def values(self, features: Float[Tensor, "samples dim"]) -> list[Float[Tensor, "_samples_components _columns"]]:
        """Every polynomial at every sample, as one matrix per output; samples slow, components fast."""
        found: list[list[Tensor]] = [[] for _ in self.outputs]
        for x in features.split(CHUNK):
            terms = {
                nu: x[:, torch.from_numpy(monomials(self.dim, nu))].prod(2) for nu in {nu for _, nu, _ in self._terms}
            }
            for k in range(len(self.outputs)):
                parts = [
                    torch.einsum("pkm,nm->nkp", torch.from_numpy(basis.coefficients), terms[nu]).flatten(0, 1)
                    for other, nu, basis in self._terms
                    if other == k
                ]
                found[k].append(torch.cat(parts, dim=1))
        return [torch.cat(parts) for parts in found]

    def metric(self) -> list[Float[Tensor, "_columns _columns"]]:
        r"""For each output R, with the mean square of the product of coefficients c equal to the square of R c.

        The mean is over independent normal features of unit variance and exact: of a product of powers it is
        :math:`\prod_i (e_i - 1)!!` if every exponent is even, else zero.
        """
        exponents = np.concatenate(
            [
                np.stack([np.bincount(row, minlength=self.dim) for row in monomials(self.dim, nu)])
                for nu in range(1, self.spec.correlation + 1)
            ]
        )
        starts = np.cumsum([0] + [len(monomials(self.dim, nu)) for nu in range(1, self.spec.correlation + 1)])
        _, group = np.unique(exponents % 2, axis=0, return_inverse=True)  # means vanish between different groups
        order = np.argsort(group.ravel(), kind="stable")
        members = np.split(order, np.cumsum(np.bincount(group.ravel()))[:-1])
        highest = 2 * self.spec.correlation
        moments = np.array([math.prod(range(e - 1, 0, -2)) if e % 2 == 0 else 0 for e in range(highest + 1)])
        grams = [moments[exponents[some, None] + exponents[None, some]].prod(axis=2) for some in members]
        matrices = []
        for k, part in enumerate(self.outputs):
            width = part.stop - part.start
            table = np.zeros((width, self.spec.irreps_out[k].ir.dim, len(exponents)))
            for other, nu, basis in self._terms:
                if other == k:
                    inside = self.columns[k, nu]
                    rows = slice(inside.start - part.start, inside.stop - part.start)
                    table[rows, :, starts[nu - 1] : starts[nu]] = basis.coefficients
            total = sum(
                np.einsum("pkm,mn,qkn->pq", table[:, :, some], gram, table[:, :, some], optimize=True)
                for some, gram in zip(members, grams)
            )
            matrices.append(torch.linalg.cholesky(torch.from_numpy(np.asarray(total))).T.contiguous())
        return matrices


def random_features(seed: int, *shape: int) -> Tensor:
    """Independent normals, float64; numpy keeps this stream the same for ever."""
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape))


@torch.no_grad()
def coefficients(
    executor: ManyBody, weight: Float[Tensor, "species weights channels"]
) -> tuple[Float[Tensor, "species columns channels"], float]:
    """The polynomials that an executor computes, and how much of its result is none.

    What it computes for one species and channel is a sum of the polynomials of :class:`Basis`. Exact couplings have their
    coefficients for weights; of others they are found by least squares from values at random features of unit variance.

    Returns:
        Coefficients, and the root mean square of what no coefficients explain relative to that of the result: the
        part of the product that is not equivariant. Rounding for all exact methods.
    """
    if isinstance(executor, PolynomialTables):
        return weight.detach().clone(), 0.0
    spec = executor.spec
    basis = Basis(spec)
    count = max(SAMPLES, 4 * max(part.stop - part.start for part in basis.outputs))
    x = random_features(1, count, basis.dim)
    tables, dims = basis.values(x), [out.dim for _, out in spec.irreps_out]
    found, missed, total = torch.zeros(spec.species, len(basis.labels), spec.channels, dtype=torch.float64), 0.0, 0.0
    for z in range(spec.species):
        values = torch.cat(
            [
                executor(
                    part.unsqueeze(2).expand(-1, -1, spec.channels), weight, SpeciesGroups(torch.full((len(part),), z))
                )
                for part in x.split(CHUNK)
            ]
        )
        for table, columns, block in zip(tables, basis.outputs, values.split(dims, dim=1)):
            target = block.flatten(0, 1)
            found[z, columns] = torch.linalg.lstsq(table, target).solution
            missed += float((table @ found[z, columns] - target).square().sum())
            total += float(target.square().sum())
    return found, (missed / total) ** 0.5 if total > 0 else 0.0


@torch.no_grad()
def group_errors(
    spec: ManyBodySpec, old: Float[Tensor, "species columns channels"], new: Tensor
) -> dict[tuple[str, str], tuple[float, float]]:
    """By output and factors (:attr:`Basis.labels`): norms of the old coefficients and of their change."""
    found: dict[tuple[str, str], tuple[float, float]] = {}
    for n, label in enumerate(Basis(spec).labels):
        size, change = found.get(label, (0.0, 0.0))
        own, difference = float(old[:, n].square().sum()), float((new[:, n] - old[:, n]).square().sum())
        found[label] = size + own, change + difference
    return {label: (size**0.5, change**0.5) for label, (size, change) in found.items()}


def product_error(spec: ManyBodySpec, old: Float[Tensor, "species columns channels"], new: Tensor) -> float:
    """Root mean square of the change of a product relative to that of the product, for features of unit variance."""
    basis, size, change = Basis(spec), 0.0, 0.0
    for columns, r in zip(basis.outputs, basis.metric()):
        size += float((r @ old[:, columns]).square().sum())
        change += float((r @ (new - old)[:, columns]).square().sum())
    return (change / size) ** 0.5 if size > 0 else float(change > 0)
