"""The many-body product in machine code: against the form in torch, in every derivative, and as torch operators."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, library

from equinet.ops import ManyBodySpec, SpeciesGroups
from equinet.ops.analysis.cost import cost
from equinet.ops.kernels.node import operator as node_operator
from equinet.ops.kernels.node.executor import GeneratedManyBody
from equinet.ops.kernels.node.reference import HornerManyBody

SPECS = [
    ManyBodySpec("16x0e+16x1o+16x2e+16x3o", "16x0e+16x1o", 3, 3),
    ManyBodySpec("3x0e+3x1o+3x2e", "3x0e+3x2e", 4, 2),
    ManyBodySpec("5x0e+5x1o+5x1e", "5x0e+5x1o", 2, 1),
    ManyBodySpec("1x0e+1x1o", "1x0e+1x1o", 1, 1),
]


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def random_inputs(
    spec: ManyBodySpec, nodes: int = 7, dtype: torch.dtype = torch.float64
) -> tuple[list[Tensor], SpeciesGroups]:
    """Features and weights, and species of which the last of several is missing."""
    module = HornerManyBody(spec)
    x = torch.randn(nodes, spec.irreps_in.dim // spec.channels, spec.channels, dtype=dtype)
    w = torch.randn(spec.species, module.weight_numel, spec.channels, dtype=dtype)
    return [x, w], SpeciesGroups(torch.randint(max(spec.species - 1, 1), (nodes,)))


def derivatives(run: Callable[..., Tensor], leaves: list[Tensor], order: int) -> list[Tensor]:
    """The result, and the gradients of a random combination of gradients of ... of it."""
    torch.manual_seed(1)
    inputs = [leaf.clone().requires_grad_() for leaf in leaves]
    out = run(*inputs)
    found, value = [out], (out * torch.randn_like(out)).sum() + out.square().sum()
    for _ in range(order):
        gradients = torch.autograd.grad(value, inputs, create_graph=True, materialize_grads=True)
        found += gradients
        value = torch.stack(
            [(gradient * torch.randn(gradient.shape, dtype=gradient.dtype)).sum() for gradient in gradients]
        ).sum()
    return found


@pytest.mark.parametrize("nodes", [7, 1, 0, 100])
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_values_and_three_derivatives_are_those_of_the_form_in_torch(spec: ManyBodySpec, nodes: int) -> None:
    leaves, groups = random_inputs(spec, nodes)
    forms = (GeneratedManyBody(spec).double(), HornerManyBody(spec).double())
    ours, theirs = (derivatives(lambda *x, form=form: form(*x, groups), leaves, 3) for form in forms)
    for found, expected in zip(ours, theirs):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12 * (1 + float(expected.detach().norm())))


def test_two_threads_give_what_one_gives() -> None:
    leaves, groups = random_inputs(SPECS[0], 200)
    module, found = GeneratedManyBody(SPECS[0]).double(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(derivatives(lambda *x: module(*x, groups), leaves, 2))
    for one, *more in zip(*found):
        assert all(torch.equal(one, other) for other in more)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_operators_keep_the_rules_of_torch(dtype: torch.dtype) -> None:
    spec = SPECS[2]
    (x, w), groups = random_inputs(spec, 3, dtype)
    module = GeneratedManyBody(spec).to(dtype)
    K = module.coefficients @ w
    g, a = torch.randn(3, 4, 5, dtype=dtype), torch.randn_like(x)
    for tensor in (x, K, g, a):
        tensor.requires_grad_()
    rest = (groups.order, groups.species, node_operator.name_of(spec))
    checks = ("test_schema", "test_faketensor", "test_autograd_registration", "test_aot_dispatch_dynamic")
    for operator, inputs in (
        (node_operator.value, (x, K, *rest)),
        (node_operator.gradient, (g, x, K, *rest)),
        (node_operator.weight_gradient, (g, x, K, *rest)),
        (node_operator.double_backward, (a, g, x, K, *rest)),
    ):
        library.opcheck(operator, inputs, test_utils=checks)


def test_arrays_need_not_be_contiguous() -> None:
    spec = SPECS[0]
    (x, w), groups = random_inputs(spec)
    K = GeneratedManyBody(spec).double().coefficients @ w
    rest = (groups.order, groups.species, node_operator.name_of(spec))
    scattered = [torch.stack([each, each], dim=-1)[..., 0] for each in (x, K)]
    assert torch.equal(node_operator.value(*scattered, *rest), node_operator.value(x, K, *rest))
    g = torch.randn((), dtype=torch.float64).expand(7, 4, 16)  # what the derivative of a sum is
    for operator in (node_operator.gradient, node_operator.weight_gradient):
        assert torch.equal(operator(g, *scattered, *rest), operator(g.contiguous(), x, K, *rest))


def test_a_pass_to_features_leaves_out_the_gradients_of_weights_and_changes_no_other(monkeypatch) -> None:
    (x, w), groups = random_inputs(SPECS[0])
    module = GeneratedManyBody(SPECS[0]).double()
    features, weight = x.requires_grad_(), w.requires_grad_()
    value = module(features, weight, groups).square().sum()
    ran, run = [], node_operator._run_machine_code
    monkeypatch.setattr(node_operator, "_run_machine_code", lambda name, *rest: ran.append(name) or run(name, *rest))
    (alone,) = torch.autograd.grad(value, features, retain_graph=True)
    assert ran == ["gradient"]
    both = torch.autograd.grad(value, [features, weight], retain_graph=True)
    assert sorted(ran[1:]) == ["gradient", "weight_gradient"]
    (of_weight,) = torch.autograd.grad(value, weight, retain_graph=True)
    value.backward()
    assert torch.equal(alone, both[0])
    assert torch.equal(alone, features.grad)
    assert torch.equal(of_weight, both[1])
    assert torch.equal(of_weight, weight.grad)


def test_coefficients_are_kept_while_the_weights_are_frozen_and_no_longer() -> None:
    (x, w), groups = random_inputs(SPECS[0])
    module = GeneratedManyBody(SPECS[0]).double()
    before = module(x, w, groups)
    assert torch.equal(module(x, w, groups), before)
    w.mul_(2)
    torch.testing.assert_close(module(x, w, groups), 2 * before)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_every_term_is_there_once_and_what_is_counted_is_what_is_listed(spec: ManyBodySpec) -> None:
    module = GeneratedManyBody(spec)
    p = module.polynomials
    powers: list[tuple[int, ...]] = [(), *((v,) for v in range(p.variables))]
    for first, last in p.monomials.tolist():
        powers.append((*powers[first], last - 1))
    terms = [(k, tuple(sorted((*powers[m], l)))) for k, m, l in p.terms.tolist()]
    assert len(set(terms)) == len(terms) == p.coefficients.shape[1]
    assert p.coefficients.abs().amax(0).min() > 0
    listed = sum(count * length for length, _, count in p.groups)
    assert listed == len(terms)
    heads = sum(count for _, _, count in p.groups)
    assert sum(cost(module).node) == (len(p.monomials) + 2 * listed + heads) * spec.channels


def test_a_precision_without_kernels_is_refused_and_not_read_as_another() -> None:
    spec = ManyBodySpec("2x0e+2x1o", "2x0e", 2, 1)
    polynomials = node_operator.polynomials_of(node_operator.name_of(spec))
    x = torch.zeros(3, polynomials.variables, 2, dtype=torch.bfloat16)
    K = torch.zeros(1, len(polynomials.terms), 2, dtype=torch.bfloat16)
    nodes = torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"neither float32 nor float64: .* bfloat16"):
        node_operator.value(x, K, nodes, nodes, node_operator.name_of(spec))
