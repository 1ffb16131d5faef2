"""The many-body product in generated code, as an executor: LLVM on the CPU, Triton on CUDA, matrix products in torch elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor

from equinet.ops.coupling.polynomials import Covariants
from equinet.ops.devices import made_on_cpu
from equinet.ops.kernels.choice import KernelChoice, place_of
from equinet.ops.spec import ManyBodySpec
from equinet.ops.species import SpeciesGroups

from .cpu import Polynomials
from .gpu import MOST_TERMS
from .operator import name_of, polynomials_of, value
from .reference import HornerManyBody, Kept, PolynomialTables


def why_not_on_cuda(terms: int) -> str | None:
    """Reason why there is no kernel on CUDA for polynomials of so many terms; None if there is one."""
    return None if terms <= MOST_TERMS else f"{terms:,} terms are above {MOST_TERMS:,}, the most that a kernel holds"


class GeneratedManyBody(PolynomialTables):
    """The nested sum over the few coefficients that are not zero, in generated code.

    Machine code for this processor (:mod:`.cpu`); on CUDA Triton kernels (:mod:`.gpu`) for up to :data:`.gpu.MOST_TERMS` coefficients.

    Args:
        spec: Specification of the product.
        backend: ``"auto"``: :class:`HornerManyBody` computes where there is no kernel: on other devices, in other precisions than
            float32 and float64, and on CUDA with more coefficients. ``"generated"``: a call there raises.

    Raises:
        ValueError: In a call, if ``backend`` is ``"generated"`` and there is no kernel for the device, precision or size.
    """

    coefficients: Tensor

    def __init__(self, spec: ManyBodySpec, backend: str = "auto") -> None:
        super().__init__(spec)
        self._product = name_of(spec)
        self.register_constant("coefficients", self.polynomials.coefficients.T.contiguous())
        on_cuda = why_not_on_cuda(len(self.polynomials.terms))
        self.kernels = KernelChoice(backend, cuda=on_cuda, product=f"the many-body product {spec}")
        self._torch_form: HornerManyBody | None = None
        self._kept_terms = Kept()

    def _add(self, k: int, nu: int, basis: Covariants) -> None:
        """The polynomials hold all coefficients in one table."""

    @property
    def torch_form(self) -> HornerManyBody:
        """The form that computes where no kernel does, made when it is first asked for: its tables are many times larger than the code."""
        if self._torch_form is None:
            self._torch_form = made_on_cpu(HornerManyBody)(self.spec).to(self.coefficients)
        return self._torch_form

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        if self.kernels.missing_on(*place_of(self)) is not None:
            _ = self.torch_form  # now, as a call may be traced
        return self

    @property
    def polynomials(self) -> Polynomials:
        """The polynomials that the code runs through."""
        return polynomials_of(self._product)

    def forward(
        self,
        features: Float[Tensor, "nodes dim channels"],
        weight: Float[Tensor, "species paths channels"],
        groups: SpeciesGroups,
    ) -> Float[Tensor, "nodes out channels"]:
        if not self.kernels.takes(features):
            result: Tensor = self.torch_form(features, weight, groups)
            return result
        groups.require_weights_for(weight.shape[0])
        terms = self._kept_terms.of(weight, lambda weight: self.coefficients @ weight)  # (species, terms, channels)
        return value(features, terms, groups.order, groups.species, self._product)

    def __repr__(self) -> str:
        # On one line: the form in torch has nothing to add.
        return f"{type(self).__name__}({self.spec}; {self.kernel})"
