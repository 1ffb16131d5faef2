"""Many-body products of factorised methods by their coupling tensor, in the code of exact couplings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from equinet.ops.constants import ConstantModule
from equinet.ops.kernels.choice import unavailable
from equinet.ops.kernels.node.cpu import Found, Polynomials
from equinet.ops.kernels.node.operator import remember, value
from equinet.ops.kernels.node.reference import Kept
from equinet.ops.spec import ManyBodySpec
from equinet.ops.species import SpeciesGroups

from .chains import DenseChain

# Entries of the tensor of all factors. To look at more takes seconds.
MOST_ENTRIES = 2_000_000


class Family(NamedTuple):
    """Monomials whose coefficients have one and the same weight.

    Attributes:
        factors: Number of factors.
        column: Index of the product in :attr:`PowerManyBody.terms`.
        irreps: Irreps of the factors: of the first, then of the others in ascending order; all in ascending order if the first is no
            other than they are.
    """

    factors: int
    column: int
    irreps: tuple[int, ...]


class Powers(Protocol):
    """Terms and irreps of a many-body product, as :class:`equinet.ops.factorised.powers.PowerManyBody` has them.

    Attributes:
        spec: Specification of the product.
        modulations: Number of sets of factors on irreps.
        terms: Number of factors and index of the output of every product.
        linear: Indices of the outputs with a linear term.
        linear_rows: ``(rows,)``, rows of the features in the linear terms.
        irrep_of_row: ``(dim,)``, index of the irrep of every row of the features.
    """

    spec: ManyBodySpec
    modulations: int
    terms: list[tuple[int, int]]
    linear: list[int]
    linear_rows: Tensor
    irrep_of_row: Tensor


class PolynomialCode(ConstantModule):
    r"""Generated code for a :class:`.powers.PowerManyBody` as polynomials of the features, without the way to the algebra and back.

    The weighted product of :math:`\nu` factors has the coefficient :math:`\sum_r w^r_{\nu k} \, a^r_{l_1} b^r_{l_2} \cdots b^r_{l_\nu} \, t`
    before a monomial with an entry t of the coupling tensor. All copies are in one coefficient, so further copies cost nothing per node;
    and coefficients are made once per species, by families that have the same weight.

    Args:
        power: The product, whose terms and irreps are read and not kept.
        dense: The same product by coupling tensors.

    Attributes:
        polynomials: The polynomials that the code runs through.
    """

    coefficients: Tensor

    def __init__(self, power: Powers, dense: DenseChain) -> None:
        super().__init__()
        self.families: list[Family] = []
        self._modulations = power.modulations
        self.polynomials = self._polynomials_of(power, dense.double())
        self._product = remember(self.polynomials)
        self.register_constant("coefficients", self.polynomials.coefficients.T.contiguous())
        self._degrees = sorted({nu for nu, _ in power.terms})
        for nu in self._degrees:
            chosen = [family for family in self.families if family.factors == nu]
            self.register_constant(f"irreps_{nu}", torch.tensor([family.irreps for family in chosen]).T)
            self.register_constant(f"columns_{nu}", torch.tensor([family.column for family in chosen]))
        self._kept_terms = Kept()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        remember(self.polynomials)  # of which another process has not heard

    def _polynomials_of(self, power: Powers, dense: DenseChain) -> Polynomials:
        """All that are in the tensors; notes the families they are of. Those of the linear term come first."""
        spec, irrep_of = power.spec, power.irrep_of_row.tolist()
        starts = [0, *accumulate(ir.dim for _, ir in spec.irreps_out)]
        found: Found = defaultdict(list)
        rows = iter(power.linear_rows.tolist())
        for weight, k in enumerate(power.linear):
            for row in range(starts[k], starts[k + 1]):
                found[row, (next(rows),)].append((weight, 1.0))
        numbers: dict[Family, int] = {}
        for nu, tensor in zip(range(2, spec.correlation + 1), tensors_of(dense, spec)):
            for column in [n for n, (factors, _) in enumerate(power.terms) if factors == nu]:
                k = power.terms[column][1]
                block = tensor[..., starts[k] : starts[k + 1]]
                for *variables, component, entry in _entries(block):
                    first, *others = (irrep_of[v] for v in variables)
                    in_order = (first, *sorted(others)) if self._modulations == 2 else tuple(sorted((first, *others)))
                    weight = numbers.setdefault(Family(nu, column, in_order), len(numbers)) + len(power.linear)
                    found[starts[k] + component, tuple(sorted(variables))].append((weight, entry))
        self.families = list(numbers)
        return Polynomials(spec.channels, len(irrep_of), starts[-1], len(power.linear) + len(numbers), found)

    def forward(
        self,
        features: Float[Tensor, "nodes dim channels"],
        weight: Float[Tensor, "species weights channels"],
        groups: SpeciesGroups,
        split: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]],
    ) -> Float[Tensor, "nodes out channels"]:
        """Values of the polynomials; ``split`` is that of :meth:`.powers.PowerManyBody.split` for weights that are not scaled yet."""
        groups.require_weights_for(weight.shape[0])
        terms = self._kept_terms.of(weight, lambda weight: self.coefficients @ self.by_family(*split(weight)))
        return value(features, terms, groups.order, groups.species, self._product)

    def by_family(self, linear: Tensor, factors: Tensor, columns: Tensor) -> Float[Tensor, "species families channels"]:
        """Factor before the entries of every family, from the parts of the weights."""
        found = [linear]
        for nu in self._degrees:
            product = columns.index_select(2, getattr(self, f"columns_{nu}"))
            for n, irreps in enumerate(getattr(self, f"irreps_{nu}")):
                product = product * factors[:, :, min(n, self._modulations - 1)].index_select(2, irreps)
            found.append(product.sum(1))
        return torch.cat(found, dim=1)

    def extra_repr(self) -> str:
        return f"{len(self.polynomials.terms)} terms"


def tensors_of(dense: DenseChain, spec: ManyBodySpec) -> Iterator[Float[Tensor, "*factors out"]]:
    """Coefficients of the products of 2, 3, ... factors, for every factor's row and every row of the result."""
    so_far = None
    for nu in range(2, spec.correlation + 1):
        step = getattr(dense, f"tensor_{nu}")
        so_far = step if so_far is None else torch.tensordot(so_far, step, dims=1)
        yield so_far[..., getattr(dense, f"rows_{nu}")]


def _entries(tensor: Tensor) -> Iterator[tuple[Any, ...]]:
    """Indices and value of every entry that is not zero."""
    where = torch.nonzero(tensor.abs() > 1e-12 * tensor.abs().max())
    values = tensor[tuple(where.T)].tolist()
    for index, entry in zip(where.tolist(), values):
        yield *index, entry


def why_not_generated(spec: ManyBodySpec) -> str | None:
    """Reason why no polynomials are made here of a product; None if they can be found in reasonable time."""
    rows, outputs = (irreps.dim // spec.channels for irreps in (spec.irreps_in, spec.irreps_out))
    if (entries := rows**spec.correlation * outputs) > MOST_ENTRIES:
        return f"its tensor has {entries:,} entries, above {MOST_ENTRIES:,}, for which finding polynomials takes long"
    return unavailable()
