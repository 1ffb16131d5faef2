"""Exact couplings, each with a weight of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from e3nn import o3

from .contraction import HornerManyBody, NaiveManyBody
from .convolution import EdgeMatrixConvolution, NaiveConvolution
from .polynomials import covariants
from .protocols import Convolution, ManyBody
from .spec import ManyBodySpec, TensorProductSpec


@dataclass(frozen=True)
class ClebschGordan:
    """Exact couplings: every path, each with a weight of its own.

    Args:
        backend: ``"torch"``: batched matrix products, any device. ``"naive"``: the formulas term by term, the oracle of
            tests. ``"auto"``: the fastest that runs here, at present ``"torch"``. Not saved with a model.

    Source:
        Batatia et al. 2022 (MACE), arXiv 2206.07697, eqs. 8-10; Geiger and Smidt 2022 (e3nn), arXiv 2207.09453.
    """

    backend: Literal["auto", "torch", "naive"] = field(default="auto", metadata={"saved": False})

    def __post_init__(self) -> None:
        if self.backend not in ("auto", "torch", "naive"):
            raise ValueError(f"`backend` must be auto, torch or naive, got {self.backend!r}")

    def supports(self, spec: TensorProductSpec | ManyBodySpec) -> str | None:
        return None

    def reached(self, spec: ManyBodySpec) -> set[o3.Irrep]:
        degrees = range(1, spec.correlation + 1)
        found = {ir for nu in degrees for ir in covariants(spec.irreps_in, nu, spec.irreps_out.lmax)}
        return found & {ir for _, ir in spec.irreps_out}

    def convolution(self, spec: TensorProductSpec) -> Convolution:
        return NaiveConvolution(spec) if self.backend == "naive" else EdgeMatrixConvolution(spec)

    def many_body(self, spec: ManyBodySpec) -> ManyBody:
        return NaiveManyBody(spec) if self.backend == "naive" else HornerManyBody(spec)
