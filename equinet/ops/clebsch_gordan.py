"""Exact couplings, each with a weight of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from e3nn import o3

from . import kernels
from .contraction import HornerManyBody, NaiveManyBody
from .convolution import EdgeMatrixConvolution, NaiveConvolution
from .polynomials import covariants
from .protocols import Convolution, ManyBody
from .spec import ManyBodySpec, TensorProductSpec


@dataclass(frozen=True)
class ClebschGordan:
    """Exact couplings: every path, each with a weight of its own.

    Args:
        backend: ``"compiled"``: loops in machine code for this processor; on other devices what ``"torch"`` is. ``"torch"``:
            batched matrix products, any device. ``"naive"``: the formulas term by term, the oracle of tests. ``"auto"``:
            ``"compiled"`` where machine code can be made within about a minute (up to degree 5 on all sides), else ``"torch"``.
            Not saved with a model.

    Raises:
        ValueError: If there is no such ``backend``, or it cannot run here; says why.

    Source:
        Batatia et al. 2022 (MACE), arXiv 2206.07697, eqs. 8-10; Geiger and Smidt 2022 (e3nn), arXiv 2207.09453.
    """

    backend: Literal["auto", "compiled", "torch", "naive"] = field(default="auto", metadata={"saved": False})

    def __post_init__(self) -> None:
        if self.backend not in ("auto", "compiled", "torch", "naive"):
            raise ValueError(f"`backend` must be auto, compiled, torch or naive, got {self.backend!r}")
        if self.backend == "compiled" and (reason := kernels.unavailable()):
            raise ValueError(f'`backend` "compiled" cannot run here: {reason}, or take "auto"')

    def supports(self, spec: TensorProductSpec | ManyBodySpec) -> str | None:
        return None

    def reached(self, spec: ManyBodySpec) -> set[o3.Irrep]:
        degrees = range(1, spec.correlation + 1)
        found = {ir for nu in degrees for ir in covariants(spec.irreps_in, nu, spec.irreps_out.lmax)}
        return found & {ir for _, ir in spec.irreps_out}

    def convolution(self, spec: TensorProductSpec) -> Convolution:
        if self.backend == "naive":
            return NaiveConvolution(spec)
        compiled = self.backend == "compiled" or (self.backend == "auto" and kernels.worthwhile(spec))
        return kernels.CompiledConvolution(spec) if compiled else EdgeMatrixConvolution(spec)

    def many_body(self, spec: ManyBodySpec) -> ManyBody:
        if self.backend == "naive":
            return NaiveManyBody(spec)
        compiled = self.backend == "compiled" or (self.backend == "auto" and kernels.unavailable() is None)
        return kernels.CompiledManyBody(spec) if compiled else HornerManyBody(spec)
