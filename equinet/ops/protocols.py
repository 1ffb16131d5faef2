"""Protocols of methods and executors: the interface behind which tensor products are interchangeable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from e3nn import o3
from torch import Tensor

from .edges import Edges
from .spec import ManyBodySpec, TensorProductSpec
from .species import SpeciesGroups


class Convolution(Protocol):
    """Executor of the edge convolution: a module whose only parameters, if any, are factors being trained.

    Attributes:
        spec: The couplings it may use.
        copies: Copies of each output irrep among the rows of the result, which are grouped by irrep with the component slow
            and the copy fast. Exact couplings kept apart have one copy per path, a product that sums its paths has one.
        weight_numel: Weights per edge and channel. Independent and of unit variance, they give a result of unit variance.
    """

    @property
    def spec(self) -> TensorProductSpec:
        """The couplings it may use."""

    @property
    def copies(self) -> Mapping[o3.Irrep, int]:
        """Copies of each output irrep among the rows of the result."""

    @property
    def weight_numel(self) -> int:
        """Weights per edge and channel."""

    def __call__(self, node_feats: Tensor, edge_attrs: Tensor, weight: Tensor, edges: Edges | Tensor) -> Tensor:
        """``(nodes, dim, channels)``, ``(rows, harmonics)``, ``(rows, weights, channels)`` -> ``(nodes, rows, channels)``.

        ``edges`` are :class:`Edges`, or an ``edge_index (2, edges)`` of single directions.
        """

    def path_weights(self, weight: Tensor) -> Tensor:
        """``(edges, weights, channels)`` -> ``(edges, slots, paths, channels)``: what is computed, in the paths of ``spec``.

        Slots are the copies of the output irreps in order. A slot is the sum over the paths that end in its irrep of this
        weight times the path's product as :class:`TensorProductSpec` defines it.
        """


class Pair(Protocol):
    """Executor of the pair product: a module whose only parameters, if any, are factors being trained.

    Attributes:
        spec: The couplings it may use; a pair product (:class:`TensorProductSpec`).
        weight_numel: Weights per channel, shared by all rows or of each row.
        initial_scale: ``(weights,)``. Independent weights of this standard deviation give a result of unit variance.
    """

    @property
    def spec(self) -> TensorProductSpec:
        """The couplings it may use."""

    @property
    def weight_numel(self) -> int:
        """Weights per channel."""

    @property
    def initial_scale(self) -> Tensor:
        """Standard deviation of independent weights that give a result of unit variance."""

    def __call__(self, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        """``(rows, dim1, channels)``, ``(rows, dim2, channels)``, ``(weights, channels)`` -> ``(rows, out, channels)``.

        Weights of each row are ``(rows, weights, channels)``.
        """

    def path_weights(self, weight: Tensor) -> Tensor:
        """``(..., weights, channels)`` -> ``(..., paths, channels)``: the weights of the paths of ``spec`` that compute the same."""


class ManyBody(Protocol):
    """Executor of the many-body product.

    Attributes:
        spec: Specification of the product.
        weight_numel: Weights per species and channel.
    """

    @property
    def spec(self) -> ManyBodySpec:
        """Specification of the product."""

    @property
    def weight_numel(self) -> int:
        """Weights per species and channel."""

    def __call__(self, features: Tensor, weight: Tensor, groups: SpeciesGroups) -> Tensor:
        """``(nodes, dim, channels)``, ``(species, weights, channels)`` -> ``(nodes, out, channels)``."""

    def initial_weight(self) -> Tensor:
        """Random weights ``(species, weights, channels)`` that take unit-variance features to a result of unit size."""


class Method(Protocol):
    """A way to compute tensor products: a frozen dataclass whose fields are its arguments."""

    def supports(self, spec: TensorProductSpec | ManyBodySpec) -> str | None:
        """None if this method can compute ``spec``, else the reason why not, in words."""

    def reached(self, spec: ManyBodySpec) -> set[o3.Irrep]:
        """Those outputs of ``spec`` that are not zero whatever the features are."""

    def convolution(self, spec: TensorProductSpec) -> Convolution:
        """The executor for an edge convolution."""

    def many_body(self, spec: ManyBodySpec) -> ManyBody:
        """The executor for a many-body product."""


class PairMethod(Method, Protocol):
    """A method with the third role, which a method need not have (:func:`equinet.ops.methods.roles.refusal`)."""

    def pair(self, spec: TensorProductSpec) -> Pair:
        """The executor for a pair product."""
