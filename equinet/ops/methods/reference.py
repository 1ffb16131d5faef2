"""Slow forms of methods, term by term: the oracles of tests, of the self-test and of benchmarks."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any, cast, get_args, get_type_hints

from equinet.ops.kernels.edge.reference import ReferenceConvolution
from equinet.ops.kernels.pair.reference import ReferencePair
from equinet.ops.protocols import Convolution, ManyBody, Method, Pair, PairMethod
from equinet.ops.spec import ManyBodySpec, TensorProductSpec

from .roles import executor_of


def offered_backends(method: Method) -> list[str]:
    """Names that the field ``backend`` of a method may have, read from its type; none if there is no such field."""
    if not is_dataclass(method) or "backend" not in {field.name for field in fields(method)}:
        return []
    return list(get_args(get_type_hints(type(method))["backend"]))


def reference_of(method: Method) -> Method | None:
    """The method whose executors are the reference forms of those of ``method``; None if they may be another function."""
    if "reference" not in offered_backends(method) or getattr(method, "approximates", False):
        return None
    return cast(Method, replace(cast(Any, method), backend="reference"))


def reference_executor(method: Method, spec: TensorProductSpec | ManyBodySpec) -> Convolution | ManyBody | Pair:
    """Executor that computes what ``method`` computes, term by term.

    Methods without a backend ``"reference"`` have the formulas with their own ``path_weights`` as convolution and as pair product; as
    many-body product they have no slow form, and their executor is returned.
    """
    if "reference" in offered_backends(method):
        return executor_of(cast(Method, replace(cast(Any, method), backend="reference")), spec)
    if isinstance(spec, ManyBodySpec):
        return method.many_body(spec)
    if spec.pair:
        return ReferencePair(spec, like=cast(PairMethod, method).pair(spec))
    return ReferenceConvolution(spec, like=method.convolution(spec))
