"""Kernels as a compiler for GPUs made them, run by a machine for its assembly, against the formulas."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from ase import Atoms
from assembling import emulated
from torch import Tensor

from equinet.graph import collate, from_atoms
from equinet.ops import CPDecomposed, ManyBodySpec, SpeciesGroups, TensorProductSpec
from equinet.ops.edges import Edges
from equinet.ops.kernels.edge import gpu as edge_gpu
from equinet.ops.kernels.edge.executor import GeneratedConvolution
from equinet.ops.kernels.edge.reference import EdgeMatrixConvolution
from equinet.ops.kernels.node import gpu_sums as node_gpu_sums
from equinet.ops.kernels.node.executor import GeneratedManyBody
from equinet.ops.kernels.node.reference import HornerManyBody
from equinet.ops.kernels.power import gpu as power_gpu
from equinet.ops.kernels.power import operator as power_operator
from equinet.ops.kernels.power.gpu import KINDS, Form, form_of
from equinet.potential import Potential

pytest.importorskip("triton", reason="kernels for GPUs are written in Triton: pip install triton")

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def derivatives(run: Callable[..., Tensor], leaves: Sequence[Tensor], order: int = 2) -> list[Tensor]:
    """The result, and the gradients of a combination of gradients of ... of it."""
    inputs = [leaf.clone().requires_grad_() for leaf in leaves]
    out = run(*inputs)
    found, value = [out], (out * weights_like(out)).sum() + out.square().sum()
    for _ in range(order):
        gradients = torch.autograd.grad(value, inputs, create_graph=True, materialize_grads=True)
        found += gradients
        value = torch.stack([(gradient * weights_like(gradient)).sum() for gradient in gradients]).sum()
    return [each.detach() for each in found]


def weights_like(values: Tensor) -> Tensor:
    """Numbers between -1 and 1."""
    return torch.linspace(-9, 7, values.numel(), dtype=torch.float64).cos().to(values).view(values.shape)


def assert_alike(found: Sequence[Tensor], expected: Sequence[Tensor], dtype: torch.dtype) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        assert float((ours - theirs).norm()) <= TOLERANCE[dtype] * float(
            theirs.norm()
        )  # wrong for what is not a number


# Edges.


def check_edges(
    irreps: str, dtype: torch.dtype, mirrored: bool, capability: int, harmonics: str = "0e+1o"
) -> list[str]:
    """Every derivative against the form in torch, on edges of which some begin and end on one node, and none on the last."""
    spec = TensorProductSpec(irreps, harmonics, harmonics)
    nodes, rows = 5, 11
    x = torch.randn(nodes, spec.irreps_in1.dim // spec.channels, spec.channels, dtype=dtype)
    y = torch.randn(rows, spec.irreps_in2.dim, dtype=dtype)
    w = torch.randn(rows, len(spec.paths), spec.channels, dtype=dtype)
    edges = Edges(torch.randint(nodes - 1, (2, rows)), nodes, mirrored=mirrored)
    reference, module = EdgeMatrixConvolution(spec).double(), GeneratedConvolution(spec).to(dtype)
    expected = derivatives(lambda *x: reference(*x, edges), [each.double() for each in (x, y, w)])
    with emulated(capability) as ran:
        found = derivatives(lambda *x: module(*x, edges), [x, y, w])
    assert set(ran) == {"edge_forward", "edge_jvp", "edge_backward", "edge_double_backward", "gather_sum"}
    assert_alike(found, expected, dtype)
    return ran


@pytest.mark.parametrize(
    ("channels", "dtype", "mirrored", "capability"),
    [
        (3, torch.float64, True, 80),
        (3, torch.float32, False, 90),
        (40, torch.float32, True, 90),
        (40, torch.float64, False, 90),
        (128, torch.float32, True, 80),
        (128, torch.float32, True, 90),
    ],
)
def test_sums_over_edges(channels: int, dtype: torch.dtype, mirrored: bool, capability: int) -> None:
    check_edges(f"{channels}x0e+{channels}x1o", dtype, mirrored, capability)


@pytest.mark.parametrize("channels", [3, 40])
def test_many_nodes_have_a_warp_each(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge_gpu, "MANY_NODES", 0)
    check_edges(f"{channels}x0e+{channels}x1o", torch.float32, True, 90)


@pytest.mark.parametrize("mirrored", [False, True], ids=["directed", "mirrored"])
def test_several_kernels_add_to_what_others_left(mirrored: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge_gpu, "MOST", dict.fromkeys(edge_gpu.MOST, 20))
    ran = check_edges("3x0e+3x1o+3x1e", torch.float64, mirrored, 80)
    assert ran.count("edge_double_backward") > 1


# Nodes.


@pytest.mark.parametrize(
    ("irreps", "out", "correlation", "nodes", "dtype", "capability"),
    [
        ("3x0e+3x1o", "3x0e+3x1o", 3, 9, torch.float64, 80),
        ("40x0e+40x1o", "40x0e+40x1o", 2, 5, torch.float32, 90),
        ("128x0e+128x1o", "128x0e", 3, 21, torch.float32, 90),
        ("3x0e+3x1o+3x2e", "3x0e+3x1o", 3, 1, torch.float32, 80),
    ],
)
def test_products_on_nodes(
    irreps: str,
    out: str,
    correlation: int,
    nodes: int,
    dtype: torch.dtype,
    capability: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(node_gpu_sums, "SHORTEST_PIECE", 4)  # so that a species has several
    spec = ManyBodySpec(irreps, out, correlation, 4)
    species = torch.tensor([0, 1, 3])[torch.randint(3, (nodes,))]
    groups = SpeciesGroups(species)
    reference, module = HornerManyBody(spec).double(), GeneratedManyBody(spec).to(dtype)
    x = torch.randn(nodes, spec.irreps_in.dim // spec.channels, spec.channels, dtype=dtype)
    leaves = [x, reference.initial_weight().to(dtype)]
    expected = derivatives(lambda *x: reference(*x, groups), [each.double() for each in leaves])
    with emulated(capability) as ran:
        found = derivatives(lambda *x: module(*x, groups), leaves)
    names = {
        "node_value",
        "node_gradient",
        "node_double_backward",
        "node_weight_gradient",
        "node_double_backward_weights",
        "sum_of_chunks",
    }
    assert set(ran) == names
    assert_alike(found, expected, dtype)


# Powers at points.


@pytest.mark.parametrize(
    ("text", "nodes", "channels", "dtype", "capability", "busy"),
    [
        ("power eooo ^ 3 -> oooe", 5, 3, torch.float64, 80, False),
        ("power eooo ^ 3 -> oooe", 40, 3, torch.float32, 90, True),
        ("product eooo ee ^ 4 -> oe", 3, 40, torch.float32, 90, False),
        ("bracket eooo oeee ooe eeo eeo ^ 3 -> eo", 2, 128, torch.float64, 90, False),
        ("product .... .. ^ 3 -> ...", 9, 11, torch.float32, 80, True),
    ],
)
def test_powers_at_points(
    text: str,
    nodes: int,
    channels: int,
    dtype: torch.dtype,
    capability: int,
    busy: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if busy:  # threads with several numbers each
        monkeypatch.setattr(power_gpu, "MANY_WARPS", 1)
    form: Form = form_of(text)
    names = [name for name in "uv" if name in KINDS[form.kind][0]]
    fields = [torch.randn(nodes, form.rows(name), channels, dtype=dtype) for name in names]
    table = torch.randn(3, sum(form.columns), dtype=dtype)
    expected = derivatives(
        lambda *x: power_operator.value_in_torch(x, table.double(), form), [each.double() for each in fields]
    )
    with emulated(capability) as ran:
        found = derivatives(lambda *x: power_operator.value(x, table, form), fields)
    assert set(ran) == {"power_value", "power_gradient", "power_double_backward"}
    assert_alike(found, expected, dtype)


# All of them.


@pytest.mark.parametrize("method", ["cg", CPDecomposed(rank=8)], ids=str)
def test_energy_and_forces_of_a_potential(
    method: object, make_potential: Callable[..., Potential], ethanol: Atoms, triclinic: Atoms
) -> None:
    potential = make_potential(convolution="cg", many_body=method, sh_degree=1)
    graph = collate([from_atoms(atoms, potential.cutoff) for atoms in (ethanol, triclinic)])
    expected = potential(graph)
    with emulated(90) as ran:
        found = potential(graph)
    of_nodes = {"power_value", "power_gradient"} if method != "cg" else {"node_value", "node_gradient"}
    assert set(ran) >= {"edge_forward", "edge_backward", "gather_sum"} | of_nodes
    assert len(ran) > len(set(ran))  # there is more than one layer
    for name in ("energy", "forces"):
        assert float(expected[name].detach().norm()) > 0.1
        assert_alike([found[name].detach()], [expected[name].detach()], torch.float64)
