"""Search for pairs of atoms within a cutoff: by cells, and by a tree for the boxes that cells are not made for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from vesin import NeighborList

Floats = NDArray[np.float64]
Pairs = tuple[NDArray[np.int64], NDArray[np.int64], Floats]

# vesin divides a box into no more cells than this, and scales their numbers in the three directions alike; where one becomes zero,
# as in sheets of a hundred thousand atoms or in needles, its process ends (0.6.2: SIGFPE). With a margin for its rounding.
MOST_CELLS, FEWEST_IN_A_ROW = 1e5, 1.5

# An empty cell costs it as much as a full one: a few atoms in a wide box take seconds.
MOST_EMPTY = 1000


def heights(cell: Floats) -> Floats:
    """Distances ``(3,)`` in Å between the opposite faces of a cell."""
    faces = np.linalg.norm(np.cross(cell[[1, 2, 0]], cell[[2, 0, 1]]), axis=1)
    return abs(float(np.linalg.det(cell))) / np.where(faces > 0, faces, np.inf)


def cells_suffice(positions: Floats, cell: Floats, pbc: NDArray[np.bool_], cutoff: float) -> bool:
    """True if :func:`search_by_cells` can divide the box, and in good time."""
    extent = np.ptp(positions, axis=0) if len(positions) else np.zeros(3)
    height = heights(cell)
    shortest = np.maximum(np.floor(height / cutoff), 1.0)
    spans = np.where(pbc, height, np.maximum(height, np.linalg.norm(extent)))
    cells = np.maximum(np.floor(spans / cutoff), 1.0)
    scale = np.cbrt(MOST_CELLS / max(float(np.prod(cells)), MOST_CELLS))
    if scale < 1 and shortest.min() * scale < FEWEST_IN_A_ROW:
        return False
    return float(np.prod(cells)) * scale**3 < MOST_EMPTY + 10 * len(positions)


def search_by_cells(positions: Floats, cell: Floats, pbc: NDArray[np.bool_], cutoff: float) -> Pairs:
    """Each pair of atoms and images once, in no order.

    Args:
        positions: ``(atoms, 3)`` in Å.
        cell: ``(3, 3)``, lattice vectors in rows; zero if no direction is periodic.
        pbc: ``(3,)``, which directions are periodic.
        cutoff: Largest distance, in Å.

    Returns:
        First and second atom ``(pairs,)``, and cell offsets ``(pairs, 3)`` of the second.
    """
    found = NeighborList(cutoff=cutoff, full_list=False).compute(
        points=positions, box=cell, periodic=pbc, quantities="ijS"
    )
    return found[0].astype(np.int64), found[1].astype(np.int64), found[2].astype(np.float64)


def search_by_tree(positions: Floats, cell: Floats, pbc: NDArray[np.bool_], cutoff: float) -> Pairs:
    """The same as :func:`search_by_cells` for boxes of any shape, some times slower: all images near the box in a k-d tree."""
    fractional, reach = np.zeros_like(positions), np.zeros(3)
    if pbc.any():
        fractional = positions @ np.linalg.inv(cell)
        reach = cutoff * (1 + 1e-9) / heights(cell)
    wraps = np.where(pbc, np.floor(fractional), 0.0)
    fractional = fractional - wraps
    inside = positions - wraps @ cell
    atoms, shifts = np.arange(len(positions)), np.zeros_like(positions)
    for axis in np.flatnonzero(pbc):
        place = fractional[atoms, axis]
        lowest, highest = np.ceil(-reach[axis] - place), np.floor(1 + reach[axis] - place)
        counts = (highest - lowest + 1).astype(np.int64)
        of = np.repeat(np.arange(len(atoms)), counts)
        atoms, shifts = atoms[of], shifts[of]
        shifts[:, axis] = lowest[of] + np.arange(len(of)) - np.repeat(np.cumsum(counts) - counts, counts)
    images = inside[atoms] + shifts @ cell
    near = cKDTree(inside).sparse_distance_matrix(cKDTree(images), cutoff, output_type="ndarray")
    first, second = near["i"], atoms[near["j"]]
    shifts = shifts[near["j"]]
    kept = (first < second) | ((first == second) & _is_forward(shifts))
    first, second, shifts = first[kept], second[kept], shifts[kept]
    return first, second, shifts - wraps[second] + wraps[first]


def _is_forward(shifts: Floats) -> NDArray[np.bool_]:
    """True for one of an offset and its opposite; never for no offset."""
    x, y, z = shifts.T
    return (x > 0) | ((x == 0) & ((y > 0) | ((y == 0) & (z > 0))))
