"""The edge convolution in the frame of the edge: against Clebsch-Gordan on the harmonics of edge vectors."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from e3nn import o3
from torch import Tensor, nn

from equinet.ops import SphericalHarmonics, TensorProductSpec
from equinet.ops.coupling.clebsch_gordan import clebsch_gordan
from equinet.ops.kernels.edge.reference import ReferenceConvolution
from equinet.ops.methods.so2 import PolarFrame, SO2Convolution, polar_basis, rotation_to_pole, supports

# name: features, harmonics, outputs
SPECS = {
    "scalars": ("1x0e", "0e", "0e"),
    "no direction": ("3x0e+3x1o", "0e", "0e+1o"),
    "first layer": ("4x0e", "0e+1o+2e+3o", "0e+1o+2e+3o"),
    "MACE": ("3x0e+3x1o", "0e+1o+2e+3o", "0e+1o+2e+3o"),
    "MACE, L = 2": ("2x0e+2x1o+2x2e", "0e+1o+2e+3o", "0e+1o+2e+3o"),
    "all harmonics": ("3x0e+3x1o+3x2e", "0e+1o+2e+3o+4e", "0e+1o+2e"),
    "high degrees": ("1x3o+1x4e", "0e+1o+2e+3o+4e", "3o+4e+5o"),
    "missing degrees": ("3x1o+3x3o", "1o+2e", "1o+2e+3o"),
    "scalar outputs": ("5x0e+5x1o+5x2e", "0e+1o+2e", "0e"),
    "cross product": ("3x1o", "1o", "1e"),
    "pseudo-tensors": ("4x0e+4x1o+4x1e+4x2e", "0e+1o+2e+3o", "0e+0o+1o+1e+2e+2o+3o"),
    "unsorted": ("2x2e+2x0e+2x1o+2x0e", "1o+2e+0e", "1o+0e+2e"),
}
POLES = {"+y": [0.0, 1.0, 0.0], "-y": [0.0, -1.0, 0.0]}
SEAM = {
    "x": [1.0, 0.0, 0.0],
    "seam": [0.6, 0.0, -0.8],
    "seam from below": [0.6, -0.0, -0.8],
    "above the seam": [0.6, 1e-9, 0.8],
    "below the seam": [0.6, -1e-9, 0.8],
}


def spec_of(name: str) -> TensorProductSpec:
    return TensorProductSpec(*SPECS[name])


class OnEdgeVectors(nn.Module):
    """A convolution as a function of edge vectors of any length, through their harmonics in the order of the spec."""

    def __init__(self, convolution: nn.Module) -> None:
        super().__init__()
        self.convolution = convolution
        degrees = [ir.l for _, ir in convolution.spec.irreps_in2]
        self.harmonics = SphericalHarmonics(max(degrees))
        self.columns = [column for l in degrees for column in range(l**2, (l + 1) ** 2)]

    def forward(self, features: Tensor, vectors: Tensor, weight: Tensor, edge_index: Tensor) -> Tensor:
        unit = vectors / vectors.square().sum(1, keepdim=True).sqrt()
        return self.convolution(features, self.harmonics(unit)[:, self.columns], weight, edge_index)


def so2(spec: TensorProductSpec) -> nn.Module:
    return OnEdgeVectors(SO2Convolution(spec))


def twin(spec: TensorProductSpec) -> nn.Module:
    """What :meth:`SO2Convolution.path_weights` says: all paths one by one with these weights, summed."""
    return OnEdgeVectors(ReferenceConvolution(spec, like=SO2Convolution(spec)))


def random_inputs(
    spec: TensorProductSpec, nodes: int, edges: int, dtype: torch.dtype = torch.float64, seed: int = 0
) -> list[Tensor]:
    """Features, edge vectors and weights, then edges; the last node has none where there are several."""
    torch.manual_seed(seed)
    features = torch.randn(nodes, spec.irreps_in1.dim // spec.channels, spec.channels, dtype=dtype)
    vectors = torch.randn(edges, 3, dtype=dtype)
    weight = torch.randn(edges, len(spec.paths), spec.channels, dtype=dtype)
    return [features, vectors, weight, torch.randint(max(nodes - 1, 1), (2, edges))]


def value_and_two_derivatives(module: nn.Module, leaves: list[Tensor], edge_index: Tensor) -> list[Tensor]:
    """The result, its derivative in a random direction with respect to each leaf, and the derivatives of their sum."""
    torch.manual_seed(5)
    inputs = [leaf.clone().requires_grad_() for leaf in leaves]
    out = module.double()(*inputs, edge_index)
    first = torch.autograd.grad(out, inputs, torch.randn_like(out), create_graph=True, materialize_grads=True)
    mixed = sum((gradient * torch.randn_like(gradient)).sum() for gradient in first)
    return [out, *first, *torch.autograd.grad(mixed, inputs, materialize_grads=True)]


@pytest.mark.parametrize("name", SPECS)
def test_values_and_two_derivatives_are_those_of_clebsch_gordan(name: str) -> None:
    spec = spec_of(name)
    *leaves, edge_index = random_inputs(spec, nodes=4, edges=9)
    ours = value_and_two_derivatives(so2(spec), leaves, edge_index)
    theirs = value_and_two_derivatives(twin(spec), leaves, edge_index)
    assert ours[0].shape == (4, sum(out.dim for out in spec.paths_per_output), spec.channels)
    isotropic = spec.irreps_in2.lmax == 0  # then nothing depends on the vectors, whose gradients are numbers 2 and 5
    for n, (mine, other) in enumerate(zip(ours, theirs)):
        assert other.abs().max() > 0.1 or (isotropic and n in (2, 5))
        torch.testing.assert_close(mine, other, rtol=1e-11, atol=1e-10)


@pytest.mark.parametrize("direction", POLES | SEAM)
@pytest.mark.parametrize("name", ["MACE, L = 2", "pseudo-tensors", "high degrees"])
def test_poles_and_seam_of_the_frame_are_ordinary_directions(name: str, direction: str) -> None:
    spec = spec_of(name)
    features, _, weight, edge_index = random_inputs(spec, nodes=3, edges=2)
    vectors = torch.tensor([(POLES | SEAM)[direction]] * 2, dtype=torch.float64) * torch.tensor([[1.0], [2.5]])
    ours = value_and_two_derivatives(so2(spec), [features, vectors, weight], edge_index)
    theirs = value_and_two_derivatives(twin(spec), [features, vectors, weight], edge_index)
    for mine, other in zip(ours, theirs):
        assert other.abs().max() > 0.1
        torch.testing.assert_close(mine, other, rtol=1e-11, atol=1e-10)


@pytest.mark.parametrize("name", ["first layer", "MACE", "cross product", "missing degrees", "no direction"])
def test_derivatives_are_those_of_finite_differences(name: str) -> None:
    spec = spec_of(name)
    *leaves, edge_index = random_inputs(spec, nodes=2, edges=2)
    module = so2(spec).double()
    inputs = [leaf[..., :1].clone().requires_grad_() if leaf.ndim == 3 else leaf.requires_grad_() for leaf in leaves]
    assert torch.autograd.gradcheck(lambda *x: module(*x, edge_index), inputs)
    assert torch.autograd.gradgradcheck(lambda *x: module(*x, edge_index), inputs)


@pytest.mark.parametrize("name", ["MACE, L = 2", "pseudo-tensors", "cross product", "unsorted"])
def test_the_result_turns_with_its_inputs(
    name: str, orthogonal: Tensor, representation: Callable[[o3.Irreps | str, Tensor], Tensor]
) -> None:
    spec = spec_of(name)
    features, vectors, weight, edge_index = random_inputs(spec, nodes=4, edges=9)
    module = so2(spec).double()
    turn_in = representation(spec.irreps_in1, orthogonal)
    turn_out = torch.block_diag(*[representation(str(out), orthogonal) for out in spec.paths_per_output])
    turned = module(torch.einsum("ab,nbc->nac", turn_in, features), vectors @ orthogonal.T, weight, edge_index)
    expected = torch.einsum("ab,nbc->nac", turn_out, module(features, vectors, weight, edge_index))
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(turned, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", ["first layer", "MACE", "MACE, L = 2", "pseudo-tensors", "high degrees"])
def test_unit_inputs_give_unit_outputs(name: str) -> None:
    spec = spec_of(name)
    nodes = 20000
    *inputs, _ = random_inputs(spec, nodes, nodes, dtype=torch.float32)
    out = so2(spec)(*inputs, torch.arange(nodes).repeat(2, 1))  # every node has one edge, from itself
    sizes = out.square().mean((0, 2))
    torch.testing.assert_close(sizes, torch.ones_like(sizes), rtol=0.1, atol=0)


@pytest.mark.parametrize("name", SPECS)
def test_in_single_precision_it_errs_little_more_than_clebsch_gordan(name: str) -> None:
    spec = spec_of(name)
    squares = {"so2": 0.0, "twin": 0.0, "so2 gradient": 0.0, "twin gradient": 0.0}
    for seed in range(5):
        *leaves, edge_index = random_inputs(spec, nodes=10, edges=60, dtype=torch.float32, seed=seed)
        leaves[1] = leaves[1] / leaves[1].norm(dim=1, keepdim=True)

        def value_and_gradient(
            module: nn.Module, dtype: torch.dtype, leaves: list[Tensor] = leaves, edge_index: Tensor = edge_index
        ) -> tuple[Tensor, Tensor]:
            inputs = [leaf.to(dtype).requires_grad_() for leaf in leaves]
            out = module.to(dtype)(*inputs, edge_index)
            gradients = torch.autograd.grad(out.square().sum(), inputs, materialize_grads=True)
            return out.detach().double(), torch.cat([gradient.double().flatten() for gradient in gradients])

        exact, exact_gradient = value_and_gradient(twin(spec), torch.float64)
        for label, module in (("so2", so2(spec)), ("twin", twin(spec))):
            out, gradient = value_and_gradient(module, torch.float32)
            squares[label] += (out - exact).square().sum().item()
            squares[f"{label} gradient"] += (gradient - exact_gradient).square().sum().item()
    # Degrees 4 and 5 are turned there and back, while the twin multiplies by harmonics up to degree 4, once.
    factor = 3 if name == "high degrees" else 2
    assert squares["so2"] ** 0.5 <= factor * squares["twin"] ** 0.5
    assert squares["so2 gradient"] ** 0.5 <= factor * squares["twin gradient"] ** 0.5


@pytest.mark.parametrize("name", ["MACE", "no direction", "scalars", "pseudo-tensors"])
@pytest.mark.parametrize(("nodes", "edges"), [(3, 0), (1, 0), (1, 3), (0, 0)])
def test_few_nodes_and_no_edges_work(name: str, nodes: int, edges: int) -> None:
    spec = spec_of(name)
    *leaves, edge_index = random_inputs(spec, nodes, edges)
    ours = value_and_two_derivatives(so2(spec), leaves, edge_index)
    for mine, other in zip(ours, value_and_two_derivatives(twin(spec), leaves, edge_index)):
        torch.testing.assert_close(mine, other, rtol=1e-11, atol=1e-10)


def test_a_node_receives_along_its_own_edges_only() -> None:
    spec = spec_of("MACE")
    features, vectors, weight, _ = random_inputs(spec, nodes=3, edges=1)
    out = so2(spec).double()(features, vectors, weight, torch.tensor([[2], [1]]))
    assert out[1].abs().min() > 0
    assert torch.equal(out[[0, 2]], torch.zeros_like(out[[0, 2]]))


def test_the_direction_is_read_from_degree_one_alone() -> None:
    spec = spec_of("MACE")
    features, _, weight, edge_index = random_inputs(spec, nodes=3, edges=5)
    harmonics = torch.randn(5, 16).double()
    harmonics[:, 1:4] *= math.sqrt(3) / harmonics[:, 1:4].norm(dim=1, keepdim=True)
    module = SO2Convolution(spec).double()
    others = harmonics.clone()
    others[:, [0, *range(4, 16)]] = 0
    assert torch.equal(module(features, harmonics, weight, edge_index), module(features, others, weight, edge_index))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_precision_of_the_result_is_that_of_the_inputs(dtype: torch.dtype) -> None:
    spec = spec_of("pseudo-tensors")
    *inputs, edge_index = random_inputs(spec, 3, 4, dtype)
    assert so2(spec).to(dtype)(*inputs, edge_index).dtype == dtype


def test_a_detour_through_single_precision_loses_nothing() -> None:
    spec = spec_of("MACE, L = 2")
    inputs = random_inputs(spec, 3, 4)
    module = so2(spec).double()
    straight = module(*inputs)
    assert torch.equal(module.float().double()(*inputs), straight)
    assert module.state_dict() == {}


@pytest.mark.parametrize("name", SPECS)
def test_the_weights_are_those_of_the_paths_in_another_basis(name: str) -> None:
    spec = spec_of(name)
    module = SO2Convolution(spec).double()
    assert module.weight_numel == len(spec.paths)
    units = torch.eye(module.weight_numel).double().unsqueeze(2)  # edge n has weight n alone
    maps = module.path_weights(units).squeeze(3)  # (weights, outputs, paths)
    for s, (out, paths) in enumerate(spec.paths_per_output.items()):
        product = maps[:, s].T @ maps[:, s] * paths
        ends_here = torch.tensor([float(path.out == out) for path in spec.paths]).double()
        torch.testing.assert_close(product, torch.diag(ends_here), rtol=0, atol=1e-12)
    for n, of_weight in enumerate(spec.paths):
        for p, path in enumerate(spec.paths):
            if (path.i1, path.out) != (of_weight.i1, of_weight.out):
                assert not maps[n, :, p].any()


@pytest.mark.parametrize("l1", range(5))
@pytest.mark.parametrize("l3", range(5))
@pytest.mark.parametrize("parity", [0, 1])
def test_with_all_harmonics_each_weight_acts_on_one_order(l1: int, l3: int, parity: int) -> None:
    degrees2 = [l2 for l2 in range(abs(l1 - l3), l1 + l3 + 1) if (l1 + l2 + l3) % 2 == parity]
    if not degrees2:
        assert parity == 1
        assert min(l1, l3) == 0
        return
    inner = min(l1, l3)
    basis, turn = polar_basis(l1, degrees2, l3)
    half = [
        [math.sqrt((2 * l3 + 1) / (1 if m == 0 else 2)) * (m == n) for n in range(inner + 1)] for m in range(inner + 1)
    ]
    if parity == 1:
        half = [row[1:] for row in half]
    upper = torch.tensor(half, dtype=torch.float64)
    torch.testing.assert_close(basis[inner:].abs(), upper, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(basis[:inner].flip(0), (-1) ** parity * basis[inner + 1 :], rtol=0, atol=0)
    torch.testing.assert_close(turn @ turn.T, torch.eye(len(turn)).double(), rtol=0, atol=1e-12)


def test_with_fewer_harmonics_the_weights_reach_no_more_than_the_paths() -> None:
    basis, turn = polar_basis(2, [1, 3], 3)
    paths = [math.sqrt(7 * (2 * l2 + 1)) * clebsch_gordan(2, l2, 3)[:, l2, 1:-1].diagonal() for l2 in (1, 3)]
    torch.testing.assert_close(basis, torch.stack(paths, dim=1) @ turn, rtol=0, atol=1e-12)
    torch.testing.assert_close(basis.T @ basis, 7 * torch.eye(2).double(), rtol=0, atol=1e-12)
    assert basis[2, 1] == 0  # the second weight leaves m = 0 alone


@pytest.mark.parametrize("max_order", [0, 1, 2, 3, 6])
def test_the_frame_has_the_rows_of_the_wigner_matrices(
    max_order: int, representation: Callable[[o3.Irreps | str, Tensor], Tensor]
) -> None:
    torch.manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(6, 3).double(), dim=1)
    directions[0] = torch.tensor([0.0, -1.0, 0.0])
    frame = PolarFrame(6, max_order).double()(directions)
    rotations = rotation_to_pole(directions.T).permute(2, 0, 1)
    for l, rows in enumerate(frame):
        inner = min(l, max_order)
        for rotation, found in zip(rotations, rows):
            expected = representation(o3.Irreps([(1, (l, 1))]), rotation)[l - inner : l + inner + 1]
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-13 * 4**l)


def test_the_frame_lays_the_edge_on_the_polar_axis() -> None:
    torch.manual_seed(0)
    special = torch.tensor([*POLES.values(), *SEAM.values()], dtype=torch.float64)
    directions = torch.cat([torch.nn.functional.normalize(torch.randn(50, 3).double(), dim=1), special])
    rotations = rotation_to_pole(directions.T).permute(2, 0, 1)
    laid = torch.einsum("eab,eb->ea", rotations, directions)
    torch.testing.assert_close(laid, torch.tensor([0.0, 1.0, 0.0]).double().expand_as(laid), rtol=0, atol=1e-14)
    torch.testing.assert_close(rotations @ rotations.mT, torch.eye(3).double().expand_as(rotations), rtol=0, atol=1e-14)
    torch.testing.assert_close(torch.linalg.det(rotations), torch.ones(len(rotations)).double(), rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("harmonics", "reason"),
    [
        ("0e+1e", r"parity \(-1\)\^l \(0e, 1o, 2e, ...\), got 1x0e\+1x1e"),
        ("0e+1o+1o", r"each degree at most once"),
        ("0e+2e", r"must contain 1o, from which the direction of the edge is read, got 1x0e\+1x2e"),
    ],
)
def test_what_is_no_harmonics_of_one_direction_is_refused(harmonics: str, reason: str) -> None:
    spec = TensorProductSpec("2x0e+2x1o", harmonics, "0e+1o+1e+2e")
    with pytest.raises(ValueError, match=reason):
        SO2Convolution(spec)
    assert supports(spec) is not None


def test_all_harmonics_of_one_direction_are_supported() -> None:
    assert [supports(spec_of(name)) for name in SPECS] == [None] * len(SPECS)


def test_the_executor_names_its_spec_and_gives_each_output_once() -> None:
    spec = spec_of("pseudo-tensors")
    module = SO2Convolution(spec)
    assert str(spec) in repr(module)
    assert "l <= 3, |m| <= 2" in repr(module)
    assert module.copies == dict.fromkeys(spec.paths_per_output, 1)
    assert not list(module.parameters())
