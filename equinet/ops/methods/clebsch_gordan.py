"""Exact couplings, each with a weight of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from e3nn import o3

from equinet.ops.coupling.polynomials import covariants
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
from equinet.ops.protocols import Convolution, ManyBody, Pair
from equinet.ops.spec import ManyBodySpec, TensorProductSpec

from .arguments import require_role

# What a backend cannot do without; each says why it is not there.
_NEEDS: dict[str, Any] = {
    "generated": choice,
    "cuequivariance": cuequivariance,
    "openequivariance": openequivariance,
}


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
        return None

    def reached(self, spec: ManyBodySpec) -> set[o3.Irrep]:
        degrees = range(1, spec.correlation + 1)
        found = {ir for nu in degrees for ir in covariants(spec.irreps_in, nu, spec.irreps_out.lmax)}
        return found & {ir for _, ir in spec.irreps_out}

    @made_on_cpu
    def convolution(self, spec: TensorProductSpec) -> Convolution:
        require_role(spec, pair=False)
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
