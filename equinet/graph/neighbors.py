"""Neighbour list with periodic images."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Sequence

import numpy as np
from ase.geometry import complete_cell
from numpy.typing import NDArray

from .search import cells_suffice, heights, search_by_cells, search_by_tree, volume

# Sender, receiver (8 bytes each), three shifts, a vector (24 bytes each), and the same once more while sorting.
LIST_BYTES_PER_EDGE = 128

# A list of this many bytes fits in any case, and to ask the system takes longer than to make a short list.
ALWAYS_FITS = 16e6

# Two atoms closer than this (in Å) have no direction between them; no real structure comes near.
SAME_SPOT = 1e-3

# Atoms further apart than this many cutoffs are those of a structure that has blown up.
LARGEST_EXTENT = 1e5

# Further from the origin (in Å) coordinates lose digits that forces need; no lattice vector is that long either.
FURTHEST = 1e6

# More images of a cell than this within the cutoff are a mistake in its size.
MOST_IMAGES = 1e5

# Planes of a lattice nearer to each other than this (in Å) are of no crystal, and the search would go through thousands of them.
THINNEST = 0.01


def neighbor_list(
    positions: NDArray[np.float64], cell: NDArray[np.float64], pbc: NDArray[np.bool_], cutoff: float
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """All directed edges shorter than ``cutoff``, sorted by receiver, then by sender and its periodic image.

    An atom is its own neighbour through a periodic image, never at zero distance.

    Args:
        positions: ``(atoms, 3)`` in Å; atoms may lie outside the cell.
        cell: ``(3, 3)``, lattice vectors in rows, in Å; vectors of open directions may be zero.
        pbc: ``(3,)``, which directions are periodic.
        cutoff: Longest edge, in Å.

    Returns:
        ``edge_index (2, edges)``, rows sender and receiver; ``unit_shifts (edges, 3)``, cell offsets S of the receiver,
        whole numbers: edge vector = positions[receiver] - positions[sender] + S @ cell; and ``pairs (edges,)``: 2 p and
        2 p + 1 are the two directions of pair p.

    Raises:
        ValueError: If ``cutoff`` is not positive, positions or cell are not finite or spread beyond all measure, two atoms
            are on one spot, or a periodic cell has no volume, is a needle or a sheet.
        MemoryError: If the list would not fit into memory; nothing has been allocated then.
    """
    return _in_order(*_pairs_within(positions, cell, pbc, cutoff))


def count_edges(
    positions: NDArray[np.float64], cell: NDArray[np.float64], pbc: NDArray[np.bool_], cutoff: float
) -> int:
    """Number of edges of :func:`neighbor_list`, of the same arguments, in half the time."""
    return 2 * len(_pairs_within(positions, cell, pbc, cutoff)[0])


def _pairs_within(
    positions: NDArray[np.float64], cell: NDArray[np.float64], pbc: NDArray[np.bool_], cutoff: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Sender, receiver ``(pairs,)`` and shift of the receiver ``(pairs, 3)`` of each pair once, in no order."""
    if not cutoff > 0:
        raise ValueError(f"`cutoff` must be positive, got {cutoff} Å")
    # Single numbers are Python's own here and below: numpy takes ten times as long for so few.
    lowest, highest = (end.tolist() for end in _ends(positions))
    if not all(map(math.isfinite, (*lowest, *highest))):
        atom = int(np.argwhere(~np.isfinite(positions).all(axis=1))[0, 0])
        raise ValueError(f"the position of atom {atom} is not finite: {positions[atom]}")
    full_cell = checked_cell(np.asarray(cell, dtype=np.float64), pbc)
    if (furthest := max(*highest, -min(lowest))) > FURTHEST:
        atom = int(np.abs(positions).max(axis=1).argmax())
        raise ValueError(
            f"atom {atom} is {furthest:.3g} Å from the origin; has the structure blown up, or are the positions not in Å?"
        )
    extent = [high - low for high, low in zip(highest, lowest)]
    if max(extent) > LARGEST_EXTENT * cutoff:
        raise ValueError(
            f"the atoms are spread over {max(extent):.3g} Å, {max(extent) / cutoff:.1g} cutoffs; has the structure blown up, or "
            "are the positions not in Å?"
        )
    if not pbc.any():  # the search goes through empty space too, at a cost of cutoff cubed
        cutoff = min(cutoff, max(1.0, 1.01 * math.hypot(*extent)))
    _refuse_if_too_large(len(positions), extent, full_cell, pbc, cutoff)
    _refuse_too_small(full_cell, pbc, cutoff)
    search = search_by_cells if cells_suffice(positions, full_cell, pbc, cutoff) else search_by_tree
    # The search leaves out what is exactly at its cutoff, and rounds in its own way.
    sender, receiver, shifts = search(positions, full_cell, pbc, (1 + 1e-9) * cutoff)
    squares = squared_distances(positions, sender, receiver, image_offsets(shifts, cell))
    refuse_same_spot(squares, sender, receiver)
    within = np.flatnonzero(squares < cutoff**2)
    return sender.take(within), receiver.take(within), shifts.take(within, axis=0)


def _ends(positions: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Smallest and largest coordinate in each direction."""
    return (positions.min(axis=0), positions.max(axis=0)) if len(positions) else (np.zeros(3), np.zeros(3))


def image_offsets(unit_shifts: NDArray[np.float64], cell: NDArray[np.float64]) -> NDArray[np.float64]:
    """``unit_shifts @ cell``, the same to the last bit for the same row, whatever the others are; a BLAS may differ."""
    return np.einsum("ps,si->pi", unit_shifts, cell)


def squared_distances(
    positions: NDArray[np.float64],
    sender: NDArray[np.int64],
    receiver: NDArray[np.int64],
    offsets: NDArray[np.float64],
    workspace: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Squares of the lengths of edges, in Å².

    Args:
        positions: ``(atoms, 3)`` in Å.
        sender: ``(edges,)``.
        receiver: ``(edges,)``.
        offsets: ``(edges, 3)``, of the periodic image of the receiver, in Å.
        workspace: ``(2, edges, 3)``, overwritten. For long lists fresh memory costs more than the arithmetic.
    """
    there, here = np.empty((2, len(sender), 3)) if workspace is None else workspace
    positions.take(receiver, axis=0, out=there, mode="clip")  # other modes do not write into `out` directly
    positions.take(sender, axis=0, out=here, mode="clip")
    there -= here
    there += offsets
    return np.einsum("pi,pi->p", there, there)


def _in_order(
    sender: NDArray[np.int64], receiver: NDArray[np.int64], shifts: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Both directions of every pair, in an order that depends on which pairs there are and on nothing else.

    A sum over edges is then the same to the last bit however they were found.
    """
    turned = sender > receiver
    itself = np.flatnonzero(sender == receiver)
    if len(itself):
        first = shifts[itself, 0]
        for axis in (1, 2):
            first = np.where(first == 0, shifts[itself, axis], first)
        turned[itself] = first < 0
    sender, receiver = np.where(turned, receiver, sender), np.where(turned, sender, receiver)
    shifts *= np.where(turned, -1.0, 1.0)[:, None]
    shifts += 0.0  # no negative zeros, which print badly
    order = np.lexsort((shifts[:, 2], shifts[:, 1], shifts[:, 0], sender, receiver))
    sender, receiver, shifts = sender.take(order), receiver.take(order), shifts.take(order, axis=0)
    senders, receivers = np.concatenate([sender, receiver]), np.concatenate([receiver, sender])
    pairs = np.concatenate([2 * np.arange(len(sender)), 2 * np.arange(len(sender)) + 1])
    order = np.argsort(receivers, kind="stable")
    both = np.concatenate([shifts, 0.0 - shifts])
    return np.stack([senders.take(order), receivers.take(order)]), both.take(order, axis=0), pairs.take(order)


def checked_cell(cell: NDArray[np.float64], pbc: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The cell with unit vectors in open directions, so that it can be inverted.

    Args:
        cell: ``(3, 3)``, lattice vectors in rows, in Å; those of open directions do not count.
        pbc: ``(3,)``, which directions are periodic.

    Raises:
        ValueError: If it is not finite, or a periodic cell has no volume, is too long or too thin to be searched.
    """
    rows, periodic = cell.tolist(), pbc.tolist()
    if not all(math.isfinite(x) for row in rows for x in row):
        raise ValueError(f"the cell is not finite: {cell.tolist()}")
    if not any(periodic):
        return np.zeros((3, 3))
    vectors = list(itertools.compress(rows, periodic))
    if (longest := max(abs(x) for row in vectors for x in row)) > FURTHEST:
        raise ValueError(f"the cell is too long, {longest:.3g} Å; is it in Å? It is {cell.tolist()}")
    full = cell if all(periodic) else np.asarray(complete_cell(np.where(pbc[:, None], cell, 0.0)), dtype=np.float64)
    if not all(map(any, vectors)) or volume(full) < 1e-9:
        raise ValueError(f"the cell of a periodic structure has no volume: {cell.tolist()}")
    if (thinnest := min(itertools.compress(heights(full).tolist(), periodic))) < THINNEST:
        raise ValueError(
            f"the cell is too thin: its lattice planes are {thinnest:.1g} Å apart; give a cell whose vectors are less skewed, or "
            f"mend it. It is {cell.tolist()}"
        )
    return full


def refuse_same_spot(squares: NDArray[np.float64], sender: NDArray[np.int64], receiver: NDArray[np.int64]) -> None:
    """Complain of atoms with no direction between them.

    Args:
        squares: ``(edges,)``, squared distances in Å².
        sender: ``(edges,)``.
        receiver: ``(edges,)``.

    Raises:
        ValueError: If two atoms are on one spot.
    """
    if len(squares) and squares.min() < SAME_SPOT**2:
        closest = squares.argmin()
        a, b = sender[closest], receiver[closest]
        raise ValueError(
            f"atoms {min(a, b)} and {max(a, b)} are on one spot ({math.sqrt(squares[closest]):.1e} Å apart); "
            "remove one of them or repair the frame"
        )


def _refuse_too_small(cell: NDArray[np.float64], pbc: NDArray[np.bool_], cutoff: float) -> None:
    if not pbc.any():
        return
    images = math.prod(max(2 * cutoff / height, 1.0) for height in itertools.compress(heights(cell).tolist(), pbc))
    if images > MOST_IMAGES:
        raise ValueError(
            f"within a cutoff of {cutoff:g} Å the cell has about {images:.1g} images; is it in Å? It is {cell.tolist()}"
        )


def _refuse_if_too_large(
    atoms: int, extent: Sequence[float], cell: NDArray[np.float64], pbc: NDArray[np.bool_], cutoff: float
) -> None:
    """Compare an estimate from the mean density with the memory that is free, before anything is built."""
    if atoms == 0:
        return
    space = volume(cell) if pbc.all() else math.prod(max(length, 1.0) for length in extent)
    edges = atoms * atoms / space * 4 / 3 * math.pi * cutoff**3
    if not pbc.any():
        edges = min(edges, atoms * (atoms - 1))
    if edges * LIST_BYTES_PER_EDGE <= ALWAYS_FITS:
        return
    free = available_memory()
    if edges * LIST_BYTES_PER_EDGE > free:
        raise MemoryError(
            f"a cutoff of {cutoff:g} Å gives about {edges:.2g} neighbour pairs for {atoms} atoms, "
            f"{edges * LIST_BYTES_PER_EDGE / 1e9:.3g} GB for the list alone, and {free / 1e9:.3g} GB are free; "
            "lower `cutoff` (5 to 6 Å is usual) or check that positions and cell are in Å"
        )


def available_memory() -> float:
    """Bytes of main memory that can still be used; infinity where the system does not tell."""
    try:
        with open("/proc/meminfo") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return float(line.split()[1]) * 1024
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (OSError, ValueError, AttributeError):
        return math.inf
