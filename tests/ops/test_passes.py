"""The question an operator asks of a running backward pass: for which of its inputs is a gradient needed?"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import Function

from equinet.graph import collate, from_atoms
from equinet.ops import ClebschGordan
from equinet.ops.passes import is_needed


class Asking(Function):
    """a * n * b, which notes for which of (a, n, b) gradients are needed, and gives no others."""

    heard: list[tuple[bool, ...]]

    @staticmethod
    def forward(ctx: Any, note: str, a: Tensor, n: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, n, b)
        return a * n * b

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (g,), (a, n, b) = grads, ctx.saved_tensors
        needs = tuple(is_needed(ctx, place) for place in range(3))
        assert is_needed(ctx, 0, 1, 2) == any(needs)
        Asking.heard.append(needs)
        return None, g * n * b if needs[0] else None, None, g * a * n if needs[2] else None


@pytest.fixture
def graph() -> tuple[Tensor, ...]:
    """Leaves p and q, a = 2 p and b = 3 q made of them, and the sum of a b."""
    Asking.heard = []
    p, q = torch.randn(3, requires_grad=True), torch.randn(3, requires_grad=True)
    a, b = 2 * p, 3 * q
    return p, q, a, b, Asking.apply("a string is no tensor", a, torch.ones(3, dtype=torch.int64), b).sum()


@pytest.mark.parametrize(
    ("asked", "needs"), [("p", (1, 0)), ("q", (0, 1)), ("a", (1, 0)), ("b", (0, 1)), ("pb", (1, 1))]
)
@pytest.mark.parametrize("how", ["grad", "backward"])
def test_needed_is_what_leads_to_what_is_asked_for(graph, asked: str, needs: tuple[int, int], how: str) -> None:
    *named, value = graph
    tensors = [dict(zip("pqab", named))[name] for name in asked]
    if how == "grad":
        assert all(gradient is not None for gradient in torch.autograd.grad(value, tensors))
    else:
        for each in tensors:
            each.retain_grad()
        value.backward(inputs=tensors)
        assert all(each.grad is not None for each in tensors)
    assert Asking.heard == [(bool(needs[0]), False, bool(needs[1]))]


def test_everything_is_needed_if_nothing_is_named(graph) -> None:
    p, q, *_, value = graph
    value.backward()
    assert Asking.heard == [(True, False, True)]
    assert p.grad is not None
    assert q.grad is not None


@pytest.mark.parametrize("asked", [0, 1])
def test_a_leaf_that_is_an_input_itself_gets_its_gradient(asked: int) -> None:
    Asking.heard = []
    leaves = [torch.randn(3, requires_grad=True) for _ in range(2)]
    value = Asking.apply("", leaves[0], torch.ones(3), leaves[1]).sum()
    (gradient,) = torch.autograd.grad(value, leaves[asked])
    assert torch.equal(gradient, leaves[1 - asked])
    assert Asking.heard == [(asked == 0, False, asked == 1)]


def test_a_pass_within_a_pass_is_asked_for_itself(graph) -> None:
    p, _, _, _, value = graph
    inner: list[Tensor] = []
    other = torch.randn(3, requires_grad=True)

    def differentiate(gradient: Tensor) -> None:
        with torch.enable_grad():
            product = Asking.apply("", other, torch.ones(3), other).sum()
        inner.extend(torch.autograd.grad(product, other))

    value.register_hook(differentiate)
    torch.autograd.grad(value, p)
    assert Asking.heard == [(True, False, True), (True, False, False)]
    torch.testing.assert_close(inner[0], 2 * other.detach())


def test_another_thread_has_a_pass_of_its_own(graph) -> None:
    p, _, *_, value = graph
    other = torch.randn(3, requires_grad=True)
    product = Asking.apply("", torch.randn(3, requires_grad=True), torch.ones(3), 2 * other).sum()
    thread = threading.Thread(target=lambda: torch.autograd.grad(product, other))
    value.register_hook(lambda gradient: (thread.start(), thread.join())[0])
    torch.autograd.grad(value, p)
    assert Asking.heard == [(False, False, True), (True, False, False)]


def loss_of(potential: Any, graph: Any) -> Tensor:
    found = potential(graph, stress=True)
    return found["forces"].square().sum() + found["energy"].sum() + found["stress"].square().sum()


@pytest.mark.parametrize("backend", ["generated", "reference"])
def test_one_pass_to_everything_gives_what_a_pass_to_each_gives(
    make_potential: Callable[..., Any], triclinic: Any, backend: str
) -> None:
    """No caller can leave out a gradient by the way it asks for the others: forces first, then weights, positions or both."""
    potential = make_potential(convolution=ClebschGordan(backend), many_body=ClebschGordan(backend)).train()
    graph = collate([from_atoms(triclinic, potential.cutoff)])
    graph.positions.requires_grad_()
    weights = [weight for weight in potential.parameters() if weight.requires_grad]
    value = loss_of(potential, graph)
    together = torch.autograd.grad(value, [graph.positions, *weights], retain_graph=True)
    apart = torch.autograd.grad(value, graph.positions, retain_graph=True)
    apart += torch.autograd.grad(value, weights, retain_graph=True)
    value.backward()
    for one, other, leaf in zip(together, apart, [graph.positions, *weights], strict=True):
        assert one.abs().max() > 0
        torch.testing.assert_close(other, one, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(leaf.grad, one, rtol=1e-12, atol=1e-13)
