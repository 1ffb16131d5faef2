"""The edge convolution in machine code: against the form in torch, in every derivative, and as torch operators."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, library

from equinet.ops import TensorProductSpec
from equinet.ops.analysis.cost import cost
from equinet.ops.codegen.llvm import lanes_for
from equinet.ops.edges import Edges
from equinet.ops.kernels.edge import operator as edge_operator
from equinet.ops.kernels.edge.couplings import name_of
from equinet.ops.kernels.edge.cpu import EdgeLoops
from equinet.ops.kernels.edge.executor import GeneratedConvolution
from equinet.ops.kernels.edge.reference import EdgeMatrixConvolution

SPECS = [
    TensorProductSpec("16x0e+16x1o", "0e+1o+2e+3o", "0e+1o+2e+3o"),
    TensorProductSpec("3x0e+3x1o+3x1e", "0e+1o+2e", "0e+1o+1e+2e"),
    TensorProductSpec("24x1o", "0e+1o", "0e+1o"),
    TensorProductSpec("1x0e", "0e", "0e"),
]
SIZES = [(5, 9), (4, 0), (1, 3), (0, 0), (70, 150)]


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def random_inputs(
    spec: TensorProductSpec, nodes: int = 5, rows: int = 9, mirrored: bool = True, dtype: torch.dtype = torch.float64
) -> tuple[list[Tensor], Edges]:
    """Features, harmonics and weights, and edges of which some begin and end on one node."""
    x = torch.randn(nodes, spec.irreps_in1.dim // spec.channels, spec.channels, dtype=dtype)
    y = torch.randn(rows, spec.irreps_in2.dim, dtype=dtype)
    w = torch.randn(rows, len(spec.paths), spec.channels, dtype=dtype)
    index = torch.randint(max(nodes, 1), (2, rows))
    return [x, y, w], Edges(index, nodes, mirrored=mirrored)


def arguments(spec: TensorProductSpec, edges: Edges) -> tuple:
    return edges.index, *edges.incoming, edges.mirrored, name_of(spec)


def derivatives(run: Callable[..., Tensor], leaves: list[Tensor], order: int) -> list[Tensor]:
    """The result, and the gradients of a random combination of gradients of ... of it."""
    torch.manual_seed(1)
    inputs = [leaf.clone().requires_grad_() for leaf in leaves]
    out = run(*inputs)
    found, value = [out], (out * torch.randn_like(out)).sum() + out.square().sum()
    for _ in range(order):
        gradients = torch.autograd.grad(value, inputs, create_graph=True)
        found += gradients
        value = torch.stack(
            [(gradient * torch.randn(gradient.shape, dtype=gradient.dtype)).sum() for gradient in gradients]
        ).sum()
    return found


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("mirrored", [False, True], ids=["directed", "mirrored"])
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_values_and_three_derivatives_are_those_of_the_form_in_torch(spec, mirrored, sizes) -> None:
    leaves, edges = random_inputs(spec, *sizes, mirrored=mirrored)
    forms = (GeneratedConvolution(spec).double(), EdgeMatrixConvolution(spec).double())
    ours, theirs = (derivatives(lambda *x, form=form: form(*x, edges), leaves, 3) for form in forms)
    for found, expected in zip(ours, theirs):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12 * (1 + float(expected.detach().norm())))


@pytest.mark.parametrize("mirrored", [False, True], ids=["directed", "mirrored"])
@pytest.mark.parametrize("spec", SPECS[:2], ids=str)
def test_two_threads_give_what_one_gives(spec, mirrored) -> None:
    leaves, edges = random_inputs(spec, 200, 400, mirrored=mirrored)
    module, found = GeneratedConvolution(spec).double(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(derivatives(lambda *x: module(*x, edges), leaves, 2))
    for one, *more in zip(*found):
        for other in more:
            torch.testing.assert_close(other, one, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("mirrored", [False, True], ids=["directed", "mirrored"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_operators_keep_the_rules_of_torch(mirrored, dtype) -> None:
    spec = TensorProductSpec("4x0e+4x1o", "0e+1o", "0e+1o")
    leaves, edges = random_inputs(spec, 3, 4, mirrored, dtype)
    changes = [torch.randn_like(leaf) for leaf in leaves]
    g = torch.randn(3, spec.rows, 4, dtype=dtype)
    rest = arguments(spec, edges)
    for tensor in (*leaves, *changes, g):
        tensor.requires_grad_()
    checks = ("test_schema", "test_faketensor", "test_autograd_registration", "test_aot_dispatch_dynamic")
    for operator, inputs in (
        (edge_operator.forward, (*leaves, *rest)),
        (edge_operator.jvp, (*leaves, *changes, *rest)),
        (edge_operator.backward, (g, *leaves, *rest, True, True)),
        (edge_operator.double_backward, (g, *leaves, *changes, *rest, True, True)),
    ):
        library.opcheck(operator, inputs, test_utils=checks)


def test_arrays_need_not_be_contiguous() -> None:
    spec = SPECS[0]
    leaves, edges = random_inputs(spec)
    scattered = [torch.stack([leaf, leaf], dim=-1)[..., 0] for leaf in leaves]
    assert not any(leaf.is_contiguous() for leaf in scattered)
    g = torch.randn((), dtype=torch.float64).expand(5, spec.rows, 16)  # what the derivative of a sum is
    rest = arguments(spec, edges)
    torch.testing.assert_close(
        edge_operator.forward(*scattered, *rest), edge_operator.forward(*leaves, *rest), rtol=0, atol=0
    )
    found = edge_operator.backward(g, *scattered, *rest, True, True)
    expected = edge_operator.backward(g.contiguous(), *leaves, *rest, True, True)
    for mine, other in zip(found, expected):
        assert torch.equal(mine, other)


def test_single_precision_errs_no_more_than_torch_does() -> None:
    spec = SPECS[0]
    leaves, edges = random_inputs(spec, 40, 400, dtype=torch.float32)
    exact = EdgeMatrixConvolution(spec).double()(*(leaf.double() for leaf in leaves), edges)
    errors = [(form(spec)(*leaves, edges) - exact).norm() for form in (GeneratedConvolution, EdgeMatrixConvolution)]
    assert 0 < errors[0] < 2 * errors[1]


@pytest.mark.parametrize("asked", [[0, 1, 2], [0, 2], [1, 2], [2], [1], [0]], ids=str)
def test_a_pass_leaves_out_the_gradients_that_it_does_not_need_and_changes_no_other(asked, monkeypatch) -> None:
    spec = SPECS[0]
    leaves, edges = random_inputs(spec)
    module, inputs = GeneratedConvolution(spec).double(), [leaf.requires_grad_() for leaf in leaves]
    out = module(*inputs, edges).square().sum()
    forces = torch.autograd.grad(out, inputs[1], create_graph=True)[0].square().sum()
    everything = torch.autograd.grad(forces, inputs, retain_graph=True)
    ran, run = [], edge_operator._gradients_in_machine_code
    monkeypatch.setattr(edge_operator, "_gradients_in_machine_code", lambda *args: ran.append(args[-2:]) or run(*args))
    found = torch.autograd.grad(forces, [inputs[n] for n in asked])
    assert set(ran) == {(0 in asked, 1 in asked)}
    for n, gradient in zip(asked, found, strict=True):
        assert torch.equal(gradient, everything[n])


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_the_code_has_as_many_operations_as_are_counted(spec: TensorProductSpec) -> None:
    executor = GeneratedConvolution(spec)
    loops = EdgeLoops(executor.couplings, torch.float64, mirrored=False)
    assembly, lanes = loops.forward(jvp=False).finish(), lanes_for(spec.channels, torch.float64)
    operations = re.findall(r"= f(?:add|sub|mul) contract (<)?", assembly)
    per_vector = sum(match == "<" for match in operations)
    found = len(operations) - per_vector + per_vector * spec.channels
    assert lanes in (1, 8)
    assert sum(cost(executor).edge) == found


def test_other_precisions_and_devices_take_the_form_in_torch() -> None:
    spec = SPECS[0]
    leaves, edges = random_inputs(spec, dtype=torch.bfloat16)
    module = GeneratedConvolution(spec).bfloat16()
    assert "cpu bfloat16: torch (generated kernels compute in float32 and float64)" in repr(module)
    assert torch.equal(module(*leaves, edges), EdgeMatrixConvolution(spec).bfloat16()(*leaves, edges))
    module = module.float().to("meta")
    assert "meta float32: torch (generated kernels are for CPU and CUDA)" in repr(module)
    somewhere = module(*(leaf.float().to("meta") for leaf in leaves), edges.index.to("meta"))
    assert somewhere.device.type == "meta"
