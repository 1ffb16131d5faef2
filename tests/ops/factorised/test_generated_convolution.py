"""Convolutions of factorised products by their coupling tensor: the same as by their algebra, in code and in kernels."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from equinet.ops import (
    Bracket,
    CPDecomposed,
    GauntFourier,
    GauntGrid,
    MatrixProduct,
    SphericalHarmonics,
    TensorProductSpec,
)
from equinet.ops.analysis.cost import cost
from equinet.ops.codegen import llvm, tiles
from equinet.ops.coupling.pairings import output_scales, reached_outputs
from equinet.ops.edges import Edges
from equinet.ops.factorised.convolution import FactorisedConvolution
from equinet.ops.factorised.generated_convolution import why_not_generated
from equinet.ops.kernels.choice import KernelChoice
from equinet.ops.layout import one_of_each
from equinet.ops.spec import highest_degree

TRUE = TensorProductSpec("4x0e+4x1o", "0e+1o+2e", "0e+1o+2e")
BOTH = TensorProductSpec("3x0e+3x1o+3x1e", "0e+1o+2e", "0e+1o+1e+2e")
CASES = [
    (GauntGrid(), TRUE, "filter", 1),
    (GauntGrid(), TRUE, "shared", 2),
    (GauntGrid(), TRUE, "degrees", 2),
    (GauntGrid(), BOTH, "filter", 2),
    (GauntFourier(), TRUE, "filter", 1),
    (Bracket(), BOTH, "degrees", 1),
    (MatrixProduct(), BOTH, "filter", 2),
    (CPDecomposed(rank=9), TRUE, "filter", 2),
]


def both(method, spec, weights, copies) -> tuple[FactorisedConvolution, FactorisedConvolution]:
    (product,) = method.products()
    pairing = product.pairing(highest_degree(spec))
    outputs = reached_outputs(spec, pairing)
    algebra = product.algebra(one_of_each(spec.irreps_in1), one_of_each(spec.irreps_in2), outputs)
    algebra.scale_out(output_scales(spec, pairing))
    assert why_not_generated(algebra, spec, outputs, copies, weights) is None
    given = {"weights": weights, "copies": copies}
    ours = FactorisedConvolution(spec, algebra, outputs, **given, kernels=KernelChoice("generated"), generate=True)
    return ours, FactorisedConvolution(spec, algebra, outputs, **given)


def random_inputs(executor, nodes: int, rows: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    spec = executor.spec
    torch.manual_seed(0)
    x = torch.randn(nodes, spec.irreps_in1.dim // spec.channels, spec.channels, dtype=dtype)
    directions = torch.nn.functional.normalize(torch.randn(rows, 3, dtype=torch.float64))
    y = SphericalHarmonics(spec.irreps_in2.lmax).double()(directions).to(dtype)
    return [x, y, torch.randn(rows, executor.weight_numel, spec.channels, dtype=dtype)]


def derivatives(executor, leaves: list[Tensor], edges: Edges, order: int) -> list[Tensor]:
    inputs = [leaf.clone().requires_grad_() for leaf in leaves]
    out = executor(*inputs, edges)
    found, value = [out], out.square().sum()
    for _ in range(order):
        gradients = torch.autograd.grad(value, inputs, create_graph=True)
        found += gradients
        value = torch.stack([gradient.square().sum() for gradient in gradients]).sum()
    return found


def assert_close(ours: list[Tensor], theirs: list[Tensor], error: float) -> None:
    for found, expected in zip(ours, theirs, strict=True):
        scale = 1 + float(expected.detach().norm())
        torch.testing.assert_close(found.cpu(), expected, rtol=error, atol=error * scale)


@pytest.mark.parametrize(("nodes", "rows"), [(5, 9), (1, 3), (4, 0), (0, 0)])
@pytest.mark.parametrize("mirrored", [False, True], ids=["directed", "mirrored"])
@pytest.mark.parametrize(("method", "spec", "weights", "copies"), CASES, ids=str)
def test_the_tensor_gives_what_the_algebra_gives(method, spec, weights, copies, mirrored, nodes, rows) -> None:
    ours, theirs = (executor.double() for executor in both(method, spec, weights, copies))
    leaves = random_inputs(ours, nodes, rows)
    edges = Edges(torch.randint(max(nodes, 1), (2, rows)), nodes, mirrored=mirrored)
    assert_close(derivatives(ours, leaves, edges, 2), derivatives(theirs, leaves, edges, 2), 1e-12)


@pytest.mark.parametrize(("method", "spec", "weights", "copies"), [CASES[0], CASES[2], CASES[6], CASES[7]], ids=str)
def test_kernels_give_what_the_algebra_gives(gpu, method, spec, weights, copies) -> None:
    ours, theirs = (executor.double() for executor in both(method, spec, weights, copies))
    leaves, index = random_inputs(ours, 5, 9), torch.randint(5, (2, 9))
    found = derivatives(ours.to(gpu), [leaf.to(gpu) for leaf in leaves], Edges(index.to(gpu), 5, mirrored=True), 2)
    assert_close(found, derivatives(theirs, leaves, Edges(index, 5, mirrored=True), 2), 1e-12)


def test_single_precision() -> None:
    ours, theirs = both(GauntGrid(), TRUE, "filter", 2)
    leaves, edges = random_inputs(ours, 5, 30, torch.float32), Edges(torch.randint(5, (2, 30)), 5, mirrored=True)
    exact = theirs.double()(*(leaf.double() for leaf in leaves), edges)
    error = (ours.float()(*leaves, edges) - exact).norm() / exact.norm()
    assert 1e-9 < error < 3e-7


def test_factors_that_come_with_a_file_are_the_ones_used() -> None:
    ours, theirs = (executor.double() for executor in both(CPDecomposed(rank=9), TRUE, "filter", 1))
    leaves, edges = random_inputs(ours, 5, 9), Edges(torch.randint(5, (2, 9)), 5)
    before = ours(*leaves, edges)
    other = {name: value * 1.1 for name, value in ours.state_dict().items()}
    for executor in (ours, theirs):
        executor.load_state_dict(other)
    assert not torch.allclose(ours(*leaves, edges), before)
    assert_close([ours(*leaves, edges)], [theirs(*leaves, edges)], 1e-12)


def test_trained_factors_stay_with_torch() -> None:
    spec = TensorProductSpec("2x0e+2x1o", "0e+1o", "0e+1o")
    (product,) = CPDecomposed(rank=4, factors="trainable").products()
    outputs = reached_outputs(spec, product.pairing(1))
    algebra = product.algebra(one_of_each(spec.irreps_in1), one_of_each(spec.irreps_in2), outputs)
    assert why_not_generated(algebra, spec, outputs, 1, "filter") == "factors that are trained have no generated code"
    method = CPDecomposed(rank=4, factors="trainable")
    assert method.convolution(spec).code is None
    assert method.convolution(spec).kernel == "cpu float32: torch (factors that are trained have no generated code)"
    with pytest.raises(
        ValueError, match=r'"generated" has no form for factors that are trained; take "auto" or "torch"'
    ):
        replace(method, backend="generated").convolution(spec)


def test_a_method_says_what_runs() -> None:
    for backend, kernel in (
        ("auto", "generated (LLVM, 4 lanes)"),
        ("generated", "generated (LLVM, 4 lanes)"),
        ("torch", "torch"),
    ):
        executor = GauntGrid(backend=backend).convolution(TRUE)
        assert type(executor) is FactorisedConvolution
        assert (executor.code is None) == (backend == "torch")
        assert executor.kernel == f"cpu float32: {kernel}"
        assert f"{TRUE}; filter weights; cpu float32: {kernel}\n" in repr(executor)


def test_generated_is_refused_where_no_code_can_be_made(monkeypatch) -> None:
    for module in (llvm, tiles):
        monkeypatch.setattr(module, "unavailable", lambda: "it is not there")
    with pytest.raises(ValueError, match='`backend` "generated" cannot run here: it is not there'):
        GauntGrid(backend="generated")


def test_fewer_weights_and_rows_than_exact_couplings_have() -> None:
    ours, theirs = both(GauntGrid(), TRUE, "filter", 1)
    assert ours.code.couplings.weights == 3 < len(TRUE.paths)
    assert ours.code.couplings.rows == 9 < TRUE.rows
    assert cost(ours).edge.flops < cost(theirs).edge.flops
