"""Search for pairs of atoms within a cutoff: by cells, and by a tree for the boxes that cells are not made for."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
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
    # In Python's own numbers: numpy takes ten times as long for so few.
    a, b, c = cell.tolist()
    faces = [math.hypot(*_cross(*pair)) for pair in ((b, c), (c, a), (a, b))]
    space = volume(cell)
    return np.array([space / face if face > 0 else 0.0 for face in faces])


def volume(cell: Floats) -> float:
    """Volume of a cell in Å³, zero for one without."""
    a, b, c = cell.tolist()
    return abs(sum(x * y for x, y in zip(a, _cross(b, c))))


def _cross(u: list[float], v: list[float]) -> tuple[float, float, float]:
    return u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]


def cells_suffice(positions: Floats, cell: Floats, pbc: NDArray[np.bool_], cutoff: float) -> bool:
    """True if :func:`search_by_cells` can divide the box, and in good time."""
    height, longest = heights(cell).tolist(), 0.0
    if len(positions) and not pbc.all():
        longest = math.hypot(*(positions.max(axis=0) - positions.min(axis=0)).tolist())
    shortest = max(math.floor(min(height) / cutoff), 1)
    spans = [h if periodic else max(h, longest) for h, periodic in zip(height, pbc.tolist())]
    cells = math.prod(max(math.floor(span / cutoff), 1) for span in spans)
    scale = math.cbrt(MOST_CELLS / max(cells, MOST_CELLS))
    if scale < 1 and shortest * scale < FEWEST_IN_A_ROW:
        return False
    return cells * scale**3 < MOST_EMPTY + 10 * len(positions)


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
    from scipy.spatial import (
        cKDTree,
    )  # takes as long to import as thousands of frames to search, and is hardly ever needed

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
