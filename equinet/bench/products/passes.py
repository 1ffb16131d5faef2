"""The three computations that are timed, and the check that comes before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from equinet.bench.core.timing import one_line
from equinet.ops.spec import ManyBodySpec, TensorProductSpec

from .contenders import Bound, Built, harmonics_of
from .problems import Problem

PASSES = ("forward", "backward", "double")
TITLES = {"forward": "forward", "backward": "forward + backward", "double": "with double backward"}
# A reverse pass takes twice the operations of what it differentiates: a product of two has two derivatives.
OPERATIONS = {"forward": 1, "backward": 3, "double": 9}
ALLOWED = {torch.float32: 1e-5, torch.float64: 1e-12}
CHECKED_BYTES = 1 << 28  # of the largest tensor in the float64 check; above it fewer nodes are checked


def passes(bound: Bound) -> dict[str, Callable[[], None]]:
    """Forward as in inference; with gradients of all leaves; and with gradients of these, as training on forces takes them.

    Cotangents are random and stay; leaves are read anew at every call.
    """
    plain = tuple(leaf.detach() for leaf in bound.leaves)  # the same memory
    leaves = [leaf.detach().requires_grad_() for leaf in bound.leaves]
    with torch.no_grad():
        cotangent = torch.randn_like(bound.call(*plain))
    second = [torch.randn_like(leaf) for leaf in plain]

    def forward() -> None:
        with torch.no_grad():
            bound.call(*plain)

    def backward() -> None:
        gradients(bound.call, leaves, cotangent)

    def double() -> None:
        second_gradients(bound.call, leaves, cotangent, second)

    return {"forward": forward, "backward": backward, "double": double}


def gradients(
    call: Callable[..., Tensor], leaves: Sequence[Tensor], cotangent: Tensor, create_graph: bool = False
) -> tuple[Tensor, ...]:
    """Gradients of ``(result * cotangent).sum()``."""
    return torch.autograd.grad(
        call(*leaves), leaves, cotangent, create_graph=create_graph, materialize_grads=create_graph
    )


def second_gradients(
    call: Callable[..., Tensor], leaves: Sequence[Tensor], cotangent: Tensor, second: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Gradients of the sum of these gradients times ``second``."""
    first = gradients(call, leaves, cotangent, create_graph=True)
    mixed = torch.stack([(gradient * each).sum() for gradient, each in zip(first, second)]).sum()
    return torch.autograd.grad(mixed, leaves, materialize_grads=True)


@dataclass
class Checked:
    """Result of a check.

    Attributes:
        errors: Relative errors by pass, in the Frobenius norm, the largest of all leaves.
        failures: Reasons why a pass could not be checked, such as a library without second derivatives.
        nodes: Number of nodes that were checked: fewer than all where float64 would take too much memory.
    """

    errors: dict[str, float]
    failures: dict[str, str]
    nodes: int


def check(built: Built, problem: Problem) -> Checked:
    """Values, gradients and second derivatives against the formulas in float64.

    The inputs are numbers of the dtype that is measured. Where the second input is harmonics, gradients are those with respect to
    the vectors, as in a potential.

    Raises:
        RuntimeError: If not even the values can be computed.
    """
    checked = problem.smaller(checked_nodes(built, problem))
    bound = built.bind(checked)
    low = _leaves(bound)
    high = [leaf.detach().double().requires_grad_() for leaf in low]
    found, expected = _through_vectors(bound, bound.call), _through_vectors(bound, bound.expected)
    with torch.no_grad():
        value, truth = found(*low), expected(*high)
    if value.shape != truth.shape:
        return Checked(dict.fromkeys(PASSES, float("inf")), {}, checked.nodes)
    cotangent = torch.randn_like(value)
    second = [torch.randn_like(leaf) for leaf in low]
    exact = cotangent.double(), [each.double() for each in second]
    result = Checked({"forward": relative_error([value], [truth])}, {}, checked.nodes)
    try:
        name = "backward"
        first = gradients(found, low, cotangent)
        result.errors[name] = relative_error(first, gradients(expected, high, exact[0]))
        name = "double"
        curved = second_gradients(found, low, cotangent, second)
        result.errors[name] = relative_error(curved, second_gradients(expected, high, *exact))
    except RuntimeError as error:
        result.failures[name] = one_line(error)
    return result


def _leaves(bound: Bound) -> list[Tensor]:
    leaves = list(bound.leaves)
    if bound.vectors is not None:
        leaves[1] = bound.vectors
    return [leaf.detach().clone().requires_grad_() for leaf in leaves]


def _through_vectors(bound: Bound, call: Callable[..., Tensor]) -> Callable[..., Tensor]:
    if bound.vectors is None:
        return call
    width = bound.leaves[1].shape[1]
    return lambda x, vectors, w: call(x, harmonics_of(vectors, width), w)


def relative_error(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest of ``|found - expected| / |expected|``; infinite where shapes differ or something is not finite."""
    worst = 0.0
    for value, truth in zip(found, expected):
        if value.shape != truth.shape:
            return float("inf")
        size = float(truth.norm())
        # What is zero by symmetry has to be small in itself.
        error = float((value.double() - truth).norm()) / (size if size > 1e-10 else 1.0)
        if not error < float("inf"):
            return float("inf")
        worst = max(worst, error)
    return worst


def checked_nodes(built: Built, problem: Problem) -> int:
    """Return the number of nodes whose largest tensor in float64 fits into ``CHECKED_BYTES``."""
    spec = problem.spec
    if isinstance(spec, ManyBodySpec):
        variables = spec.irreps_in.dim // spec.channels
        terms = 1.0
        for n in range(spec.correlation):
            terms *= (variables + n) / (n + 1)
        each = terms * spec.correlation * spec.channels
    else:
        each = per_pair(built, spec) * max(1, problem.edges // problem.nodes)
    return max(2, min(problem.nodes, int(CHECKED_BYTES / (8 * each))))


def per_pair(built: Built, spec: TensorProductSpec) -> float:
    """Numbers per pair in the largest tensor of the formulas."""
    if spec.pair:
        products = (spec.irreps_in1[path.i1].ir.dim * spec.irreps_in2[path.i2].ir.dim for path in spec.paths)
        return max(spec.rows, *products) * spec.channels
    if built.same_function:
        return spec.rows * spec.channels
    slots = len(spec.paths_per_output) if built.expressivity.weights < len(spec.paths) else len(spec.paths)
    return max(spec.rows, slots * len(spec.paths)) * spec.channels
