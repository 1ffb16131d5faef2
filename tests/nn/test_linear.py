"""Linear maps against those of e3nn, with the weights carried over."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from e3nn import o3
from torch import Tensor

from equinet.nn import EquivariantLinear, SpeciesLinear
from equinet.ops import SpeciesGroups, TensorProductSpec, from_mul_ir, natural_irreps, to_mul_ir

TRUE = [o3.Irrep("0e"), o3.Irrep("1o"), o3.Irrep("2e"), o3.Irrep("3o")]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(("max_degree", "channels_in", "channels_out"), [(0, 3, 5), (1, 4, 4), (3, 5, 2)])
def test_the_linear_map_is_that_of_e3nn(max_degree: int, channels_in: int, channels_out: int) -> None:
    irreps_in, irreps_out = natural_irreps(max_degree, channels_in), natural_irreps(max_degree, channels_out)
    ours = EquivariantLinear(dict.fromkeys(TRUE[: max_degree + 1], 1), channels_in, channels_out).double()
    theirs = o3.Linear(irreps_in, irreps_out).double()
    with torch.no_grad():
        theirs.weight.copy_(torch.cat([weight.flatten() for weight in ours.weights.values()]))
    x = torch.randn(6, irreps_in.dim, dtype=torch.float64)
    torch.testing.assert_close(
        to_mul_ir(ours(from_mul_ir(x, irreps_in)), irreps_out), theirs(x), rtol=1e-12, atol=1e-12
    )


def test_the_map_after_a_convolution_is_that_of_e3nn() -> None:
    channels = 3
    spec = TensorProductSpec(natural_irreps(1, channels), natural_irreps(2), natural_irreps(2))
    assert list(spec.paths_per_output.values()) == [2, 3, 2]
    ours = EquivariantLinear(spec.paths_per_output, channels, 4).double()
    # e3nn keeps every path as an irrep of its own; of one degree, paths follow each other
    irreps_in = o3.Irreps([(channels * paths, out) for out, paths in spec.paths_per_output.items()])
    theirs = o3.Linear(irreps_in, natural_irreps(2, 4)).double()
    with torch.no_grad():
        theirs.weight.copy_(torch.cat([weight.flatten() for weight in ours.weights.values()]))
    rows = torch.randn(5, spec.rows, channels, dtype=torch.float64)
    flat = []
    for out in spec.paths_per_output:
        blocks = [rows[:, spec.row_of(n)] for n, path in enumerate(spec.paths) if path.out == out]
        flat.append(torch.cat(blocks, dim=2).transpose(1, 2).flatten(1))  # (nodes, paths * channels * (2l+1))
    expected = theirs(torch.cat(flat, dim=1))
    torch.testing.assert_close(to_mul_ir(ours(rows), natural_irreps(2, 4)), expected, rtol=1e-12, atol=1e-12)


def test_outputs_may_be_fewer_than_inputs() -> None:
    linear = EquivariantLinear(dict.fromkeys(TRUE[:3], 1), 3, 2, outputs=[TRUE[0], TRUE[2]]).double()
    x = torch.randn(4, 9, 3, dtype=torch.float64)
    out = linear(x)
    assert out.shape == (4, 6, 2)
    assert set(linear.weights) == {"0e", "2e"}
    torch.testing.assert_close(out[:, 1:], x[:, 4:] @ linear.weights["2e"] / 3**0.5)


def test_a_fresh_linear_map_keeps_the_size_of_its_input() -> None:
    out = EquivariantLinear({TRUE[0]: 2, TRUE[1]: 1}, 64, 64)(torch.randn(200, 5, 64))
    assert out.square().mean().item() == pytest.approx(1, rel=0.1)


def test_the_linear_map_turns_with_its_input(
    orthogonal: Tensor, representation: Callable[[o3.Irreps, Tensor], Tensor]
) -> None:
    linear = EquivariantLinear(dict.fromkeys(TRUE[:3], 1), 3, 3).double()
    turn = representation(natural_irreps(2), orthogonal)
    x = torch.randn(4, 9, 3, dtype=torch.float64)
    torch.testing.assert_close(linear(turn @ x), turn @ linear(x), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("degree_in", "degree_out"), [(2, 2), (1, 0), (0, 0)])
def test_the_map_per_species_is_a_product_of_e3nn_with_a_one_hot_vector(degree_in: int, degree_out: int) -> None:
    channels, kinds = 3, 4
    ours = SpeciesLinear(TRUE[: degree_in + 1], TRUE[: degree_out + 1], channels, kinds).double()
    irreps_in, irreps_out = natural_irreps(degree_in, channels), natural_irreps(degree_out, channels)
    theirs = o3.FullyConnectedTensorProduct(irreps_in, f"{kinds}x0e", irreps_out).double()
    with torch.no_grad():  # e3nn: (channel in, species, channel out) of every path
        theirs.weight.copy_(torch.cat([weight.transpose(0, 1).flatten() for weight in ours.weights.values()]))
    species = torch.tensor([3, 0, 1, 3, 3, 0])
    x = torch.randn(6, irreps_in.dim, dtype=torch.float64)
    expected = theirs(x, torch.nn.functional.one_hot(species, kinds).double())
    out = to_mul_ir(ours(from_mul_ir(x, irreps_in), SpeciesGroups(species)), irreps_out)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)


def test_the_map_per_species_turns_with_its_input(
    orthogonal: Tensor, representation: Callable[[o3.Irreps, Tensor], Tensor]
) -> None:
    linear = SpeciesLinear(TRUE[:3], TRUE[:3], 3, 2).double()
    groups = SpeciesGroups(torch.tensor([1, 0, 1]))
    turn = representation(natural_irreps(2), orthogonal)
    x = torch.randn(3, 9, 3, dtype=torch.float64)
    torch.testing.assert_close(linear(turn @ x, groups), turn @ linear(x, groups), rtol=0, atol=1e-10)


def test_degrees_that_do_not_come_in_go_out_as_zero() -> None:
    linear = SpeciesLinear(TRUE[:1], TRUE[:2], 3, 2)
    out = linear(torch.randn(2, 1, 3), SpeciesGroups(torch.tensor([0, 1])))
    assert out.shape == (2, 4, 3)
    assert torch.equal(out[:, 1:], torch.zeros(2, 3, 3))
    assert out[:, 0].abs().min() > 0


def test_a_species_without_nodes_gets_no_gradient() -> None:
    linear = SpeciesLinear(TRUE[:1], TRUE[:1], 2, 3)
    linear(torch.randn(2, 1, 2), SpeciesGroups(torch.tensor([2, 0]))).sum().backward()
    gradient = linear.weights["0e"].grad
    assert torch.equal(gradient[1], torch.zeros(2, 2))
    assert gradient[0].abs().min() > 0


def test_without_nodes_there_are_no_rows() -> None:
    assert EquivariantLinear(dict.fromkeys(TRUE[:2], 1), 3, 2)(torch.zeros(0, 4, 3)).shape == (0, 4, 2)
    groups = SpeciesGroups(torch.zeros(0, dtype=torch.int64))
    assert SpeciesLinear(TRUE[:2], TRUE[:2], 3, 2)(torch.zeros(0, 4, 3), groups).shape == (0, 4, 3)


def test_each_says_what_it_is() -> None:
    assert "0e: 6 → 4, 1o: 3 → 4" in repr(EquivariantLinear({TRUE[0]: 2, TRUE[1]: 1}, 3, 4))
    assert "0e: 2 x (3 → 3)" in repr(SpeciesLinear(TRUE[:1], TRUE[:1], 3, 2))


def test_pseudotensors_have_matrices_of_their_own() -> None:
    linear = EquivariantLinear(dict.fromkeys([o3.Irrep("1e"), o3.Irrep("1o")], 1), 3, 2).double()
    x = torch.randn(4, 6, 3, dtype=torch.float64)
    expected = torch.cat([x[:, :3] @ linear.weights["1e"], x[:, 3:] @ linear.weights["1o"]], dim=1) / 3**0.5
    torch.testing.assert_close(linear(x), expected)


def test_matrices_are_taken_by_the_name_of_their_irrep_whatever_the_order() -> None:
    """A dictionary of parameters sorts its keys: 0e before 0o."""
    irreps = [o3.Irrep(name) for name in ("0o", "0e", "1o", "1e")]
    linear = EquivariantLinear({irreps[0]: 2, irreps[1]: 1, irreps[2]: 3, irreps[3]: 1}, 4, 4)
    x, rows = torch.randn(5, 2 + 1 + 9 + 3, 4), (2, 1, 9, 3)
    for ir, block, out in zip(irreps, x.split(rows, dim=1), linear(x).split([1, 1, 3, 3], dim=1)):
        weight = linear.weights[str(ir)]
        expected = block.reshape(5, ir.dim, -1) @ weight / weight.shape[0] ** 0.5
        torch.testing.assert_close(out, expected)
    species = SpeciesLinear(irreps, irreps[::-1], 4, 2)
    groups = SpeciesGroups(torch.tensor([0, 1, 1, 0, 0]))
    x = torch.randn(5, 8, 4)
    parts = dict(zip(irreps, x.split([1, 1, 3, 3], dim=1)))
    for ir, out in zip(irreps[::-1], species(x, groups).split([3, 3, 1, 1], dim=1)):
        torch.testing.assert_close(out, parts[ir] @ species.weights[str(ir)][groups.species] / 8**0.5)
