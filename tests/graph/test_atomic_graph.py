"""Graphs and neighbour lists: ASE's own answer, the order of edges, batches, and what is refused."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111
from ase.neighborlist import neighbor_list as ase_neighbor_list
from torch_geometric.data import Batch

from equinet.graph import AtomicGraph, collate, displacements, edge_vectors, from_atoms, neighbors

CUTOFF = 4.0


def slab() -> Atoms:
    atoms = fcc111("Cu", size=(2, 1, 3), vacuum=3.0)
    atoms.pbc = (True, True, False)
    return atoms


def structures() -> dict[str, Atoms]:
    rng = np.random.default_rng(0)
    molecule = Atoms("CHHO", rng.normal(scale=1.5, size=(4, 3)))
    cell = [[5.0, 0.0, 0.0], [2.0, 4.5, 0.0], [-1.5, 1.0, 5.5]]
    triclinic = Atoms("C6", rng.uniform(-8, 12, size=(6, 3)), cell=cell, pbc=True)  # most atoms lie outside the cell
    wire = Atoms("C4", rng.uniform(0, 4, size=(4, 3)), cell=[3.0, 9.0, 9.0], pbc=(True, False, False))
    open_direction = slab()
    open_direction.set_cell([*open_direction.cell[:2], [0, 0, 0]])
    left_handed = Atoms("Si2", [[0, 0, 0], [1.4, 1.3, 1.2]], cell=[[0, 3.8, 0], [3.9, 0, 0], [0.3, 0, 4.1]], pbc=True)
    return {
        "molecule": molecule,
        "triclinic": triclinic,
        "slab": slab(),
        "slab without a third vector": open_direction,
        "wire": wire,
        "one atom": Atoms("C", [[0.2, 0.1, -7.0]], cell=[[2.3, 0, 0], [0.4, 2.6, 0], [0.3, -0.5, 2.9]], pbc=True),
        "flat cell": Atoms("C", [[0, 0, 0]], cell=[[2.0, 0, 0], [1.9, 0.7, 0], [0, 0, 6.0]], pbc=True),
        "left-handed cell": left_handed,
        "lone atom": Atoms("H", [[0.0, 0.0, 0.0]]),
        "cell of an open molecule": Atoms("H2", [[0, 0, 0], [0, 0, 0.8]], cell=[2, 2, 2], pbc=False),
    }


@pytest.mark.parametrize("name", structures())
def test_edges_are_those_of_ase(name: str) -> None:
    atoms = structures()[name]
    graph = from_atoms(atoms, CUTOFF)
    ours = {
        (i, j, *shift) for i, j, shift in zip(*graph.edge_index.tolist(), graph.unit_shifts.to(torch.int64).tolist())
    }
    i, j, shifts, vectors = ase_neighbor_list("ijSD", atoms, CUTOFF)
    theirs = {(int(a), int(b), *map(int, s)): v for a, b, s, v in zip(i, j, shifts, vectors)}
    assert graph.edge_index.shape[1] == len(theirs)  # none is there twice
    assert ours == set(theirs)
    expected = [theirs[(a, b, *map(int, s))] for a, b, s in zip(*graph.edge_index.tolist(), graph.unit_shifts.tolist())]
    np.testing.assert_allclose(displacements(graph).numpy(), np.reshape(expected, (-1, 3)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", structures())
def test_every_edge_is_there_in_both_directions_and_within_the_cutoff(name: str) -> None:
    graph = from_atoms(structures()[name], CUTOFF)
    edges = {(i, j, *s) for i, j, s in zip(*graph.edge_index.tolist(), graph.unit_shifts.to(torch.int64).tolist())}
    assert {(j, i, -a, -b, -c) for i, j, a, b, c in edges} == edges
    lengths = displacements(graph).norm(dim=1)
    assert (lengths <= CUTOFF).all()
    assert (lengths > 0).all()


def check_pairs(graph: AtomicGraph) -> None:
    """2 p and 2 p + 1 are there once each, for every p, and are the two directions of one pair."""
    edges = graph.edge_index.shape[1]
    assert torch.equal(graph.pairs.sort().values, torch.arange(edges))
    there, back = graph.pairs.argsort().view(-1, 2).T
    assert torch.equal(graph.edge_index[:, there], graph.edge_index[:, back].flip(0))
    assert torch.equal(graph.unit_shifts[there], -graph.unit_shifts[back])
    torch.testing.assert_close(displacements(graph, there), -displacements(graph, back), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", structures())
def test_every_edge_is_one_direction_of_a_pair(name: str) -> None:
    atoms = structures()[name]
    graph = from_atoms(atoms, CUTOFF)
    assert graph.pairs.dtype == torch.int64
    check_pairs(graph)
    lengths = displacements(graph, torch.nonzero(graph.pairs % 2 == 0).squeeze(1)).norm(dim=1)
    theirs = np.sort(ase_neighbor_list("d", atoms, CUTOFF))[::2]  # ASE has every length twice
    np.testing.assert_allclose(lengths.sort().values.numpy(), theirs, rtol=0, atol=1e-12)


def test_an_atom_in_a_tiny_cell_is_paired_with_its_images() -> None:
    graph = from_atoms(Atoms("C", [[0, 0, 0]], cell=[2.5, 2.5, 2.5], pbc=True), 2.6)
    assert (graph.edge_index == 0).all()
    pairs = {int(p): tuple(s) for p, s in zip(graph.pairs, graph.unit_shifts.to(torch.int64).tolist())}
    assert {frozenset([pairs[2 * p], pairs[2 * p + 1]]) for p in range(3)} == {
        frozenset([axis, tuple(-x for x in axis)]) for axis in [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
    }


def test_pairs_of_a_batch_are_those_of_its_graphs_one_after_the_other() -> None:
    graphs = [from_atoms(structures()[name], CUTOFF) for name in ("molecule", "lone atom", "triclinic", "one atom")]
    batch = collate(graphs)
    check_pairs(batch)
    starts = np.cumsum([0, *(graph.edge_index.shape[1] for graph in graphs)])[:-1]
    assert torch.equal(batch.pairs, torch.cat([graph.pairs + int(start) for graph, start in zip(graphs, starts)]))


@pytest.mark.parametrize("name", structures())
def test_edges_are_sorted_by_receiver_and_pointers_find_them(name: str) -> None:
    graph = from_atoms(structures()[name], CUTOFF)
    receiver, pointers = graph.edge_index[1], graph.receiver_pointers
    assert (receiver.diff() >= 0).all()
    assert len(pointers) == graph.num_nodes + 1
    assert pointers[0] == 0
    assert pointers[-1] == graph.edge_index.shape[1]
    for node in range(graph.num_nodes):
        assert (receiver[pointers[node] : pointers[node + 1]] == node).all()


def test_a_crystal_has_its_coordination_numbers() -> None:
    copper = bulk("Cu", "fcc", a=3.6)
    nearest = 3.6 / 2**0.5
    assert from_atoms(copper, nearest + 0.05).edge_index.shape[1] == 12
    assert from_atoms(copper, 3.65).edge_index.shape[1] == 18


def test_fields_have_the_shapes_and_types_they_are_documented_with() -> None:
    graph = from_atoms(structures()["triclinic"], CUTOFF)
    edges = graph.edge_index.shape[1]
    expected = {
        "positions": ((6, 3), torch.float64),
        "atomic_numbers": ((6,), torch.int64),
        "edge_index": ((2, edges), torch.int64),
        "unit_shifts": ((edges, 3), torch.float64),
        "pairs": ((edges,), torch.int64),
        "cell": ((1, 3, 3), torch.float64),
        "pbc": ((1, 3), torch.bool),
    }
    assert {name: (tuple(graph[name].shape), graph[name].dtype) for name in expected} == expected
    assert graph.num_nodes == 6
    assert graph.graph_count == 1
    assert torch.equal(graph.graph_of_node, torch.zeros(6, dtype=torch.int64))


def test_the_graph_does_not_share_memory_with_the_atoms() -> None:
    atoms = structures()["triclinic"]
    graph = from_atoms(atoms, CUTOFF)
    before = graph.positions.clone(), graph.cell.clone(), graph.atomic_numbers.clone()
    atoms.positions += 1
    atoms.cell *= 2
    atoms.numbers[:] = 1
    assert torch.equal(graph.positions, before[0])
    assert torch.equal(graph.cell, before[1])
    assert torch.equal(graph.atomic_numbers, before[2])


def test_edge_vectors_point_from_sender_to_receiver() -> None:
    vectors = edge_vectors(torch.eye(3)[:2], torch.tensor([[0], [1]]), torch.tensor([[0.0, 0.0, 5.0]]))
    assert vectors.tolist() == [[-1, 1, 5]]


def test_a_batch_is_its_graphs_side_by_side_without_edges_between_them() -> None:
    names = ["molecule", "lone atom", "triclinic", "one atom"]
    graphs = [from_atoms(structures()[name], CUTOFF) for name in names]
    batch = collate(graphs)
    assert isinstance(batch, AtomicGraph)
    sizes = [graph.num_nodes for graph in graphs]
    assert batch.num_nodes == sum(sizes)
    assert batch.graph_count == 4
    assert batch.graph_of_node.tolist() == [n for n, size in enumerate(sizes) for _ in range(size)]
    assert torch.equal(batch.positions, torch.cat([graph.positions for graph in graphs]))
    assert torch.equal(batch.cell, torch.cat([graph.cell for graph in graphs]))
    assert torch.equal(batch.pbc, torch.cat([graph.pbc for graph in graphs]))
    offsets = np.cumsum([0, *sizes])[:-1]
    expected = torch.cat([graph.edge_index + int(o) for graph, o in zip(graphs, offsets)], dim=1)
    assert torch.equal(batch.edge_index, expected)
    assert (batch.graph_of_node[batch.edge_index[0]] == batch.graph_of_node[batch.edge_index[1]]).all()
    torch.testing.assert_close(displacements(batch), torch.cat([displacements(graph) for graph in graphs]))
    assert (batch.edge_index[1].diff() >= 0).all()
    assert batch.receiver_pointers[-1] == batch.edge_index.shape[1]


def test_a_batch_of_one_is_that_graph() -> None:
    graph = from_atoms(structures()["triclinic"], CUTOFF)
    batch = collate([graph])
    assert torch.equal(batch.edge_index, graph.edge_index)
    assert batch.graph_of_node.tolist() == [0] * 6


def test_batches_can_be_collated_again() -> None:
    graphs = [from_atoms(structures()[name], CUTOFF) for name in ("triclinic", "lone atom", "molecule")]
    nested, flat = collate([collate(graphs[:2]), graphs[2]]), collate(graphs)
    assert set(nested.keys()) == set(flat.keys())
    assert all(torch.equal(nested[name], flat[name]) for name in flat.to_dict() if name not in ("cutoff", "num_nodes"))


@pytest.mark.parametrize("names", [("triclinic", "lone atom", "molecule"), ("molecule",)])
def test_a_batch_is_that_of_torch_geometric(names: tuple[str, ...]) -> None:
    graphs = [from_atoms(structures()[name], CUTOFF) for name in names]
    ours, theirs = collate(graphs), Batch.from_data_list(graphs, exclude_keys=["cutoff"])
    assert ours.cutoff == CUTOFF
    assert ours.num_nodes == theirs.num_nodes
    for name in {*ours.keys(), *theirs.keys()} - {"cutoff", "ptr", "num_nodes"}:
        assert torch.equal(ours[name], theirs[name]), name
        assert ours[name].dtype == theirs[name].dtype


def test_copies_of_a_graph_share_tensors_and_clones_do_not() -> None:
    graph = from_atoms(structures()["molecule"], CUTOFF)
    assert "energy" not in graph
    assert graph.batch is None
    twin, other = copy.copy(graph).update({"energy": torch.ones(1)}), graph.clone()
    assert twin["energy"] == 1
    assert "energy" not in graph
    assert twin.positions is graph.positions is not other.positions
    assert torch.equal(other.positions, graph.positions)


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="`graphs` is empty"):
        collate([])


def test_no_atoms_make_an_empty_graph() -> None:
    graph = from_atoms(Atoms(), CUTOFF)
    assert graph.num_nodes == 0
    assert graph.edge_index.shape == (2, 0)


@pytest.mark.parametrize("pbc", [False, True])
def test_two_atoms_on_one_spot_are_refused(pbc: bool) -> None:
    atoms = Atoms("H3", [[0, 0, 0], [2, 0, 0], [2, 0, 1e-5]], cell=[6, 6, 6], pbc=pbc)
    with pytest.raises(ValueError, match=r"atoms 1 and 2 are on one spot \(1\.0e-05 Å apart\)"):
        from_atoms(atoms, CUTOFF)


def test_atoms_on_one_spot_through_a_periodic_image_are_refused() -> None:
    with pytest.raises(ValueError, match="atoms 0 and 1 are on one spot"):
        from_atoms(Atoms("H2", [[0, 0, 0], [6, 0, 0]], cell=[6, 6, 6], pbc=True), CUTOFF)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_positions_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="the position of atom 1 is not finite"):
        from_atoms(Atoms("H2", [[0, 0, 0], [0, bad, 1]]), CUTOFF)


def test_a_periodic_cell_without_volume_is_refused() -> None:
    atoms = Atoms("H", [[0, 0, 0]], cell=[[3, 0, 0], [0, 3, 0], [3, 3, 0]], pbc=True)
    with pytest.raises(ValueError, match="the cell of a periodic structure has no volume"):
        from_atoms(atoms, CUTOFF)


@pytest.mark.parametrize("cutoff", [0.0, -1.0, float("nan")])
def test_a_cutoff_that_is_not_positive_is_refused(cutoff: float) -> None:
    with pytest.raises(ValueError, match="`cutoff` must be positive"):
        from_atoms(structures()["molecule"], cutoff)


def test_an_absurd_cutoff_is_refused_before_anything_is_built() -> None:
    with pytest.raises(MemoryError, match=r"a cutoff of 20000 Å gives about .* neighbour pairs for 1 atoms"):
        from_atoms(bulk("Cu"), 20000.0)


def test_what_is_refused_depends_on_the_memory_that_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "ALWAYS_FITS", 0)
    atoms = bulk("Cu")
    edges = from_atoms(atoms, 30.0).edge_index.shape[1]
    monkeypatch.setattr(neighbors, "available_memory", lambda: 1.2 * edges * neighbors.LIST_BYTES_PER_EDGE)
    assert from_atoms(atoms, 30.0).edge_index.shape[1] == edges
    monkeypatch.setattr(neighbors, "available_memory", lambda: 0.8 * edges * neighbors.LIST_BYTES_PER_EDGE)
    with pytest.raises(MemoryError, match="lower `cutoff`"):
        from_atoms(atoms, 30.0)


def test_a_molecule_never_has_more_pairs_than_atoms_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "ALWAYS_FITS", 0)
    monkeypatch.setattr(neighbors, "available_memory", lambda: 12 * neighbors.LIST_BYTES_PER_EDGE)
    assert from_atoms(structures()["molecule"], 50.0).edge_index.shape[1] == 12


def test_free_memory_is_a_positive_number() -> None:
    assert neighbors.available_memory() > 1e6


@pytest.mark.parametrize("number", [0, -1, 119, 200])
def test_atoms_of_no_element_have_no_graph(number: int) -> None:
    with pytest.raises(
        ValueError, match=rf"no element with atomic number {number} \(atom 1, .*; correct `atoms.numbers`"
    ):
        from_atoms(Atoms([1, number], [[0, 0, 0], [0, 0, 1]]), CUTOFF)
