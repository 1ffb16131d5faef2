"""The two searches for neighbours find the same pairs, and boxes of any shape are searched or refused, never fatal."""

from __future__ import annotations

import multiprocessing

import numpy as np
import pytest
from ase import Atoms
from ase.build import graphene

from equinet.graph import from_atoms
from equinet.graph.neighbors import checked_cell, neighbor_list
from equinet.graph.search import Pairs, cells_suffice, search_by_cells, search_by_tree

PBC = [np.array(pbc) for pbc in ([True] * 3, [True, True, False], [False, False, True], [False] * 3)]


def as_set(pairs: Pairs) -> set[tuple[int, int, tuple[int, ...]]]:
    """Pairs whichever atom comes first, each once."""
    first, second, shifts = pairs
    found = {
        min((i, j, tuple(shift)), (j, i, tuple(-x for x in shift)))
        for i, j, shift in zip(first.tolist(), second.tolist(), shifts.astype(int).tolist())
    }
    assert len(found) == len(first), "a pair is there twice"
    return found


@pytest.mark.parametrize("pbc", PBC, ids=str)
def test_tree_and_cells_find_the_same_pairs(pbc: np.ndarray) -> None:
    draw, pairs = np.random.default_rng(0), 0
    for _ in range(300):
        cell = checked_cell(draw.normal(size=(3, 3)) + 5 * np.eye(3), pbc)
        positions, cutoff = draw.normal(size=(draw.integers(9), 3)) * 8, draw.uniform(0.5, 6)
        found = search_by_tree(positions, cell, pbc, cutoff)
        assert as_set(found) == as_set(search_by_cells(positions, cell, pbc, cutoff))
        pairs += len(found[0])
    assert pairs > 20


def test_a_sheet_larger_than_cells_can_divide_has_the_neighbours_of_a_small_one() -> None:
    cutoff, pbc = 1.6, np.array([True, True, False])
    whole = graphene(size=(240, 240, 1), vacuum=None)
    cell = checked_cell(whole.cell[:], pbc)
    assert not cells_suffice(whole.positions, cell, pbc, cutoff)
    edge_index, _, _ = neighbor_list(whole.positions, whole.cell[:], pbc, cutoff)
    assert (np.bincount(edge_index[1], minlength=len(whole)) == 3).all()


BOXES: dict[str, tuple[list[list[float]], list[bool]]] = {
    "needle": ([[1e6, 0, 0], [0, 1e-3, 0], [0, 0, 6]], [True] * 3),
    "long needle": ([[9e5, 0, 0], [0, 4, 0], [0, 0, 4]], [True] * 3),
    "wide sheet": ([[3e3, 0, 0], [0, 3e3, 0], [0, 0, 4]], [True] * 3),
    "wide sheet, open": ([[3e3, 0, 0], [0, 3e3, 0], [0, 0, 0]], [True, True, False]),
    "open direction of no length": ([[900, 0, 0], [0, 1700, 0], [0, 0, 1e-4]], [True, True, False]),
    "open direction without end": ([[4, 0, 0], [0, 4, 0], [0, 0, 1e300]], [True, True, False]),
    "huge": ([[1e308, 0, 0], [0, 1e308, 0], [0, 0, 1e308]], [True] * 3),
    "skewed": ([[1, 0, 0], [1e6, 1, 0], [0, 0, 4]], [True] * 3),
    "tiny": ([[0.1, 0, 0], [0, 0.1, 0], [0, 0, 0.1]], [True] * 3),
}
REFUSED = {
    "needle": "the cell is too thin",
    "huge": r"the cell is too long, 1e\+308 Å; is it in Å\?",
    "skewed": "the cell is too thin",
}


def edges_of(box: str, out: multiprocessing.SimpleQueue) -> None:  # type: ignore[type-arg]
    cell, pbc = BOXES[box]
    atoms = Atoms("OH", [[0.1, 0.0, 0.0], [0.8, 0.5, 0.3]], cell=cell, pbc=pbc)
    try:
        out.put(from_atoms(atoms, 5.0).edge_index.shape[1])
    except ValueError as error:
        out.put(str(error))


@pytest.mark.parametrize("box", [box for box in BOXES if box != "tiny"])
def test_no_box_ends_the_process(box: str) -> None:
    context = multiprocessing.get_context("fork")
    out = context.SimpleQueue()
    process = context.Process(target=edges_of, args=(box, out))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    found = out.get()
    if box in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[box]):
            raise ValueError(found)
    else:
        assert found >= 2


def test_a_cell_with_too_many_images_is_refused() -> None:
    cell, pbc = BOXES["tiny"]
    with pytest.raises(ValueError, match=r"within a cutoff of 20 Å the cell has about 6e\+07 images; is it in Å\?"):
        neighbor_list(np.zeros((1, 3)), np.array(cell), np.array(pbc), 20.0)


@pytest.mark.parametrize("far", [2e6, 1e300])
def test_atoms_far_from_the_origin_are_refused_by_name(far: float) -> None:
    for atoms in (
        Atoms("OH", [[0, 0, 0], [0, far, 0]]),
        Atoms("OH", [[0, 0, 0], [0, far, 0]], cell=[5, 5, 5], pbc=True),
    ):
        with pytest.raises(ValueError, match=r"atom 1 is .* Å from the origin; has the structure blown up"):
            from_atoms(atoms, 4.0)
