"""The three roles of a method, chosen by the kind of spec: convolution, pair product, many-body product."""

from __future__ import annotations

from typing import cast

from equinet.ops.protocols import Convolution, ManyBody, Method, Pair, PairMethod
from equinet.ops.spec import ManyBodySpec, TensorProductSpec

NO_PAIRS = "it has no pair product, in which both inputs have channels; ClebschGordan() has"


def refusal(method: Method, spec: TensorProductSpec | ManyBodySpec) -> str | None:
    """None if ``method`` can compute ``spec``, else the reason why not, in words: also of a method without the third role."""
    if isinstance(spec, TensorProductSpec) and spec.pair and not hasattr(method, "pair"):
        return NO_PAIRS
    return method.supports(spec)


def executor_of(method: Method, spec: TensorProductSpec | ManyBodySpec) -> Convolution | ManyBody | Pair:
    """Executor of a convolution, of a pair product or of a many-body product, by the kind of ``spec``.

    Raises:
        ValueError: If ``spec`` is a pair product and ``method`` has none.
    """
    if isinstance(spec, ManyBodySpec):
        return method.many_body(spec)
    if not spec.pair:
        return method.convolution(spec)
    if not hasattr(method, "pair"):
        raise ValueError(f"{method} cannot do {spec}: {NO_PAIRS}")
    return cast(PairMethod, method).pair(spec)
