"""Which atoms see each other: the neighbour list, periodic images included."""

from __future__ import annotations

import math
import os

import numpy as np
from ase.geometry import complete_cell
from numpy.typing import NDArray
from vesin import NeighborList

# Sender, receiver (8 bytes each), three shifts, a vector (24 bytes each), and the same once more while sorting.
LIST_BYTES_PER_EDGE = 128

# Two atoms closer than this (in Å) have no direction between them; no real structure comes near.
SAME_SPOT = 1e-3

# Atoms further apart than this many cutoffs overflow the search's cell numbers.
LARGEST_EXTENT = 1e5


def neighbor_list(
    positions: NDArray[np.float64], cell: NDArray[np.float64], pbc: NDArray[np.bool_], cutoff: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All directed edges shorter than ``cutoff``, sorted by receiver.

    An atom is its own neighbour through a periodic image, never at zero distance.

    Args:
        positions: ``(atoms, 3)`` in Å; atoms may lie outside the cell.
        cell: ``(3, 3)``, lattice vectors in rows, in Å; vectors of open directions may be zero.
        pbc: ``(3,)``, which directions are periodic.
        cutoff: Longest edge, in Å.

    Returns:
        ``edge_index (2, edges)``, rows sender and receiver, and ``unit_shifts (edges, 3)``, integer cell offsets S of
        the receiver: edge vector = positions[receiver] - positions[sender] + S @ cell.

    Raises:
        ValueError: If ``cutoff`` is not positive, positions or cell are not finite or spread beyond all measure, two atoms
            are on one spot, or a periodic cell has no volume.
        MemoryError: If the list would not fit into memory; nothing has been allocated then.
    """
    if not cutoff > 0:
        raise ValueError(f"`cutoff` must be positive, got {cutoff} Å")
    if not np.isfinite(positions).all():
        atom = int(np.argwhere(~np.isfinite(positions).all(axis=1))[0, 0])
        raise ValueError(f"the position of atom {atom} is not finite: {positions[atom]}")
    full_cell = _checked_cell(np.asarray(cell, dtype=np.float64), pbc)
    extent = np.ptp(positions, axis=0) if len(positions) else np.zeros(3)
    if (extent > LARGEST_EXTENT * cutoff).any():
        raise ValueError(
            f"the atoms are spread over {extent.max():.3g} Å, {extent.max() / cutoff:.1g} cutoffs; has the structure blown up, or "
            "are the positions not in Å?"
        )
    if not pbc.any():  # the search goes through empty space too, at a cost of cutoff cubed
        cutoff = min(cutoff, max(1.0, 1.01 * float(np.linalg.norm(extent))))
    _refuse_if_too_large(positions, full_cell, pbc, cutoff)
    near, far, shifts = NeighborList(cutoff=cutoff, full_list=True, sorted=True).compute(
        points=positions, box=full_cell, periodic=pbc, quantities="ijS"
    )
    # The list is sorted by its first atom. As it holds every pair both ways, that atom may as well be the receiver.
    edge_index = np.stack([far, near]).astype(np.int64)
    unit_shifts = -shifts.astype(np.int64)
    _refuse_same_spot(positions, full_cell, edge_index, unit_shifts)
    return edge_index, unit_shifts


def _checked_cell(cell: NDArray[np.float64], pbc: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The cell with vectors of open directions filled in, so that it can be inverted."""
    if not np.isfinite(cell).all():
        raise ValueError(f"the cell is not finite: {cell.tolist()}")
    if not pbc.any():
        return np.zeros((3, 3))
    full = np.asarray(complete_cell(cell), dtype=np.float64)
    if not cell[pbc].any(axis=1).all() or abs(np.linalg.det(full)) < 1e-9:
        raise ValueError(f"the cell of a periodic structure has no volume: {cell.tolist()}")
    return full


def _refuse_same_spot(
    positions: NDArray[np.float64], cell: NDArray[np.float64], edge_index: NDArray[np.int64], shifts: NDArray[np.int64]
) -> None:
    vectors = positions[edge_index[1]] - positions[edge_index[0]] + shifts @ cell
    squared = np.einsum("ei,ei->e", vectors, vectors)
    if len(squared) and squared.min() < SAME_SPOT**2:
        a, b = edge_index[:, squared.argmin()]
        raise ValueError(
            f"atoms {min(a, b)} and {max(a, b)} are on one spot ({math.sqrt(squared.min()):.1e} Å apart); "
            "remove one of them or repair the frame"
        )


def _refuse_if_too_large(
    positions: NDArray[np.float64], cell: NDArray[np.float64], pbc: NDArray[np.bool_], cutoff: float
) -> None:
    """Compare an estimate from the mean density with the memory that is free, before anything is built."""
    atoms = len(positions)
    if atoms == 0:
        return
    extent = np.maximum(np.ptp(positions, axis=0), 1.0)
    volume = abs(np.linalg.det(cell)) if pbc.all() else float(np.prod(extent))
    edges = atoms * atoms / volume * 4 / 3 * math.pi * cutoff**3
    if not pbc.any():
        edges = min(edges, atoms * (atoms - 1))
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
