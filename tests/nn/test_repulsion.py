"""The repulsion of nuclei: its formula, its end at the sum of radii, its sum over pairs, and its size."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from ase.units import Bohr, Hartree
from torch import Tensor

from equinet.graph.elements import COVALENT_RADII
from equinet.nn import ZBL
from equinet.ops.edges import Edges

NUMBERS = (1, 8, 79)
RADII = [COVALENT_RADII[z] for z in NUMBERS]
POWER = 5


def zbl() -> ZBL:
    return ZBL(NUMBERS, RADII, POWER)


def formula(r: float, z1: int, z2: int, p: int = POWER) -> float:
    """Of a pair, in eV: Coulomb repulsion, times the screening function, times the envelope."""
    reach = COVALENT_RADII[z1] + COVALENT_RADII[z2]
    if r >= reach:
        return 0.0
    x = r / reach
    envelope = 1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1) - p * (p + 1) / 2 * x ** (p + 2)
    a = 0.4543 * 0.529 / (z1**0.300 + z2**0.300)
    terms = ((0.1818, 3.2), (0.5099, 0.9423), (0.2802, 0.4028), (0.02817, 0.2016))
    return envelope * 14.3996 * z1 * z2 / r * sum(c * math.exp(-d * r / a) for c, d in terms)


def of_pair(module: ZBL, r: Tensor, first: int, second: int) -> Tensor:
    """Energies ``(len(r), 2)`` of the two atoms of pairs at distances ``r``."""
    n = len(r)
    edges = Edges(torch.arange(2 * n).view(2, n), 2 * n, mirrored=True)
    species = torch.tensor([first] * n + [second] * n)
    return module(r[:, None], species, edges).view(2, n).T


@pytest.mark.parametrize(("first", "second"), [(0, 0), (0, 1), (1, 1), (2, 0), (1, 2), (2, 2)])
def test_a_pair_has_the_energy_of_the_formula_and_half_of_it_goes_to_each_atom(first: int, second: int) -> None:
    reach = RADII[first] + RADII[second]
    r = torch.tensor([0.05, 0.3, 0.7, 0.95], dtype=torch.float64) * reach
    energies = of_pair(zbl(), r, first, second)
    expected = torch.tensor([formula(d, NUMBERS[first], NUMBERS[second]) for d in r.tolist()], dtype=torch.float64)
    assert (expected > 0).all()
    torch.testing.assert_close(energies.sum(1), expected, rtol=1e-10, atol=0)
    assert torch.equal(energies[:, 0], energies[:, 1])


def test_its_constant_is_that_of_coulomb() -> None:
    # Very close atoms repel as bare nuclei do: r V / (Z1 Z2) goes to e² / (4 pi epsilon_0) times the sum of c, which is one.
    module, r = zbl(), torch.tensor([1e-9], dtype=torch.float64)
    assert (of_pair(module, r, 1, 2).sum() * r / (8 * 79)).item() == pytest.approx(Hartree * Bohr, rel=1e-4)


def test_it_ends_at_the_sum_of_the_radii_with_two_derivatives() -> None:
    reach = RADII[1] + RADII[2]
    r = torch.tensor([1 - 1e-7, 1.0, 1 + 1e-9, 1.5, 40.0], dtype=torch.float64) * reach
    found = [of_pair(zbl(), r.requires_grad_(), 1, 2).sum(1)]
    for _ in range(2):
        found.append(torch.autograd.grad(found[-1].sum(), r, create_graph=True)[0])
    for derivative in found:
        assert torch.equal(derivative[1:], torch.zeros(4, dtype=torch.float64))
        assert derivative[0].abs() < 1e-3  # of a potential of thousands of eV
    assert found[2][0] != 0


@pytest.mark.parametrize(("z1", "z2"), [(0, 0), (0, 1), (1, 1)])
def test_it_repels_more_the_closer(z1: int, z2: int) -> None:
    r = torch.linspace(0.1, 0.98, 50, dtype=torch.float64) * (RADII[z1] + RADII[z2])
    energy = of_pair(zbl(), r, z1, z2).sum(1)
    assert (energy.diff() < 0).all()


def some_edges() -> tuple[Tensor, Tensor, Tensor]:
    """Lengths, species and index of pairs among five atoms, one of them with its own image."""
    index = torch.tensor([[0, 0, 1, 2, 2, 3], [1, 2, 2, 3, 2, 0]])
    lengths = torch.tensor([[0.4], [0.9], [1.2], [0.5], [1.0], [0.6]], dtype=torch.float64)
    return lengths, torch.tensor([0, 1, 2, 1, 0]), index


def test_pairs_and_their_two_directions_give_the_same() -> None:
    lengths, species, index = some_edges()
    in_pairs = zbl()(lengths, species, Edges(index, 5, mirrored=True))
    there_and_back = Edges(torch.cat([index, index.flip(0)], dim=1), 5)
    one_by_one = zbl()(torch.cat([lengths, lengths]), species, there_and_back)
    torch.testing.assert_close(in_pairs, one_by_one, rtol=1e-14, atol=0)
    expected = np.zeros(5)
    for r, (i, j) in zip(lengths[:, 0].tolist(), index.T.tolist()):
        for n in (i, j):
            expected[n] += formula(r, NUMBERS[species[i]], NUMBERS[species[j]]) / 2
    np.testing.assert_allclose(in_pairs.numpy(), expected, rtol=1e-10)
    assert in_pairs[4] == 0
    assert in_pairs[:4].min() > 1


def test_the_factor_multiplies_all_of_it_and_is_saved() -> None:
    lengths, species, index = some_edges()
    edges, module = Edges(index, 5, mirrored=True), zbl()
    before = module(lengths, species, edges)
    module.factor.fill_(0.37)
    torch.testing.assert_close(module(lengths, species, edges), 0.37 * before, rtol=1e-14, atol=0)
    other = ZBL(NUMBERS, [1.0, 1.0, 1.0], POWER)
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(lengths, species, edges), module(lengths, species, edges))


def test_derivatives_are_those_of_finite_differences() -> None:
    lengths, species, index = some_edges()
    edges, module = Edges(index, 5, mirrored=True), zbl()
    module.factor.fill_(1e-2)
    lengths.requires_grad_()
    assert torch.autograd.gradcheck(lambda r: module(r, species, edges), lengths, rtol=1e-5)
    assert torch.autograd.gradgradcheck(lambda r: module(r, species, edges), lengths, rtol=1e-5)


def test_numbers_stay_double_in_a_single_precision_module() -> None:
    lengths, species, index = some_edges()
    edges, module = Edges(index, 5, mirrored=True), zbl()
    exact = module(lengths, species, edges)
    single = copy.deepcopy(module).float()
    assert {value.dtype for value in single.buffers()} == {torch.float64}
    found = single(lengths.float(), species, edges)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=5e-6, atol=0)
    assert torch.equal(single.double()(lengths, species, edges), exact)


@pytest.mark.parametrize("nodes", [0, 1, 3])
def test_without_edges_there_is_none(nodes: int) -> None:
    empty = torch.empty(0, 1, dtype=torch.float64)
    edges = Edges(torch.empty(2, 0, dtype=torch.int64), nodes)
    assert torch.equal(zbl()(empty, torch.zeros(nodes, dtype=torch.int64), edges), torch.zeros(nodes).double())


def test_it_says_what_it_is() -> None:
    assert repr(zbl()) == "ZBL(3 species, p=5)"
