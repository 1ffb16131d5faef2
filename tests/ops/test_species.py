"""Nodes sorted by species and put back."""

from __future__ import annotations

import pytest
import torch

from equinet.ops import SpeciesGroups


@pytest.mark.parametrize(
    "species", [[0], [2], [0, 0, 0], [2, 0, 1, 2, 0, 2], [3, 1, 3, 1], [1, 0], list(range(5, 0, -1))]
)
def test_join_undoes_split(species: list[int]) -> None:
    groups = SpeciesGroups(torch.tensor(species))
    values = torch.randn(len(species), 4, 2)
    assert torch.equal(groups.join([part for _, part in groups.split(values)]), values)


def test_every_group_holds_its_own_species_in_the_order_of_the_nodes() -> None:
    species = torch.tensor([2, 0, 3, 2, 0, 2])
    numbers = torch.arange(6)
    found = {z: part.tolist() for z, part in SpeciesGroups(species).split(numbers)}
    assert found == {0: [1, 4], 2: [0, 3, 5], 3: [2]}


def test_what_is_done_to_a_species_reaches_its_nodes_only() -> None:
    species = torch.tensor([1, 0, 1, 2])
    groups = SpeciesGroups(species)
    tagged = groups.join([part + 10 * z for z, part in groups.split(torch.zeros(4))])
    assert tagged.tolist() == [10, 0, 10, 20]


def test_without_nodes_there_is_one_empty_group() -> None:
    groups = SpeciesGroups(torch.zeros(0, dtype=torch.int64))
    parts = list(groups.split(torch.zeros(0, 3)))
    assert [part.shape for _, part in parts] == [(0, 3)]
    assert groups.join([part for _, part in parts]).shape == (0, 3)


def test_gradients_come_back_to_their_own_node() -> None:
    species = torch.tensor([2, 0, 1, 0])
    values = torch.zeros(4, requires_grad=True)
    groups = SpeciesGroups(species)
    joined = groups.join([part * (z + 1) for z, part in groups.split(values)])
    (gradient,) = torch.autograd.grad((joined * torch.tensor([1.0, 10.0, 100.0, 1000.0])).sum(), values)
    assert gradient.tolist() == [3, 10, 200, 1000]
