"""What products cost: the counts against what torch does for one more edge and one more node."""

from __future__ import annotations

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from equinet.ops import (
    SO2,
    Bracket,
    ClebschGordan,
    CPDecomposed,
    GauntFourier,
    GauntGrid,
    ManyBodySpec,
    MatrixProduct,
    SpeciesGroups,
    TensorProductSpec,
    explain,
)
from equinet.ops.analysis.cost import cost


class Elementwise(TorchDispatchMode):
    """Counts additions and multiplications outside of matrix products, and Fourier transforms."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0.0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out, aten, name = func(*args, **(kwargs or {})), torch.ops.aten, func.overloadpacket
        if name in (aten.mul, aten.add, aten.sub, aten.rsub, aten.div, aten.neg):
            self.flops += out.numel()
        elif name == aten.addcmul:
            self.flops += 2 * out.numel()
        elif name == aten.sum:
            self.flops += args[0].numel() - out.numel()
        elif name == aten.index_add:
            self.flops += args[3].numel()
        elif name in (aten._fft_r2c, aten._fft_c2r):
            real = args[0] if name == aten._fft_r2c else out
            points = math.prod(real.shape[axis] for axis in args[1])
            self.flops += 2.5 * real.numel() * math.log2(points)
        return out


def counted(call) -> tuple[float, float]:
    """What torch does: in products of matrices, and else."""
    with FlopCounterMode(display=False) as matmul, torch.no_grad():
        call()
    with Elementwise() as other, torch.no_grad():
        call()
    return matmul.get_total_flops(), other.flops


def difference(more: tuple[float, float], less: tuple[float, float]) -> tuple[float, float]:
    return more[0] - less[0], more[1] - less[1]


METHODS = [
    ClebschGordan("torch"),
    GauntGrid(backend="torch"),
    GauntGrid(backend="torch", transform="separable"),
    GauntGrid(backend="torch", copies=2, weights="degrees", bracket=True),
    GauntFourier(backend="torch", weights="degrees"),
    MatrixProduct(backend="torch", copies=3),
    Bracket(backend="torch", weights="shared"),
    CPDecomposed(backend="torch", rank=8),
    SO2(),
]
CONVOLUTIONS = [
    ("4x0e+4x1o+4x2e", "0e+1o+2e+3o", "0e+1o+1e+2e+2o+3o"),
    ("4x0e+4x1o", "0e+1o", "0e+1o+1e"),
    ("4x0e+4x1o+4x1e", "0e+1o", "0e+1o+1e"),
]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("irreps", CONVOLUTIONS, ids=str)
def test_a_convolution_costs_what_torch_counts_for_one_more_edge_and_one_more_node(method, irreps) -> None:
    spec = TensorProductSpec(*irreps)
    executor = method.convolution(spec)

    def work(nodes: int, edges: int) -> tuple[float, float]:
        x, y = torch.randn(nodes, spec.irreps_in1.dim // 4, 4), torch.randn(edges, spec.irreps_in2.dim)
        w, index = torch.randn(edges, executor.weight_numel, 4), torch.randint(nodes, (2, edges))
        return counted(lambda: executor(x, y, w, index))

    found, base = cost(executor), work(5, 7)
    assert difference(work(5, 8), base) == pytest.approx(tuple(found.edge), rel=1e-12)
    assert difference(work(6, 7), base) == pytest.approx(tuple(found.node), rel=1e-12)


@pytest.mark.parametrize(
    "method",
    [
        ClebschGordan("torch"),
        GauntGrid(backend="torch"),
        GauntGrid(backend="torch", copies=2, weights="degrees", bracket=True),
        GauntFourier(backend="torch", weights="shared"),
        MatrixProduct(backend="torch", weights="degrees"),
    ],
)
def test_a_pair_product_costs_what_torch_counts_for_one_more_row(method) -> None:
    spec = TensorProductSpec("4x0e+4x1o+4x1e", "4x0e+4x1o", "0e+1o+1e+2e")
    if method.supports(spec):
        spec = TensorProductSpec("4x0e+4x1o+4x2e", "4x0e+4x1o", "0e+1o+2e")
    executor = method.pair(spec)

    def work(rows: int) -> tuple[float, float]:
        x, y = (torch.randn(rows, irreps.dim // 4, 4) for irreps in (spec.irreps_in1, spec.irreps_in2))
        return counted(lambda: executor(x, y, torch.randn(executor.weight_numel, 4)))

    found = cost(executor)
    assert difference(work(6), work(5)) == pytest.approx(tuple(found.edge), rel=1e-12)
    assert found.flops_per_node == 0
    assert found.bytes_per_edge == 4 * (spec.irreps_in1.dim + spec.irreps_in2.dim + 4 * spec.rows)


@pytest.mark.parametrize("method", [method for method in METHODS if not isinstance(method, SO2)])
@pytest.mark.parametrize("correlation", [1, 2, 3, 4])
@pytest.mark.parametrize("irreps", ["4x0e+4x1o+4x2e", "4x0e+4x1o+4x1e"])
def test_a_many_body_product_costs_what_torch_counts_for_one_more_node(method, correlation, irreps) -> None:
    spec = ManyBodySpec(irreps, "4x0e+4x1o", correlation, 2)
    executor = method.many_body(spec)

    def work(nodes: int) -> tuple[float, float]:
        x, w = torch.randn(nodes, spec.irreps_in.dim // 4, 4), executor.initial_weight()
        groups = SpeciesGroups(torch.arange(nodes) % 2)
        return counted(lambda: executor(x, w, groups))

    found = cost(executor)
    assert difference(work(6), work(5)) == pytest.approx(tuple(found.node), rel=1e-12)
    assert (found.flops_per_edge, found.bytes_per_edge) == (0, 0)


def test_bytes_are_those_of_inputs_weights_and_outputs() -> None:
    spec = TensorProductSpec("8x0e+8x1o", "0e+1o+2e", "0e+1o")
    found = cost(GauntGrid(copies=2).convolution(spec))
    assert found.bytes_per_edge == 4 * (4 * 8 + 9 + 2 * 3 * 8)
    assert found.bytes_per_node == 4 * (2 * 4 * 8)
    many = cost(ClebschGordan().many_body(ManyBodySpec("8x0e+8x1o", "8x0e", 3, 2)))
    assert many.bytes_per_node == 4 * (4 * 8 + 8)


def test_what_nobody_counted_has_no_cost() -> None:
    spec = ManyBodySpec("2x0e+2x1o", "2x0e", 2, 1)
    for method in (ClebschGordan, GauntGrid):
        assert cost(method(backend="reference").many_body(spec)) is None
    found = explain(spec, GauntGrid(bracket=True, backend="reference"))
    assert found.cost is None
    assert "not counted" in str(found)
