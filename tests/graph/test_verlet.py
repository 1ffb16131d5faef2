"""Graphs of a structure that moves: always those of a fresh search, found with few searches, and refused alike."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from equinet.graph import AtomicGraph, from_atoms
from equinet.graph.verlet import VerletGraph

CUTOFF = 4.0
FIELDS = ("positions", "atomic_numbers", "edge_index", "unit_shifts", "pairs", "cell", "pbc")
CELL = np.array([[5.0, 0.0, 0.0], [2.0, 4.5, 0.0], [-1.5, 1.0, 5.5]])


def structures() -> dict[str, Atoms]:
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3), axis=-1).reshape(-1, 3) * 2.0
    gas = grid + rng.uniform(-0.4, 0.4, grid.shape)
    half = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    return {
        "molecule": Atoms("C27", gas),
        "triclinic": Atoms("HCOC", (half + rng.integers(-2, 3, (4, 3))) @ CELL, cell=CELL, pbc=True),
        "crystal": bulk("Si", a=5.43, cubic=True).repeat(2),
        "slab": Atoms("C27", gas, cell=[6.0, 6.0, 0.0], pbc=(True, True, False)),
        "wire": Atoms("C4", half * 3, cell=[3.3, 9.0, 9.0], pbc=(True, False, False)),
        "one atom": Atoms("C", [[0.2, 0.1, -7.0]], cell=[[2.3, 0, 0], [0.4, 2.6, 0], [0.3, -0.5, 2.9]], pbc=True),
        "lone atom": Atoms("H", [[0.0, 0.0, 0.0]]),
        "no atoms": Atoms(),
    }


def assert_same(graph: AtomicGraph, fresh: AtomicGraph) -> None:
    for name in FIELDS:
        assert graph[name].dtype == fresh[name].dtype, name
        assert torch.equal(graph[name], fresh[name]), name
    assert graph.num_nodes == fresh.num_nodes


def check_walk(atoms: Atoms, change: Callable[[Atoms, int], None], steps: int = 40, skin: float = 0.5) -> VerletGraph:
    """Graphs of a structure after each of many changes are those of fresh searches."""
    graph_of = VerletGraph(CUTOFF, skin)
    seen = set()
    for step in range(steps):
        graph = graph_of(atoms)
        assert_same(graph, from_atoms(atoms, CUTOFF))
        seen.add(graph.edge_index.shape[1])
        change(atoms, step)
    if len(atoms) > 1:
        assert len(seen) > 1  # else nothing came in or went out, and nothing has been tested
    return graph_of


@pytest.mark.parametrize("name", structures())
def test_graphs_of_moving_atoms_are_those_of_a_fresh_search(name: str) -> None:
    rng = np.random.default_rng(1)
    atoms = structures()[name]
    velocities = rng.normal(scale=0.03, size=(len(atoms), 3))
    graph_of = check_walk(
        atoms, lambda a, _: a.positions.__iadd__(velocities + rng.normal(scale=0.01, size=a.positions.shape))
    )
    assert graph_of.searches < 20 or len(atoms) == 0


@pytest.mark.parametrize("name", ["triclinic", "crystal", "slab", "wire", "one atom"])
@pytest.mark.parametrize("scale_atoms", [False, True])
def test_graphs_in_a_changing_cell_are_those_of_a_fresh_search(name: str, scale_atoms: bool) -> None:
    rng = np.random.default_rng(2)

    def deform(atoms: Atoms, step: int) -> None:
        strain = 0.004 * np.sin(step / 4) * np.array([[1, 0.5, 0], [-0.3, -1, 0.4], [0.2, 0.1, 1.5]])
        atoms.set_cell(atoms.cell[:] @ (np.eye(3) + strain), scale_atoms=scale_atoms)
        atoms.positions += rng.normal(scale=0.01, size=atoms.positions.shape)

    graph_of = check_walk(structures()[name], deform)
    if scale_atoms:
        assert graph_of.searches < 20


def test_a_barostat_costs_no_search_while_the_strain_is_within_the_skin() -> None:
    atoms = structures()["crystal"]
    graph_of = VerletGraph(CUTOFF)
    for _ in range(10):  # all but 5 per cent in the end, a third of the skin
        assert_same(graph_of(atoms), from_atoms(atoms, CUTOFF))
        atoms.set_cell(0.995 * atoms.cell[:], scale_atoms=True)
    assert graph_of.searches == 1


def test_pairs_that_a_shrinking_cell_brings_within_the_cutoff_are_found() -> None:
    atoms = Atoms("C", [[0, 0, 0]], cell=[4.6, 4.6, 4.6], pbc=True)
    graph_of = VerletGraph(CUTOFF, 0.5)
    assert graph_of(atoms).num_edges == 0
    atoms.set_cell([4.6, 3.9, 4.6], scale_atoms=True)  # no atom moves at all
    assert graph_of(atoms).num_edges == 2


def test_a_searched_list_ends_when_two_atoms_together_could_have_crossed_the_skin() -> None:
    atoms = Atoms("H3", [[0, 0, 0], [CUTOFF + 0.49, 0, 0], [0, 3, 0]])
    graph_of = VerletGraph(CUTOFF, 0.5)
    assert graph_of(atoms).num_edges == 2
    atoms.positions[0, 0] += 0.24
    atoms.positions[1, 0] -= 0.24
    assert graph_of(atoms).num_edges == 2
    assert graph_of.searches == 1
    atoms.positions[0, 0] += 0.011
    atoms.positions[1, 0] -= 0.011
    assert_same(graph_of(atoms), from_atoms(atoms, CUTOFF))
    assert graph_of.searches == 2


def test_a_pair_beyond_the_skin_that_comes_within_the_cutoff_is_found() -> None:
    atoms = Atoms("H2", [[0, 0, 0], [CUTOFF + 0.6, 0, 0]], cell=[20, 20, 20], pbc=True)
    graph_of = VerletGraph(CUTOFF, 0.5)
    for distance in (CUTOFF + 0.6, CUTOFF + 0.3, CUTOFF - 0.1, CUTOFF + 0.7, CUTOFF - 0.001):
        atoms.positions[1, 0] = distance
        assert graph_of(atoms).num_edges == (2 if distance < CUTOFF else 0)


def test_a_structure_that_drifts_as_a_whole_needs_no_search() -> None:
    atoms = structures()["triclinic"]
    graph_of = VerletGraph(CUTOFF)
    for _ in range(5):
        assert_same(graph_of(atoms), from_atoms(atoms, CUTOFF))
        atoms.positions += [0.7, -1.1, 2.0]
    assert graph_of.searches == 1


def test_atoms_wrapped_into_the_cell_are_found_where_they_are() -> None:
    rng = np.random.default_rng(3)

    def wander(atoms: Atoms, step: int) -> None:
        atoms.positions += 0.1 + rng.normal(scale=0.05, size=atoms.positions.shape)
        if step % 7 == 6:
            atoms.wrap()

    atoms = structures()["triclinic"]
    atoms.wrap()
    assert check_walk(atoms, wander).searches > 1


def test_anything_may_change_from_one_call_to_the_next() -> None:
    graph_of = VerletGraph(CUTOFF)
    all_of_them = list(structures().values())
    for atoms in all_of_them + all_of_them[::-1]:
        assert_same(graph_of(atoms), from_atoms(atoms, CUTOFF))
    atoms = structures()["slab"]
    changes: list[Callable[[Atoms], None]] = [
        lambda a: a.numbers.__setitem__(3, 8),
        lambda a: a.set_pbc((True, False, False)),
        lambda a: a.set_pbc((True, False, True)) or a.set_cell([6, 6, 7]),
        lambda a: a.set_pbc(False),
        lambda a: a.set_cell([7, 7, 7]),  # of no matter to an open structure, but part of its graph
        lambda a: a.__delitem__(5),
        lambda a: a.append("O"),
        lambda a: a.positions.__setitem__(-1, [1.0, 1.0, 1.0]),
        lambda a: a.positions.__setitem__(slice(None), a.positions[::-1].copy()),
    ]
    for change in changes:
        assert_same(graph_of(atoms), from_atoms(atoms, CUTOFF))
        change(atoms)
    assert_same(graph_of(atoms), from_atoms(atoms, CUTOFF))


@pytest.mark.parametrize("skin", [0.0, 0.3, 3.0])
def test_the_skin_changes_no_graph(skin: float) -> None:
    rng = np.random.default_rng(4)
    steps = 12
    graph_of = check_walk(
        structures()["slab"],
        lambda a, _: a.positions.__iadd__(rng.normal(scale=0.02, size=a.positions.shape)),
        steps=steps,
        skin=skin,
    )
    assert graph_of.searches == steps if skin == 0 else 1 <= graph_of.searches < steps


def test_neighbours_exactly_at_the_cutoff_are_left_out_by_both() -> None:
    atoms = Atoms("C", [[0, 0, 0]], cell=[2.0, 2.0, 2.0], pbc=True)
    graph_of = VerletGraph(CUTOFF)
    assert_same(graph_of(atoms), from_atoms(atoms, CUTOFF))
    assert graph_of(atoms).edge_index.shape[1] == 26
    assert from_atoms(atoms, CUTOFF + 1e-9).edge_index.shape[1] == 32


def test_a_graph_stays_what_it_was_when_the_atoms_move_on() -> None:
    rng = np.random.default_rng(5)
    atoms = structures()["slab"]
    graph_of = VerletGraph(CUTOFF)
    kept = []
    for step in range(15):
        graph = graph_of(atoms)
        kept.append((graph, {name: graph[name].clone() for name in FIELDS}))
        atoms.positions += rng.normal(scale=0.03, size=atoms.positions.shape)
        atoms.numbers[step] += 1
        if step % 4 == 3:
            atoms.set_cell(1.002 * atoms.cell[:], scale_atoms=True)
    for graph, before in kept:
        for name in FIELDS:
            assert torch.equal(graph[name], before[name]), name


def test_what_did_not_change_is_the_same_tensor_again() -> None:
    atoms = structures()["crystal"]
    graph_of = VerletGraph(CUTOFF)
    first = graph_of(atoms)
    atoms.positions[0, 0] += 1e-3
    second = graph_of(atoms)
    assert second is not first
    assert [name for name in FIELDS if second[name] is not first[name]] == ["positions"]
    atoms.numbers[0] = 6
    third = graph_of(atoms)
    assert [name for name in FIELDS if third[name] is not second[name]] == ["positions", "atomic_numbers"]


def test_what_a_caller_puts_into_a_graph_is_not_in_the_next() -> None:
    atoms = structures()["slab"]
    graph_of = VerletGraph(CUTOFF)
    graph = graph_of(atoms)
    graph.energy = torch.zeros(1)
    graph.edge_index = graph.edge_index[:, :0]
    assert "energy" not in graph_of(atoms)
    assert_same(graph_of(atoms), from_atoms(atoms, CUTOFF))


def spoil_positions(atoms: Atoms) -> None:
    atoms.positions[1] = np.nan


def put_two_on_one_spot(atoms: Atoms) -> None:
    atoms.positions[1] = atoms.positions[0] + [0, 0, 1e-5]


def put_one_on_an_image(atoms: Atoms) -> None:
    atoms.positions[1] = atoms.positions[0] + atoms.cell[0]


def blow_up(atoms: Atoms) -> None:
    atoms.positions[1] = 1e9


def flatten(atoms: Atoms) -> None:
    atoms.cell[2] = atoms.cell[0] + atoms.cell[1]


def spoil_cell(atoms: Atoms) -> None:
    atoms.cell[2, 2] = np.inf


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_positions, "the position of atom 1 is not finite"),
        (put_two_on_one_spot, "atoms 0 and 1 are on one spot"),
        (put_one_on_an_image, "atoms 0 and 1 are on one spot"),
        (blow_up, "has the structure blown up"),
        (flatten, "has no volume"),
        (spoil_cell, "the cell is not finite"),
    ],
)
def test_what_a_fresh_search_refuses_is_refused_at_every_step(spoil: Callable[[Atoms], None], message: str) -> None:
    atoms = structures()["triclinic"]
    graph_of = VerletGraph(CUTOFF)
    good = graph_of(atoms)
    before = atoms.copy()
    spoil(atoms)
    for call in (graph_of, graph_of, lambda a: from_atoms(a, CUTOFF)):
        with pytest.raises(ValueError, match=message):
            call(atoms)
    assert_same(graph_of(before), good)


def test_atoms_that_meet_within_the_skin_are_refused_without_a_search() -> None:
    atoms = Atoms("H2", [[0, 0, 0], [0.3, 0, 0]])
    graph_of = VerletGraph(CUTOFF)
    graph_of(atoms)
    atoms.positions[1, 0] = 1e-4
    with pytest.raises(ValueError, match=r"atoms 0 and 1 are on one spot \(1\.0e-04 Å apart\)"):
        graph_of(atoms)
    assert graph_of.searches == 1


def test_a_cell_of_an_open_structure_must_be_finite() -> None:
    atoms = structures()["molecule"]
    graph_of = VerletGraph(CUTOFF)
    graph_of(atoms)
    atoms.cell[0, 0] = np.nan
    with pytest.raises(ValueError, match="the cell is not finite"):
        graph_of(atoms)


@pytest.mark.parametrize("skin", [-0.1, float("nan"), float("inf")])
def test_a_skin_that_cannot_be_is_refused(skin: float) -> None:
    with pytest.raises(ValueError, match="`skin` must be 0 or more Å"):
        VerletGraph(CUTOFF, skin)


@pytest.mark.parametrize("cutoff", [0.0, -1.0, float("nan")])
def test_a_cutoff_that_is_not_positive_is_refused(cutoff: float) -> None:
    with pytest.raises(ValueError, match="`cutoff` must be positive, got"):
        VerletGraph(cutoff)


def test_a_list_says_what_it_is() -> None:
    graph_of = VerletGraph(5.0)
    graph_of(structures()["molecule"])
    assert repr(graph_of) == "VerletGraph(cutoff 5 Å, skin 0.5 Å, searched 1 times)"
