"""The many-body product: all products of up to nu copies of a node's features, weighted per species."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import one_hot

from equinet.ops.constants import FRESH_DTYPE, ConstantModule
from equinet.ops.coupling.polynomials import Covariants, covariants_in, monomials
from equinet.ops.kernels.choice import REFERENCE, TORCH, KernelChoice, WithKernels
from equinet.ops.spec import ManyBodySpec
from equinet.ops.species import SpeciesGroups


class PolynomialTables(WithKernels, ConstantModule, ABC):
    """Coefficients of every polynomial of a :class:`ManyBodySpec`, and the split of its weights.

    Attributes:
        paths: ``{(output index, nu): number of polynomials}`` in the order of the weight's columns.
        contents: For each column of the weight the degrees it multiplies, e.g. ``(1, 1, 2)``.
    """

    def __init__(self, spec: ManyBodySpec) -> None:
        super().__init__()
        self.spec = spec
        self.paths: dict[tuple[int, int], int] = {}
        self.contents: list[tuple[int, ...]] = []
        for k, (_, ir) in enumerate(spec.irreps_out):
            for nu in range(1, spec.correlation + 1):
                basis = covariants_in(spec.irreps_in, nu, ir)
                if basis is not None:
                    self.paths[k, nu] = len(basis.parts)
                    self.contents += basis.contents
                    self._add(k, nu, basis)
            if all((k, nu) not in self.paths for nu in range(1, spec.correlation + 1)):
                raise ValueError(f"no product of up to {spec.correlation} factors of {spec.irreps_in} reaches {ir}")

    @abstractmethod
    def _add(self, k: int, nu: int, basis: Covariants) -> None:
        """Keep the polynomials of output ``k`` and degree ``nu``."""

    @property
    def weight_numel(self) -> int:
        """Weights per species and channel."""
        return len(self.contents)

    def initial_weight(self) -> Float[Tensor, "species paths channels"]:
        """Unit normals over the square root of the number of paths."""
        shape = (self.spec.species, self.weight_numel, self.spec.channels)
        return torch.randn(shape, dtype=FRESH_DTYPE) / math.sqrt(self.weight_numel)

    def extra_repr(self) -> str:
        return f"{self.spec}; {self.kernel}"


class ReferenceManyBody(PolynomialTables):
    """The formula of :class:`ManyBodySpec` term by term: every monomial, then every polynomial. The oracle of tests."""

    kernels = REFERENCE

    def _add(self, k: int, nu: int, basis: Covariants) -> None:
        self.register_constant(f"coefficients_{k}_{nu}", torch.from_numpy(basis.coefficients))
        self.register_constant(
            f"monomials_{nu}", torch.from_numpy(monomials(self.spec.irreps_in.dim // self.spec.channels, nu))
        )

    def forward(
        self,
        features: Float[Tensor, "nodes dim channels"],
        weight: Float[Tensor, "species paths channels"],
        groups: SpeciesGroups,
    ) -> Float[Tensor, "nodes out channels"]:
        columns = weight[groups.species].split(list(self.paths.values()), dim=1)
        outputs: dict[int, Tensor] = {}
        for (k, nu), column in zip(self.paths, columns):
            # (nodes, monomials, channels), factor by factor: second derivatives of `prod` take five times as long
            first, *others = (features.index_select(1, rows) for rows in getattr(self, f"monomials_{nu}").unbind(1))
            terms = math.prod(others, start=first)
            term = torch.einsum("pkm,nmc,npc->nkc", getattr(self, f"coefficients_{k}_{nu}"), terms, column)
            outputs[k] = outputs.get(k, 0) + term
        return torch.cat(list(outputs.values()), dim=1)


class Kept:
    """Cache of a tensor derived from frozen weights, valid until they change."""

    def __init__(self) -> None:
        self._last: tuple[Tensor, int, Tensor] | None = None

    def of(self, weight: Tensor, make: Callable[[Tensor], Tensor]) -> Tensor:
        """``make(weight)``, or what it gave the last time; not while torch traces, as a trace is for weights of any time."""
        if weight.requires_grad or torch.compiler.is_compiling():
            return make(weight)
        if self._last is not None:
            # The kept reference holds the old storage, so that no other weight can come to lie at its address.
            kept, version, made = self._last
            if (kept.data_ptr(), version, kept.dtype) == (weight.data_ptr(), weight._version, weight.dtype):
                return made
        made = make(weight)
        if not torch.is_inference_mode_enabled():
            self._last = (weight.detach(), weight._version, made)
        return made


class HornerManyBody(PolynomialTables):
    r"""The same product in nested form, with the weights multiplied into the coefficients once per species.

    .. math:: B_{k c} = \sum_i A_{i c} \Big( \sum_{M} K^{z}_{c\,k i M} \prod_{j \in M} A_{j c} \Big)

    where M runs over the monomials of degree 0 to nu - 1 and each monomial of the result is split into its last
    variable i and the rest. Cost and memory follow the monomials of degree nu - 1 and not of degree nu; the inner sum is
    one matrix product per species and channel.

    While the weights need no gradient (inference), K is kept between calls, until the weights change in place (not through
    ``.data``, which torch does not count as a change).

    Args:
        spec: Specification of the product.
        kernels: Request that torch answers, with the reason if that was ``"auto"``; shown by ``repr``.
    """

    def __init__(self, spec: ManyBodySpec, kernels: KernelChoice = TORCH) -> None:
        self.kernels = kernels
        self.variables = spec.irreps_in.dim // spec.channels
        # offset[d]: first row of the monomials of degree d among those of degree 0 .. correlation - 1
        sizes = [math.comb(self.variables + d - 1, d) for d in range(spec.correlation)]
        self._offsets = np.concatenate([[0], np.cumsum(sizes)])
        self._tables: dict[int, list[Tensor]] = {}
        super().__init__(spec)
        for k, tables in self._tables.items():
            self.register_constant(f"table_{k}", torch.cat(tables))
        del self._tables
        # Picking columns with a matrix of zeros and ones: its derivatives are matrix products too, where those of an index
        # are scatters and take twice as long.
        for degree in range(2, spec.correlation):
            for name, factor in zip(("first", "last"), self._factors(degree)):
                self.register_constant(f"{name}_{degree}", one_hot(factor).T.double())
        self._kept = Kept()

    def _factors(self, degree: int) -> tuple[Tensor, Tensor]:
        """Each monomial of ``degree`` as (monomial of one degree less, last variable)."""
        rows = monomials(self.variables, degree)
        index_of = {row: n for n, row in enumerate(map(tuple, monomials(self.variables, degree - 1).tolist()))}
        first = [index_of[tuple(row)] for row in rows[:, :-1].tolist()]
        return torch.tensor(first), torch.from_numpy(rows[:, -1].copy())

    def _add(self, k: int, nu: int, basis: Covariants) -> None:
        coefficients = basis.coefficients
        polynomials, components, _ = coefficients.shape
        table = torch.zeros(polynomials, self._offsets[-1], components, self.variables, dtype=torch.float64)
        first, last = self._factors(nu)
        table[:, self._offsets[nu - 1] + first, :, last] = torch.from_numpy(coefficients).permute(2, 0, 1)
        self._tables.setdefault(k, []).append(table.flatten(1))

    def _matrices(self, weight: Tensor) -> Tensor:
        """K of the class's formula, ``(species, channels, monomials, out * variables)``."""
        columns = [sum(n for (k, _), n in self.paths.items() if k == out) for out in range(len(self.spec.irreps_out))]
        parts = []
        for k, column in enumerate(weight.split(columns, dim=1)):
            # (species, channels, monomials * (2l+1) * variables)
            flat = column.transpose(1, 2) @ getattr(self, f"table_{k}")
            parts.append(flat.unflatten(2, (int(self._offsets[-1]), -1)))
        return torch.cat(parts, dim=3)

    def forward(
        self,
        features: Float[Tensor, "nodes dim channels"],
        weight: Float[Tensor, "species paths channels"],
        groups: SpeciesGroups,
    ) -> Float[Tensor, "nodes out channels"]:
        matrices = self._kept.of(weight, self._matrices)
        outputs = []
        for z, part in groups.split(features):
            x = part.permute(2, 0, 1).contiguous()  # (channels, nodes of this species, variables)
            powers = [torch.ones_like(x[..., :1]), x] if self.spec.correlation > 1 else [torch.ones_like(x[..., :1])]
            for degree in range(2, self.spec.correlation):
                powers.append((powers[-1] @ getattr(self, f"first_{degree}")) * (x @ getattr(self, f"last_{degree}")))
            inner = torch.bmm(torch.cat(powers, dim=2), matrices[z])  # (channels, nodes, out * variables)
            inner = inner.unflatten(2, (-1, self.variables))
            outputs.append((inner * x.unsqueeze(2)).sum(3).permute(1, 2, 0))
        return groups.join(outputs)
