"""Graphs of a structure that moves: neighbours are searched for once and looked over at every step."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .atomic_graph import AtomicGraph, from_atoms
from .neighbors import checked_cell, image_offsets, neighbor_list, refuse_same_spot, squared_distances

if TYPE_CHECKING:
    from ase import Atoms

Floats = NDArray[np.float64]

# In Å: much more than the rounding of any distance, much less than any skin.
ROUNDING = 1e-6

# A list made before a cell grew to this many times its size is right, but most of it is of no use any more.
LARGEST_STRAIN = 1.5


class VerletGraph:
    r"""The graph of an ASE structure, time and again as its atoms move.

    Pairs are searched for up to ``cutoff + skin``. As long as no other pair can have come within the cutoff, each further
    graph is found by measuring these alone. With the motion that remains when what the cell does to all atoms alike is
    taken out,

    .. math:: \mathbf u_i = \mathbf x'_i - \mathbf x_i F, \qquad F = C^{-1} C'

    (:math:`\mathbf x, C` positions and cell at the search, primed those now), a distance now is
    :math:`\mathbf r' = \mathbf r F + \mathbf u_j - \mathbf u_i`. So all pairs within the cutoff are known while

    .. math:: \lVert F^{-1} \rVert_2 \, \big( r_c + 2 \max_i |\mathbf u_i - \bar{\mathbf u}| \big) \le r_c + s,

    with any common :math:`\bar{\mathbf u}`: in a constant cell, while no atom has moved more than half a skin from its place
    relative to the others. Otherwise, also if atoms came or went, were wrapped into the cell or another structure is given, the
    search is repeated. The graph is in every case that of :func:`equinet.graph.from_atoms`, to the order of the edges, so that
    nothing computed from it depends on when neighbours were searched for.

    What did not change since the graph before is the same tensor again, so that what follows from it need not be computed
    again either. Do not write into one.

    Args:
        cutoff: Longest edge, in Å.
        skin: Margin of the search beyond the cutoff, in Å; 0 searches every time. A wide skin makes searches rare and each step dearer.

    Raises:
        ValueError: If ``cutoff`` is not positive, or ``skin`` is negative or not finite.

    Attributes:
        searches: Number of neighbour searches.

    Source:
        Verlet 1967, Phys. Rev. 159, 98, with the list kept for as long as it is certain instead of a number of steps.
    """

    def __init__(self, cutoff: float, skin: float = 0.5) -> None:
        if not cutoff > 0:
            raise ValueError(f"`cutoff` must be positive, got {cutoff} Å")
        if not 0 <= skin < math.inf:
            raise ValueError(f"`skin` must be 0 or more Å (0.3 to 1 is usual), got {skin}")
        self.cutoff = cutoff
        self.skin = float(skin)
        self.searches = 0
        self._known: Candidates | None = None

    def __call__(self, atoms: Atoms) -> AtomicGraph:
        """The graph of ``atoms``, without labels.

        Raises:
            ValueError: If two atoms are on one spot, a number is not finite, or a periodic cell has no volume.
            MemoryError: If so long a cutoff would not fit into memory.
        """
        if not self.skin:
            self.searches += 1
            return from_atoms(atoms, self.cutoff)
        # Copies, because neither the graph nor the list may follow the atoms.
        positions, cell = np.array(atoms.positions, dtype=np.float64), np.array(atoms.cell[:], dtype=np.float64)
        pbc = np.array(atoms.pbc, dtype=bool)
        known = self._known
        if known is None or not known.cover(positions, cell, pbc, self.cutoff):
            known = self._known = Candidates(positions, cell, pbc, self.cutoff + self.skin)
            self.searches += 1
        return known.graph(positions, cell, atoms.numbers, pbc, self.cutoff)

    def __repr__(self) -> str:
        return f"VerletGraph(cutoff {self.cutoff:g} Å, skin {self.skin:g} Å, searched {self.searches} times)"


class Candidates:
    """Pairs within ``reach`` (Å) at the time of a search, and the last graph made of them."""

    def __init__(self, positions: Floats, cell: Floats, pbc: NDArray[np.bool_], reach: float) -> None:
        self.positions = positions.copy()  # the other ones go into the graph
        self.cell, self.pbc, self.reach = cell, pbc, reach
        (self.senders, self.receivers), self.unit_shifts, self.pairs = neighbor_list(positions, cell, pbc, reach)
        forward = np.flatnonzero(self.pairs % 2 == 0)
        rows = forward[np.argsort(self.pairs[forward])]
        self.sender, self.receiver, self.pair_shifts = self.senders[rows], self.receivers[rows], self.unit_shifts[rows]
        self.workspace = np.empty((2, len(rows), 3))
        self.near = np.zeros(len(rows), dtype=bool)
        self.last: AtomicGraph | None = None
        self.last_cell, self.last_numbers = cell, np.empty(0, dtype=np.int64)
        self.cell_of_offsets, self.offsets = cell, image_offsets(self.pair_shifts, cell)

    def cover(self, positions: Floats, cell: Floats, pbc: NDArray[np.bool_], cutoff: float) -> bool:
        """True if the list certainly holds every pair within ``cutoff``; False if positions are not finite.

        Raises:
            ValueError: If the cell is not finite, or a periodic one has no volume.
        """
        if positions.shape != self.positions.shape or not len(positions) or (pbc != self.pbc).any():
            return False
        place, shrunk = self.positions, 1.0
        if (cell != self.cell).any():
            before, now = (checked_cell(each, pbc) for each in (self.cell, cell))
            if pbc.any():
                strain = np.linalg.solve(before, now)
                if np.linalg.norm(strain, 2) > LARGEST_STRAIN:
                    return False
                place = place @ strain
                shrunk = float(np.linalg.norm(np.linalg.solve(now, before), 2))
        with np.errstate(invalid="ignore", over="ignore"):
            moved = positions - place
            moved -= (moved.min(axis=0) + moved.max(axis=0)) / 2
            furthest = math.sqrt(np.einsum("ni,ni->n", moved, moved).max())
            return shrunk * (cutoff + 2 * furthest) <= self.reach - ROUNDING

    def graph(
        self, positions: Floats, cell: Floats, numbers: NDArray[Any], pbc: NDArray[Any], cutoff: float
    ) -> AtomicGraph:
        """The graph of those pairs that are within ``cutoff`` now."""
        if (cell != self.cell_of_offsets).any():
            self.cell_of_offsets, self.offsets = cell, image_offsets(self.pair_shifts, cell)
        squares = squared_distances(positions, self.sender, self.receiver, self.offsets, self.workspace)
        refuse_same_spot(squares, self.sender, self.receiver)
        near = squares < cutoff**2
        last = self.last
        if last is None:
            tensors = {"pbc": pbc[None].copy(), "cell": cell[None].copy(), "atomic_numbers": numbers.astype(np.int64)}
            new = AtomicGraph(**_tensors(positions=positions, **tensors, **self._edges(near)), cutoff=cutoff)
        else:
            changed: dict[str, NDArray[Any]] = {"positions": positions}
            if (near != self.near).any():
                changed |= self._edges(near)
            if (cell != self.last_cell).any():
                changed["cell"] = cell[None].copy()
            if (numbers != self.last_numbers).any():
                changed["atomic_numbers"] = numbers.astype(np.int64)
            new = copy.copy(last).update(_tensors(**changed))
        self.last, self.near, self.last_cell, self.last_numbers = new, near, cell, numbers.copy()
        return copy.copy(new)  # so that what a caller puts into the graph is not in the next one

    def _edges(self, near: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
        kept = np.flatnonzero(near.take(self.pairs >> 1))
        pairs, number = self.pairs.take(kept), np.cumsum(near) - 1
        return {
            "edge_index": np.stack([self.senders.take(kept), self.receivers.take(kept)]),
            "unit_shifts": self.unit_shifts.take(kept, axis=0),
            "pairs": 2 * number.take(pairs >> 1) + (pairs & 1),
        }


def _tensors(**arrays: NDArray[Any]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
