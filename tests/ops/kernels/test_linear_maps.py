"""Linear maps of blocks of rows: against their formula, in every derivative."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from equinet.ops import SpeciesGroups
from equinet.ops.kernels.linear import maps
from equinet.ops.kernels.linear.maps import (
    Block,
    Frozen,
    Plan,
    gradients,
    gradients_in_torch,
    maps_of,
    mix,
    product,
    product_in_torch,
)

PLANS = {
    "two paths into the second block": Plan((Block(0, 1, 0, 1, 0.5), Block(1, 7, 1, 4, 2.0)), 7, 4),
    "a block left out, one row of zeros": Plan((Block(1, 4, 1, 4, 0.3),), 6, 5),
}


def inputs(plan: Plan, nodes: int, species: int | None) -> tuple[Tensor, list[Tensor], SpeciesGroups | None]:
    torch.manual_seed(0)
    x = torch.randn(nodes, plan.rows, 3, dtype=torch.float64)
    depths = [3 * (block.stop - block.start) // (block.to_stop - block.to_start) for block in plan.blocks]
    shapes = [(depth, 2) if species is None else (species, depth, 2) for depth in depths]
    groups = None if species is None else SpeciesGroups(torch.randint(max(species - 1, 1), (nodes,)))
    return x, [torch.randn(shape, dtype=torch.float64) for shape in shapes], groups


def by_formula(x: Tensor, weights: list[Tensor], plan: Plan, groups: SpeciesGroups | None) -> Tensor:
    """Node by node, vector by vector."""
    y = x.new_zeros(x.shape[0], plan.to_rows, 2)
    for block, weight in zip(plan.blocks, weights):
        vectors = block.to_stop - block.to_start
        part = x[:, block.start : block.stop].reshape(x.shape[0], vectors, weight.shape[-2])
        each = weight if groups is None else weight[groups.species]
        value = torch.einsum("nvd,dc->nvc" if groups is None else "nvd,ndc->nvc", part, each)
        y = y + torch.nn.functional.pad(block.scale * value, (0, 0, block.to_start, plan.to_rows - block.to_stop))
    return y


@pytest.mark.parametrize("generated", [True, False], ids=["machine code", "torch"])
@pytest.mark.parametrize("species", [None, 1, 3])
@pytest.mark.parametrize("nodes", [5, 1, 0])
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_the_map_and_three_derivatives_are_those_of_the_formula(plan, nodes, species, generated, monkeypatch) -> None:
    monkeypatch.setattr("equinet.ops.codegen.llvm.runs_on", lambda values: generated)
    x, weights, groups = inputs(plan, nodes, species)
    results = []
    for form in (mix, by_formula):
        leaves = [leaf.clone().requires_grad_() for leaf in (x, *weights)]
        torch.manual_seed(1)
        y = form(leaves[0], leaves[1:], plan, groups)
        found, value = [y], (y * torch.randn(y.shape, dtype=y.dtype)).sum() + y.pow(3).sum()
        for _ in range(3):
            gradients = torch.autograd.grad(value, leaves, create_graph=True)
            found += gradients
            value = torch.stack(
                [(gradient * torch.randn(gradient.shape, dtype=gradient.dtype)).sum() for gradient in gradients]
            ).sum()
        results.append(found)
    for ours, expected in zip(*results):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("species", [None, 2])
def test_derivatives_are_those_of_finite_differences(species: int | None) -> None:
    plan = PLANS["two paths into the second block"]
    x, weights, groups = inputs(plan, 3, species)
    leaves = [leaf.requires_grad_() for leaf in (x, *weights)]
    assert torch.autograd.gradcheck(lambda x, *weights: mix(x, list(weights), plan, groups), leaves)
    assert torch.autograd.gradgradcheck(lambda x, *weights: mix(x, list(weights), plan, groups), leaves)


def test_a_pass_computes_the_gradients_that_it_needs_and_no_others(monkeypatch) -> None:
    plan = PLANS["two paths into the second block"]
    x, weights, _ = inputs(plan, 3, None)
    leaves = [leaf.requires_grad_() for leaf in (x, *weights)]
    value, ran = mix(x, weights, plan).square().sum(), []
    for name in ("product", "gradients"):
        run = getattr(maps, name)
        monkeypatch.setattr(maps, name, lambda *args, name=name, run=run: ran.append(name) or run(*args))
    everything = torch.autograd.grad(value, leaves, retain_graph=True)
    assert sorted(ran) == ["gradients", "product"]
    assert torch.equal(torch.autograd.grad(value, x, retain_graph=True)[0], everything[0])
    assert ran[2:] == ["product"]
    assert torch.equal(torch.autograd.grad(value, weights[1])[0], everything[2])
    assert ran[3:] == ["gradients"]


@pytest.mark.parametrize("species", [None, 3])
def test_frozen_weights_give_the_same_in_three_derivatives_and_are_not_remembered_too_long(species: int | None) -> None:
    plan, frozen = PLANS["two paths into the second block"], Frozen()
    x, weights, groups = inputs(plan, 5, species)
    for _ in range(3):
        found = []
        for form in (lambda *given: mix(*given, frozen), by_formula):
            leaf = x.clone().requires_grad_()
            value = form(leaf, weights, plan, groups).pow(4).sum()
            for _ in range(3):
                (gradient,) = torch.autograd.grad(value, leaf, create_graph=True)
                value = gradient.pow(2).sum()
            found.append(gradient)
        torch.testing.assert_close(*found, rtol=1e-10, atol=1e-6)
        weights[0].mul_(1.5)  # in place, as an optimiser or `load_state_dict` does


@pytest.mark.parametrize("species", [None, 3])
@pytest.mark.parametrize(("channels", "out"), [(64, 64), (7, 5), (40, 24), (16, 100)])
def test_all_sizes_of_tiles_and_any_number_of_threads_give_the_same(
    channels: int, out: int, species: int | None
) -> None:
    plan = Plan((Block(0, 1, 0, 1, 0.5), Block(1, 7, 1, 4, 2.0)), 7, 4)
    torch.manual_seed(0)
    x, g = torch.randn(101, 7, channels, dtype=torch.float64), torch.randn(101, 4, out, dtype=torch.float64)
    shapes = [torch.Size((channels, out)), torch.Size((2 * channels, out))]
    shapes = shapes if species is None else [torch.Size((species, *shape)) for shape in shapes]
    weights = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    groups = None if species is None else SpeciesGroups(torch.randint(species, (101,)))
    expected = product_in_torch(x, weights, plan, groups, out)
    expected_gradients = gradients_in_torch(x, g, shapes, plan, groups)
    threads = torch.get_num_threads()
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            torch.testing.assert_close(product(x, weights, plan, groups, out), expected)
            for found, other in zip(gradients(x, g, shapes, plan, groups), expected_gradients):
                torch.testing.assert_close(found, other)
    finally:
        torch.set_num_threads(threads)


def test_weights_of_another_plan_are_refused_before_machine_code_reads_them() -> None:
    plan = Plan((Block(0, 4, 0, 4, 1.0),), 4, 4)
    with pytest.raises(ValueError, match=r"weights of shape \(8, 6\) do not fit together with .* and 4 to 6 channels"):
        maps_of(plan, (torch.Size((8, 6)),), 4, 6)
