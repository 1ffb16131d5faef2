"""How a product is computed: small frozen objects, handed to a model once and passed down.

A method answers three questions. Can it do this? (``supports``) What executes it where a neighbour's features meet the
harmonics of an edge? (``convolution``) And where one node's features are multiplied with themselves? (``many_body``)
To add one, see "How to add a tensor product" in CONTRIBUTING.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from .contraction import HornerManyBody, NaiveManyBody
from .convolution import EdgeMatrixConvolution, NaiveConvolution
from .spec import ManyBodySpec, TensorProductSpec
from .species import SpeciesGroups


class Convolution(Protocol):
    """Executor of the edge convolution; a module without parameters."""

    spec: TensorProductSpec

    @property
    def weight_numel(self) -> int:
        """Weights per edge and channel."""

    def __call__(self, node_feats: Tensor, edge_attrs: Tensor, weight: Tensor, edge_index: Tensor) -> Tensor:
        """``(nodes, dim, channels)``, ``(edges, harmonics)``, ``(edges, paths, channels)`` -> ``(nodes, rows, channels)``."""


class ManyBody(Protocol):
    """Executor of the many-body product; a module without parameters."""

    spec: ManyBodySpec

    @property
    def weight_numel(self) -> int:
        """Weights per species and channel."""

    def __call__(self, features: Tensor, weight: Tensor, groups: SpeciesGroups) -> Tensor:
        """``(nodes, dim, channels)``, ``(species, paths, channels)`` -> ``(nodes, out, channels)``."""


class Method(Protocol):
    """A way to compute tensor products."""

    def supports(self, spec: TensorProductSpec | ManyBodySpec) -> str | None:
        """None if this method can compute ``spec``, else the reason why not, in words."""

    def convolution(self, spec: TensorProductSpec) -> Convolution:
        """The executor for an edge convolution."""

    def many_body(self, spec: ManyBodySpec) -> ManyBody:
        """The executor for a many-body product."""


@dataclass(frozen=True)
class ClebschGordan:
    """Exact couplings: every path, each with a weight of its own.

    Args:
        backend: ``"torch"``: batched matrix products, any device. ``"naive"``: the formulas term by term, the oracle of
            tests. ``"auto"``: the fastest that runs here, at present ``"torch"``.

    Source:
        Batatia et al. 2022 (MACE), arXiv 2206.07697, eqs. 8-10; Geiger and Smidt 2022 (e3nn), arXiv 2207.09453.
    """

    backend: Literal["auto", "torch", "naive"] = "auto"

    def __post_init__(self) -> None:
        if self.backend not in ("auto", "torch", "naive"):
            raise ValueError(f"`backend` must be auto, torch or naive, got {self.backend!r}")

    def supports(self, spec: TensorProductSpec | ManyBodySpec) -> str | None:
        return None

    def convolution(self, spec: TensorProductSpec) -> Convolution:
        return NaiveConvolution(spec) if self.backend == "naive" else EdgeMatrixConvolution(spec)

    def many_body(self, spec: ManyBodySpec) -> ManyBody:
        return NaiveManyBody(spec) if self.backend == "naive" else HornerManyBody(spec)


# The names by which a configuration file calls the methods.
METHODS: dict[str, type[Method]] = {"cg": ClebschGordan}


def method_from_name(name: str) -> Method:
    """The method a configuration file names, with its default arguments.

    Raises:
        ValueError: If there is no such method; lists those there are.
    """
    if name not in METHODS:
        raise ValueError(f"there is no tensor product called {name!r}; choose one of: {', '.join(METHODS)}")
    return METHODS[name]()
