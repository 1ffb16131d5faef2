"""The edge convolution on a GPU: against the form in torch, in every derivative, and as torch operators."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, library

from equinet.ops import TensorProductSpec
from equinet.ops.codegen import tiles
from equinet.ops.edges import Edges
from equinet.ops.kernels.edge import gpu as edge_gpu
from equinet.ops.kernels.edge import operator as edge_operator
from equinet.ops.kernels.edge.couplings import name_of
from equinet.ops.kernels.edge.executor import GeneratedConvolution
from equinet.ops.kernels.edge.reference import EdgeMatrixConvolution

MACE = TensorProductSpec("40x0e+40x1o", "0e+1o+2e+3o", "0e+1o+2e+3o")
BOTH_PARITIES = TensorProductSpec("3x0e+3x1o+3x1e", "0e+1o+2e", "0e+1o+1e+2e")
SCALARS = TensorProductSpec("1x0e", "0e", "0e")
SMALL = TensorProductSpec("4x0e+4x1o", "0e+1o", "0e+1o")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def random_inputs(
    spec: TensorProductSpec, nodes: int, rows: int, mirrored: bool, dtype: torch.dtype = torch.float64
) -> tuple[list[Tensor], Edges]:
    """Features, harmonics and weights, and edges of which some begin and end on one node."""
    x = torch.randn(nodes, spec.irreps_in1.dim // spec.channels, spec.channels, dtype=dtype)
    y = torch.randn(rows, spec.irreps_in2.dim, dtype=dtype)
    w = torch.randn(rows, len(spec.paths), spec.channels, dtype=dtype)
    return [x, y, w], Edges(torch.randint(max(nodes, 1), (2, rows)), nodes, mirrored=mirrored)


def to(edges: Edges, device: torch.device) -> Edges:
    return Edges(edges.index.to(device), edges.num_nodes, mirrored=edges.mirrored)


def derivatives(run, leaves: list[Tensor], order: int) -> list[Tensor]:
    """The result, and the gradients of a combination of gradients of ... of it."""
    inputs = [leaf.clone().requires_grad_() for leaf in leaves]
    out = run(*inputs)
    found, value = [out], (out * weights_like(out)).sum() + out.square().sum()
    for _ in range(order):
        gradients = torch.autograd.grad(value, inputs, create_graph=True)
        found += gradients
        value = torch.stack([(gradient * weights_like(gradient)).sum() for gradient in gradients]).sum()
    return found


def weights_like(values: Tensor) -> Tensor:
    """Numbers between -1 and 1 that are the same on every device."""
    return torch.linspace(-9, 7, values.numel(), dtype=torch.float64).cos().to(values).view(values.shape)


@pytest.mark.parametrize(
    ("spec", "nodes", "rows", "order"),
    [
        (MACE, 5, 9, 2),
        (BOTH_PARITIES, 5, 9, 2),
        (SMALL, 9, 70, 3),
        (SMALL, 4, 0, 2),
        (SMALL, 0, 0, 2),
        (SCALARS, 1, 3, 3),
    ],
    ids=str,
)
@pytest.mark.parametrize("mirrored", [False, True], ids=["directed", "mirrored"])
def test_values_and_derivatives_are_those_of_the_form_in_torch(gpu, spec, nodes, rows, order, mirrored) -> None:
    leaves, edges = random_inputs(spec, nodes, rows, mirrored)
    module, reference = GeneratedConvolution(spec).double().to(gpu), EdgeMatrixConvolution(spec).double()
    there = to(edges, gpu)
    ours = derivatives(lambda *x: module(*x, there), [leaf.to(gpu) for leaf in leaves], order)
    theirs = derivatives(lambda *x: reference(*x, edges), leaves, order)
    for found, expected in zip(ours, theirs):
        scale = 1 + float(expected.detach().norm())
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-12, atol=1e-12 * scale)


def test_many_nodes_have_a_warp_each_and_few_share_one_among_edges(gpu, monkeypatch) -> None:
    """On a GPU these are two kernels, with one edge in a tile and with four; the interpreter has tiles of its own."""
    leaves, edges = random_inputs(SMALL, 4, 11, True)
    module, there = GeneratedConvolution(SMALL).double().to(gpu), to(edges, gpu)
    expected = EdgeMatrixConvolution(SMALL).double()(*leaves, edges)
    for most in (0, 10**9):
        monkeypatch.setattr(edge_gpu, "MANY_NODES", most)
        torch.testing.assert_close(module(*(leaf.to(gpu) for leaf in leaves), there).cpu(), expected)


@pytest.mark.parametrize("mirrored", [False, True], ids=["directed", "mirrored"])
def test_single_precision_errs_no_more_than_torch_does(gpu, mirrored) -> None:
    leaves, edges = random_inputs(MACE, 8, 60, mirrored, torch.float32)
    exact = derivatives(
        lambda *x: EdgeMatrixConvolution(MACE).double()(*x, edges), [leaf.double() for leaf in leaves], 1
    )
    theirs = derivatives(lambda *x: EdgeMatrixConvolution(MACE)(*x, edges), leaves, 1)
    module, there = GeneratedConvolution(MACE).to(gpu), to(edges, gpu)
    ours = derivatives(lambda *x: module(*x, there), [leaf.to(gpu) for leaf in leaves], 1)
    for mine, other, right in zip(ours, theirs, exact):
        assert 0 < (mine.cpu() - right).norm() < 2 * (other - right).norm()


@pytest.mark.parametrize("mirrored", [False, True], ids=["directed", "mirrored"])
def test_two_runs_give_the_same_bits(gpu, mirrored) -> None:
    leaves, edges = random_inputs(MACE, 6, 40, mirrored, torch.float32)
    module, there = GeneratedConvolution(MACE).to(gpu), to(edges, gpu)
    first, second = (derivatives(lambda *x: module(*x, there), [leaf.to(gpu) for leaf in leaves], 1) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second))


@pytest.mark.parametrize("mirrored", [False, True], ids=["directed", "mirrored"])
def test_the_operators_keep_the_rules_of_torch(gpu, mirrored) -> None:
    leaves, edges = random_inputs(SMALL, 3, 4, mirrored)
    leaves, there = [leaf.to(gpu) for leaf in leaves], to(edges, gpu)
    changes = [torch.randn_like(leaf) for leaf in leaves]
    g = torch.randn(3, SMALL.rows, 4, dtype=torch.float64, device=gpu)
    rest = (there.index, *there.incoming, mirrored, name_of(SMALL))
    for tensor in (*leaves, *changes, g):
        tensor.requires_grad_()
    checks = ("test_schema", "test_faketensor", "test_autograd_registration", "test_aot_dispatch_dynamic")
    for operator, inputs in (
        (edge_operator.forward, (*leaves, *rest)),
        (edge_operator.jvp, (*leaves, *changes, *rest)),
        (edge_operator.backward, (g, *leaves, *rest, True, True)),
        (edge_operator.double_backward, (g, *leaves, *changes, *rest, True, True)),
        (edge_operator.backward, (g, *leaves, *rest, False, False)),
    ):
        library.opcheck(operator, inputs, test_utils=checks)


def test_arrays_need_not_be_contiguous(gpu) -> None:
    leaves, edges = random_inputs(SMALL, 5, 9, True)
    leaves, there = [leaf.to(gpu) for leaf in leaves], to(edges, gpu)
    scattered = [torch.stack([leaf, leaf], dim=-1)[..., 0] for leaf in leaves]
    g = torch.randn((), dtype=torch.float64, device=gpu).expand(5, SMALL.rows, 4)  # what the derivative of a sum is
    rest = (there.index, *there.incoming, True, name_of(SMALL))
    assert torch.equal(edge_operator.forward(*scattered, *rest), edge_operator.forward(*leaves, *rest))
    found = edge_operator.backward(g, *scattered, *rest, True, True)
    expected = edge_operator.backward(g.contiguous(), *leaves, *rest, True, True)
    assert all(torch.equal(mine, other) for mine, other in zip(found, expected))


def test_gradients_that_a_pass_does_not_need_are_left_out_and_change_no_other(gpu, monkeypatch) -> None:
    leaves, edges = random_inputs(SMALL, 5, 9, True)
    module, there = GeneratedConvolution(SMALL).double().to(gpu), to(edges, gpu)
    x, y, w = (leaf.to(gpu).requires_grad_() for leaf in leaves)
    (forces,) = torch.autograd.grad(module(x, y, w, there).square().sum(), y, create_graph=True)
    ran, run = [], edge_gpu.gradients
    monkeypatch.setattr(edge_gpu, "gradients", lambda *arguments: ran.append(arguments[-2:]) or run(*arguments))
    everything, some, weights = (
        torch.autograd.grad(forces.square().sum(), asked, retain_graph=True) for asked in ((x, y, w), (x, w), (w,))
    )
    assert list(dict.fromkeys(ran)) == [(True, True), (True, False), (False, False)]
    assert torch.equal(everything[0], some[0])
    assert torch.equal(everything[2], some[1])
    assert torch.equal(everything[2], weights[0])


@pytest.mark.parametrize("mirrored", [False, True], ids=["directed", "mirrored"])
def test_several_kernels_give_what_one_gives(gpu, mirrored, monkeypatch) -> None:
    """Blocks are divided among kernels where registers would not do."""
    leaves, edges = random_inputs(BOTH_PARITIES, 5, 9, mirrored)
    module, there = GeneratedConvolution(BOTH_PARITIES).double().to(gpu), to(edges, gpu)
    whole = derivatives(lambda *x: module(*x, there), [leaf.to(gpu) for leaf in leaves], 2)
    monkeypatch.setattr(edge_gpu, "MOST", dict.fromkeys(edge_gpu.MOST, 24))
    edge_gpu.kernels_for.cache_clear()
    kernels, _ = edge_gpu.kernels_for("double_backward", name_of(BOTH_PARITIES), torch.float64, mirrored, 1)
    assert len(kernels) > 2
    parts = derivatives(lambda *x: module(*x, there), [leaf.to(gpu) for leaf in leaves], 2)
    edge_gpu.kernels_for.cache_clear()
    for one, other in zip(whole, parts):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12 * (1 + float(one.detach().norm())))


def test_the_kernels_are_what_runs(gpu, monkeypatch) -> None:
    leaves, edges = random_inputs(SMALL, 5, 9, True)
    calls: list[str] = []
    real = tiles.Kernel.__call__
    monkeypatch.setattr(tiles.Kernel, "__call__", lambda self, *a: calls.append(self.name) or real(self, *a))
    module, there = GeneratedConvolution(SMALL).double().to(gpu), to(edges, gpu)
    derivatives(lambda *x: module(*x, there), [leaf.to(gpu) for leaf in leaves], 2)
    assert set(calls) == {"edge_forward", "edge_jvp", "edge_backward", "edge_double_backward", "gather_sum"}
