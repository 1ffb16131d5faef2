"""Many-body products of factorised methods as polynomials: against their coupling tensors, in two derivatives."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import preloaded
import pytest
import torch
from torch import Tensor

from equinet.ops import (
    Bracket,
    CPDecomposed,
    GauntFourier,
    GauntGrid,
    ManyBodySpec,
    MatrixProduct,
    SpeciesGroups,
    TensorProductSpec,
    explain,
)
from equinet.ops.factorised import generated_powers
from equinet.ops.factorised.generated_powers import PolynomialCode
from equinet.ops.factorised.powers import PowerManyBody
from equinet.ops.kernels.node import operator as node_operator

METHODS = [GauntGrid(), GauntGrid(copies=3), GauntFourier(), MatrixProduct(copies=2), GauntGrid(bracket=True, copies=2)]
SPECS = [
    ("3x0e+3x1o+3x2e", "3x0e+3x1o", 1),
    ("3x0e+3x1o+3x2e", "3x0e+3x1o", 2),
    ("5x0e+5x1o+5x2e+5x3o", "5x0e+5x1o", 3),
    ("2x0e+2x1o", "2x0e", 4),
    ("3x0e+3x0o+3x1o+3x1e", "3x0e+3x1o+3x1e", 3),
]


def with_two_derivatives(
    executor: torch.nn.Module, spec: ManyBodySpec, nodes: int, device: torch.device
) -> list[Tensor]:
    """Result, gradients in features and weights, and gradients of their size."""
    torch.manual_seed(0)
    weight = executor.double().initial_weight().double()
    features = torch.randn(nodes, spec.irreps_in.dim // spec.channels, spec.channels, dtype=torch.float64)
    leaves = [each.to(device).requires_grad_() for each in (features, weight)]
    groups = SpeciesGroups(torch.arange(nodes, device=device) % spec.species)
    result = executor.to(device)(*leaves, groups)
    gradients = torch.autograd.grad(result.sin().sum(), leaves, create_graph=True)
    size = torch.stack([each.square().sum() for each in gradients]).sum()
    return [result, *gradients, *torch.autograd.grad(size, leaves)]


@pytest.mark.parametrize("nodes", [0, 1, 7])
@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_values_and_two_derivatives_are_those_of_the_coupling_tensors(
    method: GauntGrid, spec: tuple, nodes: int
) -> None:
    what = ManyBodySpec(*spec, 2)
    ours, twin = (replace(method, backend=backend).many_body(what) for backend in ("generated", "reference"))
    assert any(isinstance(part, PolynomialCode) for part in ours.modules())
    assert not any(isinstance(part, PolynomialCode) for part in twin.modules())
    cpu = torch.device("cpu")
    found, expected = (with_two_derivatives(executor, what, nodes, cpu) for executor in (ours, twin))
    for mine, theirs in zip(found, expected, strict=True):
        size = theirs.abs().max().item() if theirs.numel() else 0.0
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10 * max(1.0, size))


@pytest.mark.parametrize("method", [GauntFourier(), MatrixProduct(copies=2)], ids=str)
def test_on_a_gpu_what_has_no_kernel_of_its_own_runs_by_that_of_exact_couplings(
    method: GauntFourier, gpu: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, ran = ManyBodySpec("3x0e+3x1o+3x2e", "3x0e+3x1o", 3, 2), []
    run = node_operator.gpu.run
    monkeypatch.setattr(node_operator.gpu, "run", lambda function, *rest: (ran.append(function), run(function, *rest)))
    found = with_two_derivatives(method.many_body(spec), spec, 5, gpu)
    expected = with_two_derivatives(replace(method, backend="reference").many_body(spec), spec, 5, torch.device("cpu"))
    assert {"value", "gradient", "double_backward"} <= set(ran)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine.cpu(), theirs, rtol=1e-10, atol=1e-10)


def test_copies_cost_nothing_per_node() -> None:
    spec = ManyBodySpec("4x0e+4x1o+4x2e+4x3o", "4x0e+4x1o", 3, 1)
    one, four = (GauntGrid(copies=copies).many_body(spec) for copies in (1, 4))
    assert four.weight_numel > 3 * one.weight_numel
    assert len(one.code.polynomials.terms) == len(four.code.polynomials.terms)
    costs = [explain(spec, GauntGrid(copies=copies)).cost.flops_per_node for copies in (1, 4)]
    assert costs[0] == costs[1]


def test_weights_that_are_frozen_are_multiplied_in_once(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ManyBodySpec("4x0e+4x1o", "4x0e", 3, 1)
    executor, groups = GauntGrid().many_body(spec), SpeciesGroups(torch.zeros(3, dtype=torch.int64))
    made, by_family = [], executor.code.by_family
    monkeypatch.setattr(executor.code, "by_family", lambda *parts: made.append(parts) or by_family(*parts))
    x, weight = torch.randn(3, 4, 4), executor.initial_weight()
    first = executor(x, weight, groups)
    assert torch.equal(executor(x, weight, groups), first)
    assert len(made) == 1
    with torch.no_grad():
        weight *= 2
    assert not torch.allclose(executor(x, weight, groups), first)


PICKLED = """
import sys, torch
convolution, product, of_convolution, of_product, expected = torch.load(sys.argv[1], weights_only=False)
found = [convolution(*of_convolution), product(*of_product)]
assert all(map(torch.equal, found, expected))
"""


def test_executors_can_be_sent_to_another_process(tmp_path: Path) -> None:
    """Which has to learn what the operators' names of couplings and polynomials stand for."""
    method, nodes = GauntGrid(), SpeciesGroups(torch.zeros(3, dtype=torch.int64))
    convolution = method.convolution(TensorProductSpec("4x0e+4x1o", "0e+1o", "0e+1o"))
    product = method.many_body(ManyBodySpec("4x0e+4x1o", "4x0e", 3, 1))
    x, edges = torch.randn(3, 4, 4), torch.tensor([[0, 1], [1, 2]])
    inputs = (
        (x, torch.randn(2, 4), torch.randn(2, convolution.weight_numel, 4), edges),
        (x, product.initial_weight(), nodes),
    )
    expected = [convolution(*inputs[0]), product(*inputs[1])]
    torch.save((convolution, product, *inputs, expected), tmp_path / "executors.pt")
    command = [sys.executable, "-c", PICKLED, str(tmp_path / "executors.pt")]
    done = preloaded.run(command, cwd=Path(generated_powers.__file__).parents[3])
    assert done.returncode == 0, done.stderr


def test_a_model_file_does_not_know_of_it() -> None:
    spec = ManyBodySpec("4x0e+4x1o", "4x0e", 3, 1)
    assert not GauntGrid().many_body(spec).state_dict()


@pytest.mark.parametrize(
    ("method", "spec"),
    [
        (CPDecomposed(rank=8), ("2x0e+2x1o", "2x0e", 3)),  # its factors have every entry
        (GauntGrid(backend="torch"), ("2x0e+2x1o", "2x0e", 3)),
        (GauntGrid(), ("2x0e+2x1o+2x2e+2x3o+2x4e+2x5o+2x6e", "2x0e", 4)),  # 2401² entries
    ],
    ids=str,
)
def test_what_has_no_such_form_stays_as_it_is(method: GauntGrid, spec: tuple) -> None:
    executor = method.many_body(ManyBodySpec(*spec, 1))
    assert type(executor) is PowerManyBody
    assert executor.code is None
    assert "generated" not in executor.kernel


def test_the_bracket_alone_is_polynomials_too() -> None:
    spec = ManyBodySpec("3x0e+3x1o+3x2e", "3x1e", 3, 1)
    assert Bracket().many_body(spec).code is not None
