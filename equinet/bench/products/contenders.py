"""Contenders of equinet: every method with every backend; other libraries are in :mod:`equinet.bench.peers`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from equinet.ops.analysis import explain, label, usual_methods
from equinet.ops.analysis.cost import cost
from equinet.ops.coupling.counts import count_covariants
from equinet.ops.edges import Edges
from equinet.ops.harmonics import SphericalHarmonics
from equinet.ops.kernels.choice import refusal_of
from equinet.ops.layout import one_of_each
from equinet.ops.methods.clebsch_gordan import ClebschGordan
from equinet.ops.methods.factorised import FactorisedMethod
from equinet.ops.methods.gaunt import GauntGrid
from equinet.ops.methods.reference import offered_backends, reference_executor
from equinet.ops.methods.roles import executor_of, refusal
from equinet.ops.methods.so2 import SO2
from equinet.ops.protocols import Method
from equinet.ops.spec import ManyBodySpec, TensorProductSpec
from equinet.ops.species import SpeciesGroups

from . import reference
from .problems import Problem

ANY = "auto"  # the backend that is one of the others


@dataclass(frozen=True)
class Expressivity:
    """Couplings that a contender can express, shown so that unequal ones are not compared unnoticed.

    Attributes:
        reached: Couplings it reaches (of a many-body product: dimension of the polynomials).
        full: Couplings there are.
        odd: Those reached whose degrees add up to an odd number; 0 in a many-body product, where it is not counted.
        weights: Weights per pair (species) and channel.
        approximation: Relative error of the coupling tensor, of a CP decomposition; else None.
    """

    reached: int
    full: int
    odd: int
    weights: int
    approximation: float | None = None


@dataclass
class Bound:
    """A contender with inputs of a problem in its own layout.

    Attributes:
        leaves: Features, second input (not in a many-body product) and weights: what is differentiated.
        call: The computation.
        expected: The same by the formulas, for leaves in float64.
        vectors: Vectors ``(edges, 3)`` whose harmonics are the second input; None where that may be any numbers.
        weights_stay: True if weights are parameters, the same in every call of an inference.
    """

    leaves: tuple[Tensor, ...]
    call: Callable[..., Tensor]
    expected: Callable[..., Tensor]
    vectors: Tensor | None = None
    weights_stay: bool = False

    @torch.no_grad()
    def draw(self) -> None:
        """New random numbers in the leaves, in place."""
        for n, leaf in enumerate(self.leaves):
            if n == 1 and self.vectors is not None:
                self.vectors.normal_()
                leaf.copy_(harmonics_of(self.vectors, leaf.shape[1]))
            elif not (self.weights_stay and n == len(self.leaves) - 1):
                leaf.normal_()


class Built(Protocol):
    """A contender made ready for one spec, dtype and device."""

    @property
    def expressivity(self) -> Expressivity: ...

    @property
    def same_function(self) -> bool:
        """True if it computes what exact couplings compute."""

    def flops(self, problem: Problem) -> float | None:
        """Operation count of a contender that is another function; None if there is no cost model."""

    def bind(self, problem: Problem) -> Bound:
        """Random inputs of a problem with the same spec."""


def harmonics_of(vectors: Tensor, width: int) -> Tensor:
    """All harmonics with so many components, of vectors that need not have length one."""
    harmonics = SphericalHarmonics(round(width**0.5) - 1).to(vectors)
    result: Tensor = harmonics(torch.nn.functional.normalize(vectors))
    return result


@dataclass(frozen=True)
class Ours:
    """A method of equinet with one of its backends."""

    method: Method
    absent: str | None = None

    @property
    def name(self) -> str:
        return _name(self.method, getattr(self.method, "backend", None))

    def build(self, spec: TensorProductSpec | ManyBodySpec, dtype: torch.dtype, device: torch.device) -> OursBuilt:
        return OursBuilt(self.method, spec, dtype, device)


@dataclass(frozen=True)
class Missing:
    """A method of equinet with a backend that is not there, or that has nothing of its own for the problem."""

    name: str
    absent: str | None

    def build(self, spec: TensorProductSpec | ManyBodySpec, dtype: torch.dtype, device: torch.device) -> OursBuilt:
        raise ValueError(self.absent)


class OursBuilt:
    """An executor and its reference form."""

    def __init__(
        self, method: Method, spec: TensorProductSpec | ManyBodySpec, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.spec, self.dtype, self.device = spec, dtype, device
        self.same_function = isinstance(method, ClebschGordan)
        executor: Any = executor_of(method, spec)
        if not getattr(executor, "copies", True):
            raise ValueError(f"it reaches none of the outputs: {method.supports(spec)}")
        self.executor = executor.to(dtype).to(device)
        if reason := refusal_of(self.executor):
            raise ValueError(reason)
        self._method, self._twin = method, cast(Any, None)

    @cached_property
    def expressivity(self) -> Expressivity:
        """Found when first asked for, not while it is timed how long building takes."""
        return expressivity_of(self._method, self.spec)

    @property
    def twin(self) -> Any:
        """The formulas in float64, made when first asked for."""
        if self._twin is None:
            self._twin = reference_executor(self._method, self.spec)
            self._twin.double().to(self.device)
        return self._twin

    def flops(self, problem: Problem) -> float | None:
        counted = cost(self.executor)
        if counted is None:
            return None
        return problem.edges * counted.flops_per_edge + problem.nodes * counted.flops_per_node

    def bind(self, problem: Problem) -> Bound:
        spec, executor = self.spec, self.executor
        to: Any = {"dtype": self.dtype, "device": self.device}
        if isinstance(spec, ManyBodySpec):
            groups = SpeciesGroups(problem.species().to(self.device))
            x = torch.randn(problem.nodes, one_of_each(spec.irreps_in).dim, spec.channels, **to)
            weight = torch.randn(spec.species, executor.weight_numel, spec.channels, **to)
            return Bound(
                (x, weight),
                lambda x, w: executor(x, w, groups),
                lambda x, w: self.twin(x, w, groups),
                weights_stay=True,
            )
        if spec.pair:
            x, y, _ = pair_inputs(problem, self.dtype, self.device)
            weight = torch.randn(executor.weight_numel, spec.channels, **to)
            if self.same_function:
                return Bound((x, y, weight), executor, lambda x, y, w: reference.pair(spec, x, y, w), weights_stay=True)
            return Bound((x, y, weight), executor, lambda x, y, w: self.twin(x, y, w), weights_stay=True)
        index = problem.edge_index().to(self.device)
        edges = Edges(index, problem.nodes)  # once, as a model does for all its layers
        x, y, vectors = pair_inputs(problem, self.dtype, self.device)
        weight = torch.randn(problem.edges, executor.weight_numel, spec.channels, **to)

        def expected(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
            if self.same_function:
                return reference.convolution(spec, x, y, w, index)
            result: Tensor = self.twin(x, y, w, edges)
            return result

        return Bound((x, y, weight), lambda x, y, w: executor(x, y, w, edges), expected, vectors)


def pair_inputs(problem: Problem, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor | None]:
    """Features ``(nodes, dim, channels)``, second input ``(edges, dim2)`` and, where it is harmonics, its vectors.

    Of a pair product the second input is ``(nodes, dim2, channels)``.
    """
    spec = problem.spec
    assert isinstance(spec, TensorProductSpec)
    x = torch.randn(problem.nodes, one_of_each(spec.irreps_in1).dim, spec.channels, dtype=dtype, device=device)
    if spec.pair:
        dim2 = one_of_each(spec.irreps_in2).dim
        return x, torch.randn(problem.nodes, dim2, spec.channels, dtype=dtype, device=device), None
    if problem.harmonics:
        vectors = torch.randn(problem.edges, 3, dtype=dtype, device=device)
        return x, harmonics_of(vectors, spec.irreps_in2.dim), vectors
    return x, torch.randn(problem.edges, spec.irreps_in2.dim, dtype=dtype, device=device), None


def expressivity_of(method: Method, spec: TensorProductSpec | ManyBodySpec) -> Expressivity:
    """Return the result of :func:`equinet.ops.explain` for one channel; exact couplings need none."""
    if isinstance(method, ClebschGordan):
        return all_couplings(spec)
    if isinstance(spec, ManyBodySpec):
        body = ManyBodySpec(one_of_each(spec.irreps_in), one_of_each(spec.irreps_out), spec.correlation, 1)
        found = explain(body, method)
        return Expressivity(found.expressivity, found.full, 0, found.weights, found.tensor_error)
    one = TensorProductSpec(one_of_each(spec.irreps_in1), one_of_each(spec.irreps_in2), spec.outputs, spec.pair)
    found = explain(one, method)
    odd = sum(is_odd(one, n) for n, part in enumerate(found.parts) if part.reached)
    return Expressivity(found.reached, found.full, odd, found.weights, found.tensor_error)


def all_couplings(spec: TensorProductSpec | ManyBodySpec) -> Expressivity:
    """Every coupling, or polynomial, with a weight of its own."""
    if isinstance(spec, ManyBodySpec):
        orders = range(1, spec.correlation + 1)
        count = sum(count_covariants(spec.irreps_in, nu, ir) for nu in orders for _, ir in spec.irreps_out)
        return Expressivity(count, count, 0, count)
    count = len(spec.paths)
    return Expressivity(count, count, sum(is_odd(spec, n) for n in range(count)), count)


def is_odd(spec: TensorProductSpec, n: int) -> bool:
    """Return True if the degrees of a path add up to an odd number."""
    path = spec.paths[n]
    return bool((spec.irreps_in1[path.i1].ir.l + spec.irreps_in2[path.i2].ir.l + path.out.l) % 2)


def backends_of(method: Method, reference: bool) -> list[str]:
    """The backends a method offers, read from the type of its field ``backend``; ``"auto"`` is one of them already."""
    return [name for name in offered_backends(method) if name != ANY and (reference or name != "reference")]


def ours(problem: Problem, methods: Sequence[Method] | None, reference: bool) -> list[Ours | Missing]:
    """Every method with every backend, those that cannot take part with the reason.

    Args:
        problem: Problem to measure.
        methods: Methods; by default all that :func:`equinet.ops.analysis.usual_methods` has for the spec.
        reference: True if the reference forms take part too.
    """
    found: list[Ours | Missing] = []
    for method in methods or usual_methods(problem.spec):
        absent = _why_absent(method, problem)
        offered = backends_of(method, reference)
        if not offered:  # a product of other people, which has one form
            found.append(Ours(method, absent))
        for backend in offered:
            name = _name(method, backend)
            try:
                chosen: Any = dataclasses.replace(method, backend=backend)  # type: ignore[type-var]
                if absent is None and backend == "generated":
                    executor_of(chosen, problem.spec)
            except ValueError as error:
                found.append(Missing(name, str(error)))
                continue
            if backend == "openequivariance" and (isinstance(problem.spec, ManyBodySpec) or problem.spec.pair):
                found.append(Missing(name, "it has no such product of its own, and takes that of auto"))
                continue
            found.append(Ours(chosen, absent))
    return found


def _name(method: Method, backend: str | None) -> str:
    return f"ours: {label(method)}" + (f", {backend}" if backend else "")


def _why_absent(method: Method, problem: Problem) -> str | None:
    spec = problem.spec
    if isinstance(spec, ManyBodySpec):
        absent = method.supports(spec)
    elif spec.pair and (isinstance(method, SO2) or not hasattr(method, "pair")):
        absent = refusal(method, spec)
    elif isinstance(method, SO2) and not problem.harmonics:
        absent = "its second input must be harmonics of directions, of degree 0 to L; here it is any numbers"
    elif isinstance(method, FactorisedMethod) and not spec.pair and method.is_path_by_path(spec):
        absent = "features are scalars of one kind, where it is cg"
    else:
        absent = None
    if absent is None and method == GauntGrid(bracket=True) and _weights(method, spec) == _weights(GauntGrid(), spec):
        return "no coupling here is odd, so that it is gaunt_grid"
    return absent


def _weights(method: Method, spec: TensorProductSpec | ManyBodySpec) -> int:
    try:
        return executor_of(method, spec).weight_numel
    except ValueError:  # a pair product that reaches no output
        return 0
