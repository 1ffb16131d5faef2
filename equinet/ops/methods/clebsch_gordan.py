"""Exact couplings, each with a weight of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from e3nn import o3

from equinet.ops.coupling.counts import count_covariants, count_terms
from equinet.ops.devices import made_on_cpu
from equinet.ops.external import cuequivariance, openequivariance
from equinet.ops.kernels import choice
from equinet.ops.kernels.choice import KernelChoice
from equinet.ops.kernels.edge.executor import GeneratedConvolution, why_not_generated
from equinet.ops.kernels.edge.reference import EdgeMatrixConvolution, ReferenceConvolution
from equinet.ops.kernels.node.executor import GeneratedManyBody
from equinet.ops.kernels.node.reference import HornerManyBody, ReferenceManyBody
from equinet.ops.kernels.pair.executor import GeneratedPair
from equinet.ops.kernels.pair.executor import why_not_generated as why_no_pair_generated
from equinet.ops.kernels.pair.reference import BatchedPair, ReferencePair
from equinet.ops.kernels.pair.table import name_of, table_of
from equinet.ops.progress import building
from equinet.ops.protocols import Convolution, ManyBody, Pair
from equinet.ops.spec import ManyBodySpec, TensorProductSpec

from .arguments import require_role

# What a backend cannot do without; each says why it is not there.
_NEEDS: dict[str, Any] = {
    "generated": choice,
    "cuequivariance": cuequivariance,
    "openequivariance": openequivariance,
}

# Terms, with components of definite order, up to which couplings are written out. Those of a many-body product of 40,000 (l <= 6 to l <= 6,
# three factors) take half a minute and 2 GB to build; tables of a convolution of as many take 1 GB.
MOST_TERMS = 50_000


@dataclass(frozen=True)
class ClebschGordan:
    """Exact couplings: every path, each with a weight of its own.

    Args:
        backend: ``"generated"``: loops in machine code for this processor, and Triton kernels on CUDA, in float32 and float64; any
            other device or precision raises, and so does a many-body product of more than 2,500 terms on CUDA. ``"torch"``:
            batched matrix products, any device. ``"reference"``: the formulas term by term, the oracle of tests. ``"auto"``:
            ``"generated"`` where there is a kernel and code can be made within about ten seconds (up to degree 4 on all sides), else
            ``"torch"``; ``repr`` of an executor says which, and why. ``"cuequivariance"``: NVIDIA's library, its kernels on a GPU
            and its torch form on the CPU. ``"openequivariance"``: the convolution by that library, on a GPU only; it has no
            pair product and no finished many-body product, so those are the ones of ``"auto"``. ``"auto"`` takes neither. All are one function with
            the same weights. Not saved with a model.

    Raises:
        ValueError: If there is no such ``backend``, or it cannot run here; says why.

    Source:
        Batatia et al. 2022 (MACE), arXiv 2206.07697, eqs. 8-10; Geiger and Smidt 2022 (e3nn), arXiv 2207.09453.
    """

    backend: Literal["auto", "generated", "torch", "reference", "cuequivariance", "openequivariance"] = field(
        default="auto", metadata={"saved": False}
    )

    def __post_init__(self) -> None:
        if self.backend not in ("auto", "torch", "reference", *_NEEDS):
            raise ValueError(
                f"`backend` must be auto, generated, torch or reference, got {self.backend!r}; "
                "by other libraries there are cuequivariance and openequivariance"
            )
        if self.backend in _NEEDS and (reason := _NEEDS[self.backend].unavailable()):
            raise ValueError(f'`backend` "{self.backend}" cannot run here: {reason}, or take "auto"')

    def supports(self, spec: TensorProductSpec | ManyBodySpec) -> str | None:
        """None if this method can compute ``spec``, else the reason why not, with the number of terms."""
        return why_too_many_terms(spec) if isinstance(spec, ManyBodySpec) else why_too_many_entries(spec)

    def reached(self, spec: ManyBodySpec) -> set[o3.Irrep]:
        orders = range(1, spec.correlation + 1)
        return {ir for _, ir in spec.irreps_out if any(count_covariants(spec.irreps_in, nu, ir) for nu in orders)}

    @made_on_cpu
    def convolution(self, spec: TensorProductSpec) -> Convolution:
        require_role(spec, pair=False)
        self._require(spec)
        if self.backend == "reference":
            return ReferenceConvolution(spec)
        if self.backend == "cuequivariance":
            return cuequivariance.CuEquivarianceConvolution(spec)
        if self.backend == "openequivariance":
            return openequivariance.OpenEquivarianceConvolution(spec)
        if self.backend == "torch":
            return EdgeMatrixConvolution(spec)
        if self.backend == "auto" and (reason := why_not_generated(spec)):
            return EdgeMatrixConvolution(spec, KernelChoice("auto", cpu=reason, cuda=reason))
        return GeneratedConvolution(spec, self.backend)

    @made_on_cpu
    def pair(self, spec: TensorProductSpec) -> Pair:
        """The executor for a pair product, with a weight for each path."""
        require_role(spec, pair=True)
        self._require(spec)
        if self.backend == "reference":
            return ReferencePair(spec)
        if self.backend == "cuequivariance":
            return cuequivariance.CuEquivariancePair(spec)
        if self.backend == "torch":
            return BatchedPair(spec)
        if self.backend != "generated" and (reason := why_no_pair_generated(table_of(name_of(spec)))):
            return BatchedPair(spec, KernelChoice("auto", cpu=reason, cuda=reason))
        return GeneratedPair(spec, "generated" if self.backend == "generated" else "auto")

    @made_on_cpu
    def many_body(self, spec: ManyBodySpec) -> ManyBody:
        self._require(spec)
        with building(f"the couplings of the many-body product {spec}"):
            return self._many_body(spec)

    def _many_body(self, spec: ManyBodySpec) -> ManyBody:
        if self.backend == "reference":
            return ReferenceManyBody(spec)
        if self.backend == "cuequivariance":
            return cuequivariance.CuEquivarianceManyBody(spec)
        if self.backend == "torch":
            return HornerManyBody(spec)
        if self.backend != "generated" and (reason := choice.unavailable()):
            return HornerManyBody(spec, KernelChoice("auto", cpu=reason, cuda=reason))
        executor = GeneratedManyBody(spec, "generated" if self.backend == "generated" else "auto")
        executor.kernels.require_any()
        return executor

    def _require(self, spec: TensorProductSpec | ManyBodySpec) -> None:
        if reason := self.supports(spec):
            raise ValueError(f"{self} cannot do {spec}: {reason}")


def why_too_many_terms(spec: ManyBodySpec) -> str | None:
    """Reason why exact couplings of a many-body product are refused, from counting them; None if there are few enough."""
    pairs = [(nu, ir) for nu in range(1, spec.correlation + 1) for _, ir in spec.irreps_out]
    terms = sum(count_terms(spec.irreps_in, nu, ir) for nu, ir in pairs)
    if terms <= MOST_TERMS:
        return None
    polynomials = sum(count_covariants(spec.irreps_in, nu, ir) for nu, ir in pairs)
    return (
        f"it has {polynomials:,} polynomials with {terms:,} terms, and exact couplings go up to {MOST_TERMS:,}; take "
        '`many_body = "gaunt_grid"` (GauntGrid()), which never writes them out, or a lower `correlation` or `sh_degree`'
    )


def why_too_many_entries(spec: TensorProductSpec) -> str | None:
    """Reason why exact couplings of a convolution are refused, from counting them; None if there are few enough."""
    terms = 0
    for path in spec.paths:
        l1, l2, l3 = spec.irreps_in1[path.i1].ir.l, spec.irreps_in2[path.i2].ir.l, path.out.l
        terms += (2 * l1 + 1) * (2 * l2 + 1) - (l1 + l2 - l3) * (
            l1 + l2 - l3 + 1
        )  # pairs of orders with a sum up to l3
    if terms <= MOST_TERMS:
        return None
    return (
        f"it has {len(spec.paths):,} paths with {terms:,} terms, and exact couplings go up to {MOST_TERMS:,}; take "
        '`convolution = "gaunt_grid"` (GauntGrid()), which never writes them out, or lower degrees'
    )
