"""The many-body product in machine code or generated kernels, as an executor."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from equinet.ops.codegen import llvm, tiles
from equinet.ops.spec import ManyBodySpec
from equinet.ops.species import SpeciesGroups

from .cpu import Polynomials
from .gpu import MOST_TERMS
from .operator import name_of, polynomials_of, value
from .reference import HornerManyBody, Kept


class GeneratedManyBody(HornerManyBody):
    """The nested sum over the few coefficients that are not zero, in machine code made for this processor (:mod:`.node_loops`), in
    kernels on CUDA (:mod:`.node_tiles`).

    On other devices, in other precisions than float32 and float64, and on CUDA with more than :data:`.node_tiles.MOST_TERMS`
    coefficients, it is the :class:`HornerManyBody` it descends from.
    """

    coefficients: Tensor

    def __init__(self, spec: ManyBodySpec) -> None:
        super().__init__(spec)
        self._product = name_of(spec)
        self.register_constant("coefficients", self.polynomials.coefficients.T.contiguous())
        self._kept_terms = Kept()

    @property
    def polynomials(self) -> Polynomials:
        """The polynomials that the code runs through."""
        return polynomials_of(self._product)

    def _runs_on(self, features: Tensor) -> bool:
        """Whether there are kernels or machine code for ``features``."""
        if tiles.runs_on(features):
            return len(self.polynomials.terms) <= MOST_TERMS
        return llvm.runs_on(features)

    def forward(
        self,
        features: Float[Tensor, "nodes dim channels"],
        weight: Float[Tensor, "species paths channels"],
        groups: SpeciesGroups,
    ) -> Float[Tensor, "nodes out channels"]:
        if not self._runs_on(features):
            return super().forward(features, weight, groups)
        groups.require_weights_for(weight.shape[0])
        terms = self._kept_terms.of(weight, lambda weight: self.coefficients @ weight)  # (species, terms, channels)
        return value(features, terms, groups.order, groups.species, self._product)
